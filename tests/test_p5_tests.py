"Further tests of papers 4 and 5: who is tested, on whom, and that nobody is met twice."
import numpy as np
import pytest
from deepfakenb.analysis.changes import changes
from deepfakenb.analysis.results import cells_of
from deepfakenb.data.leakage import shared_with
from deepfakenb.data.video import VideoIndex
from deepfakenb.protocols.base import get
from deepfakenb.protocols.detectors import CORES
from deepfakenb.runs.spec import TestSpec
from deepfakenb.runs.store import test_facts as facts_of

def dfo_of(root, folder: str, names, splits='official'):
    "DeeperForensics' lists in a folder, without videos."
    where = root/folder/'lists'/'splits'; where.mkdir(parents=True); (root/folder/'manipulated_videos').mkdir()
    for s, ns in names.items(): (where/(f'{s}.txt' if splits == 'official' else f'{s}_dfo.csv')).write_text(''.join(f'{n}.mp4{"" if splits == "official" else " 1"}\n' for n in ns))
    return VideoIndex.read(root/folder, 'deeperforensics', splits=splits, check_files=False)

def test_the_real_lists_share_nobody(shared, tmp_path):
    "The published lists: FaceForensics++'s 720 and 140 videos against the 140 names that our columns test on; a naive list of the same size is found out."
    labels = shared/'labels'
    trained = VideoIndex.read(labels/'ffpp', 'ffpp', check_files=False)
    (tmp_path/'d'/'manipulated_videos').mkdir(parents=True); (tmp_path/'d'/'lists').mkdir()
    for f in (labels/'deeperforensics').glob('*_dfo.csv'): (tmp_path/'d'/'lists'/f.name).write_text(f.read_text())
    ours = VideoIndex.read(tmp_path/'d', 'deeperforensics', splits='ffpp', check_files=False)
    asked = ours.split('test')
    assert len(asked) == 140 and shared_with(trained, ours) == []
    known = sorted({v.source for v in trained.videos if v.split == 'train' and v.source})[:140]
    naive = dfo_of(tmp_path, 'n', dict(train=['999_M001'], val=['998_M002'], test=[f"{s.split('/')[1]}_W001" for s in known]))
    found = shared_with(trained, naive)
    assert {l.what for l in found if l.kind == 'source'} == set(known) and {l.kind for l in found} == {'source', 'identity'}
    one = dfo_of(tmp_path, 'p', dict(train=['999_M001'], val=['998_M002'], test=[*asked.source.str.split('/').str[1].map(lambda s: f'{s}_W009'), f"{known[7].split('/')[1]}_W009"]))
    assert [l.what for l in shared_with(trained, one) if l.kind == 'source'] == [known[7]]               # one planted among 140

def test_columns_take_the_clean_list():
    for table in get('p5').tables.values():
        for c in table.columns:
            if c.test is not None and c.test.dataset == 'deeperforensics':
                of = dict(dataset='ffpp', splits='official', stride=1)
                assert c.test.data(dict(of, source='real'))['splits'] == ('official' if c.own else 'ffpp') and c.test.data(dict(of, source='synthetic'))['splits'] == 'official', c.label
    home = next(c for c in get('p5').tables['p5_table1'].columns if c.label == 'DFO'+CORES)
    assert home.own and home.data['dataset'] == 'deeperforensics' and home.test.distortion == 'sing' and not home.test.dataset

def test_finished_runs_are_still_asked_for(root):
    "New columns test the runs that there are: not a single one is trained anew."
    for table, column, rows in (('p5_table3', 'FF++ itself (two cores)', 9), ('p4_table1', 'FS, DF, F2F, NT (two cores)', 6)):
        cells = [c for c in cells_of(table, 'bench', root/'reports')[2] if c.metric == 'AUC']
        assert sum(bool(c.runs) for c in cells if c.column == column) >= rows
        specs = {c.row: {s.id for s in c.specs} for c in get(table[:2]).tables[table].cells('bench') if c.column == column}
        for c in get(table[:2]).tables[table].cells('bench'):
            if c.column.endswith(CORES): assert {s.id for s in c.specs} == specs[c.row], (c.row, c.column)

def test_changes_are_paired_differences(root):
    "The shared table of changes against the two lines that it replaces."
    from deepfakenb.metrics.detection import pair_difference
    from deepfakenb.tasks.detection import stacked
    runs = {c.row: c.runs for c in cells_of('p5_table3', 'bench', root/'reports')[2] if c.column == 'FF++ itself (two cores)' and c.runs}
    tests = {o: TestSpec(order=o) for o in ('repeated', 'shuffled', 'reversed')}
    lines, compared = changes(runs, tests), 0
    for l in lines:
        has = [r for r in runs[l['row']] if facts_of(r, tests[l['test']]) is not None]
        if not has: assert l['value'] is None and l['reason']; continue
        y, s, g, _ = stacked(has, None, 'video')
        d = pair_difference('AUC', y, s, stacked(has, tests[l['test']], 'video')[1], g, same_runs=True)
        assert np.allclose([l['value'], l['low'], l['high']], d) and l['seeds'] == len(has); compared += 1
    assert compared >= 20
    plain = next(l for l in lines if (l['row'], l['test']) == ('Xception', 'shuffled'))
    assert abs(plain['value']) < .05, 'a network of single frames, averaged, cannot see their order'
