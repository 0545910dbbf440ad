"A row of one's own, from an empty notebook to the row in the report: the steps of CONTRIBUTING.md as they are printed there."
import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
import nbformat
import pandas as pd
import pytest
from deepfakenb.analysis.results import cells_of, fill, reported
from deepfakenb.core import ROOT
from deepfakenb.report.chapter import Chapter
from deepfakenb.report.tables import build_table

BIN = Path(sys.executable).parent
TEXT = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf8')
STEPS = TEXT[TEXT.index('## A row of your own'):TEXT.index('## Adding a model to the workbook')]

def blocks(kind): return re.findall(rf'```{kind}\n(.*?)```', STEPS, re.S)

def test_the_steps_lead_to_the_row(tmp_path):
    own, out = tmp_path/'own', tmp_path/'reports'
    own.mkdir()
    (tmp_path/'pyproject.toml').write_text((ROOT/'pyproject.toml').read_text())                                  # nb_export looks for it where it runs
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(b) for b in blocks('python')]), own/'mine.ipynb')
    (own/'rows.toml').write_text(blocks('toml')[0], encoding='utf8')
    environment = os.environ | dict(DEEPFAKENB_OWN=str(own), DEEPFAKENB_DATA=str(ROOT/'data'), DEEPFAKENB_DEVICE='cpu', PATH=f"{BIN}:{os.environ['PATH']}")
    export, train = blocks('console')
    assert subprocess.run(shlex.split(export), cwd=tmp_path, env=environment, capture_output=True, text=True).returncode == 0
    assert 'class Mine' in (own/'mine.py').read_text()
    r = subprocess.run([*shlex.split(train), '--out', str(out)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert r.returncode == 0 and '1 trained' in r.stdout, r.stderr[-2000:]
    table = pd.read_csv(out/'smoke'/'p2'/'tables'/'p2_table5.csv')
    mine = table[(table.row == 'My detector') & table.runs.notna()]
    assert sorted(mine.metric) == ['ACC', 'AUC'] and mine.ours.between(0, 100).all() and (mine.images > 0).all()
    assert 'My detector' in (out/'smoke'/'index.html').read_text(encoding='utf8')
    others = table[(table.row == 'SENet') & table.ours.isna()]
    assert len(others) and others.note.str.contains('not run yet').any()                                     # the others are holes, and say so

def test_a_broken_model_is_a_hole_and_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv('DEEPFAKENB_OWN', str(tmp_path))
    (tmp_path/'rows.toml').write_text(blocks('toml')[0].replace('"mine"', '"mine-broken"'), encoding='utf8')
    (tmp_path/'broken.py').write_text("class Broken:\n    name = 'mine-broken'\n    def oops(")
    cells = [c for c in cells_of('p2_table5', 'bench')[2] if c.row == 'My detector']
    assert cells and all('cannot be imported' in c.reason and 'broken.py' in c.reason and not c.runs for c in cells)

def test_an_unknown_model_is_a_short_hole(tmp_path, monkeypatch):
    monkeypatch.setenv('DEEPFAKENB_OWN', str(tmp_path))
    (tmp_path/'rows.toml').write_text(blocks('toml')[0].replace('"mine"', '"xcption"'), encoding='utf8')
    reasons = {c.reason for c in cells_of('p2_table5', 'bench')[2] if c.row == 'My detector'}
    assert all('did you mean xception?' in r and len(r) < 140 for r in reasons) and reasons, reasons

ENTRY, MODEL = blocks('toml')[0], blocks('python')[1].partition('\n')[2]

@functools.cache
def plain(): return build_table('p2_table5', 'bench', write=False)

def told(folder, monkeypatch, text): # lines of the reader's rows
    "A table of the committed runs with what a reader wrote; all other lines are as they were."
    monkeypatch.setenv('DEEPFAKENB_OWN', str(folder/'none'))
    rows = {l['row'] for l in plain().lines}
    monkeypatch.setenv('DEEPFAKENB_OWN', str(folder))
    (folder/'rows.toml').write_bytes(text.encode('utf8', 'surrogateescape')); (folder/'mine.py').write_text(MODEL)
    table = build_table('p2_table5', 'bench', write=False)
    assert [l for l in table.lines if l['row'] in rows] == plain().lines and (table.visible, table.runs) == (plain().visible, plain().runs)
    return [l for l in table.lines if l['row'] not in rows]

MORE = '[[row]]\ntable = "p2_table5"\nlabel = "Sound"\nmodel = "mine"\n'
MISTAKES = {'an unknown entry': (ENTRY.replace('options', 'optionz'), 'My detector', "row 1: unknown entry 'optionz'"),
            'unknown data': (ENTRY+'data = {framez = 8}\n', 'My detector', "row 1: data: unknown entry 'framez'"),
            'data that there are none of': (ENTRY+'data = {dataset = "ffqq"}\n', 'My detector', 'row 1: dataset ffqq'),
            'a mistyped option of training': (ENTRY+'train = {epochs = "x"}\n', 'My detector', "row 1: epochs = 'x'"),
            'an option of the model that is no JSON': (ENTRY.replace('width = 8', 'width = 1979-05-27'), 'My detector', 'not JSON serializable'),
            'an unknown option': (ENTRY.replace('width', 'depth'), 'My detector', "row 1: mine: unknown option 'depth'"),
            'no label': (ENTRY.replace('label = "My detector"\n', ''), 'rows.toml, row 1', 'row 1: needs label'),
            'a label that is taken': (ENTRY.replace('My detector', 'SENet'), 'SENet (own, 1)', "has a row 'SENet' already"),
            'a label of a guess': (ENTRY.replace('My detector', 'majority guess'), 'majority guess (own, 1)', 'choose another label'),
            'a table that the paper has not': (ENTRY.replace('p2_table5', 'p2_table55'), 'My detector', "table 'p2_table55'; p2 has p2_table1"),
            'a table of no paper': (ENTRY.replace('p2_table5', 'table5'), 'My detector', "table 'table5'; names look like p2_table1"),
            'no TOML': ('[[row\n'+ENTRY, 'rows.toml', 'not valid TOML'), 'no text': ('\udcff', 'rows.toml', 'not valid TOML'),
            'one bracket': (ENTRY.replace('[[row]]', '[row]'), 'rows.toml', 'double brackets')}

@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_in_a_row_is_its_own_hole(tmp_path, monkeypatch, mistake):
    text, label, why = MISTAKES[mistake]
    whole = label != 'rows.toml'                                                     # else nothing of the file can be read
    mine = told(tmp_path, monkeypatch, text+MORE*whole)
    assert sum(l['ours'] is not None for l in plain().lines) >= 24
    hole = [l for l in mine if l['row'] == label]
    assert hole and all(why in l['note'] and l['ours'] is None and l['note'].startswith('rows.toml: ') for l in hole), {l['note'] for l in hole}
    assert {l['row'] for l in mine} == {label}|({'Sound'} if whole else set())
    assert all(why not in l['note'] for l in mine if l['row'] == 'Sound') and any('not run yet' in l['note'] for l in mine if l['row'] == 'Sound') == whole

def test_rows_that_cannot_be_read_stop_no_chapter(tmp_path, monkeypatch, deepfakenb):
    monkeypatch.setenv('DEEPFAKENB_OWN', str(tmp_path))
    (tmp_path/'rows.toml').write_text('[[row', encoding='utf8')
    for paper, table in (('p2', 'p2_table5'), ('p1', 'p1_table3')):
        chapter = Chapter(paper, 'bench', tables=[table])
        assert 'rows.toml: not valid TOML' in chapter.tables[table]._repr_html_() and 'rows.toml: not valid TOML' in chapter.empty().data
    code, out, err = deepfakenb('reproduce', '--table', 'p2_table5', '--dry-run')
    assert code == 0 and 'numbers stay empty: rows.toml: not valid TOML' in out, err

@pytest.mark.parametrize('table, more, why', [('p2_table7', 'options = {width = "x"}', 'row 1: its model cannot be built (TypeError'), ('p2_table7', 'options = {width = -1}', 'its model cannot be built'), ('p1_table4', '', "has no setting for it (KeyError: 'My detector')"),
                                              ('p1_table3', '', 'has no setting for it (KeyError'), ('p3_table1', '', 'a row of two cores'), ('p4_table5', '', 'not run yet'), ('p5_table2', '', 'not run yet')])
def test_a_row_fits_any_table_or_says_why_not(tmp_path, monkeypatch, table, more, why):
    monkeypatch.setenv('DEEPFAKENB_OWN', str(tmp_path))
    (tmp_path/'rows.toml').write_text(re.sub('options.*', more, ENTRY.replace('p2_table5', table)), encoding='utf8'); (tmp_path/'mine.py').write_text(MODEL)
    spec, _, cells = cells_of(table, 'bench', tmp_path)
    lines = [l for l in fill(reported(table), [c for c in cells if c.row == 'My detector'], spec.own) if l['row'] == 'My detector']
    assert lines and all(l['ours'] is None and l['note'] for l in lines) and any(why in l['note'] for l in lines), {l['note'] for l in lines}

def test_an_unknown_row_is_answered_with_the_nearest(deepfakenb):
    for row, said in (('xcption', 'did you mean "Xception"?'), ('Ours, self-blends', 'did you mean "Ours, self-blends alone" or "'), ('Nope', 'choose from "Xception", "EfficientNet-B4", ')):
        code, _, err = deepfakenb('reproduce', '--table', 'p3_table2', '--row', row, '--dry-run')
        assert code == 2 and said in err and 'nbs/papers/p3.ipynb' in err and len(err) < 220, err
