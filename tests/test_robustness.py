"Robustness, conflicts and breakdown on real run folders: what may not be measured twice, what must agree, what a user reads."
import re

import numpy as np
import pandas as pd
import pytest
import torch

from deepfakenb.runs import store as runs
from deepfakenb.analysis.breakdown import breakdown, rows_of_track
from deepfakenb.analysis.conflicts import conflict_lines, conflict_sheet, scoring_difference
from deepfakenb.core import UserError
from deepfakenb.data.loading import seq_dataloaders
from deepfakenb.data.seqdeepfake import SeqDeepFake
from deepfakenb.training.learner import answers
from deepfakenb.metrics.sequence import SequenceMetrics
from deepfakenb.models.checkpoints import save_model
from deepfakenb.models.base import build_model
from deepfakenb.protocols.base import get
from deepfakenb.tasks.sequence import ids, split_predictions
from deepfakenb.analysis.robustness import condition_test, conditions, curves, measure, robustness, row_counts
from deepfakenb.analysis.robustness import read_robustness, robustness_file, test_sample as images_of, write_robustness
from deepfakenb.data.distorted import DISTORTIONS, distort
from deepfakenb.report.sheet import write_sheet
from deepfakenb.runs.spec import TestSpec
from seqdata import tiny
from deepfakenb.tasks import sequence

SIZE = 64


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "A tiny dataset and two finished runs of the smoke protocol on it, untrained models, with weights."
    with pytest.MonkeyPatch.context() as patch:
        here = tmp_path_factory.mktemp('robust')
        patch.setenv('DEEPFAKENB_DATA_ROOT', str(tiny(here/'data', n=4, size=SIZE))); patch.setenv('DEEPFAKENB_DATA', str(here/'cache'))
        data, made = SeqDeepFake.read(here/'data', 'components'), {}
        for spec in get('p1').runs('smoke', 'p1_table1'):
            if spec.model not in ('multi-cls', 'seqfakeformer'): continue
            job = runs.begin(spec, here/'out', fingerprint=data.fingerprint())
            dls = seq_dataloaders(data, size=SIZE, bs=8, device='cpu', splits=('val', 'test'))
            got = {}
            for k, checkpoint in enumerate(('fixed', 'adaptive')):
                torch.manual_seed(k)
                model = build_model(spec.model, **{k: v for k, v in spec.model_args.items() if k != 'weights'}).eval()
                save_model(model, job.folder/sequence.CHECKPOINTS[checkpoint])
                parts = [answers(model, dl) for dl in dls]
                got[checkpoint] = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
            frame = sequence.prediction_frame(pd.concat([dls.frames['val'], dls.frames['test']]), got['fixed'], got['adaptive'])
            pd.DataFrame(dict(epoch=[0], adaptive_acc=[1.])).to_csv(job.folder/'history.csv', index=False)
            made[spec.model] = job.finish({'test': {}}, frame, data_kind='synthetic')
        yield here, data, made


def test_measured_once_resumed_and_equal_to_the_record(world, monkeypatch):
    here, data, made = world
    file, first = here/'r.parquet', made['seqfakeformer']
    assert measure([first], file, limit=8, device='cpu') == {}
    got = read_robustness(file)
    assert len(got) == 2*len(conditions()) == 42 and set(got['run']) == {first.id}
    rows = images_of(first, 8)
    for checkpoint in ('fixed', 'adaptive'):                                     # level 0 is the record, image by image
        right, slots = row_counts(got, [first], checkpoint, 8)['clean', 0]
        assert right[0].tolist() == rows[f'{checkpoint}_correct'].tolist() and slots[0].tolist() == rows[f'{checkpoint}_slots'].tolist()
    before = file.read_bytes()
    class Never:
        def __call__(self, *a, **k): raise AssertionError('a run was measured twice')
    with monkeypatch.context() as m:
        m.setattr(runs.Run, 'model', Never())
        assert measure([first], file, limit=8, device='cpu') == {} and file.read_bytes() == before
    lines = got.to_dict('records')
    write_robustness(file, [l for l in lines if (l['distortion'], l['level']) != ('blur', 3)])    # a condition is missing: only it is measured
    assert measure([first, made['multi-cls']], file, limit=8, device='cpu') == {}
    again = read_robustness(file)
    key = ['run', 'checkpoint', 'distortion', 'level']
    mine = again[again['run'] == first.id].sort_values(key, ignore_index=True)
    assert len(again) == 84 and mine['right'].map(list).tolist() == got.sort_values(key, ignore_index=True)['right'].map(list).tolist()   # the same counts again
    assert {l['row'] for l in curves(again, dict(a=[first], b=[made['multi-cls']]), 8)} == {'a', 'b'}


def test_a_condition_is_a_further_test_set_of_the_house(world, monkeypatch):
    here, data, made = world
    run, file = made['seqfakeformer'], here/'conditions.parquet'
    assert measure([run], file, limit=8, device='cpu') == {}
    got = {c: row_counts(read_robustness(file), [run], c, 8) for c in ('fixed', 'adaptive')}
    for c in (('clean', 0), ('jpeg', 5), ('blur', 3), ('noise', 5)):
        test = condition_test(*c, limit=8)
        with pytest.raises(UserError, match='not tested on'): run.tested(test)
        assert run.add_test(test, 'cpu')['fingerprint'] == data.fingerprint() and (run.path/'tests'/f'{test.id}.parquet').is_file()
        rows = run.tested(test)
        assert list(rows['file']) == list(images_of(run, 8)['file']) and rows['label'].map(list).tolist() == images_of(run, 8)['label'].map(list).tolist()
        for checkpoint, metric in (('fixed', 'Fixed-Acc'), ('adaptive', 'Adaptive-Acc')):
            right, slots = (x[0] for x in got[checkpoint][c])
            assert rows[f'{checkpoint}_correct'].tolist() == right.tolist() and rows[f'{checkpoint}_slots'].tolist() == slots.tolist(), c
            e = run.spec.task.measure(metric).of_runs([run], test)
            assert abs(e.value-100*right.sum()/slots.sum()) < 1e-9 and e.images == 8
            assert run.spec.task.measure(metric).difference([run], [run], test).mean == 0
    with monkeypatch.context() as m:                                                # what is on record is not asked again
        m.setattr(runs.Run, 'model', lambda *a: 1/0)
        assert run.add_test(condition_test('blur', 3, 8), 'cpu')['images'] == 8
    def asked(**test): return run.spec.task.test(run.spec, {c: run.model(c) for c in ('fixed', 'adaptive')}, TestSpec(**test), torch.device('cpu'))[0]
    clean, noisy = asked(limit=8), asked(limit=8, distortion='noise:5', variant='pictures')
    assert clean['probabilities_fixed'].map(list).tolist() != noisy['probabilities_fixed'].map(list).tolist()        # the pictures were spoiled
    assert len(asked(split='val', size=96)) == len(data.split('val'))
    for wrong, says in ((dict(dataset='celebdf'), "dataset = 'celebdf': means nothing for pictures"), (dict(order='reversed'), "order = 'reversed'"), (dict(split='tset'), "split = 'tset'"),
                        (dict(distortion='jpeg', variant='pictures'), 'its level is missing'), (dict(distortion='fog:1'), 'fog')):
        with pytest.raises(UserError) as e: run.add_test(TestSpec(**wrong), 'cpu')
        assert says in str(e.value) and '\n' not in str(e.value) and e.value.code == 2


def test_another_model_under_the_same_name_is_refused(world, monkeypatch):
    here, data, made = world
    run = made['multi-cls']
    torch.manual_seed(9)
    other = build_model('multi-cls', backbone='resnet10-narrow').eval()
    monkeypatch.setattr(runs.Run, 'model', lambda self, checkpoint: other)
    failed = measure([run], here/'other.parquet', limit=0, device='cpu')
    assert re.search(r'on clean images .* not those on record; delete the run', failed[run.id]) and not (here/'other.parquet').exists()


def test_missing_weights_and_images_are_told(world, monkeypatch, tmp_path):
    here, data, made = world
    monkeypatch.setenv('DEEPFAKENB_DATA_ROOT', str(tiny(tmp_path/'data', n=1)))
    why = measure([made['multi-cls']], tmp_path/'r.parquet', limit=8, device='cpu')
    assert 'not those that the runs have seen' in why[made['multi-cls'].id] and '\n' not in why[made['multi-cls'].id]
    lines, guesses, why = robustness('components', 'smoke', here/'out')
    assert not lines and 'not measured yet' in why
    assert rows_of_track('components', 'smoke', here/'out') and 'no finished run' in robustness('attributes', 'smoke', here/'out')[2]
    assert robustness_file('smoke', here/'out').parent.name == 'p1'


def test_distortions_depend_on_the_name_and_not_on_the_batch():
    x = torch.randint(0, 256, (5, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = [f'{k}.jpg' for k in range(5)]
    for d in DISTORTIONS:
        whole = distort(x, d, 4, keys=names)
        assert torch.equal(whole, distort(x, d, 4, keys=names)) and torch.equal(whole[[3, 1]], distort(x[[3, 1]], d, 4, keys=[names[3], names[1]]))
        assert torch.equal(distort(x, d, 0, keys=names), x) and not torch.equal(whole, x)
    assert not torch.equal(distort(x, 'noise', 2, seed=0, keys=names), distort(x, 'noise', 2, seed=1, keys=names))
    for wrong, said in ((lambda: distort(x, 'sepia', 1), 'sepia: no such distortion; choose from jpeg, blur, resize, noise'), (lambda: distort(x, 'jpeg', 7), 'level 7: a whole number from 0')):
        with pytest.raises(UserError) as e: wrong()
        assert str(e.value).startswith(said) and '\n' not in str(e.value) and e.value.code == 2


def test_conflicts_of_scoring_agree_with_the_metrics(world):
    here, data, made = world
    run = made['seqfakeformer']
    p = split_predictions(run)
    for metric in ('fixed', 'adaptive'):
        def score(checkpoint, **options):
            m = SequenceMetrics(**options); m.update(ids(p[f'prediction_{checkpoint}']), ids(p['label'])); return m.compute()[f'{metric}_acc']
        other = dict(fixed='adaptive', adaptive='fixed')[metric]
        for conflict, value in dict(average=score(metric, average='macro'), direction=score(metric, direction='reversed'), checkpoints=score(other)).items():
            assert abs(scoring_difference(conflict, [run], metric).mean-(value-score(metric))) < 1e-6, (conflict, metric)
    assert np.abs(scoring_difference('average', [run], 'fixed')).max() == 0      # equal slots everywhere: micro is macro
    sheet = conflict_sheet('smoke', here/'out')
    assert 'NOT MEANINGFUL' in sheet.caption and len(sheet.rows) == 8 and run.id in sheet.runs and '—' in sheet.rows[0][5] and '[' in sheet.rows[5][5]
    assert {p.suffix for p in write_sheet(sheet, here/'tables').iterdir()} == {'.csv', '.md', '.tex', '.json'}
    lines = conflict_lines(dict(components=()), {})
    assert len(lines) == 8*2 and {l['reason'] for l in lines} == {'no finished run', 'not planned'} and not any(l['runs'] for l in lines)


def test_breakdown_is_the_metrics(world):
    here, data, made = world
    run = made['multi-cls']
    m = SequenceMetrics(); p = split_predictions(run); m.update(ids(p['prediction_adaptive']), ids(p['label'])); whole = m.compute()
    at = {(l['group'], l['key'], l['score']): l['value'] for l in breakdown([run])}
    for k in ('adaptive_acc', 'exact_match', 'found_set', 'order_only', 'order_pairs'): np.testing.assert_allclose(at['all', '', k], whole[k], atol=1e-6)
    for n, scores in whole['per_length'].items(): np.testing.assert_allclose(at['length', n, 'exact_match'], scores['exact_match'], atol=1e-6)
    np.testing.assert_allclose([at['position', k, 'adaptive_acc'] for k in range(1, 6)], whole['per_position']['adaptive_acc'], atol=1e-6)
