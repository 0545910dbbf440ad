"""What only a GPU can show: the same numbers as on the CPU, and a training from the first step to the record.

Run on a lent machine by `deepfakenb lease`. With DEEPFAKENB_CUDA_TESTS_ON=cpu they run on a CPU, to see that they are written right."""
import os
import numpy as np, pytest, torch
from deepfakenb.core import device as find_device, seed_everything
from seqdata import tiny

AT = os.environ.get('DEEPFAKENB_CUDA_TESTS_ON', 'cuda')
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(AT == 'cuda' and not torch.cuda.is_available(), reason='no CUDA device')]

@pytest.fixture(autouse=True)
def exact():
    "Single precision as on the CPU, while numbers are compared."
    was = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision('highest'); torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(was[0]); torch.backends.cudnn.allow_tf32 = was[1]

@pytest.mark.parametrize('name, args, size, frames', [('multi-cls', dict(backbone='resnet34'), 64, 1), ('seqfakeformer', dict(backbone='resnet34'), 64, 1), ('xception', {}, 96, 1),
                                                      ('resnet3d', {}, 64, 8), ('long-distance', dict(parts=['spatial', 'temporal']), 224, 4)])
def test_networks_say_the_same(name, args, size, frames):
    from deepfakenb.models.base import build_model
    from deepfakenb.training.speed import example
    seed_everything(0)
    model = build_model(name, **args).eval()
    inputs, _ = example(model, size, frames)
    with torch.no_grad(): here, there = model(*inputs), model.to(AT)(*(x.to(AT) for x in inputs))
    pairs = [(here[k], there[k]) for k in here if torch.is_tensor(here[k])] if isinstance(here, dict) else [(here, there)]
    for a, b in pairs: assert float((a-b.cpu()).norm()/a.norm().clamp_min(1e-6)) < 1e-3

def test_batches_are_the_same():
    "Order and augmentation come from generators on the CPU, so a GPU gets the same batches; images lie there as bytes."
    from deepfakenb.data.loading import BatchLoader, ImageSet
    from deepfakenb.data.transforms import Augment
    images, labels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8), torch.zeros(40, 5, dtype=torch.int64)
    load = lambda at: BatchLoader(ImageSet(images, labels), bs=8, shuffle=True, augment=Augment(), seed=3, device=at)
    there = load(AT)
    assert there.on_device and there._images.dtype == torch.uint8 and there._images.device.type == AT
    for (x, _), (y, _) in zip(load('cpu'), there): assert torch.allclose(x, y.cpu(), atol=1e-5)

def test_fused_optimiser_takes_the_same_steps():
    from deepfakenb.training.learner import _optimizer
    from deepfakenb.training.options import TrainOptions
    def after(at):
        seed_everything(0)
        net = torch.nn.Linear(20, 4).to(at)
        opt = _optimizer(TrainOptions(weight_decay=.1), at)([[*net.parameters()]], lr=1e-2)
        x = torch.randn(32, 20, generator=torch.Generator().manual_seed(1)).to(at)
        for _ in range(5): net(x).square().mean().backward(); opt.step(); opt.zero_grad()
        return net.weight.detach().cpu()
    assert torch.allclose(after('cpu'), after(AT), atol=1e-5)

def test_rendered_and_edited_faces_look_the_same():
    "A few pixels differ by a level: enough for another fingerprint, too little to see."
    from deepfakenb.data.synth.edit import reencode
    from deepfakenb.data.synth.people import sample_people
    from deepfakenb.data.synth.render import render
    from deepfakenb.models.generator import load_generator
    people = sample_people(4, 0)
    here, there = (render(people, 64, device=at).images.to(at) for at in ('cpu', AT))
    assert (here.float()-there.cpu().float()).abs().mean() < .5
    edited = [reencode(here.to(at), load_generator(device=at)).cpu().float() for at in ('cpu', AT)]
    assert (edited[0]-edited[1]).abs().mean() < .5

def test_a_run_from_its_first_step_to_the_record(tmp_path, monkeypatch):
    "bfloat16, channels last, the fused optimiser, kept checkpoints, the record; the same call finds the run."
    from deepfakenb.runs.spec import RunSpec
    from deepfakenb.training.run import train_run
    monkeypatch.setenv('DEEPFAKENB_DATA_ROOT', str(tiny(tmp_path/'images', n=4, size=32))); monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path/'data'))
    spec = RunSpec('p1', 'seqfakeformer', dict(backbone='resnet10-narrow', width=64, feed_forward=128, head_width=128), dict(track='components', preset='smoke', size=32),
                   dict(epochs=3, bs=8, warmup_epochs=0, drop_epochs=[], channels_last=True), 0, 'trial')
    run = train_run(spec, tmp_path, device=find_device(AT))
    assert len(run.history) == 3 and np.isfinite(run.history[['train_loss', 'val_loss']]).all(axis=None) and run.history.train_loss.iloc[-1] < run.history.train_loss.iloc[0]
    assert train_run(spec, tmp_path, device=find_device(AT)).path == run.path
    model = run.model(); assert all(torch.isfinite(p).all() for p in model.parameters()) and next(model.parameters()).dtype == torch.float32

def test_a_killed_training_goes_on(tmp_path, monkeypatch):
    "The state with the fused optimiser's moments comes back onto the device; the next epoch is what it would have been, up to the order of sums."
    import pandas as pd
    from fastai.callback.core import Callback
    from deepfakenb.data.loading import seq_dataloaders
    from deepfakenb.data.seqdeepfake import SeqDeepFake
    from deepfakenb.models.base import build_model
    from deepfakenb.training.learner import sequence_learner, train
    from deepfakenb.training.options import TrainOptions
    monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path/'data'))
    opened = SeqDeepFake.read(tiny(tmp_path/'images', n=4, size=32), 'components')
    class Stop(Callback):
        order = 95
        def after_epoch(self):
            if self.epoch == 1: raise InterruptedError('stopped here')
    def trained(folder, stop):
        seed_everything(0)
        learn = sequence_learner(seq_dataloaders(opened, size=32, bs=8, device=AT), build_model('multi-cls', backbone='resnet10-narrow'), TrainOptions(epochs=4, bs=8, warmup_epochs=0, drop_epochs=[], bf16=False), folder)
        if stop: learn.add_cb(Stop())
        return train(learn)
    whole = trained(tmp_path/'whole', False)
    with pytest.raises(InterruptedError): trained(tmp_path/'parts', True)
    parts = trained(tmp_path/'parts', False)
    pd.testing.assert_frame_equal(parts[['epoch', 'lr']], whole[['epoch', 'lr']])
    assert np.allclose(parts.train_loss, whole.train_loss, rtol=.02)
