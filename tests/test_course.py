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

AS_NUMPY = """
import numpy
def {name}(*a, ours={name}, **k):
    said = ours(*a, **k)
    return numpy.float64(said) if type(said) is float else numpy.int64(said) if type(said) is int else said
"""

@pytest.mark.parametrize('e', ALL)
def test_solution(e, passes):
    assert passes(e['setup'], e['solution'], e['check']), check.results        # ours is right, and the check needs nothing else of the lesson
    assert not passes(e['setup'], e['starter'], e['check'])                    # an empty answer is not
    assert 'still empty' in next(iter(check.results.values()))[1]
    for wrong in ('0', 'a[0]'):                                               # nor is a constant, nor the argument itself
        assert not passes(e['setup'], f"def {e['name']}(*a, **k): return {wrong}", e['check'])
    if f"def {e['name']}(" in e['solution']: assert passes(e['setup'], e['solution'], AS_NUMPY.format(**e), e['check']), check.results   # a number of NumPy's is as good

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

# --- grading a class

def returned(folder, keep, own=(), change=lambda s: s):
    "Lesson 1 handed back: cells of the student's own before the first exercise, and our solutions of the first few exercises."
    from deepfakenb.explore.lesson import copies
    path, = copies(folder, 'key', lessons()[:1])
    nb = json.loads(path.read_text())
    at = [i for i, c in enumerate(nb['cells']) if 'exercise' in c['metadata'].get('tags', [])]
    for k, i in enumerate(at): nb['cells'][i]['source'] = change(''.join(nb['cells'][i]['source'])) if k < keep else ''
    nb['cells'][at[0]:at[0]] = [dict(cell_type='code', metadata={}, source=source, outputs=[], execution_count=None) for source in own]
    path.write_text(json.dumps(nb))
    return path

def test_two_students_stay_two(deepfakenb, tmp_path):
    import pandas as pd
    files, n = [str(returned(tmp_path/'class'/name, keep)) for name, keep in (('alice', 1), ('bob', 0))], len(exercises(lessons()[0]))
    code, out, err = deepfakenb('course', 'grade', tmp_path/'class', files[0], '--out', tmp_path/'grades.csv')       # a folder of folders, and one of them named again
    assert code == 0 and out.splitlines() == [f'{files[0]}: 1 of {n} right', f'{files[1]}: 0 of {n} right'], (out, err)
    table = pd.read_csv(tmp_path/'grades.csv')
    assert list(dict.fromkeys(table['file'])) == files and len(table) == 2*n and table.right.sum() == 1

def test_what_a_student_defines_elsewhere_is_there(deepfakenb, tmp_path):
    "Imports, helpers and constants in cells of their own; calls and broken cells beside them do no harm, and our names stay ours."
    own = ['%matplotlib inline\nimport math\nfrom nowhere_at_all import thing', 'NINE = 3**2\nhalved = lambda x: x/2\ndef helper(x): return math.sqrt(x)*halved(2)', 'def oops(', 'raise SystemExit("a call is not run")', 'def check(*a): ...']
    path = returned(tmp_path, 1, own, lambda s: s.replace('\n    ', '\n    assert helper(NINE) == 3\n    ', 1))
    assert 'helper(NINE)' in path.read_text()
    code, out, err = deepfakenb('course', 'grade', path, '--out', tmp_path/'g.csv')
    assert code == 0 and f': 1 of {len(exercises(lessons()[0]))} right' in out, (tmp_path/'g.csv').read_text()

def test_one_lesson_two_lessons(deepfakenb, tmp_path):
    assert deepfakenb('course', 'student', tmp_path/'a', '--lesson', 1)[1].startswith('1 lesson in ')
    assert deepfakenb('course', 'key', tmp_path/'b', '--lesson', 1, '--lesson', 2)[1].startswith('2 lessons in ')
