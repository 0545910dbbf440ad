"layers.motion: the temporal taps against a sum of shifted copies, whatever the shape, the format and the precision."
import pytest, torch
from hypothesis import given, settings, strategies as st
from deepfakenb.core import UserError
from deepfakenb.layers.motion import BLOCKS, CSTM, MCB, STM, Taps, give_time, set_frames
from deepfakenb.models.base import build_model

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

def test_frozen_kernels():
    x, w = torch.randn(2, 4, 6, 5, 5, requires_grad=True), torch.randn(6, 3)
    gx, = torch.autograd.grad(Taps.apply(x, w).sum(), x)
    torch.testing.assert_close(gx, torch.autograd.grad(shifted(x, w).sum(), x)[0])

@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize('last', (False, True))
@pytest.mark.parametrize('training', (False, True))
def test_frozen_kernels_and_half_precision(block, last, training):
    "A block, and a network of them, where autocast mixes precisions: half in, half out, gradients in full."
    torch.manual_seed(0)
    m = BLOCKS[block](8).train(training)
    for n, p in m.named_parameters():
        if 'up' in n: torch.nn.init.normal_(p)
    x = torch.randn(2, 8, 4, 5, 5)
    if last: x = x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (2, 4)).transpose(1, 2)
    full = m(x)
    with torch.autocast('cpu', torch.bfloat16):
        for z in (x, x.to(torch.bfloat16)):
            y = m(z)
            assert y.dtype == torch.bfloat16
            torch.testing.assert_close(y.float(), full, atol=.1*float(full.detach().abs().max()), rtol=0)
        y.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() and p.grad.any() for p in m.parameters())
    net = build_model('gml', backbone='xception-narrow', block=block).train(training)
    if last: net = net.to(memory_format=torch.channels_last)
    with torch.autocast('cpu', torch.bfloat16): out = net(torch.rand(2, 4, 3, 64, 64))
    net.loss(out, torch.tensor([0, 1]))['loss'].backward()
    assert out['logits'].isfinite().all() and all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())

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

# what the modules mean (paper 5, Eq. 1), by code of its own: loops over frames, kernels written out

def awake(cls, channels, **options): # nothing in it is silent
    m = cls(channels, **options).double()
    for p in m.parameters(): torch.nn.init.normal_(p, std=.5)
    return m

def by_hand(m, x): # (B, C, T, H, W): the block frame by frame; its motion and consistency, lists of frames
    b, c, t, h, w = x.shape
    at = lambda k: x[:, :, min(max(k, 0), t-1)]
    space = lambda z, k: sum(k[:, 0, i, j][:, None, None]*torch.nn.functional.pad(z, (1, 1, 1, 1))[..., i:i+z.shape[-2], j:j+z.shape[-1]] for i in range(3) for j in range(3))
    frames = [space(sum(m.temporal[:, i][:, None, None]*at(k+i-1) for i in range(3)), m.spatial.weight) for k in range(t)]
    if not isinstance(m, STM): return torch.stack(frames, 2), [], []
    d = [torch.einsum('rc,bchw->brhw', m.down.weight[..., 0, 0], at(k)) for k in range(t)]
    K = lambda z: space(z, m.K.weight)
    none = torch.zeros_like(d[0])
    first = [d[k]-K(d[k-1]) if k else none for k in range(t)]
    second = [d[k]-2*K(d[k-1])+K(K(d[k-2])) if k > 1 else none for k in range(t)]
    told = [f+s if isinstance(m, MCB) else f for f, s in zip(first, second)]
    return torch.stack([f+torch.einsum('cr,brhw->bchw', m.up.weight[..., 0, 0], z) for f, z in zip(frames, told)], 2), first, second

@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(BLOCKS)), st.integers(1, 2), st.integers(1, 6), st.integers(2, 5), st.integers(0, 10**6))
def test_blocks_are_their_formulas(block, b, t, c, seed):
    "Also F^MM_t = F_t - 2 K F_(t-1) + K K F_(t-2), from frame 2 on."
    torch.manual_seed(seed)
    m, x = awake(BLOCKS[block], c, **({} if block == 'cstm' else dict(ratio=2))), torch.randn(b, c, t, 4, 5, dtype=torch.float64)
    want, first, second = by_hand(m, x)
    torch.testing.assert_close(m(x), want)
    if block == 'cstm' or t == 1: return
    for ours, theirs in zip(m.parts(x.transpose(1, 2)), (first, second)): torch.testing.assert_close(ours, torch.stack(theirs, 1))

def looking_at(channels): # an MCB whose features are its input
    m = MCB(channels, ratio=1).double()
    with torch.no_grad():
        for conv in (m.down, m.up): conv.weight.copy_(torch.eye(channels)[..., None, None])
    return m

def test_a_ramp_moves_and_is_consistent():
    start, d = torch.randn(2, 2, 1, 3, 6, 6, dtype=torch.float64)
    first, second = looking_at(3).parts(start+torch.arange(6)[:, None, None, None]*d)
    torch.testing.assert_close(first[:, 1:], d.expand(-1, 5, -1, -1, -1))
    assert not first[:, 0].any() and not second[:, :2].any() and second.abs().max() < 1e-12

@pytest.mark.parametrize('tap, turned', [((1, 0), False), ((1, 2), True)])
def test_a_picture_that_moves_as_K_expects_has_no_motion(tap, turned):
    m, wide = looking_at(2), torch.randn(1, 2, 6, 30, dtype=torch.float64)
    film = torch.stack([wide[..., 10-t:22-t] for t in range(5)], 1)                # one pixel to the right a frame
    if turned: film = film.flip(-1)
    with torch.no_grad(): m.K.weight.zero_(); m.K.weight[:, :, tap[0], tap[1]] = 1
    inside = lambda f: m.parts(f)[0][:, 1:, :, :, 1:-1].abs().max()
    assert inside(film) < 1e-12 and inside(film.flip(1)) > 1 and m.parts(film)[1][..., 2:-2].abs().max() < 1e-12

def test_a_still_clip_has_no_motion_and_clips_do_not_mix():
    for cls in (STM, MCB):
        m = awake(cls, 6, ratio=2)
        with torch.no_grad(): m.K.weight.zero_(); m.K.weight[:, :, 1, 1] = 1
        still = torch.randn(2, 6, 1, 5, 5, dtype=torch.float64).expand(-1, -1, 4, -1, -1)
        only = CSTM(6).double()
        only.load_state_dict({n: p for n, p in m.state_dict().items() if n in ('temporal', 'spatial.weight')})
        torch.testing.assert_close(m(still), only(still))
        two = torch.randn(2, 6, 5, 5, 5, dtype=torch.float64)
        assert not torch.allclose(m(two), only(two), atol=.01)
        for x in (two, still): torch.testing.assert_close(m(x), torch.cat([m(x[:1]), m(x[1:])]))

def test_a_fresh_network_is_the_plain_one():
    "Frame-trained weights, unchanged: the same numbers at the start."
    from deepfakenb.models.xception import Xception
    torch.manual_seed(0)
    x, plain = torch.rand(6, 3, 64, 64), Xception('xception-narrow').eval()
    for block in BLOCKS:
        net = Xception('xception-narrow').eval(); net.load_state_dict(plain.state_dict())
        give_time(net, block); set_frames(net, 3)
        torch.testing.assert_close(net(x), plain(x), atol=1e-6, rtol=0)

# what cannot be

def separable(**o): return torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, groups=4, **{**dict(padding=1), **o}))

def small(**o): return build_model('gml', **{**dict(backbone='xception-narrow'), **o})

def twice():
    net = separable(); give_time(net, 'mcb', ratio=1)
    give_time(net, 'stm', ratio=1)

def silent(): # converted, never told the frames of a clip
    net = separable(); give_time(net, 'mcb', ratio=1)
    net(torch.rand(4, 4, 5, 5))

def uneven():
    net = separable(); give_time(net, 'cstm'); set_frames(net, 3)
    net(torch.rand(4, 4, 5, 5))

BAD = {'ratio 0': (lambda: small(ratio=0), 'ratio = 0: a whole number'), 'ratio 2.5': (lambda: small(ratio=2.5), 'ratio = 2.5: a whole number'), 'ratio of no motion': (lambda: small(block='cstm', ratio=-1), 'ratio = -1'),
       'ratio of a block': (lambda: STM(8, ratio='16'), "ratio = '16'"), 'no channels': (lambda: MCB(0), 'channels = 0'), 'half a channel': (lambda: CSTM(1.5), 'channels = 1.5'),
       **{f'{c.__name__} of {what}': (lambda c=c, shape=shape: c(32)(torch.rand(shape)), r'32 channels, frames') for c in (CSTM, STM, MCB) for what, shape in (('other channels', (2, 16, 4, 5, 5)), ('frames', (2, 32, 5, 5)), ('no frames', (2, 32, 0, 5, 5)))},
       'a step that is not there': (lambda: __import__('deepfakenb.models.gml', fromlist=['clues']).clues(small(), torch.rand(3, 3, 64, 64), 'block99'), "step = 'block99': choose from conv1"),
       'an empty clip': (lambda: small()(torch.rand(2, 0, 3, 64, 64)), 'a clip of 0 frames'), 'a name in place of a list': (lambda: small(anomaly_losses='cls'), "anomaly_losses = 'cls': a list"),
       'a network converted twice': (twice, 'has motion blocks already'), 'frames untold': (silent, r'call set_frames\(network, T\)'), 'half a clip': (uneven, '4 frames are no clips of 3'), 'no frames a clip': (lambda: set_frames(separable(), 0), 'frames = 0'),
       'a kernel that shrinks the map': (lambda: give_time(separable(padding=0), 'mcb'), 'keeps the size'), 'one that lets it grow': (lambda: give_time(separable(padding=2), 'mcb'), 'keeps the size')}

@pytest.mark.parametrize('case', BAD)
def test_what_cannot_be_is_said_in_a_line(case):
    do, said = BAD[case]
    with pytest.raises(UserError, match=said) as e: do()
    assert '\n' not in str(e.value)

def test_kernels_that_change_the_size_stay_as_they_are():
    "padding 0 stays, or is refused by name; 'same', and what a dilated kernel needs, are replaced."
    net = torch.nn.Sequential(*separable(padding=0), *separable(padding='same'), *separable(padding=2, dilation=2))
    with pytest.raises(UserError, match='1 of 3 depth-wise kernels .* change the size'): give_time(net, 'mcb', others='refuse', ratio=1)
    x, before = torch.rand(4, 4, 9, 9), net[0]
    want = net(x)
    assert give_time(net, 'mcb', ratio=1) == 2 and net[0] is before
    set_frames(net, 2)
    torch.testing.assert_close(net(x), want)
