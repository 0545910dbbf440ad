"The lessons' exercises: our solutions pass their checks, an empty answer and a wrong one do not, and a check needs nothing but its exercise."
import re
from pathlib import Path
import pytest

LESSONS = sorted((Path(__file__).resolve().parent.parent/'nbs'/'course').glob('[0-9]*.ipynb'))

def cells(path): # code cells as (tag or '', source), and the markdown before each exercise
    import nbformat
    return [(next((t for t in c.metadata.get('tags', []) if t in ('setup', 'exercise', 'solution', 'check')), '') if c.cell_type == 'code' else 'text', c.source)
            for c in nbformat.read(path, 4).cells]

def exercises(path): # [(title, setup, starter, solution, check)]
    found, all_cells = [], cells(path)
    setup = '\n'.join(s for kind, s in all_cells if kind == 'setup')
    for i, (kind, source) in enumerate(all_cells):
        if kind == 'exercise':
            title = re.search(r'^### (Exercise \d+.*)$', all_cells[i-1][1], re.M)
            assert title and '<details><summary>' in all_cells[i-1][1], f'{path.name}: an exercise needs a title and a hint in the cell above'
            assert [k for k, _ in all_cells[i+1:i+3]] == ['solution', 'check'], f'{path.name}: {title[1]}: solution and check must follow'
            found.append((title[1], setup, source, all_cells[i+1][1], all_cells[i+2][1]))
    return found

ALL = [pytest.param(*e, id=f'{p.stem}: {e[0]}') for p in LESSONS for e in exercises(p)]

def passes(*sources) -> bool:
    names = {}
    for s in sources[:-1]: exec(compile(s, '<lesson>', 'exec'), names)
    try: exec(compile(sources[-1], '<check>', 'exec'), names); return True
    except Exception: return False

def test_there_are_lessons():
    assert LESSONS and len(ALL) >= 4
    for p in LESSONS: assert len({e[0].split(':')[0] for e in exercises(p)}) == len(exercises(p))      # numbered apart

@pytest.mark.parametrize('title, setup, starter, solution, check', ALL)
def test_solution(title, setup, starter, solution, check):
    assert passes(setup, starter, solution, check)                # ours is right, and the check needs nothing else of the lesson
    assert not passes(setup, starter, check)                      # an empty answer is not
    name = re.search(r'^def (\w+)\(', starter, re.M)[1]
    assert re.search(rf'^def {name}\(', solution, re.M), 'the solution defines another function'
    for wrong in ('0', 'a[0]'):                                   # nor is a constant, nor the argument itself
        assert not passes(setup, f'def {name}(*a, **k): return {wrong}', check)
