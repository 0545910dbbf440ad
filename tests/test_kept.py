"Heads on kept feature maps: the same network as from pictures, reproducible, resumed to the same bits, refused where maps would lie."
import pytest, torch
from deepfakenb.core import UserError
from deepfakenb.models.backbones import Backbone
from deepfakenb.models.checkpoints import load_model
from deepfakenb.runs.spec import RunSpec
from deepfakenb.training.run import train_run

SMALL = dict(backbone='resnet10-narrow', width=16, feed_forward=16, head_width=16)

def spec(model='one-pass', frozen='all', views=2, epochs=2, **options):
    return RunSpec('p1', model, {**SMALL, **options, 'frozen': frozen} if model != 'multi-cls' else dict(backbone='resnet10-narrow', frozen=frozen),
                   dict(track='components', preset='smoke', size=64, limit=32, views=views), dict(epochs=epochs, bs=16, lr=1e-2, lr_backbone=1e-2, warmup_epochs=0, drop_epochs=[]), 0, 'smoke')

@pytest.mark.parametrize('model', ['multi-cls', 'one-pass', 'seqfakeformer'])
def test_a_head_learns_on_kept_maps_and_answers_pictures(tmp_path, model):
    run = train_run(spec(model), tmp_path, device='cpu')
    assert run.history['train_loss'].iloc[-1] < run.history['train_loss'].iloc[0]
    body = lambda m: next(x for x in m.modules() if isinstance(x, Backbone))
    network = load_model(run.path/'best_fixed.safetensors')
    assert body(network).frozen == 'all' and not any(p.requires_grad for p in body(network).parameters())
    pictures = torch.randint(0, 256, (3, 3, 64, 64)).float()/127.5-1
    kept = body(network)(pictures).half().float()                               # what the maps on disk hold
    near = lambda a, b: torch.testing.assert_close(a.float(), b.float(), atol=2e-2, rtol=1e-2)
    near(network.predict(pictures).probabilities, network.predict(kept).probabilities)

def test_nothing_of_the_backbone_moves(tmp_path):
    "Neither its weights nor the statistics of its batch norms: those of the seed's own start."
    from deepfakenb.core import seed_everything
    from deepfakenb.models.base import build_model
    s = spec('seqfakeformer')
    seed_everything(s.seed)
    fresh = build_model('seqfakeformer', **s.model_args).backbone.state_dict()
    after = load_model(train_run(s, tmp_path, device='cpu').path/'best_fixed.safetensors').backbone.state_dict()
    assert fresh.keys() == after.keys() and all(torch.equal(after[k], v) for k, v in fresh.items())

def test_twice_and_killed_gives_the_same_bits(tmp_path, monkeypatch):
    import deepfakenb.training.learner as learner
    whole = train_run(spec(epochs=3), tmp_path/'whole', device='cpu')
    class Killed(Exception): pass
    save = learner.save_state
    def then_die(learn, folder):
        save(learn, folder)
        if learn.epoch == 1: raise Killed('killed')
    monkeypatch.setattr(learner, 'save_state', then_die)
    with pytest.raises(Killed): train_run(spec(epochs=3), tmp_path/'cut', device='cpu')
    monkeypatch.setattr(learner, 'save_state', save)
    resumed = train_run(spec(epochs=3), tmp_path/'cut', device='cpu')
    assert resumed.predictions.astype(str).equals(whole.predictions.astype(str)) and resumed.history.drop(columns='seconds').equals(whole.history.drop(columns='seconds'))

def test_maps_of_a_backbone_that_is_trained_are_refused(tmp_path):
    with pytest.raises(UserError, match="frozen='all'"): train_run(spec(frozen=False), tmp_path, device='cpu')

def test_another_backbone_or_other_pictures_get_other_maps(tmp_path, monkeypatch):
    from deepfakenb.data.loading import seq_dataloaders
    from deepfakenb.tasks.sequence import task
    from deepfakenb.training import kept
    monkeypatch.setattr(kept, 'cache_dir', lambda: tmp_path)
    opened = task.open(dict(track='components', preset='smoke'))
    def files(seed, limit, fingerprint='a'):
        torch.manual_seed(seed)
        kept.with_maps(seq_dataloaders(opened, size=64, bs=8, device='cpu', limit=limit), Backbone('resnet10-narrow', frozen='all'), 2, fingerprint)
        return len(list(tmp_path.glob('maps-*.npy')))
    assert [files(0, 8), files(0, 8), files(1, 8), files(1, 12), files(1, 12, 'b')] == [2, 2, 4, 6, 8]      # a file of training, one of validation
