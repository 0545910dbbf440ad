"Self-blended training: the blend's equation at its ends, pairs that differ by the blend alone, and a run that sees no forgery before its test."
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, scipy.ndimage as ndi, torch
from PIL import Image
from torch import nn
from deepfakenb.core import UserError
from deepfakenb.data.blending import SelfBlend
from deepfakenb.data.chance import clip_keys, hashed_uniform
from deepfakenb.data.framecache import open_cache
from deepfakenb.data.sampling import FaceSet
from deepfakenb.data.selfblend import SelfBlendLoader, SelfBlendTest, paired, recompress, self_blend
from deepfakenb.models.base import MODELS, DetectorModel
from deepfakenb.models.checkpoints import load_model
from deepfakenb.protocols.base import get
from deepfakenb.runs.spec import RunSpec, TestSpec, versions_of
from deepfakenb.tasks.base import checked
from deepfakenb.tasks.detection import BLEND, VideoData, task

STILL = SelfBlend(colours=False, scale=0., shift=(0., 0.))


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n); MODELS.pop(Spy.name)


def noise(*shape, seed=0): return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------------------------------- the equation

@pytest.mark.parametrize('size', [(64, 64), (97, 150)])
def test_nothing_changed_gives_the_input_whatever_the_mask(size):
    "White noise: a pixel that is interpolated, rounded twice or shifted by a thousandth would show."
    x = noise(6, 3, *size)
    for seed in range(4):
        b = self_blend(x, recipe=STILL, seed=seed)
        assert torch.equal(b.images, x) and torch.equal(b.reals, x) and b.masks.amax() > .2


def test_the_ends_of_the_mask():
    "M = 0: the target, to the byte; M = 1: the source, made again by SciPy; the equation in between."
    x, seen = noise(8, 3, 80, 96, seed=1), 0
    recipe = SelfBlend(ratios=(1.,), colours=False, scale=0., shift=(.05, .04))
    for seed in range(4):
        b = self_blend(x, recipe=recipe, seed=seed)
        u = hashed_uniform(clip_keys(8, seed, None, 'self-blend'), 4).double().numpy()
        moved = [(0, (2*u[i, 3]-1)*.04*80, (2*u[i, 2]-1)*.05*96) for i in range(8)]
        source = torch.from_numpy(np.stack([ndi.shift(p.double().numpy(), m, order=1, mode='nearest') for p, m in zip(x, moved)]))
        m = b.masks[:, None].expand_as(x)
        assert torch.equal(b.images[m == 0], x[m == 0]) and torch.equal(b.reals, x)
        assert (b.images[m == 1]-source[m == 1]).abs().max() < .52
        assert (b.images-(m*source+(1-m)*x)).abs().max() < .52
        seen += int((m == 1).sum())
    assert seen > 1000
    none = self_blend(x, recipe=SelfBlend(ratios=(0.,)), seed=3)
    assert torch.equal(none.images, none.reals) and not torch.equal(none.reals, x)


def test_chance_is_the_seeds():
    x, g = noise(5, 3, 64, 64), lambda n: torch.Generator().manual_seed(n)
    a, b, c = self_blend(x, g(0)), self_blend(x, g(0)), self_blend(x, g(1))
    assert torch.equal(a.images, b.images) and torch.equal(a.masks, b.masks) and not torch.equal(a.masks, c.masks)
    assert torch.equal(self_blend(x, seed=9).images, SelfBlend()(x, seed=9).images), 'pictures get what data.blending gives them'


def test_a_clip_has_one_draw():
    x = noise(3, 1, 3, 64, 64).expand(-1, 4, -1, -1, -1)
    steady, wild = self_blend(x, seed=2), self_blend(x, seed=2, steady=False)
    for name in ('images', 'reals', 'masks'):
        s, w = getattr(steady, name), getattr(wild, name)
        assert torch.equal(s, s[:, :1].expand_as(s)), name
        assert not torch.equal(w, w[:, :1].expand_as(w)), name
    assert torch.equal(steady.images[:, 0], self_blend(x[:, 0], seed=2).images) and len({m.sum().item() for m in steady.masks[:, 0]}) == 3


@pytest.mark.parametrize('call, word', [(lambda x: self_blend(x[0]), 'takes pictures'), (lambda x: self_blend(x.float()), 'takes bytes'), (lambda x: self_blend(x, keys=[1]), 'one each'),
                                        (lambda x: self_blend(x, boxes=torch.zeros(1, 4)), 'give one each')])
def test_wrong_input_is_one_line(call, word):
    with pytest.raises(UserError, match=word) as e: call(noise(2, 3, 32, 32))
    assert '\n' not in str(e.value)


# --------------------------------------------------------------------------------------------------- pairs

def smooth(seed, size=64): # a picture with low frequencies only, grey: no channel above another
    g = torch.Generator().manual_seed(seed)
    return nn.functional.interpolate(torch.rand(1, 1, 9, 9, generator=g)*140+60, size, mode='bicubic')[0].expand(3, -1, -1).clamp(0, 255).byte()


def toy(root, reals=(6, 3, 3), fakes=(6, 3, 3), frames=6) -> FaceSet:
    "Real videos are grey; forged ones are bright green, so that whoever has seen one knows."
    rows, n = [], 0
    for split, r, f in zip(('train', 'val', 'test'), reals, fakes):
        for label, count in ((0, r), (1, f)):
            for _ in range(count):
                n += 1; kind = ('original', 'FaceSwap')[label]; name = f'{kind}/{n:03}'; (root/name).mkdir(parents=True)
                picture = smooth(n).clone()
                if label: picture[[0, 2]] //= 8
                for k in range(frames):
                    Image.fromarray(picture.roll(k, -1).permute(1, 2, 0).numpy()).save(root/name/f'{k:04}.png')
                    rows.append(dict(video=name, frame=k, file=f'{name}/{k:04}.png', method=kind, label=label, compression='c23', split=split, dataset='toy', source=''))
    pd.DataFrame(rows).to_parquet(root/'faces.parquet')
    return FaceSet.read(root)


def greenness(x): return (x[..., 1, :, :]-x[..., [0, 2], :, :].amax(-3)).mean((-2, -1)) # of a (…, 3, H, W) in [0, 1]


def test_pairs_differ_by_the_blend_alone(tmp_path):
    faces = toy(tmp_path); cache = open_cache(faces, 64, folder=tmp_path/'cache')
    for samples, shape in ((faces.only(label=0).clips(1, hop=1), (12, 3, 64, 64)), (faces.only(label=0).clips(3, hop=1), (12, 3, 3, 64, 64))):
        loader = lambda **kw: SelfBlendLoader(cache, samples, **{**dict(bs=12, per_video=2, seed=1, device='cpu', augment=True), **kw})
        for recipe in (STILL, SelfBlend(ratios=(0.,))):
            for x, y in loader(recipe=recipe):
                assert x.shape == shape and y.tolist() == [0, 1]*6 and 0 <= x.min() and x.max() <= 1
                assert torch.equal(x[::2], x[1::2]), 'one jitter, mirror and compression for both, and the real is the target'
        x, y = loader().batch(0, 0)
        assert (x[::2] != x[1::2]).flatten(1).any(1).all()
        assert not torch.equal(x, loader().batch(1, 0)[0]) and torch.equal(x, loader().batch(0, 0)[0])
        both = loader(); first, second = list(both), list(both)                     # two epochs, as a training reads them
        for epoch, read in enumerate((first, second)):
            assert len(read) == len(both) == 4 and all(torch.equal(x, both.batch(epoch, i)[0]) for i, (x, _) in enumerate(read)), epoch
        keys = loader().keys(torch.arange(4), 0, 0); assert len(set(keys) | set(loader().keys(torch.arange(4), 1, 0)) | set(loader().keys(torch.arange(4), 0, 1))) == 12
    test = SelfBlendTest(cache, samples, bs=10, device='cpu')
    a, b = (torch.cat([x for x, _ in test]) for _ in range(2))
    assert torch.equal(a, b) and len(a) == 2*len(samples) == len(test.videos), 'every epoch is judged on the same blends'
    assert test.videos.tolist() == paired(samples.videos).tolist() and test.videos[1].startswith(test.videos[0]) and test.videos[1] != test.videos[0]
    assert (a*255-(a*255).round()).abs().max() < 1e-3, 'neither jittered nor averaged: whole levels'


def test_compression_is_the_pairs():
    p = torch.stack([smooth(i) for i in range(40)])[:, None].expand(-1, 2, -1, -1, -1).contiguous()+noise(40, 1, 3, 64, 64)//16
    q = recompress(p, torch.Generator().manual_seed(3), 40, 41)
    touched = (q != p).flatten(1).any(1)
    assert 8 < touched.sum() < 32 and torch.equal(q[:, 0], q[:, 1]) and (q.int()-p.int()).abs().float().mean((1, 2, 3, 4))[touched].min() > .5
    clips = p[:, :, None].expand(-1, -1, 3, -1, -1, -1)
    assert torch.equal(recompress(clips, torch.Generator().manual_seed(3), 40, 41)[:, :, 1], q)


# --------------------------------------------------------------------------------------------------- runs

SEEN = []   # greenest picture of each batch, and whether it was for training

class Spy(DetectorModel):
    "Tells what it is shown, and can be killed."
    name, level, frames, die = 'selfblend-spy', 'frame', None, None
    def __init__(self):
        super().__init__()
        self.keep(locals()); self.body, self.head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 2)
    def prepare(self, x):
        SEEN.append((float(greenness(x).max()), self.training, x.shape[0]))
        if Spy.die is not None and len(SEEN) > Spy.die: raise KeyboardInterrupt
        return super().prepare(x)
    def detect(self, x): return dict(logits=self.head(self.body(x[:, 0]).relu().mean((2, 3))))


def spec(**more):
    train = dict(epochs=3, bs=8, lr=3e-3, lr_backbone=3e-3, warmup_epochs=0, drop_epochs=[], clip=1., balance='label', **more.pop('train', {}))
    data = dict(dataset='ffpp', preset='smoke', size=64, tested=2, name='video', self_blended=True)
    return RunSpec('own', 'selfblend-spy', {}, {**data, **more}, train, 0, 'own')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path/'data')); SEEN.clear(); Spy.die = None
    return tmp_path


def test_no_forgery_before_the_test(folder):
    (folder/'set').mkdir(); toy(folder/'set'); s, device = spec(), torch.device('cpu')
    opened = task.open(s.data, folder/'set')
    assert opened.counts == dict(train=6, val=3, test=6)
    history = task.fit(s, opened, folder/'a', device)
    green, training, sizes = map(np.array, zip(*SEEN))
    assert green.max() < .2 and training.any() and (~training).any() and set(sizes[training]) == {8}, f'a forgery was shown: {green.max()}'
    fits = len(SEEN)
    said, metrics = task.examine(s, opened, folder/'a', history, device)
    val, test = said[said.split == 'val'], said[said.split == 'test']
    assert set(val.method) == {'original', BLEND} and len(val) == 12 and val.label.mean() == .5 and set(test.method) == {'original', 'FaceSwap'} and len(test) == 12
    assert metrics['val']['video']['AUC'] == pytest.approx(history.auc.max(), abs=.5) and metrics['val']['samples'] == 12
    assert max(g for g, *_ in SEEN[fits:]) > .3, 'the test split holds the forgeries, and they look forged to this test'
    n = len(SEEN); usual = spec(self_blended=False); task.fit(usual, task.open(usual.data, folder/'set'), folder/'b', device)
    assert max(g for g, *_ in SEEN[n:]) > .3, 'the usual training shows them: this test can fail'
    model = load_model(folder/'a'/'best_best.safetensors')
    frame, _, fingerprint = task.test(s, dict(best=model), TestSpec(split='val'), device, folder/'set')
    assert set(frame.method) == {'original', 'FaceSwap'} and fingerprint == opened.fingerprint()


def test_killed_and_resumed_to_the_same_bits(folder):
    (folder/'set').mkdir(); toy(folder/'set'); s, device = spec(), torch.device('cpu'); opened = task.open(s.data, folder/'set')
    whole = task.fit(s, opened, folder/'a', device); n = len(SEEN); SEEN.clear()
    Spy.die = n//2
    with pytest.raises(KeyboardInterrupt): task.fit(s, opened, folder/'b', device)
    Spy.die = None; resumed = task.fit(s, opened, folder/'b', device)
    assert n//2 < len(SEEN) < 2*n and whole.drop(columns='seconds').equals(resumed.drop(columns='seconds'))
    a, b = (load_model(folder/x/'best_best.safetensors').state_dict() for x in 'ab')
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_old_specs_keep_their_names():
    "An option that is off is not there: not in a run's name, not in its versions."
    old = dict(dataset='ffpp', preset='smoke', size=64, name='video')
    make = lambda data: RunSpec('own', 'mesonet', {}, data, dict(epochs=1), 0, 'own')
    assert make(old).id == make({**old, 'self_blended': False}).id != make({**old, 'self_blended': True}).id
    assert versions_of(make(old)) == dict(model=1, task=1, training=1)
    cells = {(c.row, c.column): [s.id for s in c.specs] for c in get('p3').tables['p3_table2'].cells('bench')}
    intra = 'Intra-testing FF++ (two cores)'
    assert [cells[r, intra][0] for r in ('Xception', 'EfficientNet-B4', 'Multi-Att (EfficientNet-B4)', 'Ours (ResNet-10-narrow)', 'Ours, fused head as score')] == \
        ['f81e565ef33f', '76f86768d71a', '23d246a86171', '8797fe7ad968', '98a849626acf']


def test_rows_of_table_2_start_from_nothing_forged():
    cells = get('p3').tables['p3_table2'].cells('bench')
    for row, narrow in (('SBIs (EfficientNet-B4)',)*2, ('SBIs (Swin Transformer)', 'SBIs (ResNet-10-narrow)'), ('Ours, self-blends alone',)*2):
        mine = [c for c in cells if c.row == (narrow if c.column.endswith('(two cores)') else row)]      # what two cores train has a name of its own
        assert len(mine) == 14 and all(c.specs and s.data['self_blended'] and s.model_args.get('weights') is None for c in mine for s in c.specs), row
        assert {c.test.dataset for c in mine if c.test} == {'celebdf', 'wilddeepfake', 'dfdc', 'dfd', ''}       # and two controls
        assert len({s.id for c in mine if c.column.endswith('(two cores)') and 'CDF' not in c.column.split('Intra')[-1] for s in c.specs}) == 3, 'one training a seed answers all columns but the one that is trained elsewhere'


@pytest.mark.parametrize('broken, word', [
    (lambda f: RunSpec('p1', 'multi-cls', {}, dict(track='components', preset='smoke', size=64, self_blended=True), dict(epochs=1), 0, 'own'), "unknown entry 'self_blended'"),
    (lambda f: checked(VideoData, dict(dataset='ffpp', preset='smoke', size=64, self_blended=1), 'data'), 'self_blended = 1 is int'),
    (lambda f: task.open(spec().data, toy(f, reals=(0, 3, 3)).root), 'the train split holds no real video'),
    (lambda f: task.open(spec().data, toy(f, reals=(6, 0, 3)).root), 'the val split holds no real video'),
    (lambda f: fit(f, dict(balance='method')), 'one method'), (lambda f: fit(f, dict(bs=9)), 'even number')])
def test_wrong_choices_are_one_line(folder, broken, word):
    with pytest.raises(UserError, match=word) as e: broken(folder)
    assert '\n' not in str(e.value) and e.value.code == 2


def fit(f, train):
    s = spec(); s = SimpleNamespace(**{**{k: getattr(s, k) for k in ('model', 'model_args', 'data', 'seed')}, 'train': {**s.train, **train}})
    return task.fit(s, task.open(s.data, toy(f).root), f/'run', torch.device('cpu'))
