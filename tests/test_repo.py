"The house keeps its rules: one test for each trap of the tools."
import ast, configparser, json, re, shutil, subprocess, sys, time
from pathlib import Path
import nbformat, pytest

BIN = Path(sys.executable).parent

def run(*args, cwd, **kw):
    return subprocess.run([str(a) for a in args], cwd=cwd, capture_output=True, text=True, timeout=300, **kw)

def tracked(root) -> list[Path]:
    "Files that git tracks, or would track."
    out = run('git', 'ls-files', '--cached', '--others', '--exclude-standard', cwd=root).stdout.split('\n')
    return [root/f for f in out if f and (root/f).is_file()]

def notebooks(root) -> list[Path]:
    return [p for p in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]

def code_cells(nb): return [c for c in nb.cells if c.cell_type == 'code']

@pytest.fixture(scope='module')
def workshop(root, tmp_path_factory) -> Path:
    "A copy of everything that nbdev reads, to let its tools loose on."
    out = tmp_path_factory.mktemp('workshop')
    for name in ('settings.ini', 'pyproject.toml', 'setup.py'): shutil.copy(root/name, out)
    for name in ('nbs', 'deepfakenb'): shutil.copytree(root/name, out/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    return out

def test_export_leaves_no_diff(root, workshop):
    assert (r := run(BIN/'nbdev-export', cwd=workshop)).returncode == 0, r.stderr
    exported = {p.relative_to(workshop) for p in (workshop/'deepfakenb').rglob('*.py')}
    assert exported == {p.relative_to(root) for p in (root/'deepfakenb').rglob('*.py')}, 'a module without a notebook, or the reverse'
    differing = [str(f) for f in exported if (root/f).read_text() != (workshop/f).read_text()]
    assert not differing, f'edited by hand, or not exported: {differing}'

def test_clean_keeps_parameters_and_outputs(root, workshop):
    before = {p: p.read_text() for p in notebooks(workshop)}
    assert (r := run(BIN/'nbdev-clean', cwd=workshop)).returncode == 0, r.stderr
    dirty = [str(p.relative_to(workshop)) for p, text in before.items() if json.loads(p.read_text()) != json.loads(text)]
    assert not dirty, f'run nbdev-clean on {dirty}'

def test_clean_deletes_parameters_without_the_key(root, tmp_path):
    "The guard above can fail: without a name in `allowed_cell_metadata_keys` the tag is lost."
    (tmp_path/'nbs').mkdir()
    text = (root/'pyproject.toml').read_text()
    (tmp_path/'pyproject.toml').write_text(text.replace('allowed_cell_metadata_keys = ["tags"]', 'allowed_cell_metadata_keys = []'))
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('a: int = 1', metadata={'tags': ['parameters']})])
    nbformat.write(nb, tmp_path/'nbs'/'a.ipynb')
    run(BIN/'nbdev-clean', cwd=tmp_path)
    assert 'parameters' not in (tmp_path/'nbs'/'a.ipynb').read_text()

def test_experiments_and_papers_have_one_typed_parameters_cell(root):
    books = [p for p in notebooks(root) if p.parent.name in ('experiments', 'papers')]
    assert books
    for p in books:
        cells = [c for c in code_cells(nbformat.read(p, 4)) if 'parameters' in c.metadata.get('tags', [])]
        assert len(cells) == 1, f'{p.name}: {len(cells)} cells tagged parameters'
        for line in cells[0].source.splitlines():
            if line.strip() and not line.startswith('#'):
                assert re.match(r"""\w+\s*:\s*[\w\[\], |'"-]+\s*=""", line), f'{p.name}: untyped parameter {line!r}'

def test_notebooks_carry_outputs_and_no_errors(root):
    for p in notebooks(root):
        nb = nbformat.read(p, 4)
        cells = code_cells(nb)
        outputs = [o for c in cells for o in c.outputs]
        assert 'widgets' not in nb.metadata, f'{p.name}: keeps the state of its widgets; delete metadata.widgets'
        assert outputs or not cells, f'{p.name}: not a single output'
        assert not [o for o in outputs if o.output_type == 'error'], f'{p.name}: an error among its outputs'

def links_of(nb) -> list[str]:
    "Where a notebook's text and its Markdown outputs lead, without the web."
    texts = [c.source for c in nb.cells if c.cell_type == 'markdown'] + [o.data['text/markdown'] for c in code_cells(nb) for o in c.outputs if 'text/markdown' in o.get('data', {})]
    return [l for t in texts for l in re.findall(r'\]\(([^)#\s]+)(?:#[^)]*)?\)', t) if '://' not in l and not l.startswith('attachment')]

def imported(text, module, own) -> set[str]: # text of a module, its name and those of ours, all without `deepfakenb.`
    "Modules of ours that a module imports, at its top or in a function, however the import is written."
    package, found = module.split('.')[:-1], set()
    for n in ast.walk(ast.parse(text)):
        if isinstance(n, ast.Import): found |= {a.name.removeprefix('deepfakenb.') for a in n.names if a.name.startswith('deepfakenb.')}
        if not isinstance(n, ast.ImportFrom) or not (n.level or (n.module or '').split('.')[0] == 'deepfakenb'): continue
        start = '.'.join([*package[:len(package)+1-n.level], *filter(None, [n.module])]) if n.level else n.module.removeprefix('deepfakenb').lstrip('.')
        found |= {m if m in own else start for a in n.names for m in [f'{start}.{a.name}'.lstrip('.')]}
    return found & set(own)

@pytest.mark.parametrize('line', ('from ..tasks import sequence', 'from ..tasks.sequence import task', 'def f():\n from deepfakenb.tasks import base, sequence as s', 'import deepfakenb.tasks.sequence',
                                  'from .. import tasks\nfrom ..tasks import (base,\n sequence)', 'from deepfakenb.tasks.sequence import (\n task)'))
def test_every_way_of_importing_is_seen(line): assert 'tasks.sequence' in imported(line, 'data.sampling', ('tasks.base', 'tasks.sequence', 'data.sampling'))

def floors(root) -> dict[str, str]: # module -> its notebook, whose name begins with the floor
    return {p.stem.split('_', 1)[1]: p.name for p in (root/'nbs').glob('[0-9]*.ipynb')}

def builds_on(root, module) -> set[str]:
    "Notebooks whose modules an exported module imports."
    own = floors(root)
    return {own[m] for m in imported((root/'deepfakenb'/f"{module.replace('.', '/')}.py").read_text(), module, own) if m not in ('core', module)}

def test_notebooks_link_to_each_other(root):
    "No link is dead, each notebook leads to the contents, and one of the library to what it builds on."
    for p in notebooks(root):
        nb = nbformat.read(p, 4)
        links = links_of(nb)
        if p.name == 'index.ipynb': continue                                # becomes the README, its links start at the root
        assert not (dead := [l for l in links if not (p.parent/l).exists()]), f'{p.name}: dead links {dead}'
        if p.name == 'contents.ipynb':
            assert not (left := {q.name for q in notebooks(root)}-{Path(l).name for l in links}-{'index.ipynb', 'contents.ipynb'}), f'contents.ipynb: run it again, it lacks {left}'
            continue
        first = links_of(nbformat.v4.new_notebook(cells=nb.cells[:1]))
        assert any(Path(l).name == 'contents.ipynb' for l in first), f'{p.name}: its first cell has no link to contents.ipynb'
        if p.parent.name == 'nbs':
            need = builds_on(root, p.stem.split('_', 1)[1])
            assert need <= set(first), f"{p.name}: its first cell should say: Builds on {', '.join(f'[{m[3:-6]}]({m})' for m in sorted(need))}"

def test_make_lab_opens_the_contents_without_news(root):
    said = run('make', '-n', 'lab', cwd=root).stdout
    assert 'contents.ipynb' in said and 'news_url=None' in said and (root/'nbs'/'contents.ipynb').is_file()

def test_no_path_of_a_machine(root):
    pattern = re.compile(r'(?<![\w.])/(?:work|root|farm|tmp|home/\w+)/\w')
    for p in tracked(root):
        if p.suffix in ('.py', '.ipynb', '.md', '.toml', '.ini', '.yml', '.txt', '.json', '.csv', '.html', '.jsonl') and p != Path(__file__):
            found = pattern.search(p.read_text(encoding='utf8'))
            assert not found, f'{p.relative_to(root)}: {found.group()!r}'

def test_nothing_large_is_committed(root):
    large = [(p.name, p.stat().st_size) for p in tracked(root) if p.stat().st_size > 10_000_000]
    assert not large

def test_modules_and_export_cells_stay_readable(root):
    long = [(p.name, n) for p in (root/'deepfakenb').rglob('*.py') if p.name != '_modidx.py' and (n := p.read_text().count('\n')) > 420]
    assert not long, f'{long}: is each of these one idea?'
    for p in notebooks(root):
        for c in code_cells(nbformat.read(p, 4)):
            if c.source.startswith('#| export'): assert c.source.count('\n') <= 65, f'{p.name}: {c.source[:80]!r}'

def test_layers_import_only_from_above(root):
    "An exported cell imports from notebooks of its own floor and below; data.synth may use models.generator."
    for module, notebook in floors(root).items():
        up = {n for n in builds_on(root, module) if int(n[:2]) > int(notebook[:2]) and not (module.startswith('data.synth.') and n == '22_models.generator.ipynb')}
        assert not up, f'{notebook} imports from {sorted(up)}, which stand above it'

def test_every_requirement_is_pinned(root):
    cfg = configparser.ConfigParser(delimiters=['=']); cfg.read(root/'settings.ini')
    norm = lambda s: re.split(r'[<>=!~\[; ]', s)[0].lower().replace('_', '-')
    pinned = {norm(l) for l in (root/'constraints.txt').read_text().splitlines() if '==' in l}
    wanted = (cfg['DEFAULT']['requirements'] + ' ' + cfg['DEFAULT']['dev_requirements']).split()
    assert {norm(w) for w in wanted} <= pinned
    assert not re.search(r'https?://|file:', (root/'constraints.txt').read_text())

def test_readme_is_written_from_the_index(root, tmp_path):
    r = run(BIN/'jupyter', 'nbconvert', '--log-level=ERROR', '--no-input', '--to', 'markdown', root/'nbs'/'index.ipynb', '--output-dir', tmp_path,
            '--output', 'README', '--NbConvertApp.output_files_dir=nbs/images', cwd=root)
    assert r.returncode == 0, r.stderr
    assert (tmp_path/'README.md').read_text() == (root/'README.md').read_text(), 'run `make export`'
    for image in re.findall(r'!\[[^\]]*\]\(([^)]+)\)', (root/'README.md').read_text()): assert (root/image).is_file(), image

@pytest.mark.parametrize('command, limit', [(['-c', 'import deepfakenb'], 1.0), (['-m', 'deepfakenb.cli.main', '--help'], 1.5)])
def test_starts_quickly(root, command, limit):
    times = []
    for _ in range(4):
        start = time.perf_counter(); r = run(sys.executable, *command, cwd=root); times.append(time.perf_counter()-start)
        assert r.returncode == 0, r.stderr
    assert min(times) <= limit, times

def test_make_explains_itself(root):
    r = run('make', cwd=root)
    assert r.returncode == 0
    for target in ('reproduce', 'test', 'lab', 'bench', 'export'): assert f'make {target}' in r.stdout

def test_nobody_asks_which_task(root):
    "Whatever differs between lists of edits and detection stands in `tasks`; nothing else asks which of them it has."
    asks = re.compile(r"task\.name\s*[=!]=|isinstance\([^)]*(Sequence|Detection)\b|\['name'\]\s*[=!]=\s*'(video|seqdeepfake)'|tasks\.detection import|task\.unit\s*[=!]=")
    for p in (root/'deepfakenb').rglob('*.py'):
        if p.parent.name != 'tasks' and p.name != '_modidx.py': assert not asks.search(p.read_text()), f'{p.relative_to(root)}: {asks.search(p.read_text()).group()}'

def test_each_paper_keeps_an_executed_training(root):
    "One training notebook a paper, with its parameters, its curves and its scores."
    for paper in ('p1', 'p2', 'p3', 'p4', 'p5'):
        nb = nbformat.read(root/'reports'/'bench'/paper/'train.ipynb', 4)
        said = [o for c in code_cells(nb) for o in c.outputs]
        assert any('injected-parameters' in c.metadata.get('tags', []) for c in nb.cells), paper
        assert not any(o.output_type == 'error' for o in said) and any('image/png' in o.get('data', {}) for o in said), paper
        assert any('epoch' in o.get('data', {}).get('text/plain', '') for o in said), paper

def test_tree_stays_small(root):
    "Five papers have to fit in 60 MB; pages and executed notebooks are built, not committed."
    assert sum(p.stat().st_size for p in tracked(root)) < 60e6
    assert not [p for p in tracked(root) if p.suffix == '.html']
    large = [p.name for p in tracked(root) if p.parent.name == 'figures' and p.suffix in ('.png', '.jpg', '.svg') and p.stat().st_size > 200_000]
    assert not large, f'figures above 200 kB: {large}; `figures.base.save_figure` keeps photographs as JPEG'

def test_notebooks_refuse_misspelt_parameters(root):
    "Plain papermill sets any name; each notebook with parameters looks for itself."
    for p in notebooks(root):
        if p.parent.name in ('experiments', 'papers'):
            code = [c.source for c in code_cells(nbformat.read(p, 4)) if 'parameters' not in c.metadata.get('tags', [])]
            assert any('only_declared(globals())' in s for s in code), p.name

def test_the_readme_example_runs(root):
    code = re.search(r'```python\n(.*?)```', (root/'README.md').read_text(), re.S)[1]
    r = run(sys.executable, '-c', code+'\nassert model.predict(images).sequences.shape == (4, 5)', cwd=root)
    assert r.returncode == 0, r.stderr[-500:]

def test_no_assertion_is_empty(root):
    "A value that is compared with itself, behind `if False`, has hidden a wrong pin here once."
    for p in notebooks(root):
        for c in code_cells(nbformat.read(p, 4)): assert ' if False else ' not in c.source, f'{p.name}: {c.source[:60]!r}'


def test_no_module_takes_the_private_names_of_another(root):
    taken = [(p.name, m[0]) for p in (root/'deepfakenb').rglob('*.py') if p.name != '_modidx.py' for m in re.finditer(r'^\s*from (?:\.|deepfakenb)\S* import [^\n#]*?\b_[a-z]\w*', p.read_text(encoding='utf8'), re.M)]
    assert not taken, f'{taken}: give these a public name'
