"One run in two processes: what one process computes with the joined batch; a process that dies ends it with one line, and the same call goes on."
import os, threading, time
import numpy as np, pandas as pd, psutil, pytest, torch
from safetensors.torch import load_file
from deepfakenb.core import UserError
from deepfakenb.runs.spec import RunSpec
from deepfakenb.runs.store import list_runs, unfinished_dir
from deepfakenb.training.run import train_run
from seqdata import tiny

EPOCHS = 6
SPEC = RunSpec('p1', 'multi-cls', dict(backbone='resnet10-narrow'), dict(track='components', preset='smoke', size=32),
               dict(epochs=EPOCHS, bs=8, lr=.02, lr_backbone=.02, optimizer='sgd', momentum=0., clip=1., warmup_epochs=0, drop_epochs=[]), 0, 'trial')

def kill_a_member(spec, out, killed):
    "Kill the second process once an epoch is on disk."
    me, end = psutil.Process(), time.monotonic()+200
    while time.monotonic() < end and not [*unfinished_dir(spec, out).glob('checkpoint-*')]: time.sleep(.02)
    for p in me.children(recursive=True):
        try:
            if p.environ().get('RANK') == '1' and 'deepfakenb.training.run' in ' '.join(p.cmdline()): p.kill(); killed.append(p.pid); return
        except psutil.Error: pass

def test_two_processes_are_one(tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1'); monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path/'data')); monkeypatch.setenv('DEEPFAKENB_GPUS_PER_RUN', '2')
    images = tiny(tmp_path/'images', n=4, size=32)        # 20 images: two steps of eight an epoch, twelve in all
    killed = []
    watch = threading.Thread(target=kill_a_member, args=(SPEC, tmp_path/'two', killed)); watch.start()
    with pytest.raises(UserError, match='one of its 2 processes died.*same command') as said: train_run(SPEC, tmp_path/'two', images, device='cpu')
    watch.join()
    assert killed and str(said.value).count('\n') == 0 and not list_runs(tmp_path/'two')
    done = [p.name for p in unfinished_dir(SPEC, tmp_path/'two').glob('checkpoint-*')]
    assert len(done) == 1 and done[0] < f'checkpoint-{EPOCHS-1:05d}', 'killed in the middle'
    two = train_run(SPEC, tmp_path/'two', images, device='cpu')

    monkeypatch.delenv('DEEPFAKENB_GPUS_PER_RUN')
    threads = torch.get_num_threads(); torch.set_num_threads(1)
    try: one = train_run(SPEC, tmp_path/'one', images, device='cpu')
    finally: torch.set_num_threads(threads)
    assert len(two.history) == EPOCHS and two.fingerprint == one.fingerprint and two.metrics['best_epoch'] == one.metrics['best_epoch']
    for c in ('train_loss', 'val_loss'): assert np.abs(two.history[c]-one.history[c]).max() < 1e-5, c
    a, b = (load_file(r.weights('fixed')) for r in (one, two))
    assert a.keys() == b.keys() and max(float((a[k]-b[k]).abs().max()) for k in a if a[k].is_floating_point()) < 1e-5
    assert list(two.predictions['file']) == list(one.predictions['file'])

@pytest.mark.parametrize('n, words', [(3, 'shared out equally'), (2, '0 GPUs are here')])
def test_a_team_that_cannot_be(tmp_path, monkeypatch, n, words):
    monkeypatch.setenv('DEEPFAKENB_GPUS_PER_RUN', str(n))
    if n == 2: monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    with pytest.raises(UserError, match=words): train_run(SPEC, tmp_path, tmp_path, device='cpu' if n == 3 else torch.device('cuda'))

def test_workers_and_teams_do_not_mix(deepfakenb):
    code, _, err = deepfakenb('reproduce', '--gpus-per-run', 2, '--workers', 2, '--dry-run')
    assert code == 2 and err.count('\n') == 1 and '--workers 1' in err
