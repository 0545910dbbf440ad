"TimeSformer says in one line which clip, option or rate it cannot use, and takes every type of number that fits its weights."
import numpy as np, pytest, torch
from deepfakenb.core import UserError
from deepfakenb.models.base import build_model
from deepfakenb.models.timesformer import ATTENTIONS, VideoTransformer, crop_score, from_vit, load_published

torch.set_num_threads(1)
SMALL = dict(frames=4, size=32, patch=8, dim=16, depth=2, heads=2)

def network(attention='divided', **options):
    torch.manual_seed(0)
    net = VideoTransformer(attention=attention, **{**SMALL, **options}).eval()
    with torch.no_grad():
        for p in net.parameters(): p.add_(.1*torch.randn_like(p))
    return net

def clip(*shape): return torch.randn(shape or (2, 3, 4, 32, 32), generator=torch.Generator().manual_seed(1))

def refused(make, *says):
    with pytest.raises(UserError) as e: make()
    told = str(e.value)
    assert '\n' not in told and all(s in told for s in says), told

@pytest.mark.parametrize('attention', ATTENTIONS)
@pytest.mark.parametrize('given, says', [
    (clip(2, 3, 0, 32, 32), ('(2, 3, 0, 32, 32)', 'no frames')),
    (clip(3, 4, 32, 32), ('(3, 4, 32, 32)', '(batch, 3, frames, height, width)')),
    (clip(2, 4, 3, 32, 32), ('(2, 4, 3, 32, 32)', '(batch, 3, frames, height, width)')),
    (clip(2, 1, 4, 32, 32), ('(2, 1, 4, 32, 32)', '(batch, 3, frames, height, width)')),
    (clip().numpy(), ('ndarray', 'a tensor')),
    (None, ('NoneType', 'a tensor')),
    (clip().to(torch.uint8), ('uint8', 'float32', 'normalised')),
    (clip().half(), ('float16', 'float32')), (clip().bfloat16(), ('bfloat16', 'float32')), (clip().double(), ('float64', 'float32'))])
def test_a_clip_that_cannot_be_read(attention, given, says):
    net = network(attention)
    refused(lambda: net.logits(given), *says)
    refused(lambda: net(given), *says)

@pytest.mark.parametrize('attention', ATTENTIONS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_weights_and_clip_of_one_type(attention, dtype):
    net = network(attention)
    want, found = net.logits(clip()), network(attention).to(dtype).logits(clip().to(dtype))
    assert found.dtype == dtype and torch.allclose(found.float(), want, atol=.1)
    refused(lambda: network(attention).to(dtype).logits(clip()), 'float32', str(dtype).removeprefix('torch.'))

@pytest.mark.parametrize('attention', ATTENTIONS)
@pytest.mark.parametrize('weights, given', [(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
@torch.no_grad()
def test_autocast(attention, weights, given):
    want, net = network(attention).logits(clip()), network(attention).to(weights)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.allclose(net.logits(clip().to(given)).float(), want, atol=.1)
        refused(lambda: net.logits(clip().to(torch.uint8)), 'uint8')
        refused(lambda: net.logits(clip().double()), 'float64')
        model = build_model('timesformer', attention=attention, **SMALL).eval()
        assert torch.isfinite(model(torch.rand(1, 4, 3, 32, 32))['logits']).all()

@pytest.mark.parametrize('heads', ['3', '2', True, 0, -2, 2., None])
def test_heads_of_published_weights(heads):
    state = network().state_dict()
    if heads is None: refused(lambda: load_published(state_dict=state), 'name it, heads=')
    else: refused(lambda: load_published(state_dict=state, heads=heads), f'heads = {heads!r}', 'whole number of at least 1')

@torch.no_grad()
def test_published_weights_by_name():
    net = network()
    again = load_published(state_dict={f'model.{k}': x for k, x in net.state_dict().items()}, heads=np.int64(2))
    assert torch.equal(again.logits(clip()), net.logits(clip()))

@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('wrong', ['8', True, 16., 0, None, [8]])
def test_options_are_whole_numbers(name, wrong):
    refused(lambda: build_model('timesformer', **{**SMALL, name: wrong}), f'{name} = {wrong!r}', 'whole number of at least 1')

def test_numbers_of_numpy_are_whole():
    assert build_model('timesformer', **{k: np.int64(v) for k, v in SMALL.items()}).model.time_embed.shape == (1, 4, 16)
    refused(lambda: from_vit({'cls_token': torch.zeros(1, 1, 8)}, frames='8'), "frames = '8'")

@pytest.mark.parametrize('rate', [0, -1, 1.5, True, '2', None])
def test_a_rate_is_a_whole_number(rate):
    refused(lambda: crop_score(build_model('timesformer', **SMALL), torch.rand(40, 3, 40, 40), rate=rate), f'rate = {rate!r}', 'whole number of at least 1')

def test_a_rate_of_one_is_enough():
    model, film = build_model('timesformer', **SMALL), torch.rand(4, 3, 40, 40)
    assert 0 <= crop_score(model, film, rate=1) <= 1
    refused(lambda: crop_score(model, film, rate=2), '4 frames', 'span 7')
