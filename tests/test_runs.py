"Runs as folders: complete or absent, written by one process, checked when read, kept small; failures and interruptions of a series."
import json, os, re, signal, subprocess, sys, textwrap, time
from pathlib import Path
import nbformat, numpy as np, pandas as pd, pytest, torch
from deepfakenb.runs import launch
from deepfakenb.runs import store as runs
from deepfakenb.runs import spec as specs
from deepfakenb.core import UserError
from deepfakenb.runs.store import RunSpec
from deepfakenb.tasks import sequence

def spec(seed=0, **more):
    return RunSpec(**{**dict(paper='p1', model='multi-cls', model_args=dict(backbone='resnet10-narrow'), data=dict(track='components', preset='smoke', size=64),
                             train=dict(epochs=1), seed=seed, preset='smoke'), **more})

def predictions(val=40, test=60, seed=0):
    rng, frames = np.random.default_rng(seed), []
    for split, n in (('val', val), ('test', test)):
        labels = torch.tensor([[1, 2, 0, 0, 0] if i % 2 else [3, 0, 0, 0, 0] for i in range(n)])
        said = lambda: dict(labels=labels, sequences=torch.tensor(rng.integers(0, 6, (n, 5))), probabilities=torch.tensor(rng.random((n, 5))))
        items = pd.DataFrame(dict(path=[f'facial_components/images/{split}/{"nose-eye" if i % 2 else "eyebrow"}/{i:06}.jpg' for i in range(n)],
                                  label=labels.tolist(), sequence=['nose-eye' if i % 2 else 'eyebrow' for i in range(n)], split=split))
        frames.append(sequence.prediction_frame(items, said(), said()))
    return pd.concat(frames, ignore_index=True)

def write(s, out, fingerprint='data', frame=None):
    "A run's record without the training."
    job = runs.begin(s, out, fingerprint=fingerprint)
    frame = predictions() if frame is None else frame
    pd.DataFrame(dict(epoch=[0], train_loss=[1.])).to_csv(job.folder/'history.csv', index=False)
    for name in sequence.CHECKPOINTS.values(): (job.folder/name).write_bytes(b'weights')
    (job.folder/'checkpoint-00000').mkdir()
    return job.finish(dict(test=sequence.sequence_scores(frame, 'test'), val=sequence.sequence_scores(frame, 'val')), frame, data_kind='synthetic', duration_s=1.5)

def test_record_round_trip(tmp_path):
    frame = predictions()
    run = write(spec(), tmp_path, frame=frame)
    for found in (runs.find(spec(), tmp_path), runs.load_run(run.id[:5], tmp_path), runs.load_run(run.path), runs.list_runs(tmp_path)[0]):
        assert found.id == spec().id and found.spec == spec() and found.provenance['data_kind'] == 'synthetic'
    got = run.predictions
    for c in ('label', 'prediction_fixed', 'prediction_adaptive'): assert [list(x) for x in got[c]] == frame[c].tolist()
    assert np.abs(np.stack(got['probabilities_fixed'])-np.stack(frame['probabilities_fixed'])).max() <= .5/sequence.STEPS+1e-6
    right, slots = (x[0] for x in sequence.counts([run], 'adaptive'))
    assert run.metrics['test']['adaptive']['adaptive_acc'] == pytest.approx(100*right.sum()/slots.sum()) and len(slots) == 60
    assert sorted(p.name for p in run.path.iterdir()) == sorted([*runs.RECORD, *sequence.CHECKPOINTS.values()])
    json.loads((run.path/'run.json').read_text(), parse_constant=lambda c: pytest.fail(f'{c} is not JSON'))

def test_record_is_small(tmp_path):
    "A bench run: 26 sequences × 40 images in each of validation and test."
    run = write(spec(), tmp_path, frame=predictions(1040, 1040))
    size = sum(f.stat().st_size for f in run.path.iterdir() if f.suffix != '.safetensors')
    assert size < 60e3, f'{size/1e3:.0f} kB'

def test_finished_run_is_not_written_again(tmp_path):
    first = write(spec(), tmp_path)
    again = runs.begin(spec(), tmp_path, fingerprint='data')
    assert isinstance(again, runs.Run) and again.path == first.path and not runs.is_busy(spec(), tmp_path)

def test_other_data_or_versions_make_a_run_stale(tmp_path, monkeypatch):
    write(spec(), tmp_path)
    assert runs.find(spec(), tmp_path, fingerprint='data') and runs.find(spec(), tmp_path, fingerprint='others') is None
    now = runs.versions_of(spec())
    monkeypatch.setattr(runs, 'versions_of', lambda s: {**now, 'model': 2})
    assert runs.find(spec(), tmp_path) is None and runs.find(spec(), tmp_path, stale=True).stale == ['model has changed']
    task = launch.plan([spec()], tmp_path, {})[0]
    assert task.state == 'train' and 'model has changed' in task.note and task.seconds == 1.5
    assert launch.plan([spec()], tmp_path, {}, keep_stale=True)[0].state == 'reuse'
    job = runs.begin(spec(), tmp_path, fingerprint='data')
    assert isinstance(job, runs.Job), 'a stale run is trained anew'
    job.release()

def test_committed_bench_runs_hold(root):
    "All finished runs that are committed are sound and current: moving or tidying code makes none stale."
    found = runs.list_runs(root/'reports', 'bench', damaged=True)
    assert len(found) >= 37
    assert {r.id: r.problem or r.stale for r in found if r.problem or r.stale} == {}
    size = sum(f.stat().st_size for r in found for f in r.path.rglob('*') if f.suffix in ('.json', '.csv', '.parquet'))
    assert size/len(found) < 50e3, f'{size/len(found)/1e3:.0f} kB a run'

def test_committed_answers_to_further_tests_hold(root):
    "Each stands under the name of the test that it answered, with the weights and version of its run; only what a file says about itself is read."
    began, n = time.monotonic(), 0
    for run in runs.list_runs(root/'reports', 'bench', damaged=True):
        for path in sorted((run.path/'tests').glob('*')):
            facts, n = runs.schema_facts(path), n+1
            test = specs.TestSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in facts['test'].items()})
            assert (path.name, facts['weights'], facts['version']) == (f'{test.id}.parquet', run.weights_hash(), run.spec.task.version), f'{run.id}: {path.name}, {test.title}'
            assert runs.test_facts(run, test) == facts and runs.lacking(run, test) == '' and re.fullmatch('[0-9a-f]{16}', facts['fingerprint'])
    assert n >= 330 and time.monotonic()-began < 10

@pytest.mark.parametrize('name', runs.RECORD)
def test_damage_is_named_with_the_remedy(tmp_path, name):
    run = write(spec(), tmp_path)
    (run.path/name).write_bytes((run.path/name).read_bytes()[:-3])
    for read in (lambda: runs.find(spec(), tmp_path), lambda: runs.load_run(run.id, tmp_path)):
        with pytest.raises(UserError, match=name) as e: read()
        assert 'delete' in str(e.value) and '\n' not in str(e.value)
    assert runs.list_runs(tmp_path) == [] and len(runs.list_runs(tmp_path, damaged=True)) == 1
    assert launch.plan([spec()], tmp_path, {})[0].note == 'damaged'
    fixed = write(spec(), tmp_path)                       # the same command again mends it
    assert fixed.problem is None

def test_unfinished_is_never_read(tmp_path):
    job = runs.begin(spec(), tmp_path, fingerprint='data')
    assert runs.find(spec(), tmp_path) is None and runs.list_runs(tmp_path, damaged=True) == []
    (runs.run_dir(spec(), tmp_path)).mkdir()              # somebody copied half a folder
    with pytest.raises(UserError, match='run.json'): runs.find(spec(), tmp_path)
    job.release()

def test_weights_may_be_absent(tmp_path):
    run = write(spec(), tmp_path)
    for name in sequence.CHECKPOINTS.values(): (run.path/name).unlink()
    assert runs.Run(run.path).problem is None
    with pytest.raises(UserError, match='weights are not on this machine'): run.model('fixed')
    with pytest.raises(UserError, match='fixed, adaptive'): run.model('best')

def test_names_of_runs(tmp_path):
    write(spec(), tmp_path)
    with pytest.raises(UserError, match='no finished run'): runs.load_run('zzz', tmp_path)
    write(spec(1), tmp_path)
    with pytest.raises(UserError, match='2 runs begin like this'): runs.load_run('', tmp_path)

HOLD = textwrap.dedent('''
    import sys, time
    sys.path.insert(0, sys.argv[2])
    import test_runs as t
    job = t.runs.begin(t.spec(), sys.argv[1], fingerprint='data')
    print('held', flush=True); time.sleep(60)
''')

def test_one_writer_and_no_lock_left_by_the_dead(tmp_path):
    other = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == 'held\n'
        assert runs.is_busy(spec(), tmp_path) and launch.plan([spec()], tmp_path, {})[0].state == 'wait'
        with pytest.raises(UserError, match='another process'): runs.begin(spec(), tmp_path, fingerprint='data', wait=False)
    finally: other.kill(); other.wait()
    assert not runs.is_busy(spec(), tmp_path)
    assert write(spec(), tmp_path).problem is None

def test_killed_between_mark_and_rename(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, 'publish', lambda *a: None)
    write(spec(), tmp_path); assert runs.find(spec(), tmp_path) is None
    monkeypatch.undo()
    assert isinstance(runs.begin(spec(), tmp_path, fingerprint='data'), runs.Run) and runs.find(spec(), tmp_path)

def test_checkpoint_of_other_conditions_is_dropped(tmp_path):
    job = runs.begin(spec(), tmp_path, fingerprint='data'); (job.folder/'checkpoint-00003').mkdir(); job.release()
    job = runs.begin(spec(), tmp_path, fingerprint='data'); assert (job.folder/'checkpoint-00003').is_dir(); job.release()
    job = runs.begin(spec(), tmp_path, fingerprint='other data'); assert not (job.folder/'checkpoint-00003').exists(); job.release()

def test_unwritable_folder(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(UserError, match='cannot be written'): runs.begin(spec(), tmp_path/'file', fingerprint='data')

# ------------------------------------------------------------------------------------------------- series

@pytest.fixture
def notebook(tmp_path, monkeypatch):
    "A stand-in for train.ipynb with the same parameters: seed 1 fails, seed 2 dies, seed 3 waits, others write a record."
    real = nbformat.read(launch.TRAIN_NOTEBOOK, 4)
    cells = [c for c in real.cells if c.cell_type == 'code' and ('parameters' in c.metadata.get('tags', []) or c.source.startswith('from typing'))]
    body = textwrap.dedent(f'''
        import sys, os, time; sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_runs as t
        from deepfakenb.core import UserError
        from deepfakenb.runs.spec import spec_from_parameters
        s = spec_from_parameters(globals())
        if seed == 1: raise UserError('faces.csv: no such file; make it')
        if seed == 2: os._exit(9)
        if seed == 3: (t.Path(out)/'waiting').touch(); time.sleep(60)
        t.write(s, out)
        print(out, data_root)
    ''')
    nb = nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(body)], metadata=real.metadata)
    nbformat.write(nb, tmp_path/'train.ipynb')
    monkeypatch.setattr(launch, 'TRAIN_NOTEBOOK', tmp_path/'train.ipynb')
    return tmp_path/'reports'

def test_a_failure_does_not_stop_the_others(notebook):
    wanted = [spec(i) for i in range(3)]
    told = []
    done = launch.launch(launch.plan(wanted, notebook, {}), notebook, {launch.data_key(spec()): Path('somewhere')}, workers=2, tell=lambda share, text: told.append(share))
    assert done.trained == [spec().id] and set(done.failed) == {spec(1).id, spec(2).id}
    assert done.failed[spec(1).id] == 'faces.csv: no such file; make it' and 'died' in done.failed[spec(2).id]
    assert runs.failure(spec(1), notebook) == 'faces.csv: no such file; make it' and runs.failure(spec(), notebook) is None
    folder = runs.unfinished_dir(spec(1), notebook)
    assert 'UserError' in (folder/'failed.ipynb').read_text() and (folder/'error.txt').is_file()
    text = (runs.find(spec(), notebook).path/'train.ipynb').read_text()
    assert 'somewhere' in text and str(notebook) not in text and not any('papermill' in c['metadata'] for c in json.loads(text)['cells'])
    assert told and all(0 <= s <= 1 for s in told) and told == sorted(told)
    again = launch.plan(wanted, notebook, {})
    assert [t.state for t in again] == ['reuse', 'train', 'train'] and 'failed before: faces.csv' in again[1].note

def test_stopping_keeps_what_is_done(notebook):
    wanted = [spec(0), spec(3), spec(4)]
    def press(share, text):
        if (notebook/'waiting').exists(): raise KeyboardInterrupt
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as e: launch.launch(launch.plan(wanted, notebook, {}), notebook, {}, tell=press)
    assert time.monotonic()-began < 40
    assert e.value.args[0].trained == [spec(0).id] and set(e.value.args[0].left) == {spec(3).id, spec(4).id}
    assert runs.find(spec(0), notebook) and runs.failure(spec(3), notebook) is None and not runs.is_busy(spec(3), notebook)

def test_wrong_parameters_start_nothing(notebook, monkeypatch):
    monkeypatch.setattr(RunSpec, 'parameters', lambda self: dict(learning_rate=1.))
    monkeypatch.setattr(launch.Kernel, 'manager', lambda self: pytest.fail('a kernel was started'))
    with pytest.raises(UserError, match="no parameter 'learning_rate'"): launch.launch(launch.plan([spec()], notebook, {}), notebook, {})

def test_parameters_of_the_real_notebook():
    "Every run's parameters fit the training notebook; each of them wrong is refused."
    from deepfakenb.protocols import base
    good = dict(spec().parameters(), tests=[], data_root='', out='')
    launch.check_parameters(launch.TRAIN_NOTEBOOK, good)
    for preset in base.PRESETS:
        for p in base.PAPERS:
            for s in base.get(p).runs(preset): launch.check_parameters(launch.TRAIN_NOTEBOOK, dict(s.parameters(), tests=[], data_root='', out=''))
    for name in good:
        with pytest.raises(UserError, match=name): launch.check_parameters(launch.TRAIN_NOTEBOOK, {k: v for k, v in good.items() if k != name})
        with pytest.raises(UserError, match=name): launch.check_parameters(launch.TRAIN_NOTEBOOK, {**good, name: None})

def test_shards_are_a_partition():
    wanted = [spec(i) for i in range(11)]
    for n in (1, 2, 3, 12):
        parts = [launch.shard(wanted, f'{i}/{n}') for i in range(1, n+1)]
        assert sorted(s.id for p in parts for s in p) == sorted(s.id for s in wanted)
        assert launch.shard(wanted[::-1], f'1/{n}') == parts[0] and max(map(len, parts))-min(map(len, parts)) <= 1
    for bad in ('0/2', '3/2', '1', 'a/b', '1/2/3'):
        with pytest.raises(UserError, match='--shard'): launch.shard(wanted, bad)
