"Metrics and intervals: witnesses other than those in the notebooks."
import itertools
import numpy as np, pytest, torch
from deepfakenb.metrics.intervals import bootstrap, bootstrap_difference, seeds_and_images, seeds_and_images_difference
from deepfakenb.metrics.sequence import (COUNTS, SequenceMetrics, adaptive_accuracy, chance_level, fixed_accuracy, image_counts, majority_answer,
                                         majority_guess, order_only_counts, order_pairs_counts, position_counts, ratio, reverse)

ALL = torch.tensor([p + (0,)*(5-k) for k in range(6) for p in itertools.permutations(range(1, 6), k)])   # all 326 true labels

def test_every_pair_of_labels_against_the_definition():
    "326 × 326 answers: nothing is left out."
    pred, label = ALL.repeat_interleave(326, 0), ALL.repeat(326, 1)
    p, l = pred.numpy(), label.numpy()
    n = np.maximum((p != 0).sum(1), (l != 0).sum(1)); n[n == 0] = 1
    counts = image_counts(pred, label)
    assert (counts['fixed_acc'][0].numpy() == (p == l).sum(1)).all() and (counts['adaptive_acc'][1].numpy() == n).all()
    assert (counts['adaptive_acc'][0].numpy() == sum(((p[:, k] == l[:, k]) & (k < n)) for k in range(5))).all()
    assert (counts['exact_match'][0].sum(), counts['order_only'][0].sum()) == (326, 320)       # 320 labels have two edits or more
    for right, slots in counts.values(): assert (right <= slots).all() and (right >= 0).all()

@pytest.mark.parametrize('make', [torch.as_tensor, lambda x: x.numpy(), lambda x: x.tolist(), lambda x: x.to(torch.uint8)])
def test_any_kind_of_array_is_taken(make):
    a, b = ALL[:50], ALL[50:100]
    assert fixed_accuracy(make(a), make(b)) == fixed_accuracy(a, b) and adaptive_accuracy(make(a), make(b)) == adaptive_accuracy(a, b)

def test_different_numbers_of_images_are_refused():
    with pytest.raises(ValueError, match='3 predictions for 2 labels'): fixed_accuracy(ALL[:3], ALL[:2])
    with pytest.raises(ValueError, match='micro'): ratio(1, 1, 'geometric')
    with pytest.raises(ValueError, match='forward'): image_counts(ALL, ALL, 'sideways')
    with pytest.raises(ValueError, match='micro'): SequenceMetrics(average='mean')

def test_the_order_of_images_does_not_matter():
    g = torch.Generator().manual_seed(0)
    i, j, k = (torch.randint(0, 326, (1000,), generator=g) for _ in range(3))
    a, b = SequenceMetrics(), SequenceMetrics()
    a.update(ALL[i], ALL[j]); perm = torch.randperm(1000, generator=g); b.update(ALL[i][perm], ALL[j][perm])
    assert repr(a.compute()) == repr(b.compute())

def test_a_relabelling_of_the_edits_changes_nothing():
    "The ids of the edits carry no meaning for a metric."
    g = torch.Generator().manual_seed(1)
    i, j = (torch.randint(0, 326, (1000,), generator=g) for _ in range(2))
    names = torch.tensor([0, 3, 5, 1, 2, 4])
    for name, count in COUNTS.items():
        (r, s), (r2, s2) = count(ALL[i], ALL[j]), count(names[ALL[i]], names[ALL[j]])
        assert torch.equal(r, r2) and torch.equal(s, s2), name

def test_order_scores_tell_order_from_content():
    label = torch.tensor([[1, 2, 3, 0, 0]]*4)
    pred = torch.tensor([[3, 2, 1, 0, 0], [1, 2, 4, 0, 0], [1, 3, 2, 0, 0], [1, 2, 3, 0, 0]])
    assert order_only_counts(pred, label)[0].tolist() == [0, 0, 0, 1] and order_only_counts(pred, label)[1].tolist() == [1, 0, 1, 1]
    assert [x.tolist() for x in order_pairs_counts(pred, label)] == [[0, 1, 2, 3], [3, 1, 3, 3]]
    twice = torch.tensor([[2, 1, 2, 0, 0]])                            # a repeated edit counts by its first place
    assert [int(x) for x in order_pairs_counts(twice, label[:1])] == [0, 1]

def test_scores_by_position_add_up():
    g = torch.Generator().manual_seed(2)
    pred, label = ALL[torch.randint(0, 326, (300,), generator=g)], ALL[torch.randint(0, 326, (300,), generator=g)]
    for name, (right, counted) in position_counts(pred, label).items():
        whole = COUNTS[name](pred, label)
        assert torch.equal(right.sum(1), whole[0]) and torch.equal(counted.sum(1), whole[1])

def test_reverse_of_all_labels():
    for row, back in zip(ALL.tolist(), reverse(ALL).tolist()):
        edits = [x for x in row if x]
        assert back == edits[::-1] + [0]*(5-len(edits))

def test_guesses_use_the_training_labels_only():
    train = torch.tensor([[1, 0, 0, 0, 0]]*9 + [[2, 3, 0, 0, 0]]); test = torch.tensor([[2, 3, 0, 0, 0]]*10)
    assert majority_answer(train, 'exact_match').tolist() == [1, 0, 0, 0, 0]
    assert majority_guess(train, test)['exact_match'] == 0 and abs(chance_level(train, test)['exact_match']-10) < 1e-9

def test_bootstrap_has_the_binomial_spread():
    c = np.random.default_rng(0).binomial(1, .8, 2000)
    iv = bootstrap(c, np.ones(2000), n=4000)
    se = 100*np.sqrt(c.mean()*(1-c.mean())/2000)
    assert abs((iv.high-iv.low)/(2*1.96*se)-1) < .06 and abs((iv.high+iv.low)/2-iv.mean) < .2*se

def test_paired_difference_covers():
    "Two models 2 points apart on the same images: the interval holds 2 about 95 times in 100."
    rng, hit = np.random.default_rng(1), 0
    for k in range(150):
        hard = rng.random(300); luck = rng.random((2, 300)) < .9
        a, b = ((hard < .72) & luck[0]).astype(int), ((hard < .70) & luck[1]).astype(int)
        iv = bootstrap_difference(a, np.ones(300), b, np.ones(300), n=400, seed=k)
        hit += iv.low <= 1.8 <= iv.high
    assert .89 <= hit/150 <= .99

def test_intervals_refuse_nonsense():
    with pytest.raises(ValueError, match='same images'): bootstrap_difference([1], [1], [1, 1], [1, 1])
    with pytest.raises(ValueError, match='more right'): bootstrap([2], [1])
    with pytest.raises(ValueError, match='shape'): bootstrap([], [])
    with pytest.raises(ValueError, match='one row a run'): seeds_and_images([1, 1], [1, 1])
    with pytest.raises(ValueError, match='level'): bootstrap([1], [1], level=95)

def test_seeds_widen_the_interval():
    rng = np.random.default_rng(2)
    runs = np.stack([rng.binomial(1, p, 500) for p in (.6, .7, .8)]); ones = np.ones_like(runs)
    wide, same = seeds_and_images(runs, ones), seeds_and_images(np.repeat(runs[1:2], 3, 0), ones)
    assert wide.high-wide.low > 1.8*(same.high-same.low)
    d = seeds_and_images_difference(runs, ones, runs, ones)
    assert d.mean == 0 and d.low < 0 < d.high                          # the same method twice: not different
    better = seeds_and_images_difference(np.ones((3, 500)), ones, np.zeros((3, 500)), ones)
    assert better == (100, 100, 100)
