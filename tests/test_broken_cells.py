"What is damaged, or cannot be asked, is told in its own cell with the remedy; the other numbers of the table stand."
import json
import shutil
from dataclasses import asdict, replace
import numpy as np
import pytest
from deepfakenb.analysis import claims
from deepfakenb.analysis.changes import changes
from deepfakenb.analysis.conflicts import _both
from deepfakenb.analysis.distortions import DFO, distortion_matrix
from deepfakenb.analysis.results import OTHER_BYTES, Cell, cells_of, data_read, fill, one_data, reported
from deepfakenb.core import UserError, file_hash
from deepfakenb.metrics.detection import at_level
from deepfakenb.runs.launch import _task
from deepfakenb.runs.spec import TestSpec
from deepfakenb.runs.store import Run, lacking, schema_facts, seal, test_facts as facts_of
from deepfakenb.tasks.detection import detection_measure, stacked

TABLE, COLUMN = 'p2_table6', 'Celeb-DF (two cores)'      # trained on one set, tested on another

def lines_of(out):
    spec, _, cells = cells_of(TABLE, 'bench', out)
    cells = [c for c in cells if c.column == COLUMN]
    return {(l['row'], l['metric']): l for l in fill([r for r in reported(TABLE) if r['column'] == COLUMN], cells, (*spec.own, *(c.row for c in cells)))}, {c.row: c for c in cells}

@pytest.fixture(scope='module')
def sound(root): return lines_of(root/'reports')

@pytest.fixture
def out(root, tmp_path, sound):
    "The committed runs: those of two rows, which are damaged here, as copies, the others as links."
    (tmp_path/'bench'/'runs').mkdir(parents=True)
    mine = {r.id for row, c in sound[1].items() if row in ('Xception', 'MesoNet') for r in c.runs}
    for p in (root/'reports'/'bench'/'runs').iterdir():
        if p.name in mine: shutil.copytree(p, tmp_path/'bench'/'runs'/p.name)
        elif (p/'run.json').is_file(): (tmp_path/'bench'/'runs'/p.name).symlink_to(p)
    return tmp_path

def file_of(out, cell, k=0): return out/'bench'/'runs'/cell.runs[k].id/'tests'/f'{cell.test.id}.parquet'

def others(lines, *rows): return {k: l for k, l in lines.items() if k[0] not in rows}

def garble(path): # the pages of data, not what the file says about itself
    whole = path.read_bytes()
    path.write_bytes(whole[:4]+b'Z'*(len(whole)//4)+whole[4+len(whole)//4:])
    schema_facts(path)

def rewrite(run, path, frame=None, **facts):
    run.spec.task.write(path, run.spec.task.read(path) if frame is None else frame, dict(schema_facts(path), **facts))

@pytest.mark.parametrize('damage', [lambda p: p.write_bytes(p.read_bytes()[:-50]), garble, lambda p: p.write_bytes(b''), lambda p: p.write_bytes(b'PAR1 and nothing else PAR1')])
def test_damaged_answers_are_told_in_their_cell(out, sound, damage):
    before, cells = sound
    damage(file_of(out, cells['MesoNet']))
    lines, _ = lines_of(out)
    assert others(lines, 'MesoNet') == others(before, 'MesoNet') and sum(l['ours'] is not None for l in lines.values()) == sum(l['ours'] is not None for l in before.values())-1
    note = lines['MesoNet', 'AUC']['note']
    assert file_of(out, cells['MesoNet']).name in note and 'damaged' in note and 'delete it and run the same command again' in note and '\n' not in note

def test_one_damaged_seed_leaves_the_others(out, sound):
    before, cells = sound
    path = file_of(out, cells['Xception'], 1)
    path.write_bytes(path.read_bytes()[:-50])
    line = lines_of(out)[0]['Xception', 'AUC']
    assert line['runs'] == [r.id for i, r in enumerate(cells['Xception'].runs) if i != 1] and line['ours'] is not None
    assert '2 of 3 seeds' in line['note'] and path.name in line['note']

def test_damaged_answers_stop_neither_sheets_nor_claims_nor_plans(out, sound):
    cell = sound[1]['MesoNet']
    path, run = file_of(out, cell), Run(out/'bench'/'runs'/cell.runs[0].id)
    path.write_bytes(path.read_bytes()[:-50])
    lines = changes({'MesoNet': [run]}, {'there': cell.test})
    assert lines[0]['value'] is None and path.name in lines[0]['reason'] and 'delete it' in lines[0]['reason']
    shutil.copy(path, path.with_name(f'{TestSpec(dataset=DFO).id}.parquet'))
    told = distortion_matrix({'MesoNet': [run]}, kinds=('GB',), levels=(1,), variants=('repaired',))
    assert 'damaged' in told[0]['reason'] and told[0]['value'] is None and told[1]['reason'] == 'not tested'
    assert _task(run.spec, out, None, False, (cell.test,)).state == 'reuse'                                    # nothing raised: it is as if it were not tested
    garbled = file_of(out, sound[1]['Xception']); garble(garbled)
    claim = claims.Claim(**{**vars(claims.claims('p2')[0]), **dict(ours_table=TABLE, ours_first='Xception', ours_second='Ours', ours_columns=(COLUMN,), ours_metric='AUC', looked='')})
    found = claims.compare(claim, 'bench', out)
    assert garbled.name in found[0].missing and 'delete it' in found[0].missing

def test_answers_that_are_no_numbers_are_told(out, sound):
    before, cells = sound
    run, path = cells['MesoNet'].runs[0], file_of(out, cells['MesoNet'])
    frame = run.spec.task.read(path); frame.loc[3, 'margin'] = np.nan
    rewrite(run, path, frame)
    lines, _ = lines_of(out)
    assert others(lines, 'MesoNet') == others(before, 'MesoNet')
    assert lines['MesoNet', 'AUC']['ours'] is None and f'{run.id}: 1 of its {len(frame)} answers to celebdf are no numbers; delete the run' in lines['MesoNet', 'AUC']['note']
    own = Run(out/'bench'/'runs'/run.id)                                                                       # the same in its own test split
    frame = own.predictions.copy(); frame.loc[frame.index[frame['split'] == 'test'][:2], 'margin'] = np.nan
    own.spec.task.write(own.path/'predictions.parquet', frame)
    record = json.loads((own.path/'run.json').read_text()); record['files']['predictions.parquet'] = file_hash(own.path/'predictions.parquet')
    (own.path/'run.json').write_text(json.dumps(dict(record, seal=seal(record))))
    spec, _, cells = cells_of('p2_table1', 'bench', out)
    at = {(l['row'], l['column'], l['metric']): l for l in fill(reported('p2_table1'), [c for c in cells if c.metric == 'AUC' and c.column == 'HQ (two cores)'], spec.own)}
    assert '2 of its' in at['MesoNet', 'HQ (two cores)', 'AUC']['note'] and at['Xception', 'HQ (two cores)', 'AUC']['ours'] is not None

def test_another_file_under_the_name_does_not_count(out, sound):
    before, cells = sound
    path, run = file_of(out, cells['MesoNet']), Run(out/'bench'/'runs'/cells['MesoNet'].runs[0].id)
    assert lacking(run, cells['MesoNet'].test) == ''
    rewrite(run, path, test=asdict(replace(cells['MesoNet'].test, dataset='deeperforensics')))                 # sound, of these weights and this version, but to another test
    assert facts_of(run, cells['MesoNet'].test) is None
    lines, _ = lines_of(out)
    assert lines['MesoNet', 'AUC']['ours'] is None and not lines['MesoNet', 'AUC']['runs'] and others(lines, 'MesoNet') == others(before, 'MesoNet')
    rewrite(run, path, test=dict(dataset='celebdf'))                                                           # as it was written before the other entries were there
    assert facts_of(run, cells['MesoNet'].test)['test'] == dict(dataset='celebdf') and lines_of(out)[0] == before
    for strange in (dict(dataset='celebdf', of_tomorrow=1), None, 'celebdf'):
        rewrite(run, path, test=strange)
        assert facts_of(run, cells['MesoNet'].test) is None, strange

def test_further_sets_of_other_bytes_are_not_compared(out, sound):
    _, cells = sound
    rewrite(cells['MesoNet'].runs[0], file_of(out, cells['MesoNet']), fingerprint='made anew')
    rewrite(cells['Xception'].runs[2], file_of(out, cells['Xception'], 2), fingerprint='made anew')
    _, now = lines_of(out)
    assert now['MesoNet'].reason.endswith(OTHER_BYTES) and len(now['MesoNet'].runs) == 1                        # shown, and in no comparison
    assert len(now['Xception'].runs) == 2 and "1 of 3 runs read other data than the column's" in now['Xception'].reason
    assert len({r.fingerprint for row in ('MesoNet', 'Xception') for r in now[row].runs}) == 1                 # they were trained on the same bytes
    assert len({data_read(r, now[row].test) for row in ('MesoNet', 'Xception') for r in now[row].runs}) == 2
    assert _both(None, now['MesoNet'], now['Xception'])[2] == 'not measured: its two rows read data of different bytes'
    d, _, why = _both(None, now['Ours'], now['Xception']); assert d is not None and not why
    claim = claims.Claim(**{**vars(claims.claims('p2')[0]), **dict(ours_table=TABLE, ours_first='MesoNet', ours_second='Xception', ours_columns=(COLUMN,), ours_metric='AUC', looked='')})
    assert [missing for _, _, missing in claims.pairs_of(claim, 'bench', out)] == ['its two rows read data of different bytes']

def test_levels_are_never_mixed(root):
    run = {level: next(r for c in cells_of(table, 'bench', root/'reports')[2] for r in c.runs if r.metrics.get('level') == level) for level, table in (('clip', 'p5_table1'), ('frame', 'p2_table1'))}
    for own, other, said in (('clip', 'frame', 'clips: it has no score of single frames'), ('frame', 'clip', 'single frames: it has no score of clips')):
        for wrong, why in ((other, said), ('nonsense', 'choose from frame, clip, video')):
            measure = detection_measure('AUC', wrong)
            for ask in (lambda: measure.of_runs([run[own]]), lambda: measure.guesses(run[own]), lambda: measure.difference([run[own]], [run[own]]), lambda: stacked([run[own]], None, wrong)):
                with pytest.raises(UserError, match=why): ask()
        cell = Cell('R3D', 'FF++ itself (two cores)', 'AUC', (run[own],), 1, kind='video', level=other)
        assert fill(reported('p5_table1'), [cell], (cell.column,))[-1] | dict(ours=None, note=said) == fill(reported('p5_table1'), [cell], (cell.column,))[-1]
        for level in (own, 'video'):
            e, kept = detection_measure('AUC', level).of_runs([run[own]]), run[own].metrics['test'][level]
            assert abs(e.value-kept['AUC']) < .05 and e.images == kept['n'], (own, level)                      # as the record has it
    with pytest.raises(UserError, match='choose from frame, clip, video'): at_level(run['frame'].predictions, 'videos')
