"Training that survives a kill: a process that dies at any moment, also in the middle of writing, ends with the same bits."
import json, os, subprocess, sys, textwrap
import pytest

SCRIPT = textwrap.dedent(r'''
    "Trains a small SeqFakeFormer in forked children; kills some of them; compares with one that was left in peace."
    import hashlib, os, random, shutil, signal, sys, time, traceback
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    import numpy as np, pandas as pd
    from PIL import Image
    from safetensors import safe_open
    from deepfakenb.core import seed_everything
    from deepfakenb.data.loading import seq_dataloaders
    from deepfakenb.data.seqdeepfake import SeqDeepFake, write_annotations
    from deepfakenb.training import learner
    from deepfakenb.models.base import build_model
    from deepfakenb.training.options import TrainOptions

    home = Path(sys.argv[1]); dice = random.Random(0)

    def make_data(root):
        rng = np.random.default_rng(0)
        for split, n in (('train', 8), ('val', 4), ('test', 2)):
            rows = []
            for label, name in (([0]*5, 'original'), ([1, 0, 0, 0, 0], 'nose'), ([2, 4, 0, 0, 0], 'eye-lip'), ([4, 2, 1, 0, 0], 'lip-eye-nose')):
                for i in range(n):
                    path = f'facial_components/images/{split}/{name}/{i:06}.png'
                    (root/path).parent.mkdir(parents=True, exist_ok=True)
                    pixels = rng.integers(0, 255, (32, 32, 3)); pixels[:8, :8] += 40*sum(label)
                    Image.fromarray(pixels.clip(0, 255).astype('uint8')).save(root/path); rows.append((path, label))
            write_annotations(root, 'components', split, rows)
        return SeqDeepFake.read(root, 'components')

    data = make_data(home/'data')
    options = TrainOptions(epochs=3, bs=8, lr=3e-3, lr_backbone=3e-3, warmup_epochs=1, drop_epochs=[2])

    def train(folder):
        seed_everything(0)
        dls = seq_dataloaders(data, size=32, bs=8, seed=0, device='cpu')
        model = build_model('seqfakeformer', backbone='resnet10-narrow', width=32, feed_forward=32, head_width=32, heads=2, encoder_layers=1, decoder_layers=1)
        learner.train(learner.sequence_learner(dls, model, options, folder))

    def die(): os.kill(os.getpid(), signal.SIGKILL)

    def torn(write):       # half of a file is on disk when the process dies
        def f(obj, path, *a, **kw): write(obj, path, *a, **kw); size = os.path.getsize(path); os.truncate(path, size//2); die()
        return f

    def nth(function, n, after=False):   # dies at the n-th call, before or after it
        count = [0]
        def f(*a, **kw):
            count[0] += 1
            if count[0] == n and not after: die()
            out = function(*a, **kw)
            if count[0] == n: die()
            return out
        return f

    SABOTAGE = dict(torn_state=lambda: setattr(torch, 'save', torn(torch.save)), before_rename=lambda: setattr(os, 'replace', nth(os.replace, 3)),
                    after_rename=lambda: setattr(os, 'replace', nth(os.replace, 7, True)), before_removal=lambda: setattr(shutil, 'rmtree', nth(shutil.rmtree, 2)))

    def fork(folder, sabotage=None):
        pid = os.fork()
        if pid: return pid
        code = 1
        try:
            if sabotage: SABOTAGE[sabotage]()
            train(folder); code = 0
        except BaseException: traceback.print_exc()
        finally: os._exit(code)

    def wait(pid): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def digest(folder):
        last = folder/f'checkpoint-{options.epochs-1:05d}'
        files = {}
        for p in (folder/'best_fixed.safetensors', folder/'best_adaptive.safetensors', last/'model.safetensors'):
            with safe_open(p, 'pt') as f:   # the order of the header's keys is random in the file
                files[p.name] = sorted((f.metadata() or {}).items()), {k: hashlib.sha256(f.get_tensor(k).numpy().tobytes()).hexdigest() for k in f.keys()}
        state = torch.load(last/'state.pt', weights_only=True)
        moments = torch.cat([v.flatten().double() for s in state['optimizer']['state'].values() for v in s.values()])
        rows = pd.read_csv(folder/'history.csv').drop(columns='seconds').to_csv()
        return files, moments.sum().item(), state['random']['torch'].sum().item(), rows, sorted(p.name for p in folder.iterdir())

    began = time.monotonic(); assert wait(fork(home/'peace')) == 0; whole = time.monotonic()-began
    killed, tries = [], 0
    for name in SABOTAGE:
        code = wait(fork(home/'war', name)); killed.append((name, code)); assert code == -9, (name, code)
    while True:
        pid = fork(home/'war'); tries += 1
        if tries <= 2:
            time.sleep(whole*dice.uniform(.05, .5))
            try: os.kill(pid, signal.SIGKILL)
            except ProcessLookupError: pass
        if wait(pid) == 0: break
        assert tries < 6, 'does not end'
    for left, right in zip(digest(home/'peace'), digest(home/'war')): assert left == right, f'{left}\n{right}'
    print('SAME', killed, tries, f'{whole:.1f}')
''')

def test_killed_training_ends_with_the_same_bits(tmp_path):
    "SIGKILL at six moments: while a file is half written, around renames and removals, and at random."
    env = dict(os.environ, OMP_NUM_THREADS='1', DEEPFAKENB_QUIET='1', DEEPFAKENB_DATA=str(tmp_path/'cache'))
    done = subprocess.run([sys.executable, '-c', SCRIPT, str(tmp_path)], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0 and done.stdout.startswith('SAME'), done.stdout+done.stderr[-3000:]
