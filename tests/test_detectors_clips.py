"Detectors of clips: one behaviour for all, whatever they are built of."
import csv, json
import numpy as np, pytest, torch
from deepfakenb.core import UserError
from deepfakenb.models.base import DetectorModel, build_model, model_class, model_names
from deepfakenb.models.checkpoints import load_model, save_model

torch.set_num_threads(1)
SMALL = {'tsn': dict(backbone='xception-narrow'), 'resnet50-lstm': dict(backbone='xception-narrow'), 'c3d': dict(backbone='c3d-narrow'), 'i3d': dict(backbone='i3d-narrow'),
         'resnet3d': dict(depth=18, width=.25, stem='fine', pooled=4, placement=[1, 2, 3, 4]), 'gml': dict(backbone='xception-narrow'),
         'timesformer': dict(size=64, patch=16, dim=48, depth=2, heads=4, drop_path=0.)}
PARAMETERS = {'tsn': ({}, 23_512_130), 'resnet50-lstm': ({}, 28_756_034), 'c3d': ({}, 78_003_970), 'i3d': ({}, 12_289_314), 'timesformer': (dict(attention='joint'), 85_806_338)}
BLIND = ('tsn',)                       # to the order of frames
every = pytest.mark.parametrize('name', SMALL)

def small(name):
    torch.manual_seed(0)
    return build_model(name, **SMALL[name])

def clips(n=3, frames=8): return torch.rand(n, frames, 3, 64, 64, generator=torch.Generator().manual_seed(0))

@every
def test_registered_as_a_clip_detector(name):
    cls = model_class(name)
    assert name in model_names() and issubclass(cls, DetectorModel) and cls.level == 'clip'
    assert build_model(**json.loads(json.dumps(small(name).config))).config == small(name).config

@pytest.mark.parametrize('name', PARAMETERS)
def test_parameters_are_pinned(name):
    options, n = PARAMETERS[name]
    with torch.device('meta'): assert sum(p.numel() for p in build_model(name, **options).parameters()) == n

@every
def test_scores_belong_to_each_clip_alone(name):
    m, x = small(name).train(), clips()
    with torch.no_grad(): m(x)                                                 # batch norms have seen something
    p = m.predict(x)
    assert m.training and p.shape == (3,) and ((0 <= p) & (p <= 1)).all()
    with torch.no_grad(): z, one, turned = (m.eval()(y)['logits'] for y in (x, x[1:2], x.flip(0)))
    assert len(z.unique(dim=0)) == 3
    torch.testing.assert_close(one, z[1:2], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(turned, z.flip(0), atol=1e-4, rtol=1e-3)

@every
def test_order_of_frames(name):
    m, x = small(name).eval(), clips()
    if name == 'timesformer': torch.nn.init.normal_(m.model.time_embed)        # it starts at zero: blind to order
    with torch.no_grad():
        for p in m.parameters(): p.add_(torch.randn_like(p)*p.std(correction=0).nan_to_num(0)*.3)   # blocks that start as the identity wake up
        same = torch.allclose(m(x)['logits'], m(x.flip(1))['logits'], atol=1e-5)
    assert same == (name in BLIND)

@every
def test_every_part_learns(name):
    m, x = small(name).train(), clips(4)
    with torch.no_grad():
        for p in m.parameters(): p.add_(torch.randn_like(p)*.02)               # gates that start at zero let a gradient through
    terms = m.loss(m(x), torch.tensor([0, 1, 0, 1]))
    terms['loss'].backward()
    silent = [n for n, p in m.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().max() > 0)]
    assert not silent, silent
    assert abs(float(terms['loss'].detach()-sum(v.detach() for k, v in terms.items() if k != 'loss'))) < 1e-5 or set(terms) == {'loss'}

@every
def test_saved_and_loaded(name, tmp_path):
    m, x = small(name).eval(), clips(2)
    save_model(m, tmp_path/'m.safetensors')
    with torch.no_grad(): torch.testing.assert_close(load_model(tmp_path/'m.safetensors').eval()(x)['logits'], m(x)['logits'])

@every
def test_wrong_input_is_refused_in_a_line(name):
    with pytest.raises(UserError) as e: small(name)(torch.rand(1, 8, 1, 64, 64))
    assert '\n' not in str(e.value)
    with pytest.raises(UserError, match='choose from'): build_model(name, **SMALL[name], wdth=1)

# paper 4: checkpoints of non-local networks, predict, the explorer

def retold(path, **options):
    "The same weights, whose header tells other options."
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    with safe_open(path, 'pt') as f: meta = json.loads(f.metadata()['meta'])
    meta['config'] |= options
    save_file(load_file(path), path, metadata=dict(meta=json.dumps(meta)))
    return path

@pytest.mark.parametrize('was, told, named', [([1, 2, 3, 4], [1, 2], 'nonlocal_.3.0'), ([1, 2], [1, 2, 3, 4], 'nonlocal_.3.0'), ([4, 4, 4, 4], [4, 4], 'nonlocal_.4.2'),
                                              ([4, 4], [4, 4, 4, 4], 'nonlocal_.4.2'), ([1, 2], [3, 4], 'nonlocal_.3.0'), ([1], [], 'nonlocal_.1.0'), ([1], 4, 'placement = 4')])
def test_a_checkpoint_of_another_placement_is_named_and_refused(was, told, named, tmp_path):
    net = build_model('resnet3d', depth=10, width=.125, placement=was)
    file = save_model(net, tmp_path/'m.safetensors')
    assert load_model(file).config['placement'] == was                         # before somebody touched it
    retold(file, placement=told)
    with pytest.raises(UserError, match='m.safetensors') as e: load_model(file)
    assert named in str(e.value) and '\n' not in str(e.value)
    if told == 4: return
    with pytest.raises(UserError, match='m.safetensors') as e: build_model('resnet3d', depth=10, width=.125, placement=told, weights=str(file))
    assert f'weights of placement = {was} ' in str(e.value) and f'has placement = {told} ' in str(e.value) and '\n' not in str(e.value)

FILMED = {'non-local': ('resnet3d', dict(depth=10, width=.25, stem='fine', placement=[2, 4], pooled=4), 0.),
          'timesformer': ('timesformer', dict(size=64, patch=16, dim=48, depth=2, heads=4), .1)}

@pytest.fixture(scope='module')
def film(tmp_path_factory):
    from facefilm import walk
    from deepfakenb.data.codec import write_video
    faded = walk(18)[0]*np.linspace(1, .4, 18)[:, None, None, None]            # so that no two clips are alike
    return write_video(tmp_path_factory.mktemp('film')/'anna.mp4', faded.astype(np.uint8))

@pytest.mark.parametrize('kind', FILMED)
def test_a_video_is_predicted_clip_by_clip(deepfakenb, film, kind, tmp_path, monkeypatch):
    "The score of a film is the mean over clips of eight faces, four apart, as they lie in the folder of faces."
    from deepfakenb.data.codec import probe
    from deepfakenb.data.images import open_image
    from deepfakenb.data.sampling import FaceSet
    from deepfakenb.inference import videos
    from deepfakenb.tasks.base import task_named
    torch.manual_seed(0)
    name, options, noise = FILMED[kind]
    m = build_model(name, **options).eval()
    with torch.no_grad():
        for p in m.parameters():
            p.add_(torch.randn_like(p)*noise) if p.any() else p.normal_(std=.3)    # blocks and time embedding that start at zero wake up
    d = videos.VideoDetector(m, dict(rule='first-1.3', size=64, frames=8, stride=1), 64, 'toy', 'Untrained: its answers mean nothing.', task_named('video'))
    monkeypatch.setattr(videos, 'find_video_detector', lambda run=None, out=None: d)
    code, out, err = deepfakenb('predict', film, '--out', tmp_path/'o', '--overlay', '--json')
    assert code == 0, err
    told, = json.loads(out)['videos']
    rows = FaceSet.read(tmp_path/'o'/'faces', labelled=False).frame
    faces = torch.from_numpy(np.stack([open_image(tmp_path/'o'/'faces'/f) for f in rows['file']])).permute(0, 3, 1, 2)
    assert faces.shape == (18, 3, 64, 64) and rows['frame'].tolist() == list(range(18))
    by_hand = m.predict(torch.stack([faces[i:i+8] for i in (0, 4, 8)]))
    assert by_hand.std() > 1e-3 and told['samples'] == 3 and abs(told['score']-float(by_hand.mean())) < 1e-4, by_hand
    curve = {int(r['frame']): float(r['score']) for r in csv.DictReader(next((tmp_path/'o').glob('anna*.csv')).open())}
    assert sorted(curve) == list(range(16)) and abs(curve[0]-float(by_hand[0])) < 2e-4 and abs(curve[5]-float(by_hand[:2].mean())) < 2e-4
    assert probe(next((tmp_path/'o').glob('anna*.mp4'))).frames == 18

@torch.no_grad()
def test_a_recorded_query_never_writes_the_whole_non_local_map():
    "All that is computed while a place, or all places, are asked: no tensor has as many numbers as the map; a place alone needs a row."
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from deepfakenb.explore import watching
    from deepfakenb.explore.recorder import record
    class Largest(TorchDispatchMode):
        n = 0
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            out = op(*args, **(kwargs or {}))
            self.n = max([self.n, *(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))])
            return out
    torch.manual_seed(0)
    m = build_model('resnet3d', depth=10, width=.125, stem='fine', placement=[1]).eval()
    clip, block, reader = torch.randint(0, 256, (8, 3, 48, 48), dtype=torch.uint8), m.nonlocal_['1'][0], watching.reader_of(m)
    x = watching.caught(m, clip, dict(x=block))['x']
    places = x[0, 0].numel()
    assert places == 8*24*24
    def largest(ask):
        with Largest() as seen: answer = ask()
        return seen.n, answer
    plain = largest(lambda: m(clip[None]))[0]
    one, look = largest(lambda: reader.maps(m, clip, 'stage 1, block 0', (6, .99, .01))['look'])
    every, looked = largest(lambda: reader.maps(m, clip, 'stage 1, block 0')['looked at'])
    def recorded():
        with record(m) as records: m(clip[None])
        return records['nonlocal_.1.0.observed'].weights
    third, shares = largest(recorded)
    assert one == plain < places**2/8 and max(every, third) <= 1024*places < places**2/4
    q, k, _ = block.parts(x)
    whole, rows = largest(lambda: (q@k.mT).softmax(-1)[0])
    assert whole == places**2                                                  # what this test would have seen
    assert torch.allclose(look.flatten(), rows[6*24*24+23*24], atol=1e-6) and torch.allclose(looked.flatten(), rows.mean(0), atol=1e-6)
    assert torch.allclose(shares.flatten(), looked.flatten(), atol=1e-6)
