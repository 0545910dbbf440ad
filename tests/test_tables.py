"Tables from real run folders: numbers, holes with reasons, and files that say what the numbers are worth."
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from deepfakenb.runs import store as runs
from deepfakenb.core import UserError
from deepfakenb.metrics.sequence import adaptive_accuracy, chance_level, fixed_accuracy, majority_guess
from deepfakenb.protocols.p1 import NARROW
from deepfakenb.protocols.base import get
from deepfakenb.analysis.results import cells_of, fill, reported, runs_of, table_ids
from deepfakenb.tasks.sequence import difference, ids
from deepfakenb.report.tables import Table, build_table, layout, read_table, to_html, to_latex, to_markdown
from deepfakenb.vocab import Vocabulary
from deepfakenb.tasks import sequence

FINGERPRINT = 'f'*16


def invented_items(track, n):
    "Images that do not exist: half of them validation, half test."
    v, rng = Vocabulary(track), np.random.default_rng(0)
    labels = [v.ids(list(rng.permutation(v.names[1:])[:k % 6])) for k in range(2*n)]
    return pd.DataFrame(dict(path=[f'images/{k:03d}.jpg' for k in range(2*n)], split=['val']*n+['test']*n, label=labels, sequence=[v.sequence_name(l) for l in labels]))


def invented_run(spec, out, *, p=.6, n=60, items=None, fingerprint=FINGERPRINT):
    "A finished run folder made by the library's own writer, with answers that are right with probability `p` in each slot."
    job = runs.begin(spec, out, fingerprint=fingerprint)
    items = invented_items(spec.data['track'], n) if items is None else items
    labels, rng = items['label'].tolist(), np.random.default_rng(100+spec.seed+len(spec.model))
    import torch
    def said():
        answers = [[x if rng.random() < p else int(rng.integers(0, 6)) for x in l] for l in labels]
        return dict(sequences=torch.tensor(answers), probabilities=torch.tensor(rng.random((len(labels), 5))), labels=torch.tensor(labels))
    frame = sequence.prediction_frame(items, said(), said())
    epochs = np.arange(12)
    with open(job.folder/'history.csv', 'w') as f:
        pd.DataFrame(dict(epoch=epochs, lr=.001, train_loss=2-.1*epochs, val_loss=2.1-.08*epochs, fixed_acc=40+epochs, adaptive_acc=20+epochs, exact_match=epochs, order_only=50+epochs, seconds=1.)).to_csv(f, index=False)
    metrics = {s: sequence.sequence_scores(frame, s) for s in ('val', 'test')} | dict(best_epoch=dict(fixed=11, adaptive=11), loss=dict(first=2., last=.9))
    return job.finish(metrics, frame, data_kind=spec.data['source'], duration_s=12.5)


def failed_run(spec, out, why):
    "What the launcher leaves of a training that failed."
    job = runs.begin(spec, out, fingerprint=FINGERPRINT)
    (job.folder/'error.txt').write_text(why+'\nand the trace'); job.release()


@pytest.fixture
def smoke_runs(tmp_path):
    "All smoke runs of Table 1, finished."
    return tmp_path, {s.model: invented_run(s, tmp_path, p=.8 if s.model == 'seqfakeformer' else .5) for s in get('p1').runs('smoke', 'p1_table1')}


def line(table, row, metric, column=None):
    found = [l for l in table.lines if l['row'] == row and l['metric'] == metric and (column is None or l['column'] == column) and (column or l['ours'] is not None)]
    assert len(found) == 1, (row, metric, column, len(found))
    return found[0]


def test_numbers_are_those_of_the_runs(smoke_runs):
    out, found = smoke_runs
    table = build_table('p1_table1', 'smoke', out)
    for model, row in (('multi-cls', 'Multi-Cls'), ('seqfakeformer', 'Ours')):
        p = found[model].predictions.query("split == 'test'")
        l = line(table, row, 'Fixed-Acc')
        assert l['ours'] == pytest.approx(fixed_accuracy(ids(p['prediction_fixed']), ids(p['label'])))
        assert l['ours'] == pytest.approx(found[model].metrics['test']['fixed']['fixed_acc'])
        assert line(table, row, 'Adaptive-Acc')['ours'] == pytest.approx(adaptive_accuracy(ids(p['prediction_adaptive']), ids(p['label'])))
        assert l['low'] < l['ours'] < l['high'] and (l['images'], l['seeds'], l['runs']) == (60, 1, [found[model].id])
    val, test = (ids(found['multi-cls'].predictions.query(f"split == '{s}'")['label']) for s in ('val', 'test'))
    assert line(table, 'chance level', 'Adaptive-Acc')['ours'] == pytest.approx(chance_level(val, test)['adaptive_acc'])
    assert line(table, 'majority guess', 'Fixed-Acc')['ours'] == pytest.approx(majority_guess(val, test)['fixed_acc'])


def test_every_number_of_the_paper_stays_and_every_hole_has_a_reason(smoke_runs):
    table = build_table('p1_table1', 'smoke', smoke_runs[0])
    for r in reported('p1_table1'): assert line(table, r['row'], r['metric'], r['column'])['reported'] == r['value']
    assert all(l['note'] for l in table.lines if l['ours'] is None)
    assert line(table, 'Ours', 'Fixed-Acc', 'ResNet-50')['note'] == 'not in smoke'
    assert line(table, 'DETR', 'Fixed-Acc', 'ResNet-34')['note'] == 'not in smoke' and line(table, 'DETR', 'Fixed-Acc', NARROW)['ours'] is not None


def test_smoke_and_synthetic_are_told_in_every_language(smoke_runs):
    out, _ = smoke_runs
    build_table('p1_table1', 'smoke', out)
    files = {p.suffix: p.read_text(encoding='utf8') for p in (out/'smoke'/'p1'/'tables').iterdir()}
    assert set(files) == {'.csv', '.md', '.tex', '.json'}
    for suffix in ('.md', '.tex', '.json'):
        assert 'not meaningful' in files[suffix].lower() and 'synthetic' in files[suffix] and 'test split is read once' in files[suffix], suffix
    assert 'synthetic' in files['.csv'] and 'smoke' in files['.csv']
    assert not any(str(out) in text for text in files.values())             # no path of this machine
    side = json.loads(files['.json'])
    assert side['maker'].endswith('.ipynb') and len(side['runs']) == 3 and side['data'] == 'synthetic' and side['commit']
    again = read_table(out/'smoke'/'p1'/'tables'/'p1_table1.json')
    assert to_html(again) == to_html(build_table('p1_table1', 'smoke', out, write=False))


def test_nothing_on_disk(tmp_path):
    table = build_table('p1_table2', 'bench', tmp_path)
    assert not table.measured and table.data == 'none' and 'nothing was measured' in table.caption
    notes = {l['note'] for l in table.lines}
    assert any('deepfakenb reproduce --paper p1 --preset bench' in n for n in notes) and not any(l['row'] == 'chance level' for l in table.lines)
    assert not (tmp_path/'bench'/'runs').exists()                            # asking makes no folders of runs


def test_failed_damaged_and_half_finished_runs(tmp_path):
    specs = {s.model: s for s in get('p1').runs('smoke', 'p1_table1')}
    failed_run(specs['seqfakeformer'], tmp_path, 'RuntimeError: out of memory')
    run = invented_run(specs['multi-cls'], tmp_path)
    (run.path/'run.json').write_text('{"test"')
    table = build_table('p1_table1', 'smoke', tmp_path)
    notes = {(l['row'], l['note']) for l in table.lines if l['column'] == NARROW}
    assert ('Ours', 'failed: RuntimeError: out of memory') in notes
    assert any(r == 'Multi-Cls' and n.startswith('damaged: ') and 'run.json' in n for r, n in notes)
    assert not table.measured


def test_three_seeds_and_a_missing_one(tmp_path, monkeypatch):
    monkeypatch.setenv('DEEPFAKENB_DEVICE', 'cpu')
    specs = [s for s in get('p1').runs('bench', 'p1_table1') if not s.data['views']]      # the column that is trained from pixels
    seeds = sorted({s.seed for s in specs}); assert seeds == [0, 1, 2]
    for s in specs:
        if s.model == 'seqfakeformer' or s.seed < 2: invented_run(s, tmp_path, p=.8 if s.model == 'seqfakeformer' else .5)
    table = build_table('p1_table1', 'bench', tmp_path)
    ours, weak = line(table, 'Ours', 'Fixed-Acc'), line(table, 'Multi-Cls', 'Fixed-Acc')
    assert ours['seeds'] == 3 and ours['note'] == '' and weak['seeds'] == 2 and weak['note'].startswith('2 of 3 seeds')
    assert '3 seeds and test images' in table.caption and 'not meaningful' not in table.caption.lower() and 'synthetic' in table.ours
    by = runs_of('p1_table1', 'bench', tmp_path); column = ours['column']
    d = difference(by['Ours', column], by['Multi-Cls', column], 'fixed')
    assert d.low > 0 and d.mean == pytest.approx(ours['ours']-weak['ours'])


def test_runs_on_other_images_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setenv('DEEPFAKENB_DEVICE', 'cpu')
    specs = {(s.model, s.seed): s for s in get('p1').runs('bench', 'p1_table1')}
    a, b = invented_run(specs['multi-cls', 0], tmp_path, n=60), invented_run(specs['multi-cls', 1], tmp_path, n=30)
    with pytest.raises(UserError, match='different images'): difference([a], [b])
    told = [l['note'] for l in build_table('p1_table1', 'bench', tmp_path).lines if l['row'] == 'Multi-Cls']
    assert any('different images' in n for n in told)          # told in its place, and the table goes on


def test_unknown_table_and_preset(tmp_path):
    with pytest.raises(UserError, match='p1_table1'): build_table('p1_table9', 'smoke', tmp_path)
    with pytest.raises(UserError, match='bench'): build_table('p1_table1', 'tiny', tmp_path)


@pytest.mark.parametrize('id', table_ids())
def test_all_29_tables_can_be_printed(id):
    spec, data, cells = cells_of(id, 'smoke', 'no-such-folder')
    table = Table(id, 'smoke', 'A table', fill(reported(id), cells, spec.own if spec else ()), data)
    for text in (to_markdown(table), to_latex(table), to_html(table)):
        for r in reported(id): assert r['value'] in text
    assert to_latex(table).isascii() and '[U+' not in to_latex(table)           # every character of every table has a translation
    columns = {len(re.findall(r'(?<!\\)\|', l)) for l in to_markdown(table).split('\n') if l.startswith('|')}
    assert len(columns) == 1


@pytest.mark.skipif(not shutil.which('pdflatex'), reason='no LaTeX here')
def test_latex_compiles(tmp_path):
    body = '\n'.join(to_latex(Table(i, 'bench', 'A table', fill(reported(i), []))) for i in table_ids())
    (tmp_path/'all.tex').write_text('\\documentclass[a4paper]{article}\\usepackage{booktabs}\\usepackage[margin=1cm]{geometry}\\extrafloats{100}\\begin{document}\n'+body+'\n\\end{document}\n')
    r = subprocess.run(['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 'all.tex'], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert r.returncode == 0, r.stdout[-1500:]


@pytest.mark.parametrize('table', [t for p in ('p1', 'p2', 'p3', 'p4', 'p5') for t in table_ids(p)])
def test_ours_come_first_and_the_caption_does_not_scroll(root, table):
    "In the committed tables: settings with numbers of ours stand above those with the paper's alone; the box that scrolls holds the table only."
    t = read_table(root/'reports'/'bench'/table.split('_')[0]/'tables'/f'{table}.json')
    ours = {}
    for line in layout(t)[1]: ours[line['column']] = ours.get(line['column'], False) or bool(line['runs'])
    assert [*ours.values()] == sorted(ours.values(), reverse=True) and any(ours.values()), ours
    before, box = to_html(t).split('<div class="dnb-table"')
    assert 'class="dnb-caption"' in before and 'dnb-caption"' not in box.split('>', 1)[1].split('</div>')[0] and '<table' not in before

def test_a_held_out_manipulation_was_never_seen():
    "Paper 4's Table VI: the answers of the committed runs hold no validation video of the manipulation they are tested on, and the training split is made by the same list."
    from deepfakenb.tasks.detection import answers_of
    seen = 0
    for c in cells_of('p4_table6', 'bench')[2]:
        for r in c.runs:
            (held,) = c.test.methods
            answers = r.predictions
            assert held not in set(answers['method']) and held not in r.spec.data['methods'] and len(set(answers.loc[answers['label'] == 1, 'method'])) == 3, (c.row, r.id)
            asked = answers_of(r, c.test)
            assert set(asked.loc[asked['label'] == 1, 'method']) == {held}
            seen += 1
    assert seen
