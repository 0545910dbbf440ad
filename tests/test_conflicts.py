"Registers of conflicts: what they name exists, what they print is measured, what is not measured says so."
import pytest
from deepfakenb.analysis.conflicts import conflict_sheet, reading_lines
from deepfakenb.analysis.results import cells_of, paired
from deepfakenb.core import UserError
from deepfakenb.protocols.base import get
from deepfakenb.protocols.conflicts import REGISTERS
from deepfakenb.runs.spec import TestSpec

VIDEO_PAPERS = ('p2', 'p3', 'p4', 'p5')

@pytest.mark.parametrize('paper', VIDEO_PAPERS)
def test_every_place_and_row_is_there(paper):
    "A register that names a row which no table has would say 'not measured' for ever."
    protocol = get(paper)
    cells = {t: {(c.row, c.column, c.metric): c for c in protocol.table(t).cells('bench')} for t in (*protocol.tables, f'{paper}_conflicts')}
    for c in REGISTERS[paper].conflicts:
        for _, table, column, metric in REGISTERS[paper].places:
            table, column, metric = c.at or (table, column, metric)
            if c.kind == 'text': continue
            ours = cells[table][c.default, column, metric]
            assert ours.specs, (c.id, ours.reason)
            if c.kind == 'training':
                default, other = (cells[f'{paper}_conflicts'][r, column, metric] for r in (c.default, c.label))
                assert [s.id for s in default.specs] == [s.id for s in ours.specs], 'the default is to be the run of the table, not a second training'
                assert default.test == ours.test == other.test and {s.id for s in other.specs}.isdisjoint(s.id for s in ours.specs)
                for a, b in zip(default.specs, other.specs):
                    flat = lambda s: {**s.model_args, **s.train, **{f'data {k}': v for k, v in s.data.items()}}
                    assert {k for k in flat(a) | flat(b) if flat(a).get(k) != flat(b).get(k)} == {*c.args, *c.train, *(f'data {k}' for k in c.data)}, c.id
            if c.kind == 'rows': assert cells[table][c.label, column, metric].specs, c.id

@pytest.mark.parametrize('paper', VIDEO_PAPERS)
def test_differences_are_those_of_the_tables(paper, root):
    "A number of the register is the tables' own difference, or that of two tests of one run."
    lines = {(l['conflict'], l['track']): l for l in reading_lines(paper, 'bench', root/'reports')}
    assert len(lines) == len(REGISTERS[paper].conflicts)*len(REGISTERS[paper].places)
    for c in REGISTERS[paper].conflicts:
        for name, table, column, metric in REGISTERS[paper].places:
            l, (table, column, metric) = lines[c.id, name], c.at or (table, column, metric)
            assert (l['value'] is None) == bool(l['reason']) and bool(l['runs']) == (l['value'] is not None), l
            if l['value'] is not None and c.kind == 'test':          # asked of the very set of the place
                x = next(x for x in cells_of(table, 'bench', root/'reports')[2] if (x.row, x.column, x.metric) == (c.default, column, metric))
                assert c.test.dataset == (x.test.dataset if x.test else ''), (c.id, name)
            if l['value'] is None or c.kind != 'rows': continue
            at = {x.row: x for x in cells_of(table, 'bench', root/'reports')[2] if (x.column, x.metric) == (column, metric)}
            a, b = paired([at[c.label], at[c.default]])
            d = a.measure.difference(list(a.runs), list(b.runs), a.test)
            assert abs(l['value']-d.mean) < 1e-9 and l['low'] <= l['value'] <= l['high'], c.id
            whole = [x.measure.of_runs(list(x.runs), x.test).value for x in (a, b)]
            assert abs(l['value']-(whole[0]-whole[1])) < 1e-6, c.id

@pytest.mark.parametrize('paper', [p for p, r in REGISTERS.items() if any(c.kind == 'test' for c in r.conflicts)])
def test_every_other_test_is_asked_for_by_a_command(paper):
    "What only needs another test of finished runs has a table that asks for it, of the very runs of the paper's table."
    protocol = get(paper)
    wanted = protocol.tests('bench', f'{paper}_readings')
    for c in REGISTERS[paper].conflicts:
        for _, table, column, metric in REGISTERS[paper].places if c.kind == 'test' else ():
            runs = next(x for x in protocol.table(table).cells('bench') if (x.row, x.column, x.metric) == (c.default, column, metric)).specs
            for s in runs if column == REGISTERS[paper].places[0][2] else (): assert {t for t in (c.test, c.before) if t} <= set(wanted[s.id]), c.id

def test_data_of_different_bytes_are_not_compared():
    "As in the tables: a difference between two states of the videos is no difference between methods."
    from types import SimpleNamespace as N
    from deepfakenb.analysis.conflicts import _both
    from deepfakenb.analysis.results import Cell
    from unittest.mock import patch
    rows = [Cell(f, 'c', 'AUC', runs=(N(fingerprint=f, spec=N(seed=0)),)) for f in 'ab']
    with patch.object(Cell, 'measure', N(difference=lambda *a: 'compared')): assert _both(None, *rows)[0] is None and 'different bytes' in _both(None, *rows)[2] and _both(None, rows[0], rows[0])[0] == 'compared'

def test_an_empty_workbook_says_why(tmp_path):
    for paper in VIDEO_PAPERS:
        sheet = conflict_sheet('smoke', tmp_path, paper=paper)
        assert len(sheet.rows) == len(REGISTERS[paper].conflicts) and not sheet.runs and 'SMOKE' in sheet.caption and sheet.id == f'{paper}_conflicts'
        assert all(cell.startswith('— (') for row in sheet.rows for cell in row[5:])
    with pytest.raises(UserError, match='p9'): conflict_sheet('smoke', tmp_path, paper='p9')

def test_tests_of_the_register_are_of_their_own():
    ids = [c.test.id for r in REGISTERS.values() for c in r.conflicts if c.test is not None]
    assert len(ids) > 5 and TestSpec().id not in ids and len(ids) == len(set(ids))
