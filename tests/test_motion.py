"layers.motion: the temporal taps against a sum of shifted copies, whatever the shape, the format and the precision."
import pytest, torch
from hypothesis import given, settings, strategies as st
from deepfakenb.layers.motion import BLOCKS, CSTM, Taps, give_time, set_frames

def shifted(x, w): # (B, T, C, H, W), (C, 3): the definition, by autograd
    before, after = torch.cat([x[:, :1], x[:, :-1]], 1), torch.cat([x[:, 1:], x[:, -1:]], 1)
    return before*w[:, :1, None]+x*w[:, 1:2, None]+after*w[:, 2:, None]

def drawn(shape, seed, dtype=torch.float32, last=False):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, shape[:2]) if last else x

sizes = st.tuples(st.integers(1, 3), st.integers(2, 6), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))

@settings(max_examples=40, deadline=None, derandomize=True)
@given(sizes, st.integers(0, 10**6), st.booleans(), st.sampled_from((torch.float32, torch.float64)))
def test_taps_are_shifted_copies(shape, seed, last, dtype):
    "Values, both gradients, and the format of what comes in."
    x, g = (drawn(shape, seed+k, dtype, last) for k in (0, 1))
    w = drawn((shape[2], 3, 1, 1, 1), seed+2, dtype)[:, :, 0, 0, 0]
    results = []
    for f in (Taps.apply, shifted):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = f(a, b)
        results.append((y.detach(), *torch.autograd.grad((y*g).sum(), (a, b))))
    tight = 1e-12 if dtype == torch.float64 else 1e-5
    for ours, theirs in zip(*results): torch.testing.assert_close(ours, theirs, atol=tight*10, rtol=tight)
    if min(shape[2:]) > 1: assert Taps.apply(x, w).stride() == x.stride()

@settings(max_examples=20, deadline=None, derandomize=True)
@given(sizes, st.integers(0, 10**6))
def test_the_ends_repeat_and_the_middle_shifts(shape, seed):
    "The tap before, alone, is a delay by one frame; taps that sum to one keep a still clip as it is."
    x = drawn(shape, seed, torch.float64)
    delay = torch.tensor([[1., 0, 0]], dtype=torch.float64).repeat(shape[2], 1)
    y = Taps.apply(x, delay)
    assert torch.equal(y[:, 1:], x[:, :-1]) and torch.equal(y[:, 0], x[:, 0])
    still, w = x[:, :1].expand(shape).contiguous(), drawn((shape[2], 3, 1, 1, 1), seed, torch.float64)[:, :, 0, 0, 0].softmax(1)
    torch.testing.assert_close(Taps.apply(still, w), still)

@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize('last', (False, True))
def test_channels_last_says_the_same_and_stays(block, last):
    from deepfakenb.models.xception import Xception
    torch.manual_seed(0)
    net = Xception('xception-narrow').eval()
    give_time(net, block); set_frames(net, 4)
    for name, p in net.named_parameters():
        if 'temporal' in name or '.up.' in name: torch.nn.init.normal_(p, std=.3)
    x = torch.rand(8, 3, 64, 64)
    plain = net(x)
    y = net.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last)) if last else net(x)
    torch.testing.assert_close(y, plain, atol=1e-4*float(plain.detach().abs().max()), rtol=1e-3)
    formats = []
    hooks = [m.spatial.register_forward_pre_hook(lambda m, i: formats.append(i[0].is_contiguous(memory_format=torch.channels_last))) for m in net.modules() if isinstance(m, CSTM)]
    if last:
        with torch.no_grad(): net(x.contiguous(memory_format=torch.channels_last))
        assert len(formats) == len(hooks) and all(formats), 'a block that leaves the format makes the whole network slow'

def test_frozen_kernels_and_half_precision():
    x, w = torch.randn(2, 4, 6, 5, 5, requires_grad=True), torch.randn(6, 3)
    gx, = torch.autograd.grad(Taps.apply(x, w).sum(), x)
    torch.testing.assert_close(gx, torch.autograd.grad(shifted(x, w).sum(), x)[0])
    m = CSTM(6)
    with torch.autocast('cpu', torch.bfloat16):
        y = m(x.transpose(1, 2).to(torch.bfloat16))
        y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16 and m.temporal.grad.dtype == torch.float32 and m.temporal.grad.isfinite().all() and x.grad is not None

@settings(max_examples=25, deadline=None, derandomize=True)
@given(sizes, st.integers(1, 5), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_pointwise_is_the_convolution(shape, out, seed, last, onto):
    "Values, gradients and format, alone and added to something."
    from deepfakenb.layers.motion import pointwise
    n, _, c, h, w = shape
    torch.manual_seed(seed)
    conv, x, y = torch.nn.Conv2d(c, out, 1, bias=False), torch.randn(n, c, h, w), torch.randn(n, out, h, w)
    if last: x, y = (z.contiguous(memory_format=torch.channels_last) for z in (x, y))
    results = []
    for f in (lambda a, b: pointwise(conv, a, b*1 if onto else None), lambda a, b: conv(a)+b if onto else conv(a)):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        conv.weight.grad = None
        z = f(a, b)
        (z*y).sum().backward()
        results.append((z.detach(), a.grad, conv.weight.grad.clone(), *([b.grad] if onto else [])))
    for ours, theirs in zip(*results): torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    if min(c, out, h, w) > 1: assert results[0][0].stride() == results[1][0].stride()
