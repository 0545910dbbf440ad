"Frame detectors beyond their notebooks: one interface for all, checkpoints, precision, layouts, probes, weights by published names."
import json
import pytest, torch
from torch import nn
from deepfakenb.core import UserError
from deepfakenb.explore.recorder import record
from deepfakenb.models.base import DetectorModel, build_model, model_class, model_module, model_names
from deepfakenb.models.checkpoints import load_model, save_model

torch.set_num_threads(1)
SMALL = {'xception': dict(backbone='xception-narrow'), 'efficientnet-b4': dict(backbone='efficientnet-narrow'),
         'senet': dict(backbone='resnet18-se-narrow'), 'mesonet': dict(),
         'multi-attentional-detector': dict(backbone='efficientnet-narrow', width=64), 'f3-net': dict(backbone='xception-narrow'), 'wsdan': dict(backbone='xception-narrow')}
MODULES = {'xception': 'xceptiondetector', 'efficientnet-b4': 'efficientnet', 'senet': 'senet', 'mesonet': 'mesonet',
           'multi-attentional-detector': 'multiattentionaldetector', 'f3-net': 'f3net', 'wsdan': 'wsdan'}
POOLED = ('xception', 'efficientnet-b4', 'senet')
STILL = {'xception': {}, 'senet': {}, 'efficientnet-b4': dict(dropout=0.), 'mesonet': dict(dropout=0.),
         'multi-attentional-detector': dict(drop_maps=0., drop_global=0., guided=0.), 'f3-net': {}, 'wsdan': dict(crop=None, drop=None)}
LABELS = torch.tensor([0, 1, 1, 0])
every = pytest.mark.parametrize('name', SMALL)
pooled = pytest.mark.parametrize('name', POOLED)

def small(name, seed=0, **kw):
    torch.manual_seed(seed)
    return build_model(name, **SMALL[name] | kw)

def clips(n=4, size=64, seed=0): return torch.rand(n, 1, 3, size, size, generator=torch.Generator().manual_seed(seed))

@every
def test_registered_as_a_frame_detector(name):
    cls = model_class(name)
    assert name in model_names() and model_module(name) == f'models.{MODULES[name]}'
    assert issubclass(cls, DetectorModel) and (cls.level, cls.frames) == ('frame', 1)
    m = small(name)
    assert all(type(v) is tuple and len(v) == 3 for v in (m.mean, m.std))
    assert build_model(**json.loads(json.dumps(m.config))).config == m.config
    with pytest.raises(UserError, match='reads 1'): m(torch.rand(1, 2, 3, 64, 64))

def test_the_base_of_the_pooled_is_no_model():
    assert not [n for n in model_names() if n in ('', 'pooled')] and len({model_class(n) for n in SMALL}) == len(SMALL)

@pytest.mark.parametrize('name, options, parameters', [
    ('xception', {}, 20_811_050), ('xception', SMALL['xception'], 243_482), ('efficientnet-b4', {}, 17_552_202),
    ('efficientnet-b4', SMALL['efficientnet-b4'], 105_796),
    ('senet', {}, 26_043_122), ('senet', SMALL['senet'], 710_202), ('mesonet', {}, 28_632), ('mesonet', dict(variant='meso-4'), 27_994),
    ('f3-net', {}, 45_474_083), ('f3-net', SMALL['f3-net'], 559_034), ('wsdan', {}, 9_039_650), ('wsdan', SMALL['wsdan'], 161_658),
    ('multi-attentional-detector', {}, 18_821_650), ('multi-attentional-detector', SMALL['multi-attentional-detector'], 248_172)])
def test_parameters_are_pinned(name, options, parameters):
    where = 'cpu' if name == 'multi-attentional-detector' else 'meta'   # that one looks at a picture while it is built
    with torch.device(where): m = build_model(name, **options)
    assert sum(p.numel() for p in m.parameters()) == parameters

@every
def test_scores_belong_to_each_picture_alone(name):
    m, x = small(name).train(), clips()
    p = m.predict(x)
    assert m.training and p.shape == (4,) and ((0 < p) & (p < 1)).all()
    torch.testing.assert_close(m.predict(x[2:3]), p[2:3], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(m.predict(x.flip(0)), p.flip(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(m.predict(x[:, 0]), p)
    as_bytes = (x*255).round().byte()
    torch.testing.assert_close(m.predict(as_bytes), m.predict(as_bytes.float()/255))

@every
def test_any_size_from_64(name):
    m = small(name).eval()
    for shape in ((64, 64), (75, 75), (96, 128), (128, 128)): assert m.predict(torch.rand(2, 3, *shape)).isfinite().all()

@every
@pytest.mark.parametrize('channels_last', (False, True))
def test_a_training_step_moves_every_parameter(name, channels_last):
    m = small(name, seed=1, **STILL[name] if name == 'mesonet' else {})   # with seed 0 a way of MesoNet is dead, see its notebook
    m = m.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format).train()
    groups = m.backbone_parameters(), m.other_parameters()
    assert sum(map(len, groups)) == len(list(m.parameters())) and bool(groups[0]) == (name != 'mesonet')
    before = {k: p.detach().clone() for k, p in m.named_parameters()}
    optimiser = torch.optim.AdamW([dict(params=g) for g in groups if g], 1e-3, weight_decay=0.)
    terms = m.loss(m(clips()), LABELS)
    torch.testing.assert_close(terms['loss'], sum(v for k, v in terms.items() if k != 'loss') if len(terms) > 1 else terms['loss'])
    terms['loss'].backward(); optimiser.step()
    assert [k for k, p in m.named_parameters() if torch.equal(p, before[k])] == []

@every
def test_channels_last_is_the_same_function(name):
    m, x = small(name).eval(), clips()
    p = m.predict(x)
    torch.testing.assert_close(m.to(memory_format=torch.channels_last).predict(x), p, atol=1e-4, rtol=1e-3)

@every
def test_a_batch_is_learned_by_heart(name):
    m, x = small(name, **STILL[name]), clips(size=64)
    x[1:3, ..., 20:44, 20:44] = x[1:3, ..., 20:44, 20:44].mean((-1, -2), keepdim=True)
    optimiser = torch.optim.AdamW(m.parameters(), 2e-3)
    losses = []
    for _ in range(30):
        terms = m.loss(m.train()(x), LABELS)
        optimiser.zero_grad(); terms['loss'].backward(); optimiser.step(); losses.append(terms.get('classes', terms['loss']).item())
    assert losses[0] > .3 and losses[-1] < .1*losses[0], losses

@every
def test_class_weights_reach_the_loss(name):
    m, x = small(name, **STILL[name]).eval(), clips()
    out = m(x)
    each = nn.functional.cross_entropy(out['logits'], LABELS, reduction='none')
    w = torch.tensor([4., 1.])
    torch.testing.assert_close(m.loss(out, LABELS, w)['loss'], (each*w[LABELS]).sum()/w[LABELS].sum())
    torch.testing.assert_close(m.loss(out, LABELS)['loss'], each.mean())

@every
def test_autocast_trains(name):
    m = small(name).train()
    with torch.autocast('cpu', torch.bfloat16): loss = m.loss(m(clips(2)), LABELS[:2])['loss']
    loss.backward()
    assert loss.isfinite() and loss.dtype == torch.float32 and all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())

@every
def test_saved_and_loaded(name, tmp_path):
    m, x = small(name).train(), clips()
    m.loss(m(x), LABELS); m.eval()
    again = load_model(save_model(m, tmp_path/'m.safetensors', dataset='toy'), name)
    assert again.config == json.loads(json.dumps(m.config)) and not again.training and torch.equal(m.predict(x), again.predict(x))
    assert all(torch.equal(a, b) for a, b in zip(m.state_dict().values(), again.state_dict().values(), strict=True))

@pooled
def test_a_probe_is_logistic_regression(name):
    "The head's gradient is that of a softmax regression on the pooled features, and nothing else has one."
    m, x = small(name, frozen='all', **STILL[name]).train(), clips()
    m.loss(m(x), LABELS)['loss'].backward()
    with torch.no_grad():
        f = m.eval().features(m.prepare(x)[:, 0]).mean((2, 3))
        error = m.head(f).softmax(-1)-nn.functional.one_hot(LABELS, 2)
    torch.testing.assert_close(m.head.weight.grad, error.mT@f/4, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(m.head.bias.grad, error.mean(0), atol=1e-6, rtol=1e-4)
    assert all(p.grad is None for p in m.backbone.parameters()) and m.backbone_parameters() == []

@pooled
def test_a_probe_keeps_its_statistics(name):
    for frozen, kept in (('all', True), ('none', False)):
        m = small(name, frozen=frozen).train()
        before = {k: v.clone() for k, v in m.backbone.named_buffers() if 'running' in k}
        m(clips())
        assert all(torch.equal(v, before[k]) for k, v in m.backbone.named_buffers() if k in before) == kept
        assert m.head.training and m.dropout.training

@pooled
def test_weights_of_a_backbone_and_of_a_detector(name, tmp_path):
    m, start = small(name, seed=1), SMALL[name]
    torch.save(m.backbone.state_dict(), tmp_path/'backbone.pth')
    save_model(m, tmp_path/'detector.safetensors')
    for file in ('backbone.pth', 'detector.safetensors'):
        n = small(name, seed=2, weights=str(tmp_path/file))
        assert all(torch.equal(v, n.backbone.state_dict()[k]) for k, v in m.backbone.state_dict().items())
        assert not torch.equal(n.head.weight, m.head.weight)
        assert n.config['weights'] is None and model_class(name).start_name(start) == start['backbone']
    other = POOLED[POOLED.index(name)-1]
    with pytest.raises(UserError, match='backbone.pth.*another model') as e: small(other, weights=str(tmp_path/'backbone.pth'))
    assert '\n' not in str(e.value)

def test_multi_attentional_starts_from_efficientnets_backbone(tmp_path):
    m = small('efficientnet-b4', seed=1)
    torch.save(m.backbone.state_dict(), tmp_path/'b.pth')
    n = small('multi-attentional-detector', weights=str(tmp_path/'b.pth'))
    assert n.config['frozen'] and all(torch.equal(v, n.backbone.body.state_dict()[k]) for k, v in m.backbone.state_dict().items())
    assert 0 < len(n.backbone_parameters()) < len(list(n.backbone.parameters()))

def test_multi_attentional_is_recorded_like_every_attention():
    m = small('multi-attentional-detector').eval()
    with record(m) as seen: m.predict(clips(3, 96))
    assert list(seen) == ['network.attention.observed']
    r = seen['network.attention.observed']
    assert r.weights.shape == (3, 4, 1, 36) and r.grid == (6, 6)
    torch.testing.assert_close(r.weights.sum(-1), torch.ones(3, 4, 1))
    for name in POOLED+('mesonet',):
        with record(small(name).eval()) as seen: pass
        assert not seen

def test_multi_attentional_only_real_faces_move_the_centres():
    m = small('multi-attentional-detector', guided=0.).train()
    for labels, moves in ((torch.ones(4, dtype=torch.long), False), (LABELS, True)):
        before = m.network.independence.centres.clone()
        m.loss(m(clips()), labels)
        assert torch.equal(before, m.network.independence.centres) != moves

@pytest.mark.parametrize('variant', ('meso-4', 'meso-inception-4'))
def test_mesonet_pools_as_published_at_256(variant):
    "At the published size the adaptive pooling is the published one, in value and in gradient."
    m, x = build_model('mesonet', variant=variant).eval(), clips(1, 256)
    before = m.blocks[3][:2](m.blocks[:3](x[:, 0])).detach().requires_grad_()
    assert before.shape == (1, 16, 32, 32)
    ours, theirs = m.blocks[3][2](before), nn.functional.max_pool2d(before, 4)
    assert torch.equal(ours, theirs)
    g, = torch.autograd.grad(ours.square().sum(), before)
    h, = torch.autograd.grad(theirs.square().sum(), before)
    assert torch.equal(g, h)

def test_mesonet_sees_no_further_than_its_dilations():
    "A bright pixel reaches 0, 1, 2 and 3 pixels far in the four ways."
    from deepfakenb.models.mesonet import DilatedInception
    torch.manual_seed(0)
    block, x = DilatedInception(1, (1, 1, 1, 1)), torch.zeros(1, 1, 15, 15)
    with torch.no_grad():
        for p in block.parameters(): p.fill_(0. if p.dim() == 1 else 1.)
        x[..., 7, 7] = 1
        seen = block(x)[0].nonzero()
    for way, reach in enumerate((0, 1, 2, 3)):
        at = seen[seen[:, 0] == way][:, 1:]
        assert len(at) == (1 if way == 0 else 9) and (at-7).abs().max() == reach

@pytest.mark.parametrize('name, option, says', [
    ('xception', dict(backbone='resnet50'), 'xception-narrow'), ('xception', dict(frozen='some'), 'none, all'),
    ('efficientnet-b4', dict(dropout=1.), 'below 1'),
    ('efficientnet-b4', dict(backbone='efficientnet_b3'), 'efficientnet-narrow'), ('senet', dict(weights='nowhere.pth'), 'no such file'),
    ('senet', dict(bakbone='x'), 'backbone'),
    ('mesonet', dict(variant='Meso4'), 'meso-4'), ('mesonet', dict(width=-1.), 'positive'), ('mesonet', dict(weights='x'), 'variant'),
    ('multi-attentional-detector', dict(maps=1), 'maps'), ('multi-attentional-detector', dict(guided=-1.), 'guided')])
def test_a_wrong_option_is_one_line(name, option, says):
    with pytest.raises(UserError, match=says) as e: small(name, **option)
    assert '\n' not in str(e.value) and e.value.code in (1, 2)
