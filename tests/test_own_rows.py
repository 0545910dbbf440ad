"A row of one's own, from an empty notebook to the row in the report: the steps of CONTRIBUTING.md as they are printed there."
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
import nbformat
import pandas as pd
import pytest
from deepfakenb.core import ROOT

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
    from deepfakenb.analysis.results import cells_of
    monkeypatch.setenv('DEEPFAKENB_OWN', str(tmp_path))
    (tmp_path/'rows.toml').write_text(blocks('toml')[0].replace('"mine"', '"mine-broken"'), encoding='utf8')
    (tmp_path/'broken.py').write_text("class Broken:\n    name = 'mine-broken'\n    def oops(")
    cells = [c for c in cells_of('p2_table5', 'bench')[2] if c.row == 'My detector']
    assert cells and all('cannot be imported' in c.reason and 'broken.py' in c.reason and not c.runs for c in cells)

def test_an_unknown_model_is_a_short_hole(tmp_path, monkeypatch):
    from deepfakenb.analysis.results import cells_of
    monkeypatch.setenv('DEEPFAKENB_OWN', str(tmp_path))
    (tmp_path/'rows.toml').write_text(blocks('toml')[0].replace('"mine"', '"xcption"'), encoding='utf8')
    reasons = {c.reason for c in cells_of('p2_table5', 'bench')[2] if c.row == 'My detector'}
    assert all('did you mean xception?' in r and len(r) < 130 for r in reasons) and reasons, reasons

def test_an_unknown_row_is_answered_with_the_nearest(deepfakenb):
    for row, said in (('xcption', 'did you mean "Xception"?'), ('Ours, self-blends', 'did you mean "Ours, self-blends alone" or "'), ('Nope', 'choose from "Xception", "EfficientNet-B4", ')):
        code, _, err = deepfakenb('reproduce', '--table', 'p3_table2', '--row', row, '--dry-run')
        assert code == 2 and said in err and 'nbs/papers/p3.ipynb' in err and len(err) < 220, err
