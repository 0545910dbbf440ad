"A lease rehearsed on the CPU in an environment that has only what a lent machine has; killed, gone on with, and brought home."
import json, os, signal, subprocess, sys, time, zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
import pandas as pd, pytest, torch
from deepfakenb.core import UserError
from deepfakenb.runs import lease as leases, queue as queues
from deepfakenb.runs.packs import import_packs
from deepfakenb.runs.store import PLAIN, RECORD, Run, list_runs
from deepfakenb.training.run import train_run
from deepfakenb.training.speed import Machine
from seqdata import tiny

MISSING = 'pyarrow fastparquet papermill nbformat nbclient nbconvert nbdev execnb ghapi IPython ipykernel ipywidgets jupyter jupyter_core jupyter_client jupyterlab notebook dlib playwright'.split()
BLOCK = f'''
import sys
class Absent:
    "What is not on a lent machine cannot be imported."
    names = {MISSING!r}
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in self.names: raise ModuleNotFoundError(f'{{name}}: not on this machine', name=name)
sys.meta_path.insert(0, Absent())
'''
ROWS = 'multi-cls', 'detr', 'seqfakeformer'   # of Table 1

@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    "Environment of a subprocess: only what that machine has, a tiny dataset, nothing of ours but the code."
    place = tmp_path_factory.mktemp('bare')
    (place/'lean').mkdir(); (place/'lean'/'sitecustomize.py').write_text(BLOCK)
    tiny(place/'images', n=3, size=32)
    env = {k: v for k, v in os.environ.items() if not k.startswith('DEEPFAKENB')}
    return place, env | dict(PYTHONPATH=str(place/'lean'), OMP_NUM_THREADS='1', DEEPFAKENB_DATA_ROOT=str(place/'images'), DEEPFAKENB_DATA=str(place/'data'), DEEPFAKENB_REPORTS=str(place/'none'))

def begun(root, place, env, out, *arguments):
    command = [sys.executable, '-m', 'deepfakenb.cli.main', 'lease', '--device', 'cpu', '--preset', 'smoke', '--table', 'p1_table1', '--limit', '8', '--out', str(place/out), '--work', str(place/'work'), *arguments]
    return subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

def packed(folder: Path) -> set: # ids
    return {n.split('/')[2] for p in folder.glob('*.zip') for n in zipfile.ZipFile(p).namelist() if n.endswith('run.json')}

def test_the_bare_environment_is_bare(bare):
    r = subprocess.run([sys.executable, '-c', 'import pyarrow'], env=bare[1], capture_output=True, text=True)
    assert r.returncode and 'not on this machine' in r.stderr

def test_lease_killed_gone_on_with_and_brought_home(root, bare, monkeypatch):
    import psutil
    place, env = bare
    first = begun(root, place, env, 'one', '--minutes', '5', '--stages', 'runs')
    end = time.monotonic()+200
    while not packed(place/'one') and time.monotonic() < end and first.poll() is None: time.sleep(.1)
    crew = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGKILL); said = first.communicate()
    had_ended = packed(place/'one')
    assert 1 <= len(had_ended) < len(ROWS), said
    _, alive = psutil.wait_procs(crew, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE], 'workers outlive the lease'

    second = begun(root, place, env, 'two', '--minutes', '4')                     # the same machine, the same work, all stages
    out, err = second.communicate(timeout=280)
    assert second.returncode == 0, (out, err)
    assert 'tests: ' in out and 'side by side' in out and had_ended < packed(place/'two') and len(packed(place/'two')) == len(ROWS), out
    assert not list((place/'two').glob('*[!A-Za-z0-9._-]*')) and {p.suffix for p in (place/'two').iterdir()} == {'.zip'} and max(p.stat().st_size for p in (place/'two').iterdir()) <= 15e6

    home = place/'home'
    once = import_packs((place/'one').glob('*.zip'), home)
    twice = import_packs([*(place/'one').glob('*.zip'), *(place/'two').glob('*.zip')], home)
    assert {r.id for r in once.new} == had_ended and {r.id for r in twice.new} == packed(place/'two')-had_ended and set(twice.here) == had_ended and not once.refused and not twice.refused
    runs = list_runs(home)
    assert sorted(r.spec.model for r in runs) == sorted(ROWS) and not any(r.stale for r in runs) and {p.stem.rsplit('-', 1)[0] for p in twice.notes} >= {'performance', 'tests', 'lease'}
    for r in runs: assert Run(place/'work'/'trial'/'runs'/r.id).answers == PLAIN and not (r.path/PLAIN).exists()

    monkeypatch.setenv('DEEPFAKENB_DATA_ROOT', env['DEEPFAKENB_DATA_ROOT']); monkeypatch.setenv('DEEPFAKENB_DATA', env['DEEPFAKENB_DATA'])
    threads = torch.get_num_threads(); torch.set_num_threads(1)
    try: here = train_run(next(r.spec for r in runs if r.spec.model == 'multi-cls'), place/'here', device='cpu')
    finally: torch.set_num_threads(threads)
    there = next(r for r in runs if r.id == here.id)
    assert (there.path/RECORD[2]).read_bytes() == (here.path/RECORD[2]).read_bytes()
    pd.testing.assert_frame_equal(there.history.drop(columns='seconds'), here.history.drop(columns='seconds'), check_exact=True)
    same = lambda r: {k: v for k, v in r.record.items() if k not in ('provenance', 'seal', 'files')}
    assert same(there) == same(here) and there.fingerprint == here.fingerprint

def test_bad_packs_are_one_line(deepfakenb, bare, tmp_path):
    (tmp_path/'torn.zip').write_bytes(b'PK\x03\x04 and then nothing')
    code, out, err = deepfakenb('runs', 'import', tmp_path/'torn.zip', '--out', tmp_path)
    assert code == 1 and err.count('\n') == 1 and 'torn.zip' in err and 'damaged' in err and '0 runs are new' in out
    assert list_runs(tmp_path) == []

def test_a_run_that_was_changed_on_the_way_is_refused(bare):
    "The pack is whole, but the record in it was not sealed so: only this run is left out."
    import hashlib
    place, _ = bare
    source = next((place/'two').glob('*.zip'))
    with zipfile.ZipFile(source) as z: files = {n: z.read(n) for n in z.namelist()}
    head = json.loads(files.pop('pack.json'))
    name = next(n for n in files if n.endswith('run.json'))
    record = json.loads(files[name]); record['metrics']['test']['fixed']['fixed_acc'] = 99.; files[name] = json.dumps(record).encode()
    head['files'][name] = hashlib.sha256(files[name]).hexdigest()
    with zipfile.ZipFile(place/'forged.zip', 'w') as z:
        for n, b in (('pack.json', json.dumps(head).encode()), *files.items()): z.writestr(n, b)
    done = import_packs([place/'forged.zip'], place/'elsewhere')
    assert list(done.refused) == [record['id']] and 'changed' in done.refused[record['id']] and len(done.new) == len(ROWS)-1

def test_no_gpu_where_one_was_asked_for(deepfakenb, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    code, _, err = deepfakenb('lease', '--minutes', '1', '--device', 'cuda', '--table', 'p1_table1', '--out', tmp_path/'packs')
    assert code == 1 and err.count('\n') == 1 and 'no CUDA device' in err and not (tmp_path/'packs').exists()

# --- decisions, with workers that only say what they are told to

class Told:
    "A worker that does nothing."
    def __init__(self): self.job, self.ready, self.given = None, True, []
    idle = property(lambda self: self.ready and self.job is None)
    def give(self, job, about=None, **arguments): self.job = about; self.given.append(about)
    def kill(self): self.job = None
    def start(self): pass

@pytest.fixture
def decided(tmp_path):
    "A lease of two workers with data at hand."
    queue = [w for w in queues.wanted_runs('smoke', 'p1_table1', gpu_only=False)]
    made = leases.Lease(queue, tmp_path, 1000., 'cpu', queues.Known(), tmp_path, tell=lambda line: None, machine=Machine(latency=.001, rate=1e12, start=1.))
    made.known.operations_of = lambda *what: 1e6
    made.crew, made.packer = [Told(), Told()], SimpleNamespace(add=lambda run: Path('p'), note=lambda *a: Path('p'))
    for w in queue: made.outcome[w.spec.id] = 'waiting'; made.data[w.spec.task.key(w.spec.data)] = dict(root='.', counts=dict(train=480, val=80, test=160))
    return made, queue

def test_short_memory_is_tried_again_alone(decided):
    made, queue = decided
    one, two = made.crew
    assert leases._begin_next(made, one) and leases._begin_next(made, two) and (one.job, two.job) == (queue[0], queue[1])
    leases._heard(made, one, 'failed', dict(why='OutOfMemoryError: CUDA out of memory', memory=True))
    assert made.alone == [queue[0]] and not leases._begin_next(made, one), 'nothing beside it, and nothing new before it'
    leases._heard(made, two, 'failed', dict(why='ValueError: wrong', memory=False))
    assert made.outcome[queue[1].spec.id] == 'failed: ValueError: wrong' and leases._begin_next(made, one) and one.job is queue[0] and not leases._begin_next(made, two)
    leases._heard(made, one, 'died', dict(why='the process died', memory=True))
    assert made.outcome[queue[0].spec.id].startswith('failed') and not made.alone and leases._begin_next(made, one) and one.job is queue[2]

def test_none_is_begun_that_cannot_end(decided):
    made, queue = decided
    made.known.operations_of = lambda model, *rest: 1e13 if model == queue[0].spec.model else 1e6
    assert leases._begin_next(made, made.crew[0]) and made.crew[0].job is queue[1], 'a long one steps back for a shorter one'
    made.began -= 991.5
    assert not leases._begin_next(made, made.crew[1])

def test_data_that_cannot_be_had_end_their_runs_only(decided):
    made, queue = decided
    key = queue[0].spec.task.key(queue[0].spec.data)
    other = replace(queue[1], spec=replace(queue[1].spec, data=dict(queue[1].spec.data, track='attributes')))
    made.queue[1], made.data[key] = other, 'disk full'
    made.outcome[other.spec.id] = 'waiting'; made.data[other.spec.task.key(other.spec.data)] = dict(root='.', counts=dict(train=8, val=8, test=8))
    assert leases._begin_next(made, made.crew[0]) and made.crew[0].job is other and made.outcome[queue[0].spec.id] == 'no data: disk full'

def test_the_queue_is_the_same_with_and_without_a_gpu(monkeypatch):
    from deepfakenb.protocols import base
    names = []
    for gpu in (False, True):
        monkeypatch.setattr(base, 'has_gpu', lambda: gpu)
        names.append([w.spec.id for w in queues.wanted_runs(table='p1_table4')])
    assert names[0] == names[1] and len(names[0]) == 24

# --- the trip

@pytest.mark.parametrize('how', ['enter', 'stopped', 'killed'])
def test_the_tree_comes_back(root, tmp_path, how):
    "Thinned for the trip and whole after it: also when interrupted, and after a kill by one command. What was changed and not committed stays."
    repo = tmp_path/'repo'
    for name in ('nbs/a.ipynb', 'nbs/b.ipynb', 'nbs/course/c.ipynb', 'nbs/experiments/d.ipynb', 'reports/bench/r.json', 'deepfakenb/core.py', 'README.md'):
        (repo/name).parent.mkdir(parents=True, exist_ok=True)
        (repo/name).write_text('{"source": ["#| cuda"]}' if name.endswith('b.ipynb') else 'x')
    def git(*a): return subprocess.run(['git', '-c', 'user.name=t', '-c', 'user.email=t@t', *a], cwd=repo, check=True, capture_output=True, text=True).stdout
    git('init', '-q'); git('add', '.'); git('commit', '-qm', 'all')
    (repo/'deepfakenb'/'core.py').write_text('changed'); (repo/'new.txt').write_text('new')
    files = lambda: {str(f.relative_to(repo)) for f in repo.rglob('*') if f.is_file() and '.git' not in f.parts}
    before, script = files(), [sys.executable, str(root/'tests'/'device'/'prepare.py')]
    p = subprocess.Popen([*script, 'thin', '--root', str(repo)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert 'MiB travel' in p.stdout.readline() and 'thin for' in p.stdout.readline()
    assert before-files() == {'nbs/a.ipynb', 'nbs/course/c.ipynb', 'reports/bench/r.json'}
    if how == 'enter': p.communicate('\n')
    else: p.send_signal(signal.SIGTERM if how == 'stopped' else signal.SIGKILL); p.communicate()
    if how == 'killed': assert files() != before; subprocess.run([*script, 'restore', '--root', str(repo)], check=True)
    assert files() == before and (repo/'deepfakenb'/'core.py').read_text() == 'changed'
    assert git('status', '--porcelain').split('\n')[:2] == [' M deepfakenb/core.py', '?? new.txt']

def test_what_is_carried_is_pinned_and_small(root):
    sys.path.insert(0, str(root/'tests'/'device'))
    import prepare
    versions = prepare.pinned(root)
    assert all(w in versions for w in prepare.WHEELS) and 'pyarrow' not in prepare.WHEELS
