"The papers' claims: the committed verdicts are those of the committed runs, and the pages show them."
import csv, shutil
import pytest
from deepfakenb.analysis.claims import claims, judge, read_claims, stale, write_claims
from deepfakenb.analysis.gate import gate
from deepfakenb.core import ROOT, UserError
from deepfakenb.report.site import build_index, build_readme, claims_of, claims_text, verdict_kind

BENCH = ROOT/'reports'/'bench'

@pytest.fixture(scope='module')
def today(): return judge(None, 'bench')

def test_the_record_is_of_todays_runs(today):
    assert (BENCH/'claims.csv').is_file(), 'run nbs/papers/what_holds.ipynb with out=reports'
    assert stale(BENCH/'claims.csv', today) == [], 'runs were added or changed: run nbs/papers/what_holds.ipynb with out=reports'

def test_verdicts_follow_from_the_differences(today):
    for l in today:
        known = [x for x in l['differences'] if not x.missing]
        if l['verdict'].startswith('holds'): assert known and len(known) == len(l['differences']) and all(x.low > 0 for x in known), l['id']
        if l['verdict'].startswith('does not hold'): assert any(x.high < 0 for x in known), l['id']
        if not known: assert l['verdict'].startswith('not measured'), l['id']
        if l['verdict'].startswith('undecided'): assert 'could not be seen' in l['verdict'] and known, l['id']

def test_the_benchmark_passes_its_gate_for_frames():
    "Frames are learned and c40 is not hopeless."
    frames, _, compression = gate('bench')
    assert frames['met'] and compression['met'], (frames, compression)

def test_motion_is_seen():
    "Three seeds: the same network loses something when the first frame is repeated."
    _, motion, _ = gate('bench')
    assert motion['seeds'] == 3 and motion['low'] > 0, motion

def test_the_benchmark_passes_its_gate_for_motion():
    "What was asked before anything was built: five points between filmed clips and their first frame repeated, and an interval that excludes 0."
    _, motion, _ = gate('bench')
    assert motion['met'] and motion['seeds'] == 3 and motion['mean'] >= 5 and motion['low'] > 0, motion

def test_a_row_that_learned_nothing_decides_nothing():
    "TimeSformer from noise is no opponent; that pre-training helps is a claim about just that."
    verdicts = {r['no.']: r['verdict'] for r in claims_of(BENCH)[0]}
    asleep = [c for c in claims() if 'TimeSformer' in (c.ours_first+c.ours_second)]
    assert asleep and all(verdicts[c.id].startswith(('not measured: TimeSformer', 'undecided', 'holds', 'does not hold')) for c in asleep)
    assert verdicts['p4.3'] == 'not measured: TimeSformer has learned nothing (AUC 50.4)' and verdicts['p4.8'].startswith('holds')

def test_a_verdict_whose_runs_are_there_is_not_called_stale():
    rows, wrong = claims_of(BENCH)
    assert rows and not wrong and not [r['no.'] for r in rows if 'STALE' in r['verdict']]

def test_no_claim_is_counted_twice_and_every_paper_has_some():
    found = claims()
    assert len({(c.table, c.first, c.second, c.columns, c.metric) for c in found}) == len(found)
    assert {p: sum(c.paper == p for c in found) > 6 for p in ('p1', 'p2', 'p3', 'p4', 'p5')} == dict.fromkeys(('p1', 'p2', 'p3', 'p4', 'p5'), True)

def test_pages_show_the_record(tmp_path, today):
    folder = tmp_path/'bench'
    folder.mkdir()
    write_claims(today, folder/'claims.csv')
    rows, wrong = claims_of(folder)
    assert not wrong and len(rows) == len(today)
    page, readme = build_index(folder).read_text(encoding='utf8'), build_readme(folder).read_text(encoding='utf8')
    for text in (page, readme): assert claims_text(rows) in text
    for r in rows: assert f"| [{r['no.']}]({r['no.'].split('.')[0]}/tables/{r['table']}.md) |" in readme and f'<a href="#{r["table"]}">{r["no."]}</a>' in page
    line = {r['no.']: next(l for l in readme.splitlines() if l.startswith(f"| [{r['no.']}](")) for r in rows}
    for r in rows: assert all(f'[{i[:4]}](runs/{i}/run.json)' in line[r['no.']] for i in r['runs'].split()) and len(line[r['no.']].split(' | ')) == 8
    assert any(r['evidence'] for r in rows) and all(('STALE' in r['verdict']) == bool(r['evidence']) for r in rows)      # no run is in this folder: what was read from some is out of date
    kinds = [verdict_kind(r['verdict']) for r in rows]
    assert set(kinds) <= {'holds', 'does not hold', 'undecided', 'not measured'} and str(kinds.count('holds')) in claims_text(rows)

def test_a_damaged_record_is_named_not_shown(tmp_path, today):
    folder = tmp_path/'bench'
    folder.mkdir()
    path = write_claims(today, folder/'claims.csv')
    path.write_text(path.read_text(encoding='utf8').replace('verdict', 'opinion', 1), encoding='utf8')
    rows, wrong = claims_of(folder)
    assert rows == [] and 'claims.csv' in wrong and '\n' not in wrong
    assert 'claims.csv: damaged' in build_index(folder).read_text(encoding='utf8')
    with pytest.raises(UserError): read_claims(tmp_path/'smoke'/'claims.csv')
