"The papers' claims: the committed verdicts are those of the committed runs, and the pages show them."
import csv, shutil
import pytest
from dataclasses import replace
from deepfakenb.analysis.claims import claims, compare, judge, read_claims, stale, write_claims
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
    "A network that a few epochs from noise have taught nothing is no opponent; that a start helps is a claim about just that."
    (start,) = [c for c in claims('p4') if c.id == 'p4.8']
    assert start.of_start == 'yes' and not any(x.missing for x in compare(start, 'bench'))
    (last,) = [x for x in compare(replace(start, of_start=''), 'bench') if x.column == 'NT (two cores)']
    assert '3D ResNet Pre-train ✗ has learned nothing' in last.missing

def test_rows_are_compared_on_the_seeds_that_both_have(today):
    "Three seeds against one would add what seeds differ by to what methods differ by."
    from deepfakenb.runs.store import Run
    seeds = lambda ids: sorted(Run(BENCH/'runs'/i).spec.seed for i in ids)
    for l in today:
        for x in l['differences']:
            if x.missing: continue
            assert len({Run(BENCH/'runs'/i).fingerprint for i in x.runs}) == 1, (l['id'], x.column)
            assert sorted(seeds(x.runs)) == sorted(2*sorted(set(seeds(x.runs)))), (l['id'], x.column, seeds(x.runs))

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
