"Reading the Seq-DeepFake layout: what the notebook does not try."
import random
from pathlib import Path
import pytest
from deepfakenb.core import UserError
from deepfakenb.data.layouts import LAYOUTS, check, recognise
from deepfakenb.data.seqdeepfake import SPLITS, SeqDeepFake, annotation_file, image_folder, labels_of, sample, scan_track, write_annotations
from deepfakenb.vocab import TRACKS, Vocabulary
from seqdata import SEQUENCES, picture, tiny

def kinds(root, track='components'): return [(p.kind, p.line) for p in scan_track(root, track)[1]]

@pytest.mark.parametrize('track', TRACKS)
def test_reader_and_writer_are_inverse(tmp_path, track):
    rng, v, written = random.Random(1), Vocabulary(track), {}
    for split in SPLITS:
        rows = []
        for i in range(40):
            label = v.ids(rng.sample(v.names[1:], rng.randint(0, 5)))
            rows.append((str(image_folder(track, split, v.sequence_name(label))/f'{i}.jpg'), label))
        write_annotations(tmp_path, track, split, rows); written[split] = rows
    data = SeqDeepFake.read(tmp_path, track, check_files=False)
    for split, rows in written.items():
        frame = data.split(split)
        assert list(zip(frame.path, frame.label)) == rows and frame.line.tolist() == list(range(2, 42))
        assert labels_of(frame).tolist() == [l for _, l in rows] and (frame.length == [sum(map(bool, l)) for _, l in rows]).all()

def test_writer_refuses_a_label_with_a_hole(tmp_path):
    with pytest.raises(ValueError, match='hole'): write_annotations(tmp_path, 'components', 'val', [('a.jpg', [1, 0, 2, 0, 0])])
    assert not (tmp_path/annotation_file('components', 'val')).exists()

def test_both_tracks_under_one_root(tmp_path):
    tiny(tmp_path), tiny(tmp_path, 'attributes')
    assert [f.layout.name for f in recognise(tmp_path)] == ['seqdeepfake-components', 'seqdeepfake-attributes']
    assert [f.layout.name for f in recognise(tmp_path/'facial_attributes')] == ['seqdeepfake-attributes']
    report = check(tmp_path)
    assert report.ok and not report.problems and report.images == 2*3*(5+4)
    assert {g for l, g in report.counts if l == 'seqdeepfake-attributes'} == set(SEQUENCES['attributes'])

def test_fingerprint_is_pinned(tmp_path):
    "Runs are told apart by it, on every machine: it may not change by accident."
    for split in SPLITS:
        paths = [image_folder('components', split, 'nose')/f'{i}.jpg' for i in range(2)]
        for i, p in enumerate(paths): (tmp_path/p).parent.mkdir(parents=True, exist_ok=True); (tmp_path/p).write_bytes(f'{split}{i}'.encode())
        write_annotations(tmp_path, 'components', split, [(p, [1, 0, 0, 0, 0]) for p in paths])
    assert SeqDeepFake.read(tmp_path, 'components').fingerprint() == '5f923b3f94f49815'

@pytest.mark.parametrize('text, want', [
    ('file_path,label\n"a\nb.jpg","[0, 0, 0, 0, 0]"\nfacial_components/images/train/nose/x.jpg,"[9, 0, 0, 0, 0]"\n', ('wrong label', 4)),  # a cell with a line break: lines still count
    ('file_path,label\na.jpg,"[0, 0, 0, 0, 0]\n', ('not a table', None)),          # an open quote
    ('file_path,label\na\0.jpg,"[0, 0, 0, 0, 0]"\n', None),                         # a NUL: refused, whatever this Python says about it
    ('file_path;label\na.jpg;[0, 0, 0, 0, 0]\n', ('no such column', 1)),
    ('\n', ('nothing listed', None)),
    ('label\n"[0, 0, 0, 0, 0]"\n', ('no such column', 1)),
    ('file_path,label\n,"[0, 0, 0, 0, 0]"\n', ('wrong path', 2)),
    ('file_path,label\nfacial_components/../../x.jpg,"[0, 0, 0, 0, 0]"\n', ('wrong path', 2)),
    ('file_path,label\na.jpg,\n', ('wrong label', 2)),
    ('file_path,label\na.jpg,"[1.0, 0, 0, 0, 0]"\n', ('wrong label', 2))])
def test_broken_annotation_files(tmp_path, text, want):
    root = tiny(tmp_path, n=1)
    (root/annotation_file('components', 'train')).write_text(text)
    found = [k for k in kinds(root) if k[0] != 'not listed']
    assert (want in found or (want and want[1] is None and want[0] in [k for k, _ in found])) if want else found
    with pytest.raises(UserError, match='train.csv') as e: SeqDeepFake.read(root, 'components')
    assert '\n' not in str(e.value)

def test_a_folder_of_another_split_is_a_leak(tmp_path):
    root = tiny(tmp_path, n=1)
    file = root/annotation_file('components', 'train')
    line = 'facial_components/images/test/nose/extra.jpg'
    picture(root/line, 77)
    file.write_text(file.read_text()+f'{line},"[1, 0, 0, 0, 0]"\n')
    assert kinds(root) == [('in two splits', 7)]

def test_one_picture_with_two_labels(tmp_path):
    root = tiny(tmp_path, n=1)
    frame = SeqDeepFake.read(root, 'components').split('train')
    Path(frame.file[1]).write_bytes(Path(frame.file[2]).read_bytes())
    assert [p.kind for p in check(root).problems] == ['same picture, two labels']
    assert SeqDeepFake.read(root, 'components')                    # reading does not look at contents: check does

def test_sample_sees_every_sequence(tmp_path):
    frame = SeqDeepFake.read(tiny(tmp_path, n=4), 'components').split('train')
    assert sample(frame, 5).sequence.nunique() == 5 and sample(frame, 7).sequence.value_counts().tolist() == [2, 2, 1, 1, 1]
    assert sample(frame, 7).line.is_monotonic_increasing and len(sample(frame, 0)) == 0

def test_the_table_of_layouts_points_to_real_scanners():
    import importlib
    for row in LAYOUTS:
        module, name = row.scanner.split(':')
        assert callable(getattr(importlib.import_module(f'deepfakenb.{module}'), name))
        assert row.licence and row.access and row.marks and row.media in ('images', 'videos')
