"The contrastive MIL loss and paper 3's binary model beyond their notebooks: random properties against a double loop, mixed precision, weights by published names, the recorder."
import json, math, warnings
import pytest, torch
from hypothesis import given, settings, strategies as st
from deepfakenb.core import UserError
from deepfakenb.losses.contrastive import COLDEST, EPS, LEAST_EPS, contrastive_loss, contrasts, fake_curve, fake_probability, grid_of_k, mil_loss, probability, regularity_loss
from deepfakenb.losses.contrastive import similarity_matrix, sorted_similarities, strongest, values_of_k, which_forged
from deepfakenb.models.base import build_model, model_class, model_names
from deepfakenb.models.checkpoints import load_model, save_model
from deepfakenb.models.contrastiveranking import others, similarities
from deepfakenb.training.speed import allocated

torch.set_num_threads(1)
# draws of as many k as there are, which random sizes bring about, are told by a warning: `test_a_number_that_leaves_none_out_is_told` looks at it
pytestmark = pytest.mark.filterwarnings('ignore:k = ')
SMALL = dict(backbone='resnet10-narrow', level=2, d=16, heads=2, feed_forward=16, depth=1)

def small(seed=0, **kw):
    torch.manual_seed(seed)
    return build_model('contrastive-mil', **SMALL | kw)

def frames(n=4, size=64, seed=0): return torch.rand(n, 1, 3, size, size, generator=torch.Generator().manual_seed(seed))
LABELS = torch.tensor([0, 1, 1, 0])

def loop(tokens, tau, ks=None): # (N, d) -> all P(x; k) that count, written as the paper does
    unit = [t/t.norm() if t.norm() > 0 else 0*t for t in tokens]
    u = sorted((unit[i]@unit[j]).clamp_min(0) for i in range(len(unit)) for j in range(i))
    n, out = len(u), []
    for k in ks or range(1, n+1):
        front = sum(1-u[i] for i in range(k))/k
        rest = sum(1-u[i] for i in range(k, n))/(n-k) if k < n else front
        a, b = front/tau, rest/tau
        out.append(2*a.exp()/(a.exp()+b.exp())-1)
    return out

def draws(n, seed=0):
    "Random batches: token counts, widths, scales, temperatures, twins, opposites, tokens of zeros."
    g = torch.Generator().manual_seed(seed)
    def draw(low, high): return int(torch.randint(low, high+1, (), generator=g))
    for trial in range(n):
        B, N, d, tau = draw(1, 3), draw(2, 12), draw(1, 6), (.05, .1, .5, 2.)[draw(0, 3)]
        x = torch.randn(B, N, d, generator=g, dtype=torch.float64)
        if trial % 3 == 1: x = x.abs()
        if trial % 4 == 0: x[:, draw(0, N-1)] = x[:, 0]*draw(1, 3)
        if trial % 5 == 0: x[:, draw(0, N-1)] = -x[:, 0]
        if trial % 7 == 0: x[:, draw(0, N-1)] = 0
        yield x, tau, draw(1, N*(N-1)//2), trial

def test_random_draws_equal_the_double_loop():
    for x, tau, some, trial in draws(60):
        n = x.shape[1]*(x.shape[1]-1)//2
        torch.testing.assert_close(fake_curve(x, tau), torch.stack([torch.stack(loop(t, tau)) for t in x]), atol=1e-11, rtol=0)
        least = (trial % 5)/5
        for options, ks in ((dict(), None), (dict(k=some, generator=trial), values_of_k(n, some, generator=trial).tolist()), (dict(least=least), range(max(1, math.ceil(least*n)), n+1))):
            torch.testing.assert_close(fake_probability(x, tau, **options), torch.stack([torch.stack(loop(t, tau, ks)).max() for t in x]), atol=1e-11, rtol=0)

def test_gradients_equal_the_double_loop():
    for x, tau, some, trial in draws(24, seed=1):
        if trial % 4 == 0 or trial % 5 == 0: continue     # equal similarities: the maximum has a kink there
        x = x.requires_grad_()
        fast = torch.autograd.grad(fake_probability(x, tau).sum(), x)[0]
        slow = torch.autograd.grad(sum(max(loop(t, tau)) for t in x), x)[0]
        torch.testing.assert_close(fast, slow.nan_to_num(), atol=1e-9, rtol=1e-7)

def test_random_draws_keep_the_invariances():
    for x, tau, _, trial in draws(40, seed=2):
        p = fake_probability(x, tau)
        assert (p >= 0).all() and (p <= 1).all()
        torch.testing.assert_close(p, fake_curve(x, tau).amax(-1), atol=1e-12, rtol=0)
        order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(trial))
        torch.testing.assert_close(fake_probability(x[:, order], tau), p, atol=1e-10, rtol=0)
        torch.testing.assert_close(fake_probability(x*torch.logspace(-6, 6, x.shape[1], dtype=x.dtype)[:, None], tau), p, atol=1e-7, rtol=0)
        turn = torch.linalg.qr(torch.randn(x.shape[2], x.shape[2], dtype=x.dtype, generator=torch.Generator().manual_seed(trial)))[0]
        torch.testing.assert_close(fake_probability(x@turn, tau), p, atol=1e-6, rtol=0)             # only angles count

@pytest.mark.parametrize('dtype', (torch.float32, torch.bfloat16))
def test_values_and_gradients_stay_finite(dtype):
    for x, tau, some, trial in draws(60, seed=3):
        for scale in (1., 1e-3, 1e3):
            leaf = (x*scale).to(dtype).requires_grad_()
            fake = torch.arange(len(leaf)) % 2
            for y in (contrastive_loss(leaf, fake, tau/50), contrastive_loss(leaf, 1-fake, tau, some, generator=0, reg='sum')):
                assert y.isfinite().all() and y.dtype == torch.float32
                assert torch.autograd.grad(y.sum(), leaf)[0].isfinite().all()
    same = torch.ones(2, 30, 4).to(dtype).requires_grad_()
    y = contrastive_loss(same, torch.tensor([1, 0]))
    assert abs(y[0]+math.log(EPS)) < 1 and y[1] < 1e-3 and torch.autograd.grad(y.sum(), same)[0].isfinite().all()

@pytest.mark.parametrize('scale', (1e25, 1e-25, 1e37, 1e-28))
def test_tokens_of_any_length(scale):
    "Squares of such numbers leave single precision; P does not change, its gradient is finite and scales inversely. Zeros have no direction at any scale."
    x = torch.randn(3, 20, 16, generator=torch.Generator().manual_seed(0))
    x[1, 4] = 0
    def asked(x):
        leaf = x.clone().requires_grad_()
        p = fake_probability(leaf, .5)
        return p.detach(), torch.autograd.grad(p.sum(), leaf)[0]
    (p, g), (q, h) = asked(x), asked(x*scale)
    assert p.min() > .1 and h.isfinite().all() and g.abs().max() > .01
    torch.testing.assert_close(q, p, atol=1e-6, rtol=0)
    torch.testing.assert_close(h.double()*scale, g.double(), atol=1e-5, rtol=1e-3)
    mixed = torch.where(torch.arange(20)[:, None] % 2 == 0, x, x*scale)                            # each token has a length of its own
    torch.testing.assert_close(fake_probability(mixed, .5), p, atol=1e-6, rtol=0)
    torch.testing.assert_close(contrastive_loss(x*scale, torch.tensor([0, 1, 0]), .5), contrastive_loss(x, torch.tensor([0, 1, 0]), .5), atol=1e-5, rtol=0)
    assert (similarity_matrix(x*scale)[1, 4] == 0).all() and (h[1, 4] == 0).all()

def test_autocast_does_not_touch_the_similarities():
    x = torch.randn(2, 40, 8).abs()+1           # cosines near 1
    plain = fake_probability(x)
    with torch.autocast('cpu', torch.bfloat16): assert torch.equal(fake_probability(x), plain)
    rounded = fake_probability(x.bfloat16())
    assert rounded.dtype == torch.float32 and torch.equal(rounded, fake_probability(x.bfloat16().float()))

def test_which_k_wins():
    "The cases of the audit, n = 2,016."
    g, n = torch.Generator().manual_seed(0), 2016
    real = (1-.01*torch.randn(n, generator=g).abs()).sort().values[None]
    contrast, at = strongest(real)
    assert at == 1 and abs(probability(contrast)-.17) < .03
    bell = (.7+.1*torch.randn(n, generator=g)).clamp(0, 1).sort().values[None]
    assert strongest(bell)[1] == 1
    for lower in (1, 100, 1500, n-1):
        two = torch.where(torch.arange(n) < lower, .1, .9)[None]
        contrast, at = strongest(two)
        assert at == lower; torch.testing.assert_close(contrast, torch.tensor([.8]))
    even = contrasts(torch.linspace(0, 1, n)[None])[0, :-1]
    assert even.max()-even.min() < 1e-3         # flat: any k
    for level in (0., .3, 1.):
        contrast, at = strongest(torch.full((1, n), level)); assert contrast < 1e-6

def test_no_rest_is_no_contrast():
    x = torch.randn(2, 5, 3, requires_grad=True)
    p = fake_probability(x, .1, (10,))
    assert torch.equal(p, torch.zeros(2)) and torch.autograd.grad(p.sum(), x)[0].abs().max() == 0
    assert torch.equal(fake_probability(torch.eye(2)[None]), torch.zeros(1))        # one pair, n = 1
    assert torch.equal(fake_curve(x)[:, -1], torch.zeros(2))

def test_sampled_k():
    x = torch.randn(2, 20, 4)
    every = fake_probability(x)
    assert torch.equal(fake_probability(x, .1, 190), every) and torch.equal(fake_probability(x, .1, 10**6), every)
    some = [fake_probability(x, .1, 5, generator=s) for s in range(30)]
    assert all((s <= every).all() for s in some) and len({s[0].item() for s in some}) > 3
    assert torch.equal(fake_probability(x, .1, 5, generator=3), fake_probability(x, .1, 5, generator=torch.Generator().manual_seed(3)))
    seen = torch.cat([values_of_k(50, 10, .2, s) for s in range(200)])
    counts = seen.bincount(minlength=51)
    assert counts[:10].sum() == 0 and counts[10:].min() > 20 and (seen.view(200, 10).diff() > 0).all()     # distinct, even, from the least share on
    torch.manual_seed(0); a = values_of_k(50, 10); b = values_of_k(50, 10); torch.manual_seed(0)
    assert torch.equal(a, values_of_k(50, 10)) and not torch.equal(a, b)

@pytest.mark.filterwarnings('default')
def test_a_number_that_leaves_none_out_is_told():
    "By the line, once, and nothing else changes: all k are tried. One fewer is a draw, and silent; so is evaluation."
    x = torch.randn(2, 20, 4)                                                    # 190 pairs
    for k, least, there in ((190, 0., '190 values'), (10**6, 0., '190 values'), (96, .5, '96 values')):
        with pytest.warns(UserWarning, match=f'^k = {k}: a picture has 190 pairs, {there} of k count') as told: p = fake_probability(x, k=k, least=least)
        assert len(told) == 1 and '\n' not in str(told[0].message) and torch.equal(p, fake_probability(x, least=least))
    with warnings.catch_warnings(action='error'):
        for k, least in ((189, 0.), (95, .5), ('all', 0.), ('grid', 0.), (range(1, 191), 0.)): fake_probability(x, k=k, least=least)
        m = small(k=2016).eval(); m(frames())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('default')
        for _ in range(3): m.train()(frames())
    assert [str(w.message) for w in told] == m.suits(64) and small(k=2015).suits(64) == [] and small(k=20000, contrastive=False, score='head').suits(64) == []

def test_the_grid():
    "The other reading of the paper's hundred: even, distinct, both ends, the same at each call; what wins on it is what wins among its points."
    for n in (1, 7, 100, 137, 190, 4950, 523_776):
        even = grid_of_k(n)
        assert even[0] == 1 and even[-1] == n and len(even) == min(100, n) and (even.diff() > 0).all() and int(even.diff().max()-even.diff().min() if n > 1 else 0) <= 1
    x = torch.randn(3, 40, 6)
    p, every = fake_probability(x, .3, 'grid'), fake_curve(x, .3)
    torch.testing.assert_close(p, every[:, grid_of_k(780)-1].amax(1)); assert torch.equal(p, fake_probability(x, .3, 'grid'))
    bell = torch.randn(4, 64, 512, generator=torch.Generator().manual_seed(0))+.8
    drawn = torch.stack([fake_probability(bell, k=100, generator=s) for s in range(20)])
    assert torch.equal(fake_probability(bell, k='grid'), fake_probability(bell)) and (drawn.mean(0) < .95*fake_probability(bell)).all()      # k* = 1, which a draw rarely holds
    m = small(k='grid').train()
    assert torch.isin(m(frames())['k'], grid_of_k(2016)).all() and json.loads(json.dumps(m.config)) == m.config

def test_sampling_reads_the_running_sums_where_it_must():
    "What is found at the sampled k is what stands there among all, to the last bit, and takes less memory than all."
    u = torch.rand(3, 4950, generator=torch.Generator().manual_seed(0)).sort(-1).values
    for k, o in ((100, dict(generator=3)), ((1, 7, 4949, 4950), {}), (4950, {}), ('all', dict(least=.2))):
        ks = values_of_k(4950, k, **o)
        assert torch.equal(contrasts(u, ks), contrasts(u)[:, ks-1])
        contrast, at = strongest(u, k, **o)
        every = contrasts(u)[:, ks-1]
        assert torch.equal(at, ks[every.argmax(-1)]); torch.testing.assert_close(contrast, every.amax(-1).clamp_min(0))
    few = values_of_k(4950, 100, generator=0)
    assert allocated(lambda: contrasts(u, few)) < .7*allocated(lambda: contrasts(u))

def test_a_card_of_16_gb_holds_1024_patches():
    "There and back for 32 pictures of 32×32 patches: what one of two pictures has allocated at most, times 32. An eighth of the card leaves the rest to the network."
    def step(pictures, k):
        x, fake = torch.randn(pictures, 1024, 256, requires_grad=True), torch.arange(pictures) % 2
        return lambda: contrastive_loss(x, fake, k=k, generator=0).sum().backward()
    step(1, 'all')()
    for k in ('all', 100):
        one, two = (allocated(step(n, k)) for n in (1, 2))
        assert one < two < 2*one, 'a picture more costs no more than the first'
        assert 4*523_776 < two/2 < 16e9/8/32

BAD_TOKENS = [(torch.randn(5, 3), r'shape \(5, 3\).*tokens\[None\]'), (torch.randn(3), 'shape'), (torch.randn(1, 2, 3, 4), 'shape'), (torch.randn(2, 5, 0), 'shape'),
              (torch.randn(2, 1, 3), '1 patch'), *((torch.randn(3, 5, 4, dtype=t).index_put((torch.tensor(1), torch.tensor(2), torch.tensor(0)), torch.tensor(v, dtype=t)), 'patch 2 of picture 1')
                                                    for v in (math.nan, math.inf, -math.inf) for t in (torch.float32, torch.bfloat16, torch.float64))]
@pytest.mark.parametrize('tokens, says', BAD_TOKENS)
def test_bad_tokens_are_one_line(tokens, says):
    for f in (fake_probability, fake_curve, sorted_similarities, lambda t: contrastive_loss(t, torch.zeros(len(t)))):
        with pytest.raises(UserError, match=says) as e: f(tokens)
        assert '\n' not in str(e.value)

def test_a_diverged_model_says_so():
    m = small().train()
    with torch.no_grad(): m.network.tokens.fill_(math.nan)
    with pytest.raises(UserError, match='learning rate'): m(frames())

@pytest.mark.parametrize('options, says', [*((dict(tau=t), 'tau = ') for t in (1e-39, 9e-5, 0, -1, math.nan, math.inf, 'a', None, True, torch.tensor(.1))),
                                           *((dict(eps=e), 'eps = ') for e in (-1, 0, 1e-45, 1, math.nan, 'a', None)), *((dict(least=l), 'least = ') for l in ('a', None, -.1, 1, math.nan))])
def test_numbers_out_of_bounds_are_one_line(options, says):
    x = torch.randn(2, 5, 3)
    with pytest.raises(UserError, match='^'+says) as e: contrastive_loss(x, torch.tensor([1, 0]), **options)
    assert '\n' not in str(e.value)
    if 'eps' not in options:
        with pytest.raises(UserError, match='^'+says): small(**options)

def test_at_the_bounds_all_is_finite():
    for x, _, _, trial in draws(30, seed=4):
        for dtype in (torch.float32, torch.bfloat16):
            leaf = x.to(dtype).requires_grad_()
            for fake in (torch.ones(len(x)), torch.zeros(len(x))):
                y = contrastive_loss(leaf, fake, COLDEST, eps=LEAST_EPS, reg='sum')
                assert y.isfinite().all() and torch.autograd.grad(y.sum(), leaf)[0].isfinite().all()

@pytest.mark.parametrize('k', (None, 2.5, True, 0, -3, (2.7,), (True,), (0, 1), (1, 11), (), [[1, 2]], math.nan, 'some', torch.tensor([1.5])))
def test_k_is_made_of_whole_numbers(k):
    with pytest.raises(UserError, match='^k = ') as e: fake_probability(torch.randn(1, 5, 3), k=k)
    assert '\n' not in str(e.value)
    if k != (1, 11):                     # how many pairs there are, a model does not know
        with pytest.raises(UserError, match='^k = '): small(k=k)

def test_k_of_any_kind_of_number():
    import numpy as np
    x = torch.randn(2, 5, 3)
    want = fake_probability(x, k=(1, 4))
    for k in ([4, 1], np.array([1, 4]), torch.tensor([1, 4]), (np.int64(1), 4), range(1, 5, 3)): assert torch.equal(fake_probability(x, k=k), want)
    assert torch.equal(fake_probability(x, k=np.int64(3), generator=0), fake_probability(x, k=3, generator=0))
    m = small(k=[30, 50], least=.01).train()                                    # of 2,016 pairs the share begins at 21
    assert torch.isin(m(frames())['k'], torch.tensor([30, 50])).all()

@pytest.mark.parametrize('fake', (torch.tensor([0, 2, 1, 0]), torch.tensor([0, -1, 1, 0]), torch.tensor([0., .5, 1., 0.]), torch.tensor([0., math.nan, 1., 0.])))
def test_labels_are_forged_or_real(fake):
    m, x = small().eval(), torch.randn(4, 5, 3)
    for f in (lambda: contrastive_loss(x, fake), lambda: mil_loss(torch.rand(4), fake), lambda: m.loss(m(frames()), fake)):
        with pytest.raises(UserError, match='labels: picture 1'): f()
    for other in (torch.tensor([1]), torch.tensor([[1], [0], [0], [1]])):
        with pytest.raises(UserError, match='for 4 pictures'): contrastive_loss(x, other)
    assert which_forged(torch.tensor([1., 0]), torch.zeros(2)).tolist() == which_forged(torch.tensor([True, False]), torch.zeros(2)).tolist() == [True, False]

def test_loss_of_both_kinds():
    contrast = torch.linspace(0, 1, 101, dtype=torch.float64)
    p = (contrast/.4).tanh()
    torch.testing.assert_close(mil_loss(contrast, torch.ones(101), .2), -(p+EPS).log())
    torch.testing.assert_close(mil_loss(contrast, torch.zeros(101), .2), -(1-p).log())
    u = torch.rand(3, 7)
    assert torch.equal(regularity_loss(u, 'none'), torch.zeros(3)); torch.testing.assert_close(regularity_loss(u, 'sum'), 7*(1-u.mean(1)))

# the binary model

def test_registered_and_rebuilt(tmp_path):
    assert 'contrastive-mil' in model_names() and model_class('contrastive-mil').__name__ == 'ContrastiveMILDetector'
    assert model_class('contrastive-mil').start_name({}) == 'swin_base_patch4_window12_384' and model_class('contrastive-mil').start_name(SMALL) == 'resnet10-narrow'
    m = small(k=5, score='head').train()
    assert json.loads(json.dumps(m.config)) == m.config
    again = load_model(save_model(m, tmp_path/'m.safetensors'), 'contrastive-mil')
    assert again.config == m.config and torch.equal(again.predict(frames()), m.predict(frames()))

@pytest.mark.parametrize('kw', (dict(), dict(backbone='swin-narrow', d=24, level=3), dict(depth=2, k=10), dict(bce='fused')))
@pytest.mark.parametrize('channels_last', (False, True))
def test_a_training_step_moves_every_parameter(kw, channels_last):
    m = small(**kw).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format).train()
    groups = m.backbone_parameters(), m.other_parameters()
    assert sum(map(len, groups)) == len(list(m.parameters()))
    opt = torch.optim.AdamW([dict(params=g) for g in groups], lr=1e-3)
    before = {k: p.detach().clone() for k, p in m.named_parameters()}
    loss = m.loss(m(frames()), LABELS)['loss']
    loss.backward(); opt.step()
    assert torch.isfinite(loss) and not [k for k, p in m.named_parameters() if torch.equal(p, before[k])]

def test_scores_and_sizes():
    m = small().train()
    for size in (32, 64, 100): assert m.predict(frames(2, size)).shape == (2,)
    assert m.training
    whole, alone = m.predict(frames()), m.predict(frames()[2:3])
    torch.testing.assert_close(alone, whole[2:3], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole, fake_probability(m.eval().network.encode(m.backbone(m.prepare(frames())[:, 0]))[0]))
    with pytest.raises(UserError, match='1 patch of 8×8 px.*no pair'): small(level=4).predict(frames(1, 8))
    for m in (small(level=3).train(), small(level=3).eval()):                      # two patches have one pair, without a rest: P = 0 and a constant loss, whatever they show
        with pytest.raises(UserError, match='2 patches of 16×32 px.*3 are needed') as e: m(torch.rand(2, 1, 3, 16, 32))
        assert '\n' not in str(e.value) and m(torch.rand(2, 1, 3, 16, 48))['mil'].max() > 0
    with pytest.raises(UserError, match='1 patch of 16×16 px'): small(level=3).suits(16)
    assert small(level=3).suits(32) == [] and small(backbone='swin-narrow', d=24, level=3).suits(98) == []
    with pytest.raises(UserError, match='reads 1'): m(torch.rand(1, 2, 3, 64, 64))

@pytest.mark.parametrize('x, says', [(torch.zeros(2, 1, 1, 64, 64), '3, height, width'), (torch.zeros(3, 64, 64), '3, height, width'), (torch.zeros(0, 1, 3, 64, 64), 'at least one')])
def test_what_is_no_batch_is_one_line(x, says):
    for m in (small().train(), small().eval()):
        with pytest.raises(UserError, match=says) as e: m(x)
        assert '\n' not in str(e.value)

def test_a_head_of_nan_has_no_score():
    m = small(score='head').eval()
    with torch.no_grad(): m.network.class_head.weight[0, 0] = math.nan
    for f in (m, m.predict, m.train()):
        with pytest.raises(UserError, match='logits: picture 0.*not finite'): f(frames())

def test_sampling_is_for_training_only():
    few, every = small(k=1, dropout=0.), small(dropout=0.)
    few.train(), every.train()
    a, b = few(frames())['contrast'], every(frames())['contrast']
    assert (a <= b+1e-6).all() and not torch.allclose(a, b)
    for m in (few, every): m.load_state_dict(small().state_dict()); m.eval()
    assert torch.equal(few(frames())['contrast'], every(frames())['contrast'])
    assert not torch.equal(small(least=.5).eval()(frames())['contrast'], every(frames())['contrast'])

def test_without_the_loss_nothing_comes_from_the_similarities():
    m = small(contrastive=False, score='head', dropout=0.).train()
    out = m(frames())
    assert not out['contrast'].requires_grad and [*m.loss(out, LABELS)] == ['loss', 'bce']
    mil = small(bce='none').train()
    out = mil(frames())
    assert [*mil.loss(out, LABELS)] == ['loss', 'mil', 'regularity']

def test_real_pictures_alone_are_regularised():
    m = small().eval()
    out = m(frames())
    assert m.loss(out, torch.ones(4, dtype=torch.long))['regularity'] == 0 and m.loss(out, torch.zeros(4, dtype=torch.long))['regularity'] > 0
    mean, total = (small(reg=r).eval()(frames())['regularity'] for r in ('mean', 'sum'))
    torch.testing.assert_close(total, mean*64*63/2)

def test_named_terms_reach_the_history():
    from deepfakenb.tasks.detection import DetectorLoss
    m = small().eval()
    loss = DetectorLoss(m, torch.tensor([1., 2.]))
    with torch.no_grad(): value = loss(m(frames()), LABELS)
    means = loss.means()
    assert set(means) == {'loss', 'mil', 'regularity', 'bce'} and abs(means['loss']-value.item()) < 1e-5
    plain, even = m.loss(m(frames()), LABELS), m.loss(m(frames()), LABELS, torch.tensor([3., 3.]))
    for k in plain: torch.testing.assert_close(plain[k], even[k])

def test_autocast_trains():
    m = small(k=20).train()
    with torch.autocast('cpu', torch.bfloat16): loss = m.loss(m(frames()), LABELS)['loss']
    loss.backward()
    assert loss.isfinite() and loss.dtype == torch.float32 and all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())

def test_the_recorder_finds_every_map():
    from deepfakenb.explore.recorder import heat, on_grid, pictured, record
    m = small().eval()
    plain = m(frames())
    with torch.no_grad(), record(m) as seen: again = m(frames())
    torch.testing.assert_close(again['fused'], plain['fused'])
    assert list(seen) == ['network.encoder.layers.0.self_attn', 'dissimilarity', 'slots'] and pictured(seen) == ['dissimilarity', 'slots']
    assert not m.slots.recording and on_grid(seen['slots']) and seen['slots'].weights.shape == (4, 2, 1, 64)
    S, grid = similarities(m, frames())
    apart = (1-others(S))[0].unflatten(0, grid)
    torch.testing.assert_close(torch.from_numpy(heat(seen['dissimilarity'], 0)), (apart/apart.sum()).detach(), atol=1e-5, rtol=1e-3)
    bare = small(depth=0).eval()
    with torch.no_grad(), record(bare) as seen: bare(frames())
    assert list(seen) == ['dissimilarity']

def test_weights_by_published_names(tmp_path):
    import timm, torchvision
    net = torchvision.models.resnet18(weights=None)
    torch.save(net.state_dict(), tmp_path/'r18.pth')
    m = build_model('contrastive-mil', backbone='resnet18', weights=str(tmp_path/'r18.pth'), d=16)
    own = net.state_dict()
    assert m.config['frozen'] and m.config['weights'] is None and all(torch.equal(v, own[k]) for k, v in m.backbone.body.state_dict().items())
    assert not any(p.requires_grad for p in m.backbone.body.layer1.parameters()) and all(p.requires_grad for p in m.backbone.body.layer2.parameters())
    swin = timm.create_model('swin_tiny_patch4_window7_224', pretrained=False)
    own = swin.state_dict()
    old = {}                                     # the authors': downsampling at the end of a stage, buffers kept, another name for the classifier
    for k, v in own.items():
        stage = k.split('.')[1]
        if '.downsample.' in k: k = k.replace(f'layers.{stage}.', f'layers.{int(stage)-1}.')
        old[k.replace('head.fc.', 'head.')] = v
    old |= {'layers.0.blocks.1.attn_mask': torch.zeros(64, 49, 49), 'layers.0.blocks.0.attn.relative_position_index': torch.zeros(49, 49)}
    for name, state in (('timm.pth', own), ('authors.pth', dict(model=old))):
        torch.save(state, tmp_path/name)
        m = build_model('contrastive-mil', backbone='swin_tiny_patch4_window7_224', weights=str(tmp_path/name), d=16)
        assert all(torch.equal(v, own[k]) for k, v in m.backbone.body.state_dict().items()) and len(m.backbone.body.state_dict()) == len(own)-2
        assert not m.backbone.body.patch_embed.proj.weight.requires_grad and not any(p.requires_grad for p in m.backbone.body.layers[0].parameters())
    with pytest.raises(UserError, match='timm.pth.*another model'): build_model('contrastive-mil', backbone='resnet18', weights=str(tmp_path/'timm.pth'))
    with pytest.raises(UserError, match='r18.pth.*another model') as e: small(backbone='swin-narrow', d=24, weights=str(tmp_path/'r18.pth'))
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('backbone', ('resnet10-narrow', 'swin-narrow'))
def test_starts_from_a_model_of_its_own_kind(backbone, tmp_path):
    m = small(seed=5, backbone=backbone)
    path = save_model(m, tmp_path/'m.safetensors')
    again = small(backbone=backbone, level=3, d=32, weights=str(path), frozen=False)
    assert all(torch.equal(a, b) for a, b in zip(m.backbone.state_dict().values(), again.backbone.state_dict().values(), strict=True)) and not again.config['frozen']

def test_learns_what_it_is_made_for():
    "Pictures of two tones that do not go together are forged."
    torch.manual_seed(0)
    m = small(dropout=0., backbone='resnet10-narrow').train()
    opt = torch.optim.AdamW(m.parameters(), 2e-3)
    def batch(seed):
        g = torch.Generator().manual_seed(seed)
        x, labels = torch.rand(16, 1, 3, 1, 1, generator=g)*.3+.2+torch.randn(16, 1, 3, 64, 64, generator=g)*.05, torch.arange(16) % 2
        x[labels == 1, ..., 20:44, 20:44] += .3
        return x.clamp(0, 1), labels
    for step in range(25):
        x, labels = batch(step)
        loss = m.loss(m(x), labels)['loss']
        opt.zero_grad(); loss.backward(); opt.step()
    x, labels = batch(99)
    p = m.predict(x)
    assert p[labels == 1].mean() > p[labels == 0].mean()+.3

# properties, on whatever Hypothesis finds

numbers = st.integers(-16000, 16000).map(lambda v: v/16)                                       # a token whose entries are below 1e-30 has no direction, by definition

@st.composite
def batches(draw, least=2, most=9, kind=torch.float64):
    "Tokens (B, N, d) with the corners one forgets: twins, opposites, zeros, huge and tiny lengths."
    B, N, d = draw(st.integers(1, 3)), draw(st.integers(least, most)), draw(st.integers(1, 4))
    x = torch.tensor(draw(st.lists(numbers, min_size=B*N*d, max_size=B*N*d)), dtype=torch.float64).view(B, N, d)
    for _ in range(draw(st.integers(0, 3))):
        a, b, how = draw(st.integers(0, N-1)), draw(st.integers(0, N-1)), draw(st.sampled_from(('twin', 'opposite', 'zero', 'long', 'short')))
        x[:, a] = dict(twin=x[:, b], opposite=-x[:, b], zero=0*x[:, b], long=x[:, a]*1e9, short=x[:, a]*1e-9)[how]
    return x.to(kind)

common = dict(deadline=None, derandomize=True)

@settings(max_examples=40, **common)
@given(batches(), st.floats(.02, 5), st.integers(1, 40), st.floats(0, .99))
def test_any_tokens_equal_the_double_loop(x, tau, k, least):
    n = x.shape[1]*(x.shape[1]-1)//2
    curve = torch.stack([torch.stack(loop(t, tau)) for t in x])
    torch.testing.assert_close(fake_curve(x, tau), curve, atol=1e-9, rtol=0)
    torch.testing.assert_close(fake_probability(x, tau), curve.amax(1), atol=1e-9, rtol=0)
    some = values_of_k(n, min(k, n), least, generator=k)
    torch.testing.assert_close(fake_probability(x, tau, min(k, n), least=least, generator=k), curve[:, some-1].amax(1), atol=1e-9, rtol=0)
    assert some.min() >= max(1, math.ceil(least*n)) and some.max() <= n and (fake_probability(x, tau, min(k, n), generator=k) <= curve.amax(1)+1e-9).all()

@settings(max_examples=40, **common)
@given(batches(kind=torch.float32), st.sampled_from((torch.float32, torch.bfloat16)), st.sampled_from((.01, .1, 1.)), st.sampled_from(('mean', 'sum', 'none')), st.booleans())
def test_any_loss_and_gradient_is_finite(x, dtype, tau, reg, sampled):
    "No log of 0, no NaN for identical tokens or zeros, in single and in half precision."
    leaf = x.to(dtype).requires_grad_()
    fake = torch.arange(len(leaf)) % 2
    for truth in (fake, 1-fake):
        y = contrastive_loss(leaf, truth, tau, 3 if sampled else 'all', reg=reg, generator=0)
        assert y.dtype == torch.float32 and y.isfinite().all() and torch.autograd.grad(y.sum(), leaf)[0].isfinite().all()

@settings(max_examples=40, **common)
@given(batches(least=3), st.floats(.05, 2), st.randoms(use_true_random=False))
def test_any_order_and_length_of_tokens_says_the_same(x, tau, random):
    order = list(range(x.shape[1])); random.shuffle(order)
    lengths = torch.tensor([10.**random.uniform(-2, 2) for _ in order], dtype=x.dtype)[:, None]
    p = fake_probability(x, tau)
    assert ((p >= 0) & (p <= 1)).all()
    torch.testing.assert_close(fake_probability(x[:, order], tau), p, atol=1e-9, rtol=0)
    torch.testing.assert_close(fake_probability(x*lengths, tau), p, atol=1e-7, rtol=0)

@settings(max_examples=40, **common)
@given(st.integers(1, 8), st.integers(1, 8), st.floats(.1, 3), st.randoms(use_true_random=False))
def test_two_kinds_of_patches_have_their_closed_form(a, b, tau, random):
    "a of one kind and b of the other: a·b pairs disagree, and P is tanh(1/2τ), the most that there can be."
    if a+b < 3: return                                                                         # a single pair has no rest
    kinds = [0]*a+[1]*b; random.shuffle(kinds)
    x = torch.eye(2, dtype=torch.float64)[kinds][None]
    contrast, at = strongest(sorted_similarities(x))
    n = (a+b)*(a+b-1)//2
    if a*b < n: assert at.item() == a*b and abs(float(fake_probability(x, tau))-math.tanh(.5/tau)) < 1e-12

@settings(max_examples=40, **common)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from((.02, .1, 1.)))
def test_loss_falls_with_what_is_true(values, tau):
    "More contrast: less loss for a forgery, more for a real picture; nobody goes below zero by more than ε."
    c = torch.tensor(sorted(values), dtype=torch.float64)
    fake, real = mil_loss(c, torch.ones(len(c)), tau), mil_loss(c, torch.zeros(len(c)), tau)
    assert (fake.diff() <= 1e-12).all() and (real.diff() >= -1e-12).all() and fake.min() >= -2*EPS and real.min() >= 0
