"The ranking loss and paper 3's sequence model beyond their notebooks: five components, both readings, the learner with a stop, predict, the explorer."
import itertools, json, math, random
import numpy as np, pytest, torch
from deepfakenb.core import UserError, seed_everything
from deepfakenb.losses.ranking import READINGS, bce_loss, label_losses, pairwise_loss, predicted_ranks, rank_targets, rank_weights, ranked_answer, ranking_loss
from deepfakenb.losses.sequence import slot_loss
from deepfakenb.models.base import build_model, model_class, model_names
from deepfakenb.models.checkpoints import load_model, save_model
from deepfakenb.models.contrastiveranking import TABLE3, similarities
from deepfakenb.training import learner
from deepfakenb.training.options import TrainOptions
from deepfakenb.vocab import NA, TRACKS, Vocabulary
from seqdata import tiny

torch.set_num_threads(1)
SMALL = dict(backbone='resnet10-narrow', level=2, d=16, heads=2, feed_forward=16, depth=1)
LABELS = torch.tensor([[1, 2, 4, 0, 0], [0, 0, 0, 0, 0], [5, 3, 1, 2, 4]])

def small(seed=0, **kw):
    torch.manual_seed(seed)
    return build_model('contrastive-ranking', **SMALL | kw)

def images(n=3, size=64, seed=0): return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))

def every_label():
    "All 326 ordered subsets of five components, as labels."
    return torch.tensor([[*y, *[0]*(5-len(y))] for m in range(6) for y in itertools.permutations(range(1, 6), m)])

def by_the_paper(Y, p, alpha, reading): # components from 1; Eq. 14 a component at a time
    L, w = len(p), []
    for i in range(1, L+1):
        o = 1+sum(p[j-1] > p[i-1] or (p[j-1] == p[i-1] and j < i) for j in range(1, L+1))
        r = Y.index(i)+1 if i in Y else L
        condition = i not in Y and (o if reading == 'predicted' else r) > len(Y)
        w.append(alpha if condition else alpha*abs(o-r))
    return w

def test_targets_of_every_label():
    labels = every_label()
    edited, ranks = rank_targets(labels)
    assert len(labels) == 326
    for label, y, r in zip(labels.tolist(), edited.tolist(), ranks.tolist()):
        Y = [i for i in label if i != NA]
        assert y == [i in Y for i in range(1, 6)] and r == [Y.index(i)+1 if i in Y else 5 for i in range(1, 6)]
    v = Vocabulary('components')
    edited, ranks = rank_targets(torch.tensor([v.ids(['lip', 'eye'])]))
    assert [n for n, y in zip(v.names[1:], edited[0]) if y] == ['eye', 'lip'] and ranks.tolist() == [[5, 2, 5, 1, 5]]

@pytest.mark.parametrize('reading', READINGS)
def test_weights_of_every_label_of_five(reading):
    labels, rng = every_label(), random.Random(0)
    edited, ranks = rank_targets(labels)
    for _ in range(4):
        p = torch.tensor([[rng.choice((.1, .3, .3, .5, .7, .9, rng.random())) for _ in range(5)] for _ in labels])      # with ties
        got = rank_weights(ranks, p, .5, reading, edited=edited)
        want = [by_the_paper([i for i in l if i], row, .5, reading) for l, row in zip(labels.tolist(), p.tolist())]
        assert got.tolist() == want
        few = edited.sum(1) < 5
        assert torch.equal(rank_weights(ranks[few], p[few], .5, reading), got[few])
        assert torch.equal(rank_weights(ranks, p.logit(), .5, reading, edited=edited), got)

def test_where_the_readings_part():
    "Only untouched components put among the first |Y| are weighed differently, and then more."
    edited, ranks = rank_targets(every_label())
    p = torch.rand(len(ranks), 5, generator=torch.Generator().manual_seed(0))
    a, b = (rank_weights(ranks, p, 1., r, edited=edited) for r in READINGS)
    intruder = ~edited & (predicted_ranks(p) <= edited.sum(1, keepdim=True))
    assert torch.equal(a[~intruder], b[~intruder]) and (b[intruder] == 1).all() and (a[intruder] >= 1).all() and (a[intruder] > 1).any()
    assert torch.equal(a[edited.sum(1) == 5], b[edited.sum(1) == 5]) and (a[edited.sum(1) == 0] == 1).all()

def test_no_gradient_through_the_order():
    edited, ranks = rank_targets(LABELS)
    f = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    w = rank_weights(ranks, f, 2., edited=edited)
    assert not w.requires_grad
    got = torch.autograd.grad(ranking_loss(f, edited, ranks, 2.).sum(), f)[0]
    torch.testing.assert_close(got, w*(f.sigmoid()-edited.double()).detach())
    assert torch.autograd.gradcheck(lambda f: ranking_loss(f, edited, ranks), f)
    torch.testing.assert_close(bce_loss(f, edited), label_losses(f, edited).sum(1))
    plain = torch.nn.functional.binary_cross_entropy(f.sigmoid(), edited.double(), reduction='none')
    torch.testing.assert_close(label_losses(f, edited), plain)

def test_a_right_order_weighs_nothing():
    for label in every_label():
        Y = [i for i in label.tolist() if i]
        f = torch.full((1, 5), -9.)
        for j, i in enumerate(Y): f[0, i-1] = -1.-j        # in order, and all below one half
        edited, ranks = rank_targets(label[None])
        w = rank_weights(ranks, f, edited=edited)[0]
        assert (w[edited[0]] == 0).all() and (w[~edited[0]] == 1).all()
        if len(Y) == 5: assert ranking_loss(f, edited, ranks) == 0

BAD_LABELS = {'picture 1.*outside': ([9, 2, 0, 0, 0], [6, 0, 0, 0, 0], [-1, 0, 0, 0, 0], [7, 7, 0, 0, 0]), 'picture 1.*twice': ([2, 2, 0, 0, 0], [1, 2, 3, 1, 0]), 'picture 1.*hole': ([0, 2, 0, 1, 0], [1, 0, 2, 0, 0], [0, 0, 0, 0, 3])}
@pytest.mark.parametrize('says, label', [(s, l) for s, labels in BAD_LABELS.items() for l in labels])
def test_a_label_that_is_none_is_named(says, label):
    "No id is dropped, and no model trains such a picture as a real one."
    labels, m = torch.tensor([[1, 2, 4, 0, 0], label, [0]*5]), small()
    for f in (lambda: rank_targets(labels), lambda: m.loss(m(images()), labels)):
        with pytest.raises(UserError, match=says) as e: f()
        assert str(label) in str(e.value) and '\n' not in str(e.value)

def test_labels_of_another_shape():
    for labels in (torch.zeros(5, dtype=torch.long), torch.zeros(2, 5), torch.zeros(1, 2, 5, dtype=torch.long)):
        with pytest.raises(UserError, match='labels: shape'): rank_targets(labels)
    with pytest.raises(UserError, match='components = 0'): rank_targets(LABELS, 0)
    with pytest.raises(UserError, match='outside 0 … 4'): rank_targets(LABELS, 4)

def test_what_cannot_be_ranked():
    edited, ranks = rank_targets(LABELS)
    f = torch.randn(3, 5)
    losses = (lambda r, f, a, y: rank_weights(r, f, a, edited=y), lambda r, f, a, y: ranking_loss(f, y, r, a), lambda r, f, a, y: pairwise_loss(f, y, r, a))
    for g in losses:
        g(ranks, f, 0., edited)
        for alpha in (-1., math.nan, math.inf, None):
            with pytest.raises(UserError, match='^alpha = ') as e: g(ranks, f, alpha, edited)
            assert '\n' not in str(e.value)
        for wrong, said in ((0, 'ranks: 0 in picture 2'), (9, 'ranks: 9 in picture 2'), (-5, 'ranks: -5 in picture 2')):
            with pytest.raises(UserError, match=said): g(torch.where(ranks == 4, wrong, ranks), f, 1., edited)
        for r, p, y in ((ranks, f[:, :4], edited), (ranks[:1], f, edited), (ranks[0], f[0], edited[0]), (ranks, f, edited[:1])):
            with pytest.raises(UserError, match='of shape'): g(r, p, 1., y)
        with pytest.raises(UserError, match='NaN in picture 1'): g(ranks, f.index_fill(0, torch.tensor([1]), math.nan), 1., edited)
        with pytest.raises(UserError, match='ranks: torch.float32'): g(ranks.float(), f, 1., edited)
        for wrong in ([1, 1, 5, 3, 5], [1, 3, 5, 2, 4], [1, 4, 5, 5, 5], [2, 3, 5, 4, 5], [1, 2, 4, 3, 5]):          # a tie, no fourth edit, a gap, no first, one unedited that has a place
            with pytest.raises(UserError, match='ranks: .* in picture 0.*without tie or gap') as e: g(torch.tensor([wrong, *ranks[1:].tolist()]), f, 1., edited)
            assert '\n' not in str(e.value)

def test_ranks_alone():
    "Without edits beside them, every rank below L is an edit; those of every label pass, in every kind of whole number, and others do not."
    edited, ranks = rank_targets(every_label())
    p = torch.rand(ranks.shape)
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64):
        assert torch.equal(rank_weights(ranks.to(dtype), p), rank_weights(ranks, p)) and torch.equal(rank_weights(ranks.to(dtype), p.bfloat16(), edited=edited.int()), rank_weights(ranks, p.bfloat16(), edited=edited))
    right = {tuple(r) for r in ranks.tolist()}
    for r in itertools.product(range(1, 6), repeat=5):
        if r in right: rank_weights(torch.tensor([r]), p[:1]); continue
        with pytest.raises(UserError, match='without tie or gap'): rank_weights(torch.tensor([r]), p[:1])

@pytest.mark.parametrize('value', (math.nan, math.inf, -math.inf))
def test_logits_that_are_no_numbers(value):
    "No answer, and no loss of nan: one line that names the picture."
    edited, ranks = rank_targets(LABELS)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        f = torch.zeros(3, 5, dtype=dtype); f[2, 4] = value
        for g in (ranked_answer, lambda f: bce_loss(f, edited), lambda f: label_losses(f, edited), lambda f: ranking_loss(f, edited, ranks)):
            with pytest.raises(UserError, match='picture 2.*learning rate') as e: g(f)
            assert '\n' not in str(e.value)
        assert bce_loss(f[:2], edited[:2]).isfinite().all()

def test_measuring_speed_uses_labels_that_exist():
    from deepfakenb.training.speed import example
    labels = example(small(), 32, n=300)[1]
    edited, _ = rank_targets(labels)
    assert edited.sum(1).bincount(minlength=6).min() > 20

def test_answers():
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    logits[:50] = logits[:50].round()                       # with ties
    said, order, p = ranked_answer(logits)
    for f, s in zip(logits.tolist(), said.tolist()):
        found = sorted((i for i in range(5) if f[i] > 0), key=lambda i: (-f[i], i))
        assert s == [i+1 for i in found]+[0]*(5-len(found))
    assert ranked_answer(torch.zeros(1, 3))[0].tolist() == [[0]*5] and torch.equal(ranked_answer(logits.double())[0], said)
    with pytest.raises(UserError, match='6 components'): ranked_answer(torch.zeros(1, 6))
    right = torch.where(rank_targets(every_label())[0], 6.-rank_targets(every_label())[1], -1.)
    assert torch.equal(ranked_answer(right)[0], every_label())         # probabilities in the order of the edits say the label

# the sequence model

def test_registered_and_rebuilt(tmp_path):
    assert 'contrastive-ranking' in model_names() and model_class('contrastive-ranking').__name__ == 'ContrastiveRanking'
    assert model_class('contrastive-ranking').start_name({}) == 'resnet34'
    for row, options in TABLE3.items():
        m = small(**options, k=7)
        assert json.loads(json.dumps(m.config)) == m.config
        again = load_model(save_model(m, tmp_path/f'{row}.safetensors', track='components'), 'contrastive-ranking')
        assert again.config == m.config and torch.equal(again.predict(images()).probabilities, m.predict(images()).probabilities)

@pytest.mark.parametrize('kw', (dict(), dict(backbone='swin-narrow', level=3), dict(k=10, least=.1, reading='literal'), dict(bce='all')))
@pytest.mark.parametrize('channels_last', (False, True))
def test_a_training_step_moves_every_parameter(kw, channels_last):
    memory = torch.channels_last if channels_last else torch.contiguous_format
    m = small(**kw).to(memory_format=memory).train()
    groups = m.backbone_parameters(), m.other_parameters()
    assert sum(map(len, groups)) == len(list(m.parameters()))
    opt = torch.optim.AdamW([dict(params=g) for g in groups], lr=1e-3)
    before = {k: p.detach().clone() for k, p in m.named_parameters()}
    inputs, targets = m.teacher(LABELS)
    loss = m.loss(m(images().contiguous(memory_format=memory), *inputs), targets)
    loss.backward(); opt.step()
    assert loss.dim() == 0 and torch.isfinite(loss) and not [k for k, p in m.named_parameters() if torch.equal(p, before[k])]

def test_rows_of_table_3_add_up():
    "Each term of the total is the one that its row names; from the same weights the full loss is the sum of the parts."
    full = small().eval()
    def total(**kw):
        m = small(**kw).eval(); m.load_state_dict(full.state_dict())
        return m.loss(m(images()), LABELS)
    cls = total()-total(contrastive=False)
    rank = total()-total(lambda2=0.)
    u, v = (total(bce=s, lambda2=0., contrastive=False, streams=s) for s in ('patch', 'class'))
    torch.testing.assert_close(total(), cls+rank+u+v, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(total(lambda1=3.)-total(), 2*(u+v), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(total(lambda2=3., alpha=.5)-total(), .5*rank, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(total(**TABLE3['II']), u+cls, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(total(**TABLE3['V']), v+cls+rank, rtol=1e-4, atol=1e-4)
    edited, ranks = rank_targets(LABELS)
    out = full(images())
    torch.testing.assert_close(rank, ranking_loss((out['patch']+out['class'])/2, edited, ranks).mean(), rtol=1e-4, atol=1e-4)

def test_predict_answers_and_sizes():
    m = small().train()
    d, alone = m.predict(images()), m.predict(images()[1:2])
    assert m.training and d.sequences.shape == (3, 5) and d.sequences.dtype == torch.int64 and d.probabilities.shape == (3, 5, 6)
    torch.testing.assert_close(alone.probabilities, d.probabilities[1:2], atol=1e-5, rtol=1e-4)
    assert torch.equal(m.predict(images(), beam=3).tokens, d.tokens)
    for size in (32, 64, 100, 128): assert m.predict(images(1, size)).sequences.shape == (1, 5)
    said = learner.answers(m, [(images(2), LABELS[:2]), (images(1, seed=1), LABELS[2:])])
    assert m.training and torch.equal(said['sequences'][:2], m.predict(images(2)).sequences)
    S, grid = similarities(m.eval(), images())
    assert S.shape == (3, 64, 64) and grid == (8, 8) and S.min() >= 0 and S.max() <= 1
    torch.testing.assert_close(S.diagonal(dim1=1, dim2=2), torch.ones(3, 64))

@pytest.mark.parametrize('x, says', [(images().byte(), 'uint8.*numbers from -1 to 1'), (images()[:, :1], '3 channels'), (images()[0], r'images\[None\]'), (images()[:0], 'at least one'),
                                     (images()[..., :8, :16], '2 patches of 8×16 px'), (images()[..., :8, :8], '1 patch of 8×8 px')])
def test_what_is_no_batch_of_pictures_is_one_line(x, says):
    for m in (small().train(), small().eval(), small(backbone='swin-narrow', level=2).eval()):
        for f in (m, m.predict):
            with pytest.raises(UserError, match=says) as e: f(x)
            assert '\n' not in str(e.value)

def test_a_head_of_nan_has_no_answer():
    m = small().eval()
    with torch.no_grad(): m.network.class_head.weight[3, 0] = math.nan
    for f in (m.predict, m.train()):
        with pytest.raises(UserError, match='logits: picture 0.*weights are damaged'): f(images())

def test_a_distribution_for_each_slot():
    "The product over the slots is the probability of exactly this set, and all sets together have probability 1."
    m = small(positions='none').eval()
    P = m(images())['fused'].sigmoid()[0]
    whole = sum(torch.stack([p if s else 1-p for p, s in zip(P, some)]).prod() for some in itertools.product((0, 1), repeat=5))
    torch.testing.assert_close(whole, torch.tensor(1.))
    d = m.predict(images())
    torch.testing.assert_close(d.scores[0].exp(), torch.where(P > .5, P, 1-P).prod())
    assert torch.equal(d.probabilities.argmax(-1), d.tokens) and (d.probabilities.sum(-1)-1).abs().max() < 1e-6
    assert torch.equal(d.lengths, (d.sequences != NA).sum(1))

def test_streams_decide_the_answer():
    full = small().eval()
    for streams, key in (('patch', 'patch'), ('class', 'class')):
        m = small(streams=streams).eval(); m.load_state_dict(full.state_dict())
        out = m(images())
        assert torch.equal(out['fused'], out[key]) and torch.equal(m.predict(images()).sequences, ranked_answer(out[key])[0])

@pytest.mark.parametrize('option, says', [
    (dict(backbone='vit'), 'swin-narrow'), (dict(lamda1=1.), 'lambda1'), (dict(weights='nowhere.pth'), 'no such file'), (dict(alpha=0., bce='patch'), 'class logits'),
    (dict(lambda1=0., lambda2=0.), 'no loss'), (dict(lambda2=-1.), 'lambda2'), (dict(depth=-1), 'depth'), (dict(dropout=1.), 'dropout'), (dict(heads=3), 'multiple'), (dict(k=(0, 1)), 'k = 0'), (dict(k=None), 'k = None'), (dict(alpha=math.nan), 'alpha')])
def test_a_wrong_option_is_one_line(option, says):
    with pytest.raises(UserError, match=says) as e: small(**option)
    assert '\n' not in str(e.value)

def test_autocast_trains():
    m = small(k=20).train()
    with torch.autocast('cpu', torch.bfloat16): loss = m.loss(m(images()), LABELS)
    loss.backward()
    assert loss.isfinite() and loss.dtype == torch.float32 and all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())

def test_fastai_may_convert_the_output():
    from fastai.torch_core import to_float
    m = small().train()
    out = m(images())
    torch.testing.assert_close(m.loss(to_float(out), LABELS), m.loss(out, LABELS))

@pytest.mark.parametrize('k', ('all', 20))
def test_the_learner_stops_and_goes_on_to_the_same_weights(k, tmp_path, monkeypatch):
    from deepfakenb.data.loading import seq_dataloaders
    from deepfakenb.data.seqdeepfake import SeqDeepFake
    monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path/'cache'))
    data = SeqDeepFake.read(tiny(tmp_path/'data', n=3, size=64), 'components')
    def run(folder, *lengths):
        for epochs in lengths:   # each in a new learner, as after a stop
            seed_everything(0)
            dls = seq_dataloaders(data, size=64, bs=8, seed=0, device='cpu')
            options = TrainOptions(epochs=epochs, bs=8, lr=1e-3, lr_backbone=1e-3, warmup_epochs=0, drop_epochs=[])
            model = small(k=k)
            rows = learner.train(learner.sequence_learner(dls, model, options, tmp_path/folder))
        return model, rows
    (one, rows), (two, again) = run('whole', 3), run('stopped', 1, 3)
    assert rows.drop(columns='seconds').equals(again.drop(columns='seconds')) and rows.val_loss.notna().all()
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True): assert torch.equal(a, b), name

@pytest.fixture(scope='module')
def faces():
    "Two rendered faces: uint8 (2, 64, 64, 3)."
    from deepfakenb.data.synth.people import sample_people
    from deepfakenb.data.synth.render import render
    return render(sample_people(2, seed=5), 64).images.permute(0, 2, 3, 1).numpy()

def test_predict_and_explore(faces):
    from dataclasses import replace
    from deepfakenb.explore.explorer import AttentionExplorer, picture, text
    from deepfakenb.inference.predict import model_input
    m = small(seed=3).eval()
    ui = AttentionExplorer(m, faces, [[2, 1, 0, 0, 0], [0]*5], vocabulary=Vocabulary('components'), size=96)
    e, state = ui.explorer, ui.state
    assert e.names == ['dissimilarity', 'slots'] and not e.reads and e.steps == 5 and e.heads(state) == 2
    first, second = (picture(e, replace(state, step=i)) for i in (0, 1))
    assert first.shape == second.shape and not np.array_equal(first[50:], second[50:]) and 'left alone' not in text(e, state)      # a picture a slot
    said = [t for t in m.predict(model_input(faces[0])).sequences[0].tolist() if t]
    assert list(e.own(0))[:len(said)] == said and all(t in range(len(TRACKS['components'])) for t in said)
    same = [picture(e, replace(state, step=i, attention='dissimilarity')) for i in (0, 1)]
    assert np.array_equal(*(p[50:] for p in same))           # one for all

def test_slots_come_in_the_order_of_the_answer():
    from deepfakenb.explore.recorder import record
    m = small(seed=4, depth=2).eval()
    with torch.no_grad(), record(m) as seen: m(images(2))
    weights, f = seen['slots'].weights, m(images(2))['fused']
    inner = seen['network.encoder.layers.1.self_attn'].weights[:, :, 64:, :64]
    for b in range(2):
        for slot, i in enumerate(f[b].argsort(descending=True).tolist()):
            torch.testing.assert_close(weights[b, :, slot], inner[b, :, i]/inner[b, :, i].sum(-1, keepdim=True))

def test_learns_the_set():
    "Five patches, each bright where its component was edited: after forty steps the set of edits is found."
    torch.manual_seed(0)
    m = small(dropout=0., tau=.5).train()
    def batch(n, seed):
        g = torch.Generator().manual_seed(seed)
        labels = torch.zeros(n, 5, dtype=torch.long)
        x = torch.randn(n, 3, 64, 64, generator=g)*.1
        for i in range(n):
            for j, c in enumerate(torch.randperm(5, generator=g)[:int(torch.randint(0, 4, (), generator=g))].tolist()):
                labels[i, j] = c+1
                x[i, c % 3, 12*c+2:12*c+12, 12*c+2:12*c+12] += 1.5
        return x, labels
    opt = torch.optim.AdamW(m.parameters(), 3e-3)
    for step in range(40):
        x, labels = batch(24, step)
        loss = m.loss(m(x), labels)
        opt.zero_grad(); loss.backward(); opt.step()
    x, labels = batch(64, 999)
    edited, _ = rank_targets(labels)
    m.eval()
    with torch.no_grad(): found = m(x)['fused'] > 0
    base = max(edited.float().mean(), 1-edited.float().mean())
    assert (found == edited).float().mean() > base+.15

def test_calibration_counts_what_was_said():
    "Records of a decoder that ends early: the slots that count are those with a probability at all, and the sure ones are not excused by the zeros behind the end. Slots of another method end by the same rule."
    import pandas as pd
    from deepfakenb.analysis.patches import slot_calibration, spoken
    from deepfakenb.models.decoding import greedy
    logits = torch.randn(200, 5, 8, generator=torch.Generator().manual_seed(0))*2
    logits[..., [NA, -1]] -= 99                                                    # a decoder says its end, not NA or PAD
    said = greedy(lambda tokens, t: (logits[:, t], t+1), 0, 200)
    answers, p = said.sequences.numpy(), said.probabilities.amax(-1).numpy()
    counts = spoken(answers)
    assert np.array_equal(counts, p > 0) and .5 < counts.mean() < .95 and len(set(counts.sum(1))) == 5
    frame = lambda **kw: pd.DataFrame(dict(split='test', label=[np.zeros(5, int)]*200, prediction_fixed=list(answers), probabilities_fixed=list(p)) | kw)
    got = slot_calibration([frame(), frame()])
    right = (answers == 0)[counts]
    assert got['slots'] == 2*counts.sum() and abs(got['said']-100*p[counts].mean()) < 1e-3 and abs(got['right']-100*right.mean()) < 1e-9 and abs(got['behind']-100*(p == 0).mean()) < 1e-9
    assert sum(n for _, _, n in got['curve']) == got['slots'] and min(v for v, _, _ in got['curve']) > 0
    other = slot_calibration([frame(probabilities_fixed=list(np.where(counts, p, .5)), label=list(np.where(counts, 0, 5)))])       # what lies behind is neither said nor judged
    assert other == slot_calibration([frame()])
