"Two-Stream as a user meets it: by name, trained by the learner, saved and loaded, asked for answers, given wrong options and published weights."
import math
import pytest, torch
from torch import nn
from deepfakenb.core import UserError, seed_everything
from deepfakenb.explore.recorder import record
from deepfakenb.models.checkpoints import load_model, save_model
from deepfakenb.models.base import build_model, model_class, model_module, model_names
from deepfakenb.models.xception import Xception

NARROW = dict(backbone='xception-narrow')
LABELS = torch.tensor([[1, 2, 4, 0, 0], [0, 0, 0, 0, 0], [5, 3, 1, 2, 4]])

def narrow(seed=0, gamma=.5, **kw):
    torch.manual_seed(seed)
    model = build_model('two-stream', **NARROW | kw)
    for c in model.cross.values(): c.to_rgb.gamma.data.fill_(gamma); c.to_srm.gamma.data.fill_(-gamma)
    return model

def images(n=3, size=64, seed=0): return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))

def test_registered_by_its_name():
    assert model_module('two-stream') == 'models.twostream' and model_class('two-stream').__name__ == 'TwoStream' and 'two-stream' in model_names()

def test_a_training_step_moves_every_parameter_in_any_memory_format():
    for memory in (torch.contiguous_format, torch.channels_last):
        model = narrow().train().to(memory_format=memory)
        optimiser = torch.optim.SGD([dict(params=model.backbone_parameters(), lr=1.), dict(params=model.other_parameters(), lr=1.)])
        before = {k: p.detach().clone() for k, p in model.named_parameters()}
        inputs, targets = model.teacher(LABELS)
        loss = model.loss(model(images().contiguous(memory_format=memory), *inputs), targets)
        loss.backward(); optimiser.step()
        still = [k for k, p in model.named_parameters() if torch.equal(p, before[k])]
        # softmax does not change when a constant is added to a row of similarities, so some biases of the projections may rest
        assert math.isfinite(loss.item()) and not [k for k in still if not (k.endswith('.bias') and k.startswith('cross'))]

def test_predicts_alone_as_in_a_batch_and_keeps_its_mode():
    model = narrow().train()
    together, alone = model.predict(images()), model.predict(images()[1:2])
    assert model.training and together.sequences.shape == (3, 5) and together.probabilities.shape == (3, 5, 6)
    torch.testing.assert_close(alone.probabilities, together.probabilities[1:2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.probabilities.sum(-1), torch.ones(3, 5))

@pytest.mark.parametrize('size', (32, 64, 96, 130, 256))
def test_any_size(size):
    assert narrow().predict(images(1, size)).sequences.shape == (1, 5)

def test_saved_and_loaded_it_answers_the_same(tmp_path):
    model = narrow(scale='published', crossed=('block7',)).train()
    model(images(8))                                                    # moves the running statistics
    again = load_model(save_model(model, tmp_path/'m.safetensors', epoch=3), 'two-stream')
    assert again.config == model.config and not again.training
    assert torch.equal(again.predict(images()).probabilities, model.predict(images()).probabilities)
    with pytest.raises(UserError, match='holds a two-stream'): load_model(tmp_path/'m.safetensors', 'multi-cls')

def test_recording_changes_nothing():
    model = narrow().eval()
    with torch.no_grad():
        plain = model(images())
        with record(model) as records: recorded = model(images())
    torch.testing.assert_close(recorded, plain, atol=1e-5, rtol=1e-4)
    assert len(records) == 5 and all(torch.allclose(r.weights.sum(-1), torch.ones(()), atol=1e-5) for r in records.values())
    assert all(not m.recording for m in model.modules() if hasattr(m, 'recording'))

def test_bf16_answers_like_single_precision():
    model = narrow().eval()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16): half = model(images())
    with torch.no_grad(): full = model(images())
    assert (half.float()-full).abs().max() < .1*full.std()+.05

@pytest.mark.parametrize('wrong,says', [(dict(backbone='resnet34'), 'xception-narrow'), (dict(scale='255'), 'grey-levels'), (dict(guidance='none'), 'multiplied'),
    (dict(crossed=('block9',)), "block9.*block7"), (dict(crossed=('block7', 'block3')), 'order'), (dict(crossed=('block3', 'block3')), 'once'),
    (dict(dropout=1.), 'dropout'), (dict(weights='nowhere.pth'), 'no such file'), (dict(depth=3), "unknown option 'depth'")])
def test_wrong_options_are_told_in_one_line(wrong, says):
    with pytest.raises(UserError, match=says) as e: build_model('two-stream', **NARROW | wrong)
    assert '\n' not in str(e.value)

def test_published_weights_fill_both_streams(tmp_path):
    torch.manual_seed(3)
    source = Xception('xception-narrow')
    state = {k.replace('fc.', 'last_linear.'): v[..., 0, 0] if 'pointwise' in k else v for k, v in source.state_dict().items() if not k.endswith('num_batches_tracked')}
    torch.save(dict(state, **{'last_linear.weight': torch.zeros(2, 192), 'last_linear.bias': torch.zeros(2)}), tmp_path/'x.pth')
    model = build_model('two-stream', weights=str(tmp_path/'x.pth'), frozen=True, **NARROW)
    for stream in ('rgb', 'srm'):
        assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.backbone[stream].state_dict().items() if not k.endswith('num_batches_tracked'))
    resting = {k.split('.')[1] for k, p in model.named_parameters() if not p.requires_grad}
    assert resting == {'rgb'} and model.config['weights'] is None and model.config['frozen'] is True
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path/'other.pth')
    with pytest.raises(UserError, match='other.pth: weights of another model'): build_model('two-stream', weights=str(tmp_path/'other.pth'), **NARROW)

def test_the_learner_trains_it_and_it_answers_a_loader(tmp_path):
    from deepfakenb.training import learner
    from deepfakenb.data.loading import seq_dataloaders
    from deepfakenb.data.seqdeepfake import SeqDeepFake
    from deepfakenb.training.options import TrainOptions
    from seqdata import tiny
    torch.set_num_threads(1)
    seed_everything(0)
    data = SeqDeepFake.read(tiny(tmp_path/'data', n=8, size=32), 'components')
    dls = seq_dataloaders(data, size=32, bs=16, seed=0, device='cpu')
    options = TrainOptions(epochs=10, bs=16, lr=2e-3, lr_backbone=2e-3, warmup_epochs=1, drop_epochs=[])
    model = build_model('two-stream', dropout=0., **NARROW)
    history = learner.train(learner.sequence_learner(dls, model, options, tmp_path/'run'))
    assert len(history) == 10 and history.train_loss.iloc[-1] < .8*history.train_loss.iloc[0]       # 30 steps
    out = learner.answers(load_model(tmp_path/'run'/'best_fixed.safetensors', 'two-stream'), dls[1])
    assert out['sequences'].shape == out['labels'].shape == (40, 5) and out['probabilities'].min() > 0
