"The command: quick to answer, one line for every trouble, a code for every outcome, nothing lost when it is stopped."
import json, os, resource, signal, subprocess, sys, textwrap, time
from pathlib import Path
import nbformat, pytest
from deepfakenb.cli import reproduce as rep
from deepfakenb.cli.main import main
from deepfakenb.core import UserError
from deepfakenb.protocols.base import get

PYTHON = sys.executable
HERE = Path(__file__).parent

def cpu_seconds(*command):
    "Processor time of a command: unlike the clock it does not depend on what else the machine does."
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime+after.ru_stime-before.ru_utime-before.ru_stime

def test_quick_to_answer():
    assert min(cpu_seconds(PYTHON, '-c', 'import deepfakenb') for _ in range(2)) <= 1
    assert min(cpu_seconds(PYTHON, '-c', "from deepfakenb.cli.main import main; main(['--help'])") for _ in range(2)) <= 1.5

def test_help_imports_nothing_heavy():
    code = "import sys, deepfakenb.cli.main; print([m for m in ('torch', 'numpy', 'pandas', 'fastai', 'timm', 'matplotlib', 'cv2', 'sklearn', 'papermill') if m in sys.modules])"
    assert subprocess.run([PYTHON, '-c', code], capture_output=True, text=True, check=True).stdout == '[]\n'

def test_version_and_help(capsys):
    assert main(['--version']) == 0 and capsys.readouterr().out.startswith('deepfakenb 0.')
    for command in ([], ['reproduce'], ['runs', 'list'], ['runs', 'show'], ['data'], ['predict'], ['checkpoint']):
        assert main([*command, '--help']) == 0
        assert 'Usage: deepfakenb' in capsys.readouterr().out
    main(['reproduce', '--help']); assert '--shard 1/4' in capsys.readouterr().out

@pytest.mark.parametrize('arguments, code, words', [
    (['reproduce', '--preset', 'quick'], 2, ['--preset quick', 'smoke, bench, paper']),
    (['reproduce', '--paper', 'p9'], 2, ['p9', 'p1']),
    (['reproduce', '--table', 'p1_table99', '--dry-run'], 2, ['p1_table99', 'p1_table1']),
    (['reproduce', '--table', 'foo', '--dry-run'], 2, ['--table foo', 'p1_table1']),
    (['reproduce', '--shard', '5/2', '--dry-run'], 2, ['--shard 5/2', 'i/n']),
    (['reproduce', '--data-root', '/no/such/folder', '--dry-run'], 2, ['no such folder', '--data-root']),
    (['reproduce', '--preset', 'paper'], 2, ['real datasets', '--data-root']),
    (['reproduce', '--workers', '0'], 2, ['--workers']),
    (['reproduce', '--wrokers', '2'], 2, ['--wrokers', '--workers']),
    (['frobnicate'], 2, ['frobnicate']),
    (['runs', 'show', 'zzz'], 1, ['zzz', 'runs list'])])
def test_trouble_is_one_line_and_a_code(arguments, code, words, capsys, monkeypatch):
    monkeypatch.delenv('DEEPFAKENB_DATA_ROOT', raising=False); monkeypatch.setenv('DEEPFAKENB_DEVICE', 'cpu')
    monkeypatch.setattr(os, 'environ', os.environ.copy())
    assert main(arguments) == code
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1 and all(w in err for w in words), err

def smoke_runs() -> int:
    "How many runs all papers together train in smoke, each once."
    from deepfakenb.protocols.base import PAPERS
    return len({s.id for p in PAPERS for s in get(p).runs('smoke')})

def test_dry_run_writes_nothing(tmp_path, capsys):
    assert main(['reproduce', '--dry-run', '--out', str(tmp_path/'reports')]) == 0
    out = capsys.readouterr().out
    assert f'{(n := smoke_runs())} of {n} runs to train' in out and 'not in smoke' in out and not (tmp_path/'reports').exists()
    assert main(['reproduce', '--dry-run', '--out', str(tmp_path/'reports'), '--shard', '2/3']) == 0
    part = len(range(1, n, 3))
    assert f'{part} of {part} runs to train' in capsys.readouterr().out

def test_unwritable_folder_is_told(tmp_path, capsys, monkeypatch):
    (tmp_path/'file').write_text('')
    monkeypatch.setattr(rep, 'make_data', lambda specs, progress=None, tests=None: ({}, {})); monkeypatch.setenv('DEEPFAKENB_QUIET', '1')
    assert main(['reproduce', '--out', str(tmp_path/'file')]) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1 and 'cannot be written' in err

def test_reader_that_leaves_early():
    "A closed pipe ends the command silently."
    read, write = os.pipe(); os.close(read)
    p = subprocess.run([PYTHON, '-c', "import sys; from deepfakenb.cli.main import main; sys.exit(main(['--help']))"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert p.returncode in (0, 1) and p.stderr == ''

def test_a_failed_run_makes_exit_code_one(tmp_path, capsys, monkeypatch):
    from deepfakenb.runs import launch
    monkeypatch.setattr(rep, 'make_data', lambda specs, progress=None, tests=None: ({}, {}))
    monkeypatch.setattr(launch, 'launch', lambda tasks, out, roots, workers, tell: launch.Summary(trained=['a'], failed=dict(b='out of luck')))
    monkeypatch.setattr(rep, 'report', lambda order, protocols, progress: tmp_path/'smoke'/'index.html')
    assert main(['reproduce', '--out', str(tmp_path)]) == 1
    got = capsys.readouterr()
    assert '1 trained, 0 reused, 1 failed' in got.out and got.out.rstrip().endswith('index.html') and 'failed b: out of luck' in got.err
    monkeypatch.setattr(rep, 'report', lambda *a: pytest.fail('a shard builds no report'))
    main(['reproduce', '--out', str(tmp_path), '--shard', '1/2'])

STOPPED = textwrap.dedent('''
    import sys
    from pathlib import Path
    from deepfakenb.runs import launch
    from deepfakenb.cli import reproduce as rep
    from deepfakenb.cli.main import main
    launch.TRAIN_NOTEBOOK = Path(sys.argv[1])
    rep.make_data = lambda specs, progress=None, tests=None: ({}, {})
    sys.exit(main(['reproduce', '--out', sys.argv[2]]))
''')

def test_ctrl_c(tmp_path):
    "Interrupted during a training: one line that says how to go on, code 130, no process left."
    real = nbformat.read(HERE.parent/'nbs'/'experiments'/'train.ipynb', 4)
    cells = [c for c in real.cells if c.cell_type == 'code' and ('parameters' in c.metadata.get('tags', []) or c.source.startswith('from typing'))]
    code = "import os, time, pathlib; pathlib.Path(out).mkdir(exist_ok=True, parents=True); (pathlib.Path(out)/'pid').write_text(str(os.getpid())); time.sleep(100)"
    nbformat.write(nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(code)], metadata=real.metadata), tmp_path/'train.ipynb')
    p = subprocess.Popen([PYTHON, '-c', STOPPED, str(tmp_path/'train.ipynb'), str(tmp_path/'reports')], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pid, began = tmp_path/'reports'/'pid', time.monotonic()
    while not (pid.is_file() and pid.read_text()) and time.monotonic()-began < 120: time.sleep(.1)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    last = err.strip().split('\n')[-1]
    assert p.returncode == 130 and last.startswith(f"stopped; 0 runs were finished, {smoke_runs()} are left") and 'same command' in last and 'Traceback' not in err, err
    import psutil
    left = int(pid.read_text())
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE   # nobody may have asked for its exit code

@pytest.fixture(params=('mounted', 'pretended'))
def narrow(request, tmp_path, monkeypatch):
    "A folder in which a notebook of 180 kB has room, but no second copy of it: a small file system where one may be mounted, and one that only says so."
    place = tmp_path/'narrow'; place.mkdir()
    if request.param == 'pretended':
        def write(path, text, **kw):
            if path.name.endswith('.tmp.ipynb'): path.write_bytes(b'half'); raise OSError(28, 'No space left on device')
            return real(path, text, **kw)
        real = Path.write_text; monkeypatch.setattr(Path, 'write_text', write); yield place; return
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=300k', 'tmpfs', place], capture_output=True).returncode: pytest.skip('no small file system can be mounted here')
    yield place
    subprocess.run(['umount', place], check=True)

def test_a_full_disk_is_told_with_folder_and_amount(narrow, tmp_path):
    "The chapter itself has room, its tidied copy has not."
    cells = [nbformat.v4.new_code_cell('n: int = 1', metadata=dict(tags=['parameters'])), nbformat.v4.new_code_cell("print('x'*180_000)")]
    kernel = nbformat.read(HERE.parent/'nbs'/'papers'/'p2.ipynb', 4).metadata
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path/'chapter.ipynb')
    with pytest.raises(UserError) as e: rep.execute(rep.Order(out=narrow), str(tmp_path/'chapter.ipynb'), dict(n=2))
    said, folder = str(e.value), narrow/'smoke'/'notebooks'
    assert said.startswith('the disk is full') and f'chapter.ipynb could not be written in {folder} (' in said and 'MB are free there, a chapter with its figures needs about 100 MB' in said and '\n' not in said, said
    assert not list(folder.iterdir()), 'half a notebook helps nobody'
