"DETR and SeqFakeFormer without auto-regression from the outside: registry, files, the learner's way of asking, training at the smoke scale, wrong options."
import json, time
import pytest, torch
from deepfakenb.core import UserError
from deepfakenb.models.base import build_model, model_class, model_names

torch.set_num_threads(1)
SMOKE = dict(backbone='resnet10-narrow', width=64, feed_forward=128, head_width=128)
MODELS = [('detr', {}), ('one-pass', dict(seca='none')), ('one-pass', dict(seca='multi-head'))]
LABELS = torch.tensor([[1, 2, 0, 0, 0], [3, 0, 0, 0, 0], [0]*5, [5, 4, 3, 2, 1]]).repeat(4, 1)
pytestmark = pytest.mark.parametrize('name, more', MODELS, ids=[f"{n}{'-'+m['seca'] if m else ''}" for n, m in MODELS])

def smoke(name, more, seed=0, **kw):
    torch.manual_seed(seed)
    return build_model(name, **SMOKE, **more, **kw)

def pictures(n=16, size=64): return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))+LABELS[:n].float().mean(1)[:, None, None, None]

def test_registry(name, more):
    m = smoke(name, more)
    assert name in model_names() and type(m) is model_class(name) and m.config['name'] == name
    again = build_model(**json.loads(json.dumps(m.config)))
    assert again.config == m.config and {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in m.state_dict().items()}
    backbone, rest = m.backbone_parameters(), m.other_parameters()
    assert backbone and len(backbone)+len(rest) == len(list(m.parameters()))
    frozen = smoke(name, more, frozen=True)
    assert 0 < len(frozen.backbone_parameters()) < len(backbone)

def test_file_and_back(name, more, tmp_path):
    from deepfakenb.models.checkpoints import load_model, save_model
    m = smoke(name, more).eval()
    path = save_model(m, tmp_path/'m.safetensors', track='components', size=64)
    again = load_model(path, name)
    assert not again.training and torch.equal(again(pictures(2)), m(pictures(2)))
    with pytest.raises(UserError, match='holds a .*, not a seqfakeformer'): load_model(path, 'seqfakeformer')

def test_learner_asks(name, more):
    from deepfakenb.training.learner import answers
    m = smoke(name, more).train()
    got = answers(m, [(pictures(4), LABELS[:4]), (pictures(3, 96), LABELS[:3])])
    assert m.training and got['sequences'].shape == (7, 5) == got['probabilities'].shape and torch.equal(got['labels'], torch.cat([LABELS[:4], LABELS[:3]]))
    logits = m.eval()(pictures(4))
    assert torch.equal(got['sequences'][:4], logits.argmax(-1)) and torch.allclose(got['probabilities'][:4], logits.softmax(-1).amax(-1), atol=1e-6)
    assert torch.equal(m.predict(pictures(4), beam=4).tokens, got['sequences'][:4])      # slots are independent given the picture: a beam finds the same

def test_smoke_training(name, more):
    m = smoke(name, more).train()
    assert m.teacher(LABELS)[0] == () and torch.equal(m.teacher(LABELS)[1], LABELS)
    opt, losses, fastest = torch.optim.AdamW(m.parameters(), 1e-3), [], 9.
    before = {n: p.detach().clone() for n, p in m.named_parameters()}
    for _ in range(20):
        began = time.process_time()
        loss = m.loss(m(pictures()), LABELS)
        opt.zero_grad(); loss.backward(); opt.step(); losses.append(loss.item())
        fastest = min(fastest, time.process_time()-began)
    assert abs(losses[0]-torch.tensor(6.).log()) < .6 and losses[-1] < .7*losses[0], losses
    assert fastest < .25, fastest                                                         # one core
    assert not [n for n, p in m.named_parameters() if torch.equal(p, before[n])]

def test_half_precision(name, more):
    m = smoke(name, more).eval()
    with torch.autocast('cpu', torch.bfloat16): got = m(pictures(2))
    torch.testing.assert_close(got.float(), m(pictures(2)), atol=.05, rtol=.05)

def test_wrong_options(name, more):
    for wrong in (dict(heads=3), dict(heads=0), dict(width=30), dict(encoder_layers=-1), dict(feed_forward='128'), dict(dropout=1.), dict(backbone='vgg'), dict(weights='nowhere.pth'), dict(widht=3), dict(tokens=8)):
        with pytest.raises(UserError) as e: build_model(name, **{**SMOKE, **more, **wrong})
        assert '\n' not in str(e.value) and len(str(e.value)) < 400, wrong
