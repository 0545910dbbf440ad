"What every sequence model must do, whatever the notebook of its own tests: options, decoding, modes, sizes, recording."
import subprocess, sys
import pytest, torch
from deepfakenb.core import UserError
from deepfakenb.layers.attention import SECA, Attention
from deepfakenb.models.base import DRAFTS, DetectorModel, build_model, model_class, model_names

torch.set_num_threads(1)
SMALL = {'multi-cls': dict(backbone='resnet10-narrow'),
         'seqfakeformer': dict(backbone='resnet10-narrow', width=32, heads=4, feed_forward=32, head_width=32)}
LABELS = torch.tensor([[1, 2, 4, 0, 0], [0, 0, 0, 0, 0], [5, 3, 1, 2, 4]])

def small(name, seed=0, **kw):
    torch.manual_seed(seed)
    return build_model(name, **SMALL[name] | kw)

def images(n=3, size=64, seed=0): return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))

def test_names():
    assert set(SMALL) <= set(model_names())
    with pytest.raises(UserError, match='did you mean resnet3d'): build_model('resnet')
    with pytest.raises(UserError, match="unknown option 'widht'.*width"): build_model('seqfakeformer', widht=3)
    assert model_class('multi-cls').__name__ == 'MultiCls'

@pytest.mark.parametrize('name', SMALL)
def test_config_rebuilds(name):
    import json
    m = small(name)
    again = build_model(**json.loads(json.dumps(m.config)))
    assert again.config == m.config and [(k, v.shape) for k, v in again.state_dict().items()] == [(k, v.shape) for k, v in m.state_dict().items()]

@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('channels_last', (False, True))
def test_a_training_step_moves_every_parameter(name, channels_last):
    m = small(name)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    m.to(memory_format=memory).train()
    opt = torch.optim.AdamW([dict(params=m.backbone_parameters(), lr=1e-3), dict(params=m.other_parameters(), lr=1e-3)])
    if name == 'seqfakeformer': m.transformer.decoder.layers[0].point3.weight.data += .1   # away from the symmetric start
    before = {k: p.detach().clone() for k, p in m.named_parameters()}
    inputs, targets = m.teacher(LABELS)
    loss = m.loss(m(images().contiguous(memory_format=memory), *inputs), targets)
    loss.backward(); opt.step()
    assert torch.isfinite(loss) and not [k for k, p in m.named_parameters() if torch.equal(p, before[k])]

@pytest.mark.parametrize('name', SMALL)
def test_predict(name):
    m = small(name).train()
    d = m.predict(images())
    assert m.training and d.sequences.shape == (3, 5) and d.sequences.dtype == torch.int64 and d.probabilities.shape[:2] == (3, 5)
    again, alone = m.predict(images()), m.predict(images()[1:2])
    assert torch.equal(d.probabilities, again.probabilities)                                  # evaluation mode: no dropout, no batch statistics
    torch.testing.assert_close(alone.probabilities, d.probabilities[1:2], atol=1e-5, rtol=1e-4)
    assert torch.equal(m.predict(images(), beam=1).tokens, d.tokens) and (m.predict(images(), beam=3).scores >= d.scores-1e-5).all()
    m.eval(); m.predict(images()); assert not m.training

@pytest.mark.parametrize('size', (32, 64, 96, 100, 128))
def test_sizes(size):
    for name in SMALL: assert small(name).predict(images(1, size)).sequences.shape == (1, 5)

def test_same_seed_same_model():
    for name in SMALL:
        a, b, c = small(name), small(name), small(name, seed=1)
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
        assert not all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), c.state_dict().values()))

def test_recording_changes_nothing_and_names_its_attentions():
    m = small('seqfakeformer').eval()
    found = {n: a for n, a in m.named_modules() if isinstance(a, Attention)}
    assert len(found) == 6 and all(a.name == n for n, a in found.items())
    inputs, _ = m.teacher(LABELS)
    with torch.no_grad():
        plain = m(images(), *inputs)
        for a in found.values(): a.recording = True
        torch.testing.assert_close(m(images(), *inputs), plain, atol=1e-5, rtol=1e-4)
    for n, a in found.items():
        r = a.last
        torch.testing.assert_close(r.weights.sum(-1), torch.ones(r.weights.shape[:-1]))
        shape = dict(encoder=(3, 4, 16, 16), self_attn=(3, 4, 6, 6), multihead_attn=(3, 4, 6, 16))
        kind = 'encoder' if 'encoder' in n else n.split('.')[-1]
        assert r.name == n and r.weights.shape == shape[kind] and r.grid == (None if kind == 'self_attn' else (4, 4))
        assert (r.log_m is not None) == (kind == 'multihead_attn')
        if kind == 'multihead_attn': assert r.log_m.shape == r.weights.shape and (r.log_m <= 0).all()
        if kind == 'self_attn':
            assert r.weights[1, :, 1:, 1:].eq(0).all() and r.weights[2].triu(1).eq(0).all()   # PAD is no key; nor is the future

def test_half_precision_autocast_stays_close():
    m = small('seqfakeformer').eval()
    inputs, _ = m.teacher(LABELS)
    with torch.no_grad():
        full = m(images(), *inputs)
        with torch.autocast('cpu', torch.bfloat16): rough = m(images(), *inputs)
    assert rough.dtype == torch.bfloat16 and (rough.float()-full).abs().max() < .1*full.abs().max()+.05

def test_a_model_can_be_cast():
    m = small('seqfakeformer').eval()
    full = m.predict(images()).probabilities
    for dtype, near in ((torch.float64, 1e-4), (torch.bfloat16, .1)):
        m = small('seqfakeformer').to(dtype)
        assert (m.predict(images().to(dtype)).probabilities-full)[:, 0].abs().max() < near

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_cuda_agrees():
    for name in SMALL:
        m = small(name).eval()
        inputs, targets = m.teacher(LABELS)
        cpu = m.predict(images())
        gpu = m.cuda().predict(images().cuda())
        assert (gpu.probabilities.cpu()-cpu.probabilities).abs().max() < 1e-2
        with torch.autocast('cuda', torch.bfloat16): loss = m.loss(m(images().cuda(), *(i.cuda() for i in inputs)), targets.cuda())
        loss.backward()

def test_pretrained_weights_freeze_stem_and_first_stage(tmp_path):
    import torchvision
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path/'resnet18.pth')
    for name in SMALL:
        m = build_model(name, backbone='resnet18', weights=str(tmp_path/'resnet18.pth'))
        frozen = {n.split('.')[-3 if 'layer1' in n else -2] for n, p in m.named_parameters() if not p.requires_grad}
        assert m.config['weights'] is None and m.config['frozen'] and {n.split('body.')[1].split('.')[0] for n, p in m.named_parameters() if not p.requires_grad} == {'conv1', 'bn1', 'layer1'}, frozen
        assert not build_model(name, backbone='resnet18').config['frozen']
    with pytest.raises(UserError, match='another model'): build_model('multi-cls', backbone='resnet34', weights=str(tmp_path/'resnet18.pth'))
    with pytest.raises(UserError, match='no such file'): build_model('multi-cls', weights=str(tmp_path/'none.pth'))

def test_imports_are_light():
    "Building the narrow model needs neither timm nor fastai nor pandas."
    code = ("import sys; from deepfakenb.models.base import build_model; build_model('seqfakeformer', backbone='resnet10-narrow', width=16);"
            "print([m for m in ('timm', 'fastai', 'pandas', 'matplotlib', 'cv2', 'sklearn') if m in sys.modules])")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'

@torch.no_grad()
def test_a_large_spatial_map_takes_a_fifth_of_the_plain_memory():
    "64×64 cells, 16 images, 8 heads: the same output as Eq. 3 and 4 in full, with at most a fifth of their peak memory."
    torch.manual_seed(0)
    seca, x, grid = SECA(128, 8), torch.randn(16, 6, 128), (64, 64)
    torch.nn.init.normal_(seca.point2.bias, std=4.)
    memory = tuple(t.contiguous() for t in seca.multihead_attn.keys_values(*[torch.randn(16, 64*64, 128)]*2))
    def ours(): return seca.multihead_attn(x, keys_values=memory, log_m=seca.terms(x, grid)[0])
    def plain():
        y, m = seca.norm4(x), seca.multihead_attn
        def maps(z): return z.unflatten(-1, (8, 2)).transpose(1, 2)[..., None, :]              # (B, heads, Q, 1, 2)
        cells = torch.stack(torch.meshgrid(torch.arange(64.), torch.arange(64.), indexing='xy'), -1).flatten(0, 1)
        log_m = -((seca.point1(y).sigmoid()[:, None, :, None]*64+maps(seca.point2(y))-cells).square()*maps(seca.point3(y)).square()).sum(-1)/4
        (q,) = m._project(x, 0, 1)
        return m.out_proj(((q@memory[0].mT*m.scale+log_m).softmax(-1)@memory[1]).transpose(1, 2).flatten(2))
    torch.testing.assert_close(ours(), plain(), rtol=0, atol=1e-5)
    assert (ours()-seca.multihead_attn(x, keys_values=memory)).abs().max() > 1e-3              # the map matters
    from deepfakenb.training.speed import allocated
    assert 5*allocated(ours) < allocated(plain)

@pytest.mark.parametrize('wrong, said', [('multicls', 'did you mean multi-cls?'), ('ws-dan', 'did you mean wsdan?'), ('Xception', 'did you mean xception?'), ('qqq', 'there is none of this name')])
def test_a_wrong_name_is_answered_with_the_nearest(wrong, said, deepfakenb):
    code, _, err = deepfakenb('train', '--model', wrong)
    assert code == 2 and said in err and '`deepfakenb train`' in err and len(err) < 130 and 'seqfakeformer' not in err, err
    assert 'seqfakeformer' in deepfakenb('train')[2]                                         # the command that it names lists them all


def test_a_notebooks_draft_of_a_model_is_its_own(monkeypatch):
    "Notebooks run one after the other in one process: what one of them defines must not become what the others build."
    ours = model_class('mesonet')
    assert ours.__module__ == 'deepfakenb.models.mesonet'
    draft = type('MesoNet', (DetectorModel,), dict(name='mesonet', __module__='__main__', detect=lambda self, x: None))
    new = type('Newest', (DetectorModel,), dict(name='newest-net', __module__='__main__', detect=lambda self, x: None))
    try:
        with monkeypatch.context() as here:
            here.setattr(sys.modules['__main__'], 'MesoNet', draft, raising=False)      # the notebook that is running
            assert model_class('mesonet') is draft
        assert model_class('mesonet') is ours and isinstance(build_model('mesonet'), ours)
        assert model_class('newest-net') is new and 'newest-net' in model_names()        # nobody else has it
    finally: DRAFTS.pop('mesonet'); DRAFTS.pop('newest-net')
