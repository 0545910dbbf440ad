"Detectors of clips: one behaviour for all, whatever they are built of."
import json
import pytest, torch
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
