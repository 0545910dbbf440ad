"The embedded benchmark's proofs on a small sample: what experiments/benchmark.ipynb measures in full."
import json
import numpy as np, pytest, torch
import torch.nn.functional as F
from deepfakenb.core import UserError, read_json, weights_dir
from deepfakenb.vocab import TRACKS

pytestmark = pytest.mark.timeout(300)
TINY = dict(train=28, val=28, test=28, group=9)

@pytest.fixture(scope='module')
def generator():
    from deepfakenb.models.generator import load_generator
    return load_generator(device='cpu')

@pytest.fixture(scope='module')
def editors(generator):
    "Twelve people of each track, drawn and ready to be edited."
    from deepfakenb.data.synth.tracks import GroupEditor, TrackPreset, track_people
    return {t: GroupEditor(t, TrackPreset('tiny', **TINY), generator, track_people(12, 4321), 4321) for t in TRACKS}

@pytest.fixture(scope='module')
def track(tmp_path_factory):
    "A tiny components track on disk."
    from deepfakenb.data.synth.tracks import TrackPreset, make_track
    return make_track('components', tmp_path_factory.mktemp('track'), preset=TrackPreset('tiny', **TINY), device='cpu')

def gap(x, y, where): return float(((x.float()-y.float()).abs()*where).sum()/(3*where.sum()))

def test_generator_file_and_gate(generator):
    from deepfakenb.data.synth.render import MASKS, render
    from deepfakenb.data.synth.edit import reencode
    from deepfakenb.data.synth.tracks import track_people
    from deepfakenb.layers.observed import multiply_adds
    from deepfakenb.models.generator import region_scores
    path = weights_dir()/'generator.safetensors'
    assert path.stat().st_size <= 8e6 and read_json(path.with_suffix('.json'))['gate']['passed'] is True
    assert multiply_adds(generator.decode, torch.zeros(1, generator.style.config['channels'], 32, 32)) <= .4e9
    r = render(track_people(24, 977), 128)
    score = region_scores(reencode(r.images, generator), r.images, r.masks[:, [MASKS.index(n) for n in ('eye', 'eyebrow', 'lip')]].any(1))
    assert score['psnr'] >= 25.5 and score['sharpness'] >= .57    # the gate (26, 0.6) on a sample of 24

def test_layout(track):
    from deepfakenb.data.synth.tracks import type_counts
    from deepfakenb.vocab import Vocabulary
    import csv
    from PIL import Image
    home, voc, seen = track/'facial_components', Vocabulary('components'), {}
    for split in ('train', 'val', 'test'):
        rows = list(csv.DictReader(open(home/'annotations'/f'{split}.csv')))
        assert len(rows) == 28
        for r in rows:
            name = voc.sequence_name(voc.parse(r['label']))
            assert r['file_path'].split('/')[:4] == ['facial_components', 'images', split, name]
            with Image.open(track/r['file_path']) as im: assert im.size == (128, 128) and im.mode == 'RGB'
            seen.setdefault(split, []).append(name)
        assert {n: seen[split].count(n) for n in seen[split]} == type_counts('components', 28)
    on_disk = {p.relative_to(track).as_posix() for p in home.rglob('*.jpg')}
    truth = [json.loads(l) for l in open(home/'truth.jsonl')]
    assert on_disk == {t['file'] for t in truth} and len(truth) == 84
    people = {s: {tuple(t['person']) for t in truth if t['split'] == s} for s in seen}
    assert not people['train'] & people['test'] and not people['train'] & people['val'] and not people['val'] & people['test']
    assert read_json(home/'dataset.json')['kind'] == 'synthetic' and not list(track.glob('.*'))

def test_same_seed_same_bytes_and_resume(track, tmp_path):
    from deepfakenb.data.synth import tracks
    preset = tracks.TrackPreset('tiny', **TINY)
    calls, made, real = [], [], tracks._write_shard
    def broken(part, name, split, number, *a):
        calls.append((split, number))
        if len(calls) == 2: raise KeyboardInterrupt
        rows = real(part, name, split, number, *a); made.append((split, number)); return rows
    tracks._write_shard = broken
    try:
        with pytest.raises(KeyboardInterrupt): tracks.make_track('components', tmp_path, preset=preset, device='cpu')
        assert not (tmp_path/'facial_components').exists()                   # absent, not half there
        tracks.make_track('components', tmp_path, preset=preset, device='cpu')    # goes on: the first shard is not made again
    finally: tracks._write_shard = real
    assert len(made) == len(set(made)) >= 3 and calls[1] in made
    old, new = sorted((track/'facial_components').rglob('*.jpg')), sorted((tmp_path/'facial_components').rglob('*.jpg'))
    assert [p.relative_to(track) for p in old] == [p.relative_to(tmp_path) for p in new] and all(a.read_bytes() == b.read_bytes() for a, b in zip(old, new))
    with pytest.raises(UserError, match='exists already'): tracks.make_track('components', tmp_path, preset=preset)

def test_bad_requests(tmp_path):
    from deepfakenb.data.synth.tracks import TrackPreset, ensure_track, make_track
    for call, words in ((lambda: make_track('hats', tmp_path), 'components'), (lambda: make_track('components', tmp_path, preset='huge'), 'smoke'),
                        (lambda: make_track('components', tmp_path, weights=tmp_path/'none.safetensors'), 'no such file'),
                        (lambda: ensure_track('components', weights=tmp_path/'none.safetensors'), 'no such file'),
                        (lambda: make_track('components', tmp_path, preset=TrackPreset('few', 3, 28, 28)), 'at least 28')):
        with pytest.raises(UserError, match=words): call()

def both_orders(e, a, b):
    who = list(range(len(e.people)))
    two = lambda x, y: e.step(e.step(e.start, who, [x]*len(who)), who, [y]*len(who))
    return two(a, b), two(b, a)

@pytest.mark.parametrize('a, b', [('nose', 'eye'), ('eyebrow', 'hair')])
def test_order_leaves_traces(editors, a, b):
    import io
    from PIL import Image
    e = editors['components']; ab, ba = both_orders(e, a, b)
    where = F.interpolate(torch.maximum(e.masks[a], e.masks[b]), scale_factor=4) > .5
    def jpeg(i):
        f = io.BytesIO(); Image.fromarray(i.permute(1, 2, 0).numpy()).save(f, 'JPEG', quality=90, subsampling=0); return torch.from_numpy(np.array(Image.open(f))).permute(2, 0, 1)
    assert gap(ab, ba, where) >= 1.6*gap(torch.stack([jpeg(i) for i in ab]), ab, where)      # 2 in full (experiments/benchmark.ipynb)

@pytest.mark.parametrize('name', TRACKS['components'][1:])
def test_component_edit_is_local_and_visible(editors, generator, name):
    from deepfakenb.data.synth.edit import reencode
    e = editors['components']; n = len(e.people)
    plain, edited = reencode(e.start, generator), e.step(e.start, list(range(n)), [name]*n)
    m = F.interpolate(e.masks[name], scale_factor=4)
    far = (F.max_pool2d(m, 33, 1, 16) == 0).float()
    assert gap(edited, plain, (m > .9).float()) > 6                        # levels of 255
    assert far.sum() == 0 or gap(edited, plain, far) < 1

@pytest.mark.parametrize('name', TRACKS['attributes'][1:])
def test_attribute_edit_moves_towards_the_rendered_change_and_back(editors, generator, name):
    from deepfakenb.data.synth.edit import apply_attribute, reencode, reverse_attribute
    from deepfakenb.data.synth.render import render
    e = editors['attributes']; k = TRACKS['attributes'].index(name)-1
    goal = reencode(render(e.people.replace(**{name.lower(): e.target[:, k]}), 128).images, generator).float()
    s = e.target[:, k]-e.degree[:, k]
    start, edited = e.start.float(), apply_attribute(e.start, name, s, generator)
    assert ((edited.float()-goal)**2).mean() < .6*((start-goal)**2).mean()     # most of the way that the renderer goes
    back = reverse_attribute(edited, name, s, generator).float()
    assert (back-start).abs().mean() < .8*(edited.float()-start).abs().mean()

@pytest.mark.parametrize('a, b', [('nose', 'eye'), ('eyebrow', 'hair')])
def test_right_order_of_reversal_is_better(editors, generator, a, b):
    from deepfakenb.data.synth.edit import reverse_component
    e = editors['components']; n = len(e.people); who = list(range(n))
    one = e.step(e.start, who, [a]*n); two = e.step(one, who, [b]*n)
    where = F.interpolate(torch.maximum(e.masks[a], e.masks[b]), scale_factor=4) > .5
    undo_a, undo_b = (lambda x: reverse_component(x, e.start, e.masks[a], generator)), (lambda x: reverse_component(x, one, e.masks[b], generator))
    without, right, wrong = (gap(x, e.start, where) for x in (two, undo_a(undo_b(two)), undo_b(undo_a(two))))
    assert right < wrong < without

@pytest.mark.parametrize('name, limit', [('components', 4), ('attributes', 6)])
def test_colour_and_file_size_tell_nothing(name, limit):
    "The no-shortcut probes on the smoke track, all splits together; 3 and 5 points in full, with a larger sample (experiments/benchmark.ipynb)."
    from PIL import Image
    from deepfakenb.data.synth.tracks import ensure_track
    from deepfakenb.metrics.probes import linear_probe
    root = ensure_track(name, 'smoke')
    truth = [json.loads(l) for l in open(root/f'facial_{name}'/'truth.jsonl')]
    files = [root/t['file'] for t in truth]
    colour = np.array([np.asarray(Image.open(f)).reshape(-1, 3).mean(0) for f in files])
    size = np.log([[f.stat().st_size] for f in files])
    label, person = [t['sequence'] for t in truth], [str(t['person']) for t in truth]
    for x in (colour, size, np.concatenate([colour, size], 1)):
        p = linear_probe(x, label, person)
        assert p.images >= 500 and p.accuracy <= p.chance+limit, p
    assert linear_probe(np.eye(30)[[sorted(set(label)).index(s) for s in label]], label, person).accuracy > 99     # it would notice
