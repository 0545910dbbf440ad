"""The protocols as a workflow: derived; worked off here; and on a real Slurm that the test starts, with everything that goes wrong there.

The jobs of the tests of scheduling are a shell script of a second each. `DEEPFAKENB_CLUSTER=1` adds one true training of two runs, held against `reproduce`.
"""
import json, os, re, shutil, signal, socket, subprocess, sys, textwrap, time
from dataclasses import replace
from pathlib import Path
import pytest
from deepfakenb.core import UserError
from deepfakenb.protocols.base import get
from deepfakenb.runs import cluster as clusters, store
from deepfakenb.runs.cluster import How, Resources, derive, read_workflow, snakefile, work
from deepfakenb.runs.queue import Known

def counted() -> Known:
    "Operations of a network are not what is tested here."
    k = Known(); k.operations_of = lambda *what: 1e9
    return k

@pytest.fixture(scope='module')
def five():
    "Five runs of a table in smoke, and their chapter."
    w = derive(['p2'], 'smoke', 'p2_table8', known=counted())
    return first_of(w, 5)

def first_of(w, n):
    "The same with fewer runs."
    ids = [*w.runs][:n]
    return replace(w, runs={i: w.runs[i] for i in ids}, chapters={'p2': tuple(ids)})

# ---- the workflow, without Snakemake

@pytest.mark.parametrize('paper', ['p1', 'p2', 'p5'])
def test_jobs_are_the_runs_and_the_chapters(paper):
    w = derive([paper], 'smoke', known=counted())
    assert [*w.runs] == [s.id for s in get(paper).runs('smoke')], 'not what reproduce would train'
    assert {i: j.tests for i, j in w.runs.items() if j.tests} == get(paper).tests('smoke')
    assert len(w.graph) == len(w.runs)+1 and len({*w.graph}) == len(w.graph)
    assert all(before == () for path, before in w.graph.items() if path.startswith('done/')) and {*w.graph[f'chapters/{paper}.json']} == {j.path for j in w.runs.values()}

def test_papers_share_runs_and_each_chapter_waits_for_its_own():
    a, b, both = (derive(p, 'smoke', known=counted()) for p in (['p2'], ['p4'], ['p2', 'p4']))
    assert both.runs.keys() == a.runs.keys() | b.runs.keys() and len(both.runs) < len(a.runs)+len(b.runs)
    assert {*both.chapters['p4']} == b.runs.keys() and {*both.chapters['p2']} == a.runs.keys()

def test_a_row_with_no_run_makes_no_job_but_a_chapter(five):
    w = derive(['p2'], 'smoke', 'p2_table2', known=counted())          # all of it is 'not in smoke'
    assert not w.runs and w.graph == {'chapters/p2.json': ()}
    reasons = [c for c in get('p2').table('p2_table8').cells('smoke') if c.reason]
    assert reasons and not {s.id for c in reasons for s in c.specs} & five.runs.keys()

def test_a_gpu_is_asked_for_where_the_scale_needs_one():
    scales = {s.id: c.reason for t in get('p1').tables.values() for c in t.cells('bench') for s in c.specs}
    w, none = (derive(['p1'], 'bench', gpus=g, known=counted()) for g in (True, False))
    gpu = {i for i, j in w.runs.items() if j.resources.gpu}
    assert gpu and gpu == w.runs.keys()-none.runs.keys() and {i for i, r in scales.items() if r == 'needs a GPU'} <= gpu
    assert all(j.resources.minutes >= max(10, 3*j.seconds/60) and j.resources.memory > 4000 for j in w.runs.values())

def test_snakefile_is_python_that_names_every_job_and_survives_odd_paths(five, tmp_path):
    odd = ('/a folder/with "quotes" and {braces}/python', '-m', "o'clock")
    text = snakefile(five, cpus=3, command=odd, retries=1)
    head = text[:text.index('wildcard_constraints')]
    names = {}; exec(head, names)
    assert names['RUNS'].keys() == five.runs.keys() and names['CPUS'] == 3 and names['CHAPTERS'] == {'p2': [*five.runs]}
    import shlex
    assert tuple(shlex.split(names['COMMAND'])) == odd
    clusters.write_workflow(five, tmp_path/'x')
    assert read_workflow(tmp_path/'x') == five and not [p for p in (tmp_path/'x').iterdir() if '.tmp' in p.name]

def refused(f) -> str:
    with pytest.raises(UserError) as e: f()
    assert '\n' not in str(e.value)
    return str(e.value)

def test_bad_input_is_one_line(deepfakenb, monkeypatch, tmp_path):
    monkeypatch.setenv('DEEPFAKENB_SNAKEMAKE', str(tmp_path/'none'))
    for arguments, *words in ((('--table', 'p2_table8'), "pip install 'deepfakenb[cluster]'"), (('--preset', 'smoek'), 'smoke, bench, paper'), (('--jobs', '0'), '--jobs'), (('--papers', 'p9'), 'p1, p2'),
                              (('--table', 'p2_table99'), 'p2_table8'), (('--preset', 'paper'), '--data-root'), (('run', tmp_path, 'abc'), 'workflow.json')):
        where = () if arguments[0] == 'run' else ('--out', tmp_path/'reports')
        code, said, error = deepfakenb('cluster', *arguments, *where)
        assert code == 2 and error.count('\n') == 1 and all(x in error for x in words), (arguments, code, said, error)
    assert not (tmp_path/'reports').exists()
    assert "pip install 'deepfakenb[cluster]'" in deepfakenb('cluster', '--help')[1], 'brackets are markup to rich'

def test_slurm_that_is_not_here_is_said(monkeypatch):
    monkeypatch.setenv('PATH', '')
    assert 'sbatch' in refused(lambda: clusters.options_of(How(slurm=True)))

def test_an_old_snakemake_is_refused(tmp_path, monkeypatch):
    program = tmp_path/'snakemake'; program.write_text('#!/bin/sh\necho 7.32.4\n'); program.chmod(0o755)
    monkeypatch.setenv('DEEPFAKENB_SNAKEMAKE', str(program))
    assert '7.32.4' in refused(clusters.snakemake_program)

def test_a_run_that_failed_by_itself_is_not_tried_twice_but_one_that_was_ended_is(five, tmp_path, deepfakenb, monkeypatch):
    from deepfakenb.cli import cluster as cli, reproduce
    from deepfakenb.runs import launch
    folder = tmp_path/'smoke'/'cluster'; clusters.write_workflow(five, folder)
    job = next(iter(five.runs.values())); error = store.unfinished_dir(job.spec, tmp_path)/'error.txt'; error.parent.mkdir(parents=True)
    begun = []
    monkeypatch.setattr(reproduce, 'make_data', lambda *a: begun.append(1) or ({}, {}))
    monkeypatch.setattr(launch, 'launch', lambda tasks, out, roots: launch.Summary(failed={job.spec.id: 'no such weights'}))
    error.write_text('no such weights\n')
    code, _, said = deepfakenb('cluster', 'run', folder, job.spec.id, '--attempt', '2'); assert code == 1 and 'no such weights' in said and not begun
    error.write_text(cli.ENDED+'\n')
    code, _, said = deepfakenb('cluster', 'run', folder, job.spec.id, '--attempt', '2'); assert code == 1 and begun and not (folder/job.path).exists()
    # Slurm's SIGTERM in the middle of the training
    monkeypatch.setattr(launch, 'launch', lambda *a: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(5))
    code, _, said = deepfakenb('cluster', 'run', folder, job.spec.id); assert code == 1 and said == f'error: {cli.ENDED}\n' and store.failure(job.spec, tmp_path).startswith(cli.ENDED)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

# ---- Snakemake on this machine, with jobs of a second

try: PROGRAM = clusters.snakemake_program()
except UserError as e: PROGRAM, WHY = '', str(e)
needs_snakemake = pytest.mark.skipif(not PROGRAM, reason='' if PROGRAM else WHY)

JOB = '''\
#!/bin/sh
# run FOLDER ID --attempt N, or chapter FOLDER PAPER; behave/ID holds what shall go wrong
set -e
if [ "$1" = run ]; then
    echo "$3" >> "$2/calls.txt"
    if [ -e "$2/behave/$3" ]; then . "$2/behave/$3"; fi
    sleep ${SECONDS_OF_A_JOB:-1}
    echo "numbers of $3" > "$2/.$3.$$"; mv "$2/.$3.$$" "$2/results/$3"; echo "{}" > "$2/done/$3.json"
else
    ls "$2/done" > "$2/results/$3"; echo "{}" > "$2/chapters/$3.json"
fi
'''
CONTROLLER = '''\
import json, sys; from pathlib import Path
from deepfakenb.runs.cluster import *
w, out, how = read_workflow(Path(sys.argv[1])), Path(sys.argv[2]), How(**json.loads(sys.argv[3]))
folder = folder_of(w.preset, out)
o = work(w, how, out, holds={i for i in w.runs if (folder/'results'/i).is_file()}, command=(sys.argv[4],), retries=int(sys.argv[5]), tell=lambda share, text: print(text, flush=True))
(out/'outcome.json').write_text(json.dumps(o.__dict__))
'''

begun = []
@pytest.fixture(autouse=True)
def nothing_stays():
    "What a test began ends with it, also where it failed."
    yield
    import psutil
    while begun:
        p = begun.pop()
        if p.poll() is None:
            for c in [*children(p), p]:
                try: c.kill()
                except psutil.NoSuchProcess: pass
            p.communicate()

class Place:
    "A folder, a workflow and jobs of a second."
    def __init__(self, tmp: Path, w, **how):
        self.out, self.folder, self.w, self.how, self.env = tmp, clusters.folder_of(w.preset, tmp), w, how, dict(os.environ)
        for name in ('behave', 'results'): (self.folder/name).mkdir(parents=True)
        clusters.write_workflow(w, tmp/'wanted')
        (tmp/'job.sh').write_text(JOB); (tmp/'job.sh').chmod(0o755); (tmp/'controller.py').write_text(CONTROLLER)
    def begin(self, retries=0):
        "A controller in a process of its own."
        (self.out/'outcome.json').unlink(missing_ok=True)
        command = [sys.executable, str(self.out/'controller.py'), str(self.out/'wanted'), str(self.out), json.dumps(self.how), str(self.out/'job.sh'), str(retries)]
        begun.append(p := subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return p
    def ended(self, p, seconds=400):
        said, _ = p.communicate(timeout=seconds)
        assert p.returncode == 0, said
        return json.loads((self.out/'outcome.json').read_text()), said
    def behave(self, run, text): (self.folder/'behave'/run).write_text(text)
    @property
    def results(self): return {p.name: p.read_bytes() for p in (self.folder/'results').iterdir()}
    def calls(self, run): return (self.folder/'calls.txt').read_text().split().count(run) if (self.folder/'calls.txt').is_file() else 0

def until(true, seconds=240, what=''):
    end = time.monotonic()+seconds
    while not true():
        assert time.monotonic() < end, f'in vain: {what}'
        time.sleep(.1)

def children(p): 
    import psutil
    return psutil.Process(p.pid).children(recursive=True)

@pytest.fixture(scope='module')
def here(five, tmp_path_factory):
    "What a local run of the same workflow gives: the oracle of all that follows."
    place = Place(tmp_path_factory.mktemp('here'), five, jobs=3)
    outcome, _ = place.ended(place.begin())
    return place, outcome

@needs_snakemake
def test_here_everything_is_made_once(five, here):
    place, outcome = here
    assert {*outcome['done']} == five.runs.keys() and outcome['chapters'] == ['p2'] and not outcome['failed'] and not outcome['unwritten']
    assert place.results.keys() == {*five.runs, 'p2'} and all(place.calls(i) == 1 for i in five.runs)
    assert place.results['p2'].decode().split() == sorted(f'{i}.json' for i in five.runs), 'the chapter did not wait for its runs'
    assert not (place.folder/'controller.json').exists() and not [*(place.folder/'.snakemake'/'locks').glob('*')]
    assert subprocess.run(['git', 'check-ignore', '-q', 'x'], cwd=place.folder).returncode in (0, 128)

@needs_snakemake
def test_here_a_failing_job_is_a_hole_with_its_reason_and_the_same_command_mends_it(five, here, tmp_path):
    bad, good, *_ = five.runs
    place = Place(tmp_path, five, jobs=3)
    place.behave(bad, 'echo error: no such weights; exit 1\n')
    outcome, _ = place.ended(place.begin())
    assert outcome['failed'] == {bad: 'no such weights'} and {*outcome['done']} == five.runs.keys()-{bad} and outcome['chapters'] == ['p2']
    assert store.failure(five.runs[bad].spec, tmp_path) == 'no such weights', 'a chapter would not know why'
    assert bad not in place.results['p2'].decode()
    (place.folder/'behave'/bad).unlink()
    outcome, _ = place.ended(place.begin())
    assert not outcome['failed'] and outcome['was_there'] == 4 and place.results == here[0].results
    assert place.calls(good) == 1 and place.calls(bad) == 2
    assert store.failure(five.runs[bad].spec, tmp_path) is None

@needs_snakemake
def test_here_a_killed_controller_takes_snakemake_with_it_and_the_same_command_goes_on(five, here, tmp_path):
    import psutil
    first, *others = five.runs
    place = Place(tmp_path, five, jobs=5)
    for i in others: place.behave(i, 'sleep 100\n')
    p = place.begin()
    until(lambda: (place.folder/'results'/first).is_file() and all(place.calls(i) for i in others), what='the first run, and the others begun')
    family = children(p)
    second = place.begin(); said, _ = second.communicate(timeout=240)
    assert second.returncode and 'another deepfakenb cluster works here' in said, said
    p.send_signal(signal.SIGKILL); p.communicate()
    gone, alive = psutil.wait_procs(family, timeout=90)
    assert not [c for c in alive if c.is_running() and c.status() != psutil.STATUS_ZOMBIE], 'Snakemake and its jobs outlive their controller'
    for f in (place.folder/'behave').iterdir(): f.unlink()
    outcome, said = place.ended(place.begin())
    assert 'was killed' in said and not outcome['failed'] and outcome['was_there'] == 1
    assert place.results == here[0].results and place.calls(first) == 1

@needs_snakemake
def test_a_snakemake_started_by_hand_is_left_alone(five, tmp_path):
    place = Place(tmp_path, five)
    locks = place.folder/'.snakemake'/'locks'; locks.mkdir(parents=True); (locks/'0.output.lock').write_text('')
    assert 'by hand' in refused(lambda: work(five, How(), tmp_path, holds=set()))
    assert (locks/'0.output.lock').is_file()

@needs_snakemake
def test_the_snakefile_runs_by_hand(five, here, tmp_path):
    place = Place(tmp_path, five)
    clusters.write_workflow(five, place.folder, command=(str(tmp_path/'job.sh'),))
    r = subprocess.run([PROGRAM, '--cores', '3', '--keep-going'], cwd=place.folder, capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stderr
    assert place.results == here[0].results

# ---- a real Slurm, of two nodes on this machine

SLURM = ('slurmctld', 'slurmd', 'munged', 'sbatch', 'srun', 'scontrol', 'squeue')
missing = [p for p in SLURM if shutil.which(p) is None and not Path('/usr/sbin', p).is_file()]
needs_slurm = pytest.mark.skipif(bool(missing) or os.geteuid() != 0 or not PROGRAM, reason=f"{', '.join(missing)} not installed: apt-get install slurmctld slurmd slurm-client munge" if missing else 'starts Slurm as root, with Snakemake installed')

CONF = '''\
ClusterName=rehearsal
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={base}/munge.socket
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool-%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd-%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=2
GresTypes=gpu
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2 RealMemory=20000 Gres=gpu:1
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
'''

class Slurm:
    "munged, slurmctld and two slurmd, as processes of this test."
    def __init__(self, base: Path):
        self.base, self.processes = base, []
        ports = self.free(3)
        (base/'state').mkdir(); (base/'bin').mkdir()
        (base/'slurm.conf').write_text(CONF.format(host=socket.gethostname(), base=base, port=ports[0], first=ports[1], last=ports[2]))
        (base/'gres.conf').write_text('Name=gpu File=/dev/null\n')
        (base/'munge.key').write_bytes(os.urandom(1024)); (base/'munge.key').chmod(0o600)
        # Snakemake's job step drops SLURM_CONF before it calls srun, which then looks for /etc/slurm
        (base/'bin'/'srun').write_text(f'#!/bin/sh\nSLURM_CONF={base}/slurm.conf exec {shutil.which("srun")} "$@"\n'); (base/'bin'/'srun').chmod(0o755)
        (base/'profile').mkdir(); (base/'profile'/'config.yaml').write_text('slurm-init-seconds-before-status-checks: 1\nslurm-no-requeue: true\nlatency-wait: 5\n')
        self.env = dict(os.environ, SLURM_CONF=str(base/'slurm.conf'), PATH=f"{base}/bin:{os.environ['PATH']}:/usr/sbin")
    @staticmethod
    def free(n):
        "Ports that follow each other and that nobody uses."
        for at in range(17000, 60000, 50):
            try:
                for k in range(n):
                    with socket.socket() as s: s.bind(('127.0.0.1', at+k))
                return range(at, at+n)
            except OSError: continue
    def start(self):
        b = self.base
        self.process('munged', '--force', '--foreground', f'--socket={b}/munge.socket', f'--key-file={b}/munge.key', f'--pid-file={b}/munge.pid', f'--log-file={b}/munge.log', f'--seed-file={b}/munge.seed')
        until((b/'munge.socket').exists, what='munged')
        self.process('slurmctld', '-D', '-c')
        for n in ('n1', 'n2'): self.process('slurmd', '-D', '-N', n)
        until(lambda: self.ask('sinfo', '-h', '-o', '%D %t').split() == ['2', 'idle'], 60, 'two idle nodes: '+str([(p.name, p.read_text()[-300:]) for p in b.glob('*.log')]))
        return self
    def process(self, name, *arguments):
        program = shutil.which(name, path=self.env['PATH'])
        self.processes.append(subprocess.Popen([program, *arguments], env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.base))
    def ask(self, *command): return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=30).stdout.strip()
    def jobs(self): return [l.split('|') for l in self.ask('squeue', '-h', '-o', '%i|%T|%N|%k').splitlines()]
    def job_of(self, run): return next((j for j in self.jobs() if j[3].endswith(run) and j[1] == 'RUNNING'), None)
    def stop(self):
        self.ask('scancel', '--state=RUNNING', '-f', '-u', 'root'); self.ask('scancel', '-u', 'root')
        time.sleep(1)
        for p in reversed(self.processes):
            p.terminate()
            try: p.wait(10)
            except subprocess.TimeoutExpired: p.kill(); p.wait()

@pytest.fixture(scope='module')
def slurm():
    import tempfile
    base = Path(tempfile.mkdtemp(prefix='slurm-'))          # short: a socket's path has at most 108 characters
    s = Slurm(base)
    try: yield s.start()
    finally: s.stop(); shutil.rmtree(base, ignore_errors=True)

def on(slurm, tmp, w, jobs=4):
    place = Place(tmp, w, jobs=jobs, slurm=True, profile=str(slurm.base/'profile')); place.env = dict(slurm.env)
    return place

@needs_slurm
@pytest.mark.timeout(600)
def test_slurm_a_whole_workflow(five, here, slurm, tmp_path):
    five = first_of(five, 4)
    gpu = next(iter(five.runs))
    w = replace(five, runs={i: replace(j, resources=Resources(int(i == gpu), 1000, 5)) for i, j in five.runs.items()})
    place = on(slurm, tmp_path, w)
    for i in w.runs: place.behave(i, f'scontrol show job $SLURM_JOB_ID > {tmp_path}/asked.{i}\n')
    outcome, said = place.ended(place.begin())
    assert not outcome['failed'] and outcome['chapters'] == ['p2'], said
    assert {*w.runs, 'p2'} == place.results.keys() and all(here[0].results[i] == text for i, text in place.results.items() if i != 'p2') and all(place.calls(i) == 1 for i in w.runs)
    for i in w.runs:
        asked = (tmp_path/f'asked.{i}').read_text()
        assert 'TimeLimit=00:05:00' in asked and ('gres:gpu:1' in asked) == (i == gpu) and ('mem=1000M' in asked or 'MinMemoryNode=1000M' in asked), asked

@needs_slurm
@pytest.mark.timeout(900)
def test_slurm_faults_are_holes_and_the_same_command_mends_them(five, here, slurm, tmp_path):
    five = first_of(five, 4)
    fails, late, lost, *fine = five.runs
    place = on(slurm, tmp_path, five)
    place.behave(fails, 'echo error: no such weights; exit 1\n')
    place.behave(late, 'sleep 300\n'); place.behave(lost, 'sleep 300\n')
    p = place.begin()
    until(lambda: slurm.job_of(late) and slurm.job_of(lost) and place.calls(late) and place.calls(lost), what='two jobs that run')
    old = {j[0] for j in slurm.jobs()}
    for c in [p, *children(p)]: c.kill()                                 # the machine of the controller goes down in the middle; Slurm's jobs go on
    p.communicate()
    assert slurm.job_of(late)[0] in old and slurm.job_of(lost)[0] in old
    p = place.begin()
    until(lambda: (place.folder/'controller.json').is_file() and json.loads((place.folder/'controller.json').read_text())['pid'] == p.pid, what='the second controller')
    slurm.ask('scancel', slurm.job_of(late)[0], slurm.job_of(lost)[0])   # four places: the old jobs would hold two of them for five minutes
    until(lambda: (j := slurm.job_of(late)) and j[0] not in old and (k := slurm.job_of(lost)) and k[0] not in old, what='both jobs again')
    node = slurm.job_of(lost)[2]
    slurm.ask('scontrol', 'update', f'jobid={slurm.job_of(late)[0]}', 'TimeLimit=00:00:01')
    slurm.ask('scontrol', 'update', f'nodename={node}', 'state=down', 'reason=rehearsal')
    try: outcome, said = place.ended(p)
    finally: slurm.ask('scontrol', 'update', f'nodename={node}', 'state=resume')
    assert outcome['failed'].keys() == {fails, late, lost}, outcome
    assert outcome['failed'][fails] == 'no such weights' and 'TIMEOUT' in outcome['failed'][late] and 'NODE_FAIL' in outcome['failed'][lost]
    assert all(store.failure(five.runs[i].spec, tmp_path) == why for i, why in outcome['failed'].items())
    assert {*outcome['done']} == {*fine} and outcome['chapters'] == ['p2'] and place.results['p2'].decode().split() == sorted(f'{i}.json' for i in fine)
    made = {i: place.calls(i) for i in fine}
    shutil.rmtree(place.folder/'behave'); (place.folder/'behave').mkdir()
    outcome, said = place.ended(place.begin())
    assert not outcome['failed'] and {*five.runs, 'p2'} == place.results.keys() and all(here[0].results[i] == text for i, text in place.results.items() if i != 'p2'), 'not the bytes of a local run'
    assert {i: place.calls(i) for i in fine} == made, 'what was finished was made again'

# ---- the true thing

@needs_snakemake
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not os.environ.get('DEEPFAKENB_CLUSTER'), reason='trains two runs twice and writes a chapter twice; set DEEPFAKENB_CLUSTER=1')
def test_true_runs_give_the_tables_of_reproduce(root, tmp_path):
    "Two rows of a table, by the workflow and by reproduce: the same tables, byte for byte."
    env = dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', DEEPFAKENB_DEVICE='cpu')
    call = lambda *a: subprocess.run([sys.executable, '-m', 'deepfakenb.cli.main', *map(str, a)], cwd=root, env=env, capture_output=True, text=True, timeout=1500)
    table = 'p1_table1'
    a = call('cluster', '--table', table, '--jobs', 1, '--cpus', 1, '--out', tmp_path/'a'); assert a.returncode == 0, a.stderr
    b = call('reproduce', '--table', table, '--out', tmp_path/'b'); assert b.returncode == 0, b.stderr
    def timeless(p): return re.sub(rb'"time": "[^"]*"', b'', p.read_bytes())                    # recovery.json says when it was measured
    def tables(out): return {str(p.relative_to(out)): timeless(p) for p in sorted((out/'smoke').glob('p*/**/*')) if p.suffix in ('.csv', '.md', '.json', '.html', '.tex')}
    assert tables(tmp_path/'a').keys() == tables(tmp_path/'b').keys() != set()
    differing = [n for n, text in tables(tmp_path/'a').items() if tables(tmp_path/'b')[n] != text]
    assert not differing, differing
    again = call('cluster', '--table', table, '--jobs', 1, '--cpus', 1, '--out', tmp_path/'a'); assert again.returncode == 0 and '0 runs made' in again.stdout, again.stdout
