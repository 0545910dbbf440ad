"The lessons' exercises: our solutions pass their checks, an empty answer and a wrong one do not, and a check needs nothing but its exercise."
import json
import re
import pytest
from deepfakenb.explore.lesson import check, exercises, lessons
from deepfakenb.core import ROOT

ALL = [pytest.param(e, id=f"{p.stem}: {e['number']} {e['title']}") for p in lessons() for e in exercises(p)]

@pytest.fixture
def passes(capsys):
    def passes(*sources) -> bool:
        names = {}
        for s in sources[:-1]: exec(compile(s, '<lesson>', 'exec'), names)
        check.results.clear()
        exec(compile(sources[-1], '<check>', 'exec'), names)                   # a check prints, it does not stop the lesson
        assert len(check.results) == 1, 'the cell has one check'
        return next(iter(check.results.values()))[0]
    return passes

def test_there_are_lessons():
    assert len(lessons()) >= 12 and [int(p.name[:2]) for p in lessons()] == list(range(1, len(lessons())+1))
    for p in lessons(): assert len(exercises(p)) >= 4 and [e['number'] for e in exercises(p)] == list(range(1, len(exercises(p))+1)), p.name

@pytest.mark.parametrize('e', ALL)
def test_solution(e, passes):
    assert passes(e['setup'], e['solution'], e['check']), check.results        # ours is right, and the check needs nothing else of the lesson
    assert not passes(e['setup'], e['starter'], e['check'])                    # an empty answer is not
    assert 'still empty' in next(iter(check.results.values()))[1]
    for wrong in ('0', 'a[0]'):                                               # nor is a constant, nor the argument itself
        assert not passes(e['setup'], f"def {e['name']}(*a, **k): return {wrong}", e['check'])

@pytest.mark.parametrize('path', lessons(), ids=lambda p: p.stem)
def test_mechanics(path):
    "Every assert says what is wrong; every section says how long it takes; the score stands at the end."
    import ast
    nb = json.loads(path.read_text())
    text = '\n'.join(''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'markdown')
    assert all(re.search(r'\(\d+ minutes\)$', h) for h in re.findall(r'^## \d.*$', text, re.M)), 'a section without its time'
    assert 'yours to complete, and a check of **your** function' in text
    assert any(''.join(c['source']).strip() == 'score()' for c in nb['cells'] if c['cell_type'] == 'code')
    for e in exercises(path):
        bare = [n.lineno for n in ast.walk(ast.parse(e['check'])) if isinstance(n, ast.Assert) and n.msg is None]
        assert not bare, f"{path.name}, exercise {e['number']}: the asserts in lines {bare} of its check do not say what is wrong"

def test_links_of_the_course_lead_somewhere():
    for p in sorted((ROOT/'nbs'/'course').glob('*.ipynb')):
        text = '\n'.join(''.join(c['source']) for c in json.loads(p.read_text())['cells'] if c['cell_type'] == 'markdown')
        for link in re.findall(r'\]\(((?!https?:|#|mailto:)[^)#\s]+)', re.sub(r'```.*?```|`[^`\n]*`', '', text, flags=re.S)):
            assert (p.parent/link).exists(), f'{p.name}: {link}'
