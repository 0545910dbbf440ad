"DRN and Multi-attentional beyond their notebooks: registry, checkpoints, the learner with a stop, weights by published names, channels-last."
import json
import pytest, torch
from deepfakenb.training import learner
from deepfakenb.core import UserError, seed_everything
from deepfakenb.models.checkpoints import load_model, save_model
from deepfakenb.models.base import build_model, model_class, model_names
from deepfakenb.training.options import TrainOptions
from seqdata import tiny

torch.set_num_threads(1)
SMALL = {'drn': dict(width=.125), 'multi-attentional': dict(backbone='efficientnet-narrow', width=64)}
LABELS = torch.tensor([[1, 2, 4, 0, 0], [0, 0, 0, 0, 0], [5, 3, 1, 2, 4]])
every = pytest.mark.parametrize('name', SMALL)

def small(name, seed=0, **kw):
    torch.manual_seed(seed)
    return build_model(name, **SMALL[name] | kw)

def images(n=3, size=64, seed=0): return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))

def step(m, x, labels):
    inputs, targets = m.teacher(labels)
    return m.loss(m(x, *inputs), targets)

def test_registered():
    assert set(SMALL) <= set(model_names())
    assert [model_class(n).__name__ for n in SMALL] == ['DRN', 'MultiAttentional']

@every
@pytest.mark.parametrize('channels_last', (False, True))
def test_a_training_step_moves_every_parameter(name, channels_last):
    memory = torch.channels_last if channels_last else torch.contiguous_format
    m = small(name).to(memory_format=memory).train()
    groups = m.backbone_parameters(), m.other_parameters()
    assert sum(map(len, groups)) == len(list(m.parameters()))
    opt = torch.optim.AdamW([dict(params=g) for g in groups], lr=1e-3)
    before = {k: p.detach().clone() for k, p in m.named_parameters()}
    loss = step(m, images().contiguous(memory_format=memory), LABELS)
    loss.backward(); opt.step()
    assert torch.isfinite(loss) and not [k for k, p in m.named_parameters() if torch.equal(p, before[k])]

@every
def test_twenty_steps_reduce_the_loss(name):
    m = small(name).train()
    x, labels = images(6), LABELS.repeat(2, 1)
    opt, losses = torch.optim.AdamW(m.parameters(), 2e-3), []
    for _ in range(20):
        loss = step(m, x, labels)
        opt.zero_grad(); loss.backward(); opt.step(); losses.append(loss.item())
    assert sum(losses[-3:]) < .6*sum(losses[:3]), losses

@every
def test_predict_answers_and_sizes(name):
    m = small(name).train()
    d, alone = m.predict(images()), m.predict(images()[1:2])
    assert m.training and d.sequences.shape == (3, 5) and d.probabilities.shape == (3, 5, 6)
    torch.testing.assert_close(alone.probabilities, d.probabilities[1:2], atol=1e-5, rtol=1e-4)
    said = learner.answers(m, [(images(2), LABELS[:2]), (images(1, seed=1), LABELS[2:])])
    assert m.training and said['sequences'].shape == (3, 5) and torch.equal(said['labels'], LABELS) and torch.equal(said['sequences'][:2], m.predict(images(2)).sequences)
    for size in (64, 100, 128): assert m.predict(images(1, size)).sequences.shape == (1, 5)

@every
def test_saved_and_loaded(name, tmp_path):
    m = small(name).train()
    step(m, images(), LABELS); m.eval()
    again = load_model(save_model(m, tmp_path/'m.safetensors', track='components'), name)
    assert again.config == json.loads(json.dumps(m.config)) and not again.training
    assert all(torch.equal(a, b) for a, b in zip(m.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(m.predict(images()).probabilities, again.predict(images()).probabilities)
    if name == 'multi-attentional': assert again.independence.epochs == 1 and again.independence.centres.abs().sum() > 0

@every
def test_autocast_trains(name):
    m = small(name).train()
    with torch.autocast('cpu', torch.bfloat16): loss = step(m, images(), LABELS)
    loss.backward()
    assert torch.isfinite(loss) and loss.dtype == torch.float32 and all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())

@pytest.mark.parametrize('name, option, says', [
    ('drn', dict(width=0), 'width'), ('drn', dict(widht=1), 'width'), ('drn', dict(weights='nowhere.pth'), 'no such file'),
    ('multi-attentional', dict(backbone='resnet34'), 'efficientnet_b4'), ('multi-attentional', dict(maps=1), 'maps'), ('multi-attentional', dict(alpha=0), 'alpha'),
    ('multi-attentional', dict(regional=-1), 'regional'), ('multi-attentional', dict(regionel=1), 'regional'), ('multi-attentional', dict(weights='nowhere.pth'), 'no such file')])
def test_a_wrong_option_is_one_line(name, option, says):
    with pytest.raises(UserError, match=says) as e: small(name, **option)
    assert '\n' not in str(e.value)

def test_weights_by_published_names(tmp_path):
    published = small('drn', seed=1, width=1.).backbone.state_dict()
    torch.save({k: v for k, v in published.items() if 'num_batches' not in k} | {'fc.weight': torch.zeros(1000, 512, 1, 1), 'fc.bias': torch.zeros(1000)}, tmp_path/'drn.pth')
    m = build_model('drn', weights=str(tmp_path/'drn.pth'))
    assert m.config['frozen'] and all(torch.equal(m.backbone.state_dict()[k], v) for k, v in published.items() if 'num_batches' not in k)
    import timm
    net = timm.create_model('efficientnet_b0', pretrained=False)
    torch.save(net.state_dict(), tmp_path/'b0.pth')
    m = build_model('multi-attentional', backbone='efficientnet_b0', weights=str(tmp_path/'b0.pth'))
    assert m.config['frozen'] and all(torch.equal(v, net.state_dict()[k]) for k, v in m.backbone.body.state_dict().items())
    with pytest.raises(UserError, match='b0.pth.*another model'): build_model('drn', weights=str(tmp_path/'b0.pth'))

@every
def test_the_learner_stops_and_goes_on_to_the_same_weights(name, tmp_path, monkeypatch):
    from deepfakenb.data.loading import seq_dataloaders
    from deepfakenb.data.seqdeepfake import SeqDeepFake
    monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path/'cache'))
    data = SeqDeepFake.read(tiny(tmp_path/'data', n=3, size=64), 'components')
    def run(folder, *lengths):
        for epochs in lengths:   # each in a new learner, as after a stop
            seed_everything(0)
            dls = seq_dataloaders(data, size=64, bs=8, seed=0, device='cpu')
            options = TrainOptions(epochs=epochs, bs=8, lr=1e-3, lr_backbone=1e-3, warmup_epochs=0, drop_epochs=[])
            model = small(name)
            rows = learner.train(learner.sequence_learner(dls, model, options, tmp_path/folder))
        return model, rows
    (one, rows), (two, again) = run('whole', 3), run('stopped', 1, 3)
    assert rows.drop(columns='seconds').equals(again.drop(columns='seconds')) and rows.val_loss.notna().all()
    for (k, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True): assert torch.equal(a, b), k
    if name == 'multi-attentional': assert one.independence.epochs == 3
