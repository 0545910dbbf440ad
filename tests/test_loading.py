"Loading under stress: killed, crowded, a full disk, a GPU."
import multiprocessing, signal, time
from pathlib import Path
import pytest, torch
from deepfakenb.core import UserError
from deepfakenb.data.images import open_image, square
from deepfakenb.data.loading import BatchLoader, ImageSet, load_images, seq_dataloaders
from deepfakenb.data.seqdeepfake import SeqDeepFake
from deepfakenb.data.transforms import Augment
from seqdata import picture, tiny

@pytest.fixture(scope='module')
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp('images')
    for i in range(70): picture(folder/f'{i:03}.png', i, 40)
    return sorted(folder.iterdir())

def expected(files, size): return torch.stack([torch.from_numpy(square(open_image(f), size)).permute(2, 0, 1) for f in files])

def elsewhere(function, *arguments):
    "Start `function` in another process (forked: nothing is imported again)."
    process = multiprocessing.get_context('fork').Process(target=function, args=arguments)
    process.start()
    return process

def build_slowly(files, cache):
    import deepfakenb.data.loading as loading
    plain = loading.square
    loading.square = lambda *a: (time.sleep(.05), plain(*a))[1]
    load_images(files, 32, folder=cache)

def build_and_tell(files, cache, out): out.put(int(load_images(files, 24, folder=cache).numpy().sum()))   # no torch arithmetic after a fork

def build_on_a_small_disk(files, cache, out):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try: load_images(files, 40, folder=cache)
    except UserError as e: out.put(str(e))

def test_a_killed_build_leaves_no_cache_that_is_read(files, tmp_path):
    p = elsewhere(build_slowly, files, tmp_path)
    deadline = time.time()+30
    while not any(tmp_path.iterdir()) and time.time() < deadline: time.sleep(.01)
    assert any(tmp_path.iterdir()) and p.is_alive()
    p.kill(); p.join(10)
    assert p.exitcode == -signal.SIGKILL
    assert not list(tmp_path.glob('images-*.npy'))
    assert torch.equal(load_images(files, 32, folder=tmp_path), expected(files, 32))

def test_processes_build_the_same_cache(files, tmp_path):
    out = multiprocessing.get_context('fork').Queue()
    crowd = [elsewhere(build_and_tell, files, tmp_path, out) for _ in range(4)]
    assert {out.get(timeout=60) for _ in crowd} == {int(expected(files, 24).sum())}
    for p in crowd: p.join(10)
    assert len(list(tmp_path.iterdir())) == 1

def test_a_full_disk_is_told_and_nothing_is_left(files, tmp_path):
    out = multiprocessing.get_context('fork').Queue()
    p = elsewhere(build_on_a_small_disk, files, tmp_path, out)
    assert 'cannot be written' in out.get(timeout=60)
    p.join(10); assert p.exitcode == 0 and not list(tmp_path.iterdir())

def test_a_truncated_image_is_named(files, tmp_path):
    bad = tmp_path/'bad.png'; bad.write_bytes(files[0].read_bytes()[:500])
    with pytest.raises(UserError, match='bad.png: truncated'): load_images([*files[:3], bad], 16, folder=tmp_path/'cache')
    assert not list((tmp_path/'cache').glob('*'))

def test_kinds_of_images_in_one_set(tmp_path):
    "Greyscale, 16 bits, 1×1, wide, a GIF: one tensor."
    import numpy as np
    from PIL import Image
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save(tmp_path/'grey.png')
    Image.fromarray(rng.integers(0, 65536, (20, 20), dtype=np.uint16)).save(tmp_path/'deep.png')
    Image.fromarray(rng.integers(0, 256, (1, 1, 3), dtype=np.uint8)).save(tmp_path/'dot.png')
    Image.fromarray(rng.integers(0, 256, (9, 300, 3), dtype=np.uint8)).save(tmp_path/'wide.jpg')
    frames = [Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path/'moving.gif', save_all=True, append_images=frames[1:])
    x = load_images(sorted(tmp_path.iterdir()), 16, folder=tmp_path/'cache')
    names = [p.stem for p in sorted(tmp_path.iterdir()) if p.is_file()]
    assert x.shape == (5, 3, 16, 16) and names == ['deep', 'dot', 'grey', 'moving', 'wide']
    for grey in (x[0], x[2]): assert torch.equal(grey[0], grey[1]) and grey.float().std() > 10
    assert x[0].float().mean() < 200 and (x[1] == x[1, :, :1, :1]).all()   # 16 bits are not clipped to white; one pixel is one colour
    assert torch.equal(x[3], expected([tmp_path/'moving.gif'], 16)[0])

def test_epochs_do_not_depend_on_how_the_set_is_held(files, tmp_path):
    x, y = load_images(files, 24, folder=tmp_path), torch.arange(70)[:, None].expand(70, 5).contiguous()
    def epochs(**kw):
        loader = BatchLoader(ImageSet(x, y), bs=16, shuffle=True, augment=Augment(), seed=3, device='cpu', **kw)
        return [b for _ in range(2) for b in loader]
    for (a, b), (c, d) in zip(epochs(), epochs(resident=False)): assert torch.equal(a, c) and torch.equal(b, d)

def test_augmentation_of_a_batch_does_not_depend_on_threads(files, tmp_path):
    x, y = load_images(files, 24, folder=tmp_path), torch.zeros(70, 5, dtype=torch.int64)
    loader, threads = BatchLoader(ImageSet(x, y), bs=70, augment=Augment(), seed=3, device='cpu'), torch.get_num_threads()
    try: torch.set_num_threads(1); a = loader.batch(0, 0)[0]
    finally: torch.set_num_threads(threads)
    assert torch.allclose(a, loader.batch(0, 0)[0], atol=1e-6)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_the_same_batches_on_a_gpu(files, tmp_path):
    x, y = load_images(files, 24, folder=tmp_path), torch.arange(70)[:, None].expand(70, 5).contiguous()
    make = lambda **kw: BatchLoader(ImageSet(x, y), bs=16, shuffle=True, augment=Augment(), seed=3, **kw)
    for other in (make(device='cuda'), make(device='cuda', resident=False)):
        for (a, b), (c, d) in zip(make(device='cpu'), other):
            assert c.device.type == 'cuda' and torch.equal(b, d.cpu()) and torch.allclose(a, c.cpu(), atol=1e-5)

def test_dataloaders_of_an_empty_split_and_odd_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path/'data'))
    data = SeqDeepFake.read(tiny(tmp_path/'set', n=2), 'components')
    with pytest.raises(UserError, match='no image in the split val'): seq_dataloaders(data, size=16, bs=4, device='cpu', limit=dict(val=0))
    for wrong in (dict(size=0, bs=4), dict(size=16, bs=0)):
        with pytest.raises(UserError, match='at least 1'): seq_dataloaders(data, device='cpu', **wrong)
    dls = seq_dataloaders(data, size=16, bs=64, device='cpu', splits=('test',), augment=True)
    assert len(dls.loaders) == 1 and dls[0].augment is None and dls[0].n == 10 and len(list(dls[0])) == 1

def test_shuffled_order_is_uniform():
    "Every image comes first about equally often: no bias in the permutations of successive epochs."
    loader = BatchLoader(ImageSet(torch.zeros(5, 3, 1, 1, dtype=torch.uint8), torch.zeros(5, 5, dtype=torch.int64)), bs=2, shuffle=True, device='cpu')
    first = torch.stack([loader.order(e)[0] for e in range(2000)]).bincount(minlength=5)
    assert (first-400).abs().max() < 75
