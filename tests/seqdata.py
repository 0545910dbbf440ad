"Small datasets in the Seq-DeepFake layout, for several test files."
from pathlib import Path
import numpy as np
from PIL import Image
from deepfakenb.data.seqdeepfake import SPLITS, image_folder, write_annotations
from deepfakenb.vocab import Vocabulary

SEQUENCES = dict(components=('original', 'nose', 'nose-lip', 'lip-nose', 'eye-hair-lip-nose-eyebrow'),
                 attributes=('original', 'Bangs', 'Young-Smiling', 'Beard-Bangs-Eyeglasses'))

def picture(path: Path, seed: int, size: int = 24):
    "Save noise that depends on `seed`."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path, quality=90)

def tiny(root: Path, track: str = 'components', n: int = 2, size: int = 24) -> Path:
    "Write `n` images of each sequence in each split; every image is another."
    vocabulary, k = Vocabulary(track), 0
    for split in SPLITS:
        rows = []
        for sequence in SEQUENCES[track]:
            for _ in range(n):
                path = image_folder(track, split, sequence)/f'{k:06}.jpg'
                picture(root/path, k + (10**6 if track == 'attributes' else 0), size); k += 1
                rows.append((path, vocabulary.from_sequence_name(sequence)))
        write_annotations(root, track, split, rows)
    return root
