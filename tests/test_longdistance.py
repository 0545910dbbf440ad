"Long-distance attention beyond its notebooks: the cost of Table VII, oracles on the whole network, checkpoints, recording, bad input."
import json, warnings
import pytest, torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from deepfakenb.core import UserError
from deepfakenb.explore.recorder import record
from deepfakenb.layers.longdistance import Emphasis, LongDistance, enlarge, with_residuals
from deepfakenb.models.base import DetectorModel, build_model, model_class, model_module
from deepfakenb.models.checkpoints import load_model, save_model
from deepfakenb.models.longdistance import PARTS, Guided, effect, latent_and_final, options_of

torch.set_num_threads(1)
TINY = dict(backbone='xception-narrow', size=62, patch=4, dim=96)
SMALL = dict(grid=4, patch=4, dim=24, spaces=3, m=2)   # of the layer alone
LABELS = torch.tensor([0, 1, 1, 0])
SETS = (('spatial',), ('temporal',), PARTS)
each = pytest.mark.parametrize('parts', SETS, ids='+'.join)

def small(parts=PARTS, seed=0, **kw):
    torch.manual_seed(seed)
    return build_model('long-distance', parts=parts, **TINY | kw)

def awake(parts=PARTS, **kw):
    "A network whose templates are no longer zero."
    m = small(parts, **kw)
    for part in parts: nn.init.normal_(getattr(m, part).templates)
    return m.eval()

def clips(frames=4, n=4, size=64, seed=0): return torch.rand(n, frames, 3, size, size, generator=torch.Generator().manual_seed(seed))

def count(m): return sum(p.numel() for p in m.parameters())

@each
def test_registered(parts):
    cls = model_class('long-distance')
    assert issubclass(cls, DetectorModel) and cls.level == 'frame' and model_module('long-distance') == 'models.longdistance'
    m = small(parts)
    assert m.frames == (4 if 'temporal' in parts else 1) and build_model(**json.loads(json.dumps(m.config))).config == m.config
    out = m.eval()(clips(m.frames))
    assert out['logits'].shape == (4, 2)

# ---- Table VII

@pytest.mark.parametrize('parts, added, paper', [(SETS[0], 791_092, .79e6), (SETS[1], 2_412_340, 2.36e6), (SETS[2], 3_203_432, 3.19e6)])
def test_parameters_of_table_7(parts, added, paper):
    with torch.device('meta'): m = build_model('long-distance', parts=parts)
    assert count(m) == 20_811_050+added and abs(added/paper-1) < .03

def test_parameters_of_the_narrow_one_are_pinned():
    assert [count(small(p)) for p in SETS] == [267_918, 263_214, 287_650]

def attention_multiply_adds(parts, n=3, N=196, patch=16, dim=768, spaces=12, m=4):
    "By formula: projections, t^T U once, its product with every token, the 1×1 combination."
    k = {'spatial': 1, 'temporal': n+1}
    return sum(k[p]*N*3*patch**2*dim + spaces*(dim//spaces)**2 + k[p]*N*dim + N*spaces*m for p in parts)

@each
def test_multiply_adds_are_the_formula(parts):
    "Counted while the full network runs (on the meta device: shapes only), minus the bare backbone."
    def counted(f):
        with FlopCounterMode(display=False) as c: f()
        return c.get_total_flops()//2
    with torch.device('meta'):
        m = build_model('long-distance', parts=parts).eval()
        whole = counted(lambda: m(torch.zeros(1, m.frames, 3, 398, 398)))
        bare = counted(lambda: m.head(m.backbone.net(torch.zeros(1, 3, 398, 398)).mean((2, 3))))
    assert whole-bare == attention_multiply_adds(parts)
    paper = {SETS[0]: 14.92-14.60, SETS[1]: 15.41-14.60, SETS[2]: 15.82-14.60}[parts]
    assert whole-bare < paper*1e9 and abs(bare/14.60e9-1) < .01   # the backbone agrees, the attention is cheaper than printed

# ---- maps

@each
def test_zero_templates_start_at_the_backbone(parts):
    m = small(parts).eval(); x = clips(m.frames, size=62)
    with torch.no_grad(): bare = m.head(m.backbone.net(m.prepare(x)[:, 0]).mean((2, 3)))
    torch.testing.assert_close(m(x)['logits'], bare, atol=1e-6, rtol=0)
    assert all(v['latent'].abs().max() == 0 and v['final'].abs().max() == 0 for v in latent_and_final(m, x).values())
    assert not torch.allclose(awake(parts)(x)['logits'], bare, atol=1e-4)

def test_maps_near_1_are_the_backbone_too():
    m, x = small(start='map').eval(), clips(size=62)
    with torch.no_grad(): torch.testing.assert_close(m(x)['logits'], m.head(m.backbone.net(m.prepare(x)[:, 0]).mean((2, 3))), atol=1e-6, rtol=0)

@each
def test_maps_have_their_shapes_and_are_what_the_network_uses(parts):
    m = awake(parts); x = clips(m.frames); seen = latent_and_final(m, x)
    assert list(seen) == list(parts)
    with torch.no_grad(): used = m.maps(m.prepare(x))
    for p in parts:
        assert seen[p]['latent'].shape == (4, 12, 14, 14) and seen[p]['final'].shape == (4, 4, 14, 14)
        torch.testing.assert_close(seen[p]['final'], used[p])
    assert latent_and_final(awake(('temporal',), combine='all'), clips())['temporal']['latent'].shape == (4, 48, 14, 14)

@pytest.mark.parametrize('size', (62, 118, 398))
def test_a_map_is_an_exact_enlargement_of_its_cells(size):
    "At 28k+6 pixels with even k, on the features that the network really has."
    m = small()
    with warnings.catch_warnings(action='error'), torch.device('meta'):
        sides = {p: m.backbone.to('meta').net.run(torch.zeros(1, 3, size, size), until=p).shape[-1] for p in ('conv2', 'block1')}
    k = (size-6)//28
    assert sides == dict(conv2=14*k, block1=7*k)
    cells = torch.randn(1, 4, 14, 14)
    for side in sides.values():
        with warnings.catch_warnings(action='error'): big = enlarge(cells, (side, side))
        assert torch.equal(big.unflatten(-1, (14, -1)).unflatten(-3, (14, -1)), cells[..., :, None, :, None].expand(-1, -1, -1, side//14, -1, side//14))

def test_other_sizes_are_pooled_and_told_once(capsys):
    "One line, with the size in px and the next ones that fit; sizes that fit are told nothing."
    from deepfakenb.models.longdistance import _say
    _say.cache_clear()
    m = awake(size=75)
    with warnings.catch_warnings(action='error'):
        for _ in range(3): assert m(clips())['logits'].isfinite().all()
        awake()(clips())
    said = capsys.readouterr().err.splitlines()
    assert said == [m.misfit] == m.suits(75) and 'size = 75 px' in said[0] and '62 or 118 px' in said[0] and awake().suits(62) == []
    cells = torch.randn(2, 3, 14, 14)
    big = enlarge(cells, (35, 35))
    assert big.shape == (2, 3, 35, 35) and big.min() >= cells.min() and big.max() <= cells.max()
    torch.testing.assert_close(enlarge(torch.ones(1, 1, 14, 14), (35, 9)), torch.ones(1, 1, 35, 9))

@pytest.mark.parametrize('size, told', [(75, ['note: long-distance: size = 75 px', '62 or 118 px fit exactly']), (62, [])])
def test_a_dry_run_tells_a_size_that_does_not_fit(deepfakenb, tmp_path, size, told):
    code, out, err = deepfakenb('train', '--model', 'long-distance', *(x for k, v in dict(TINY, size=size).items() for x in ('--set', f'model.{k}={v}')), '--dry-run', '--out', tmp_path/'r')
    assert code == 0 and all(t in err for t in told) and ('px' in err) == bool(told) and 'Warning' not in err and len(err.strip().splitlines()) == len(told[:1])

@pytest.mark.parametrize('start', ('1 + map', 'map'))
@pytest.mark.parametrize('meet', ('groups', 'sum', '1x1'))
def test_a_negative_map_is_no_emphasis(start, meet):
    "A constant negative map makes features smaller, is recorded as large as its opposite, and is told as what it does."
    m = small(start=start, meet=meet).eval()
    for value, word in ((-.5, 'damped everywhere'), (.5, 'emphasised everywhere')):
        at = (value/4 if meet == 'sum' else value)+(m.emphasis['spatial'].bias if start == 'map' else 0)
        with torch.no_grad():
            m.spatial.final.weight.zero_(); m.spatial.final.bias.fill_(at)
            if meet == '1x1': m.emphasis['spatial'].mix.weight.fill_(.25)
            f = torch.ones(1, 16, 28, 28)
            out = m.emphasis['spatial'](f, latent_and_final(m, clips(size=62))['spatial']['final'][:1])
        assert bool((out < f).all()) == (value < 0) == m.emphasis['spatial'].damped(torch.full((1, 4, 14, 14), at))
        assert effect(m, clips(size=62), 'spatial') == 'features '+word
    recorded = []
    for value in (-.5, .5):
        with torch.no_grad(): m.spatial.final.bias.fill_(value)
        with record(m) as records: m(clips(size=62))
        recorded.append(records['spatial.final_maps'].weights)
    assert torch.equal(*recorded), 'what is recorded does not tell the two apart'

def test_weights_of_a_whole_network_are_no_backbone(tmp_path):
    from safetensors.torch import save_file
    save_model(small(m=3, n=2), tmp_path/'other.safetensors')
    with pytest.raises(UserError, match=r'^other.safetensors: .*m = 3 in the file, 4 here; n = 2 in the file, 3 here'): small(weights=tmp_path/'other.safetensors')
    with pytest.raises(UserError, match=r'm = 3, n = 2\), not the weights of a backbone'): small(m=3, n=2, weights=tmp_path/'other.safetensors')
    save_file(small().backbone.net.state_dict(), tmp_path/'backbone.safetensors')
    assert torch.equal(small(seed=1, weights=tmp_path/'backbone.safetensors').backbone.net.conv1.weight, small().backbone.net.conv1.weight)

def test_a_vit_by_name_is_where_runs_look_for_it(tmp_path, monkeypatch):
    from safetensors.torch import save_file
    from deepfakenb.training.start import with_weights
    monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path))
    said = []
    for ask in (lambda: small(vit='timm'), lambda: with_weights('long-distance', dict(vit='timm'))):
        with pytest.raises(UserError, match='vit_base_patch16_224.pth') as e: ask()
        said.append(str(e.value))
    assert said[0] == said[1] and 'weights not available' in said[0]
    vit = {'patch_embed.proj.weight': torch.randn(96, 3, 4, 4), 'patch_embed.proj.bias': torch.randn(96), 'pos_embed': torch.randn(1, 197, 96)}
    (tmp_path/'real'/'weights').mkdir(parents=True)
    save_file(vit, tmp_path/'real'/'weights'/'vit_base_patch16_224.safetensors')
    assert torch.equal(small(vit='timm').spatial.positions, vit['pos_embed'][:, 1:]) and with_weights('long-distance', dict(vit='timm'))['vit'].endswith('.safetensors')

def test_uniform_maps_of_identical_patches():
    layer = LongDistance(**SMALL, positions=False); nn.init.normal_(layer.templates)
    same = torch.randn(2, 1, 3, 4, 4).repeat(1, 1, 1, 4, 4)
    with torch.no_grad(): z, out = layer.latent(same), layer(same)
    assert z.abs().max() > .01 and z.std((2, 3)).max() < 1e-5 and out.std((2, 3)).max() < 1e-5
    layer = LongDistance(**SMALL); nn.init.normal_(layer.templates)
    with torch.no_grad(): assert layer.latent(same).std((2, 3)).min() > 1e-4   # positions alone tell them apart

def test_permuting_patches_with_their_positions_permutes_the_map():
    torch.manual_seed(0)
    layer, order = LongDistance(**SMALL), torch.randperm(16)
    nn.init.normal_(layer.templates)
    x = torch.randn(2, 1, 3, 16, 16)
    patches = x.unfold(3, 4, 4).unfold(4, 4, 4).flatten(3, 4)[:, :, :, order]                      # (2, 1, 3, 16, 4, 4)
    moved = patches.unflatten(3, (4, 4)).transpose(4, 5).flatten(5, 6).flatten(3, 4)
    with torch.no_grad():
        before = layer(x).flatten(2)
        alone = layer(moved).flatten(2)
        layer.positions.copy_(layer.positions[:, order])
        torch.testing.assert_close(layer(moved).flatten(2), before[:, :, order], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone, before[:, :, order], atol=1e-4)                                # without its position it is another patch

def test_one_bright_patch_is_one_bright_cell_and_one_block_of_features():
    "A template along the bright patch's representation (audit, oracle 1), through the network's own emphasis."
    m = small(('spatial',)).eval(); s = m.spatial
    x = torch.zeros(1, 1, 3, 56, 56); x[..., 5*4:6*4, 9*4:10*4] = 1
    with torch.no_grad():
        s.positions.zero_(); s.project[0].bias.zero_()
        z = s.tokens(x)[0, 0, 5*14+9].unflatten(-1, (12, 8))
        s.U.copy_(torch.eye(8).expand(12, 8, 8)); s.templates.copy_(z/z.square().sum(-1, keepdim=True))
        s.final.weight.fill_(1/12)
        maps = s(x)
        bright = torch.zeros(14, 14); bright[5, 9] = 1
        torch.testing.assert_close(s.latent(x)[0], bright.expand(12, -1, -1), atol=1e-5, rtol=0)
        torch.testing.assert_close(maps[0], bright.expand(4, -1, -1), atol=1e-5, rtol=0)
        for cell in (14, 7):
            f = m.emphasis['spatial'](torch.ones(1, 16, 14*cell, 14*cell), maps)
            block = torch.ones(14*cell, 14*cell); block[5*cell:6*cell, 9*cell:10*cell] = 2
            torch.testing.assert_close(f[0], block.expand(16, -1, -1), atol=1e-5, rtol=0)

# ---- residuals

def test_frames_that_do_not_move():
    m = awake(('temporal',)); x = clips()[:, :1].expand(-1, 4, -1, -1, -1)
    t = m.temporal
    assert t.positions is None and m.lent is None
    with torch.no_grad(): a = t.activations(t.tokens(with_residuals(torch.nn.functional.interpolate(x.flatten(0, 1), 56).unflatten(0, (4, 4)))))
    assert a[:, 1:].std(-1).max() < 1e-6 and a[:, :1].std(-1).min() > 1e-3
    torch.testing.assert_close(a[0, 1:], a[1, 1:], atol=1e-6, rtol=0)   # the bias alone, whoever is seen

def test_a_constant_added_to_all_frames_changes_no_residual():
    x = clips()
    r, s = with_residuals(x), with_residuals(x+.25)
    torch.testing.assert_close(r[:, 1:], s[:, 1:], atol=1e-6, rtol=0)
    assert (s[:, 0]-r[:, 0]).min() > .2
    torch.testing.assert_close(with_residuals(x, 1.)[:, 1:], torch.stack([x[:, t+1]-x[:, t] for t in range(3)], 1))

def test_reversing_time_negates_residuals_and_their_activations():
    t = awake(('temporal',)).temporal; x = torch.randn(2, 4, 3, 56, 56)
    there, back = with_residuals(x), with_residuals(x.flip(1))
    torch.testing.assert_close(back[:, 1:], -there[:, 1:].flip(1))
    with torch.no_grad():
        for p in t.project: p.bias.zero_(); p.weight.copy_(t.project[0].weight)
        a, b = (t.activations(t.tokens(v))[:, 1:] for v in (there, back))
    assert a.abs().max() > .1
    torch.testing.assert_close(b, -a.flip(1), atol=1e-4, rtol=1e-4)

def test_each_residual_has_a_projection_of_its_own():
    m = awake(('temporal',)); x = clips()
    before = latent_and_final(m, x)['temporal']['latent']
    for i in range(4):
        n = awake(('temporal',))
        with torch.no_grad(): n.temporal.project[i].weight.zero_()
        assert not torch.allclose(latent_and_final(n, x)['temporal']['latent'], before, atol=1e-4), i

def test_only_the_judged_frame_reaches_backbone_and_spatial_maps():
    m, x, y = awake(), clips(), clips(seed=1)
    y[:, 0] = x[:, 0]
    a, b = latent_and_final(m, x), latent_and_final(m, y)
    assert torch.equal(a['spatial']['final'], b['spatial']['final']) and not torch.allclose(a['temporal']['final'], b['temporal']['final'], atol=1e-4)
    s = awake(('spatial',))
    torch.testing.assert_close(s.predict(x[:, :1]), s.predict(y[:, :1]))

# ---- options

@pytest.mark.parametrize('option', [dict(m=2), dict(n=2), dict(meet='sum'), dict(meet='1x1'), dict(combine='all'),
                                    dict(share_positions=False), dict(features=('block1', 'block2')), dict(grid=7)], ids=str)
def test_every_option_changes_the_answer(option):
    a, b = awake(), awake(**option)
    with warnings.catch_warnings(action='ignore'): p, q = a.predict(clips(a.frames)), b.predict(clips(b.frames))
    assert p.shape == q.shape and not torch.allclose(p, q, atol=1e-6)

def test_a_map_that_starts_at_1_is_1_plus_map_written_otherwise():
    "With channel groups a combination whose bias starts at 1 is the same function, start and gradient as adding 1: `start` changes no result there."
    a, b = awake(), awake(start='map')
    torch.testing.assert_close(a(clips())['logits'], b(clips())['logits'], atol=1e-6, rtol=1e-5)
    for m in (a, b): m.loss(m(clips()), LABELS)['loss'].backward()
    for p, q in zip(a.parameters(), b.parameters(), strict=True): torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=1e-3)

def test_groups_deal_channels_evenly():
    f, maps = torch.ones(1, 64, 14, 14), torch.arange(4.).view(1, 4, 1, 1).expand(-1, -1, 14, 14)
    assert Emphasis(4, 64, start='map')(f, maps)[0, :, 0, 0].tolist() == [i//16 for i in range(64)]
    assert Emphasis(4, 64, meet='sum', start='map')(f, maps).unique().tolist() == [6.]
    mixed = Emphasis(4, 64, meet='1x1')
    torch.testing.assert_close(mixed(f, maps)[0, :, 3, 5], 1+mixed.mix.weight[:, :, 0, 0]@torch.arange(4.))

def test_any_size_is_brought_to_the_two_that_are_read():
    "A larger clip is shrunk with antialias: a pattern of single pixels fades to grey instead of being sampled."
    m = awake(('spatial',)); board = (torch.arange(224)[:, None]+torch.arange(224)) % 2
    x = board.float().expand(2, 1, 3, 224, 224)
    torch.testing.assert_close(m.predict(x), m.predict(torch.full((2, 1, 3, 64, 64), .5)), atol=.01, rtol=0)
    for side in (40, 62, 100): assert m.predict(clips(1, size=side)).isfinite().all()

@pytest.mark.parametrize('name', ('resnet18', 'efficientnet_b0'))
def test_pluggable_into_timm(name):
    plain = small(backbone=name, size=64)
    assert len(plain.backbone.places) == 2 and plain.backbone.places != small(backbone=name, size=64, features=plain.backbone.places[::-1]).backbone.places
    x = clips(size=64)
    with warnings.catch_warnings(action='ignore'):
        with torch.no_grad(): bare = plain.eval().head(plain.backbone.net(plain.prepare(x)[:, 0]))
        torch.testing.assert_close(plain(x)['logits'], bare, atol=1e-6, rtol=0)
        loss = plain.train().loss(plain(x), LABELS)['loss']
    loss.backward()
    assert all(getattr(plain, p).templates.grad.abs().sum() > 0 for p in PARTS)
    assert not [h for mod in plain.backbone.net.modules() for h in mod._forward_hooks]   # nothing stays behind

# ---- training, files, recording

@each
@pytest.mark.parametrize('channels_last', (False, True))
def test_two_training_steps_move_every_parameter(parts, channels_last):
    "Two: while the templates are zero, U, projection and positions have no gradient."
    m = small(parts).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format).train()
    groups = m.backbone_parameters(), m.other_parameters()
    assert sum(map(len, groups)) == len(list(m.parameters())) and all(groups)
    before = {k: p.detach().clone() for k, p in m.named_parameters()}
    optimiser = torch.optim.AdamW([dict(params=g) for g in groups], 1e-3, weight_decay=0.)
    for _ in range(2):
        loss = m.loss(m(clips(m.frames)), LABELS)['loss']
        optimiser.zero_grad(); loss.backward(); optimiser.step()
    assert [k for k, p in m.named_parameters() if torch.equal(p, before[k])] == []

def test_what_moves_is_learned_by_heart():
    "Real and fake share the judged frame: only the temporal part can tell them apart."
    m, x = small(('temporal',)), clips()[:1].repeat(4, 1, 1, 1, 1)
    x[1:3, 2:, :, 20:44, 20:44] = 1-x[1:3, 2:, :, 20:44, 20:44]
    optimiser, losses = torch.optim.AdamW(m.parameters(), 3e-3), []
    for _ in range(40):
        loss = m.loss(m.train()(x), LABELS)['loss']
        optimiser.zero_grad(); loss.backward(); optimiser.step(); losses.append(loss.item())
    assert losses[0] > .3 and losses[-1] < .1*losses[0], losses

def test_scores_belong_to_each_clip_alone():
    m, x = awake().train(), clips()
    p = m.predict(x)
    assert m.training and ((0 < p) & (p < 1)).all()
    torch.testing.assert_close(m.predict(x[2:3]), p[2:3], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(m.predict(x.flip(0)), p.flip(0), atol=1e-5, rtol=1e-4)

@each
def test_saved_and_loaded(parts, tmp_path):
    m = awake(parts); x = clips(m.frames)
    again = load_model(save_model(m, tmp_path/'m.safetensors'), 'long-distance')
    assert again.config == json.loads(json.dumps(m.config)) and torch.equal(m.predict(x), again.predict(x))
    with torch.no_grad(): torch.testing.assert_close(again.maps(again.prepare(x)), m.maps(m.prepare(x)))

@pytest.mark.parametrize('other', [dict(m=3), dict(n=2), dict(combine='all')], ids=str)
def test_a_checkpoint_of_other_m_or_n_is_told_in_one_line(other, tmp_path):
    from deepfakenb.models.backbones import fit
    with pytest.raises(UserError, match='another model') as e: fit(small(), small(**other).state_dict(), 'run.safetensors')
    assert '\n' not in str(e.value) and 'run.safetensors' in str(e.value)

def test_the_recorder_sees_latent_and_final_maps():
    m, x = awake(), clips()
    with record(m) as seen: m.predict(x)
    assert list(seen) == [f'{p}.{maps}' for p in PARTS for maps in ('latent_maps', 'final_maps')]
    maps = latent_and_final(m, x)
    for p in PARTS:
        for kind, heads in (('latent', 12), ('final', 4)):
            r = seen[f'{p}.{kind}_maps']
            assert r.weights.shape == (4, heads, 1, 196) and r.grid == (14, 14)
            flat = maps[p][kind].abs().flatten(2)
            torch.testing.assert_close(r.weights[:, :, 0], flat/flat.sum(-1, keepdim=True), atol=1e-6, rtol=1e-4)

def test_weights_of_a_vit_in_timms_names(tmp_path):
    "The names and shapes are those of timm's own ViT-B/16; the file is random."
    import timm
    with torch.device('meta'): published = {k: v.shape for k, v in timm.create_model('vit_base_patch16_224').state_dict().items()}
    state = {k: torch.randn(published[k]) for k in ('patch_embed.proj.weight', 'patch_embed.proj.bias', 'pos_embed')}
    torch.save(state, tmp_path/'vit.pth')
    m = small(patch=16, dim=768, vit=str(tmp_path/'vit.pth'))
    for part in (m.spatial, m.temporal):
        assert torch.equal(part.project[0].weight, state['patch_embed.proj.weight']) and torch.equal(part.project[0].bias, state['patch_embed.proj.bias'])
    assert torch.equal(m.spatial.positions, state['pos_embed'][:, 1:]) and m.lent is m.spatial.positions   # the class token's goes
    assert m.config['vit'] is None
    own = small(patch=16, dim=768, share_positions=False, vit=str(tmp_path/'vit.pth'))
    assert torch.equal(own.temporal.positions, own.spatial.positions) and own.temporal.positions is not own.spatial.positions
    with pytest.raises(UserError, match='patch=16'): small(vit=str(tmp_path/'vit.pth'))
    del state['pos_embed']; torch.save(state, tmp_path/'part.pth')
    with pytest.raises(UserError, match='pos_embed.*missing'): small(patch=16, dim=768, vit=str(tmp_path/'part.pth'))

def test_weights_of_a_backbone(tmp_path):
    m = small(seed=1)
    torch.save(m.backbone.net.state_dict(), tmp_path/'backbone.pth')
    n = small(seed=2, weights=str(tmp_path/'backbone.pth'))
    assert all(torch.equal(v, n.backbone.net.state_dict()[k]) for k, v in m.backbone.net.state_dict().items()) and n.config['weights'] is None
    assert model_class('long-distance').start_name(TINY) == 'xception-narrow'
    with pytest.raises(UserError, match='backbone.pth.*another model'): small(backbone='resnet18', weights=str(tmp_path/'backbone.pth'))

@pytest.mark.parametrize('option, says', [
    (dict(parts=()), 'at least one'), (dict(parts=('time',)), 'spatial, temporal'), (dict(meet='all'), 'groups'), (dict(start='zero'), 'map'),
    (dict(combine='mean'), 'groups, all'), (dict(backbone='resnet999'), 'timm'), (dict(features=('conv9', 'conv2')), 'conv2'),
    (dict(features=('conv2',)), 'place for each part'), (dict(dim=100), 'latent spaces'), (dict(weights='nowhere.pth'), 'no such file'),
    (dict(vit='nowhere.pth'), 'no such file'), (dict(patches=4), 'patch')], ids=str)
def test_a_wrong_option_is_one_line(option, says):
    parts = option.pop('parts', PARTS)
    with pytest.raises(UserError, match=says) as e: small(parts, **option)
    assert '\n' not in str(e.value) and e.value.code in (1, 2)

@pytest.mark.parametrize('given', (1, 3, 5))
def test_a_wrong_number_of_frames_is_told(given):
    with pytest.raises(UserError, match=f'{given} frames; this model reads 4') as e: small()(clips(given))
    assert '\n' not in str(e.value) and e.value.code == 2
    with pytest.raises(UserError, match='reads 1'): small(('spatial',))(clips(4))

# ---- what `options` and backbones must not do in silence

@pytest.mark.parametrize('meet', ('groups', 'sum', '1x1'))
def test_maps_that_start_at_1_leave_the_backbone_alone(meet):
    m, x = small(start='map', meet=meet).eval(), clips(size=62)
    with torch.no_grad(): torch.testing.assert_close(m(x)['logits'], m.head(m.backbone.net(m.prepare(x)[:, 0]).mean((2, 3))), atol=1e-6, rtol=0)

def test_the_literal_start_is_nearly_blind():
    "Maps as they are drawn, multiplied: near zero, the backbone's answer is gone (why it is no default)."
    x = clips(size=62)
    def answer(**kw): return small(seed=3, **kw).eval()(x)['logits']
    assert not torch.allclose(answer(start='literal'), answer(), atol=1e-4)
    m = small(start='literal').eval()
    assert all(v['final'].abs().max() < .3 for v in latent_and_final(m, x).values())

def test_the_scale_of_residuals():
    a, b = awake(('temporal',)), awake(('temporal',), residual_scale=1.)
    assert b.config['residual_scale'] == 1. and not torch.allclose(a.predict(clips()), b.predict(clips()), atol=1e-7)
    with torch.no_grad():
        for m, s in ((a, 4.), (b, 1.)):
            seen = torch.nn.functional.interpolate(m.prepare(clips()).flatten(0, 1), (56, 56), mode='bilinear', antialias=True).unflatten(0, (4, 4))
            torch.testing.assert_close(m.maps(m.prepare(clips()))['temporal'], m.temporal(with_residuals(seen, s)), atol=1e-5, rtol=1e-4)

def test_a_side_that_shrinks_is_antialiased_alone():
    x = (torch.arange(224) % 2).float()[:, None].expand(2, 1, 3, 224, 50).contiguous()   # stripes along the tall side
    m = awake(('spatial',))
    torch.testing.assert_close(m.predict(x), m.predict(torch.full((2, 1, 3, 64, 64), .5)), atol=.01, rtol=0)

@pytest.mark.parametrize('name', ('mobilenetv3_small_050', 'vgg11', 'ghostnet_050'))
def test_backbones_whose_output_is_no_num_features(name):
    m = small(backbone=name, size=64).eval()
    with warnings.catch_warnings(action='ignore'): assert m.predict(clips()).isfinite().all()

@pytest.mark.parametrize('name, size', [('vit_tiny_patch16_224', 224), ('swin_tiny_patch4_window7_224', 224), ('vit_tiny_patch16_224', 62), ('inception_v3', 62)])
def test_backbones_that_give_no_maps_are_refused(name, size):
    with pytest.raises(UserError, match='gives a map' if size == 224 else 'does not read 62') as e: small(backbone=name, size=size)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('tokens, dim', [(577, 96), (100, 96), (197, 64)])
def test_positions_of_another_vit_are_refused(tokens, dim):
    state = {'patch_embed.proj.weight': torch.randn(96, 3, 4, 4), 'patch_embed.proj.bias': torch.randn(96), 'pos_embed': torch.randn(1, tokens, dim)}
    with pytest.raises(UserError, match='position embedding'): small().load_vit(state)

@pytest.mark.parametrize('option, says', [(dict(features=('conv2', 'conv2')), 'name two'), (dict(m=0), 'at least 1'), (dict(n=0), 'at least 1'), (dict(m=25), 'more maps')], ids=str)
def test_options_without_a_meaning_are_refused(option, says):
    with pytest.raises(UserError, match=says): small(**option)

NAN, LIST = float('nan'), [1]
@pytest.mark.parametrize('option, value, allowed', [
    *((k, v, 'whole number of at least') for k in ('m', 'n', 'size', 'grid', 'patch', 'dim', 'spaces') for v in (0, -4, 2.5, 3., '4', None, True, LIST)),
    ('size', 5, 'at least 7'), ('size', 6, 'at least 7'),
    *(('dropout', v, 'from 0 to 1') for v in (2, -.1, NAN, '0', None)),
    *(('residual_scale', v, 'a number from') for v in (NAN, float('inf'), 1e300, '4', None)),
    ('parts', 'spatial', "['spatial']"), ('parts', 5, 'list of names'), ('parts', (1,), 'list of names'), ('parts', None, 'list of names'),
    ('features', 'conv2', "['conv2']"), ('features', None, 'list of names'), ('features', (3, 4), 'list of names'),
    ('share_positions', 'yes', 'True, False'), ('combine', 'mean', 'groups, all'), ('meet', LIST, 'groups'), ('start', 1, 'map'),
    ('weights', 5, 'path'), ('vit', True, 'path')], ids=str)
@pytest.mark.parametrize('parts', (('spatial',), PARTS), ids='+'.join)
def test_what_an_option_cannot_be_is_told_with_its_name_and_value(option, value, allowed, parts):
    "Without the temporal part, too, where `n`, `combine` and `share_positions` would be read by nobody."
    with pytest.raises(UserError) as e: build_model('long-distance', **{**TINY, 'parts': parts, option: value})
    said = str(e.value)
    assert said.startswith(f'{option} = {value!r}: ') and allowed in said and '\n' not in said and e.value.code == 2

@pytest.mark.parametrize('option', [dict(size=7), dict(dropout=1), dict(dropout=0), dict(residual_scale=0), dict(residual_scale=-4), dict(grid=1, patch=1, m=1, n=1)], ids=str)
def test_the_last_values_that_are_allowed_are_computed_with(option):
    m = awake(**option)
    with warnings.catch_warnings(action='ignore'): assert m.predict(clips(m.frames)).isfinite().all()

@pytest.mark.parametrize('option', ('m', 'images', 'grid', 'patch', 'dim', 'spaces'))
@pytest.mark.parametrize('value', (0, 2.5, '4'))
def test_the_layer_tells_the_same(option, value):
    with pytest.raises(UserError, match=f'{option} = {value!r}: a whole number of at least 1') as e: LongDistance(**{**SMALL, option: value})
    assert e.value.code == 2
    if option == 'm':
        for meet in ('groups', 'sum', '1x1'):
            with pytest.raises(UserError, match='m = '): Emphasis(value, 8, meet=meet)

# ---- places in the backbone

@pytest.mark.parametrize('part', PARTS)
def test_one_part_needs_one_name(part):
    "The part acts there and nowhere else; of two names it takes its own."
    m = awake((part,), features=('block3',)); x = clips(m.frames, size=62)
    assert m.place == {part: 'block3'} and m.config['features'] == ['block3'] and build_model(**m.config).place == m.place
    with torch.no_grad(), warnings.catch_warnings(action='ignore'):
        z, net = m.prepare(x), m.backbone.net
        by_hand = net.run(m.emphasis[part](net.run(z[:, 0], until='block3'), m.maps(z)[part]), after='block3').mean((2, 3))
        torch.testing.assert_close(m(x)['logits'], m.head(by_hand), atol=1e-6, rtol=1e-5)
    assert small((part,), features=('conv2', 'block3')).place == {part: dict(zip(PARTS, ('conv2', 'block3')))[part]}
    assert small(PARTS[::-1], features=('conv2', 'block3')).place == dict(spatial='conv2', temporal='block3')   # in whatever order the parts are named

@pytest.mark.parametrize('parts, features, says', [
    (PARTS, ('conv2',), r"features = \['conv2'\]: .*each part \(spatial, temporal\)"), (('temporal',), ('conv2', 'block1', 'block2'), r'each part \(temporal\)'),
    (PARTS, ('conv2', 'block1', 'block2'), 'block2.*each part'), (PARTS[:1], ('conv2', 'conv9'), "features = 'conv9'"), (PARTS, ('block1', 'block1'), 'both parts at block1')])
@pytest.mark.parametrize('backbone', ('xception-narrow', 'resnet18'))
def test_too_few_and_surplus_names_are_refused(parts, features, says, backbone):
    if backbone == 'resnet18': features = tuple(f.replace('conv', 'layer').replace('block1', 'act1').replace('block', 'layer') for f in features)
    says = says if backbone != 'resnet18' else says.replace('conv', 'layer').replace('block1', 'act1').replace('block', 'layer')
    with pytest.raises(UserError, match=says) as e: small(parts, features=features, backbone=backbone)
    assert '\n' not in str(e.value) and e.value.code == 2

def branching(m):
    "timm's residual branches begin at zero: what is done in one would not be seen."
    for k, p in m.backbone.net.named_parameters():
        if k.endswith('bn2.weight'): nn.init.ones_(p)
    return m

@pytest.mark.parametrize('place', ('layer1.0', 'layer1.0.bn1', 'layer2.0.downsample', 'maxpool'))
def test_any_module_that_gives_a_map_will_do(place):
    "By hand: the same ResNet, the module replaced by itself and the emphasis."
    m = branching(awake(('spatial',), backbone='resnet18', size=64, features=(place,))); x = clips(1)
    class And(nn.Module):
        def __init__(self, first, then): super().__init__(); self.first, self.then = first, then
        def forward(self, x): return self.then(self.first(x))
    with torch.no_grad(), warnings.catch_warnings(action='ignore'):
        is_, plain = m(x)['logits'], m.head(m.backbone.net(m.prepare(x)[:, 0]))
        maps, old = m.maps(m.prepare(x))['spatial'], m.backbone.net.get_submodule(place)
        m.backbone.net.set_submodule(place, And(old, lambda f: m.emphasis['spatial'](f, maps)))
        by_hand = m.head(m.backbone.net(m.prepare(x)[:, 0]))
    torch.testing.assert_close(is_, by_hand, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(is_, plain, atol=1e-5) and m.backbone.widths[place] == (128 if place.startswith('layer2') else 64)

def test_a_deep_place_is_trained_too():
    m = branching(small(backbone='resnet18', size=64, features=('layer1.0.bn1', 'layer1.1.conv2'))).train()
    with warnings.catch_warnings(action='ignore'): m.loss(m(clips()), LABELS)['loss'].backward()
    assert all(getattr(m, p).templates.grad.abs().sum() > 0 for p in PARTS)

@pytest.mark.parametrize('backbone, features, size, says', [
    ('resnet18', ['layer9'], 64, "features = 'layer9': is no module in 'resnet18'.*layer2"), ('resnet18', ['layer1.0.bn9'], 64, 'is no module'),
    ('resnet18', ['global_pool'], 64, r'gives \[1, 512\]'), ('resnet18', [''], 64, r'gives \[1, 512\]'),
    ('hrnet_w18_small', [], 64, "'stem': is no module.*such as conv1"), ('hrnet_w18_small', ['stage2'], 64, 'gives a list'),
    ('selecsls42', [], 64, "'features.1': gives a list.*such as stem"), ('coat_lite_mini', ['serial_blocks1'], 224, 'is not run'),
    ('mambaout_femto', [], 64, r'gives \[1, 16, 16, 48\]'), ('mambaout_femto', [], 192, r'gives \[1, 48, 48, 48\], channels last'),
    ('convit_tiny', ['blocks.0.attn.attn_drop'], 224, 'attention of patches.*such as patch_embed.proj$'), ('botnet26t_256', [], 62, r'does not read 62 px \(\w'),
    ('resnet18', [], -4, 'size = -4'), ('resnet18.nonsense', [], 64, 'timm')])
def test_places_that_give_no_map_are_refused_in_one_line(backbone, features, size, says):
    with pytest.raises(UserError, match=says) as e: small(('spatial',), backbone=backbone, features=features, size=size)
    assert '\n' not in str(e.value) and e.value.code == 2

@pytest.mark.parametrize('backbone, features, size', [('hrnet_w18_small', ['conv1', 'layer1'], 64), ('selecsls42', ['stem.2', 'stem'], 64), ('convnext_atto', ['stages.0', 'stages.0.blocks.0'], 160)])
def test_what_the_refusal_names_can_be_taken(backbone, features, size):
    "The last two give as many channels as rows and columns, in one place at least."
    m = small(backbone=backbone, features=features, size=size).eval()
    with warnings.catch_warnings(action='ignore'): assert m.predict(clips()).isfinite().all()

class Square(nn.Module):
    "Reads squares only; `twice` is run two times, `cube` gives as many channels as rows."
    def __init__(self, listed):
        super().__init__(); self.feature_info = [dict(module=k, num_chs=16) for k in listed]
        self.first, self.twice, self.cube = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1)
    def forward(self, x):
        if x.shape[2] != x.shape[3]: raise TypeError
        return self.twice(self.cube(self.twice(self.first(x)))).mean((2, 3))

@pytest.mark.parametrize('listed, features, says', [((), ('twice',), 'is run 2 times in .*such as first$'), ((), ('cube',), r'\[1, 16, 16, 16\], which may be channels last.*such as first$'),
                                                    (('cube',), ('twice',), 'such as cube, first$'), ((), (), 'lists no usual ones.*such as first$'), (('cube', 'first'), (), None),
                                                    (('cube',), (), None)])
def test_a_network_that_reads_squares_only(listed, features, says, monkeypatch):
    "Which is which cannot be tried there: timm's list is believed, and nothing else."
    import timm
    monkeypatch.setattr(timm, 'is_model', lambda name: True); monkeypatch.setattr(timm, 'create_model', lambda name, num_classes: Square(listed))
    if not says: assert small(('spatial',), backbone='square', features=features, size=64).place == dict(spatial='cube')
    else:
        with pytest.raises(UserError, match=says) as e: small(('spatial',), backbone='square', features=features, size=64)
        assert '\n' not in str(e.value) and e.value.code == 2
    if listed == ('cube',):
        with pytest.raises(UserError, match='one usual place, cube; name two'): small(backbone='square', size=64)

def test_an_image_is_sent_through_once_and_leaves_nothing_behind():
    import timm
    torch.manual_seed(0); g = Guided('resnet18', ('layer1.0', 'layer2'), size=64)
    torch.manual_seed(0); plain = timm.create_model('resnet18', num_classes=0)
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in g.net.state_dict().items())   # batch statistics, too
    assert g.net.training and not [h for m in g.net.modules() for h in m._forward_hooks] and g.widths == {'layer1.0': 64, 'layer2': 128}

def test_the_command_line_tells_it_in_one_line(deepfakenb):
    code, out, err = deepfakenb('train', '--model', 'long-distance', '--set', 'model.backbone=hrnet_w18_small', '--set', 'model.size=64', '--dry-run')
    assert code == 2 and 'hrnet_w18_small' in err and 'such as conv1' in err and 'Traceback' not in err+out and err.strip().count('\n') == 0

# ---- weights that were trained with other options

def values(m): return {k: v.detach().clone() for k, v in m.state_dict().items()}

def unchanged(m, before): return all(torch.equal(v, before[k]) for k, v in m.state_dict().items())

@pytest.mark.parametrize('other, told', [
    (dict(m=3, n=2), 'm = 3 in the file, 4 here; n = 2 in the file, 3 here; '), (dict(m=5, n=4), 'm = 5 in the file, 4 here; n = 4 in the file, 3 here; '),
    (dict(m=3), 'model, m = 3 in the file, 4 here; 4 of'), (dict(n=2), 'model, n = 2 in the file, 3 here; 2 of'),
    (dict(combine='all'), 'model, combine = all in the file, groups here; 1 of'), (dict(share_positions=False), 'model, share_positions = False in the file, True here; 1 of'),
    (dict(parts=PARTS[:1]), r'model, parts = spatial in the file, spatial\+temporal here; '), (dict(grid=7, dim=48), 'model, patch|dim = 48 in the file, 96 here; .*grid = 7 in the file, 14 here')],
    ids=str)
def test_weights_of_other_options_are_told_and_none_is_loaded(other, told):
    m, file = small(seed=1), small(**{'parts': PARTS, **other}, seed=2).state_dict()
    before = values(m)
    with pytest.raises(UserError, match=told) as e: m.load_state_dict(file)
    says = str(e.value)
    own = {k: v.shape for k, v in before.items()}
    differ = [k for k in own.keys() | file.keys() if own.get(k) != (file[k].shape if k in file else None)]
    assert f'; {len(differ)} of {len(own.keys() | file.keys())} tensors differ; nothing was loaded; ' in says and '\n' not in says
    assert unchanged(m, before)
    with pytest.raises(UserError, match='run.safetensors: weights of another model, '): m.check_state(file, 'run.safetensors')

def test_nothing_is_loaded_where_torch_would_load_what_fits():
    "m and n both differ: torch alone copies 205 of 211 tensors before it complains."
    m, file = small(seed=1), small(m=3, n=2, seed=2).state_dict()
    before = values(m)
    for how in (dict(), dict(strict=False), dict(assign=True)):
        with pytest.raises(UserError, match='m = 3 in the file, 4 here; n = 2 in the file, 3 here; 6 of 211 tensors differ; nothing was loaded'): m.load_state_dict(file, **how)
        assert unchanged(m, before)
    with pytest.raises(RuntimeError): nn.Module.load_state_dict(m, file)
    assert not unchanged(m, before)   # the test can fail

def test_a_file_that_disagrees_with_its_own_header_is_refused(tmp_path):
    "Loading builds the model that the header names; weights of other m and n under it are a damaged file."
    m = small(m=3, n=2); m.config = small().config
    with pytest.raises(UserError, match='m.safetensors: weights of another model') as e: load_model(save_model(m, tmp_path/'m.safetensors'))
    assert '\n' not in str(e.value)

def test_what_fits_is_loaded_as_ever():
    file = small(seed=2).state_dict()
    m = small(seed=1); assert str(m.load_state_dict(file)) == '<All keys matched successfully>' and unchanged(m, file)
    m = small(seed=1); m.load_state_dict({k: v for k, v in file.items() if 'temporal' not in k}, strict=False)   # names alone differ, and that was asked for
    assert torch.equal(m.spatial.U, file['spatial.U']) and not torch.equal(m.temporal.U, file['temporal.U'])
    m = small(seed=1)
    with pytest.raises(RuntimeError, match='Missing key'): m.load_state_dict({})
    with pytest.raises(RuntimeError, match='Missing key'): m.load_state_dict(small(backbone='resnet18', size=64).state_dict())   # no option of the attention

@pytest.mark.parametrize('options', [dict(), dict(m=2, n=5), dict(combine='all', n=1), dict(share_positions=False, grid=7), dict(patch=8, dim=24, spaces=3)], ids=str)
@each
def test_shapes_tell_the_options(parts, options):
    m = small(parts, **options)
    told = options_of(m.state_dict())
    assert told.pop('parts').split('+') == list(parts) and all(m.config[k] == v for k, v in told.items())
    assert {'m', 'patch', 'dim', 'spaces'} <= told.keys() and ('n' in told) == ('temporal' in parts) and options_of(m.backbone.state_dict()) == {}

# ---- a vision transformer's projection without the backbone's weights

@pytest.mark.parametrize('backbone', ('xception-narrow', 'resnet18'))
@pytest.mark.parametrize('ending', ('pth', 'safetensors'))
def test_a_vit_beside_a_backbone_that_starts_at_random(backbone, ending, tmp_path):
    "As the paper trains it. A whole state dict of timm's, every name of it, random; 224 px and 16 px patches are the model's own defaults."
    import timm
    from safetensors.torch import save_file
    torch.manual_seed(5); state = timm.create_model('vit_tiny_patch16_224').state_dict()
    path = str(tmp_path/f'vit.{ending}')
    save_file(state, path) if ending == 'safetensors' else torch.save(state, path)
    options = dict(backbone=backbone, size=64, dim=192)
    torch.manual_seed(0); with_vit = build_model('long-distance', vit=path, **options)
    torch.manual_seed(0); without = build_model('long-distance', **options)
    taken = {'spatial.project.0.weight': state['patch_embed.proj.weight'], 'spatial.project.0.bias': state['patch_embed.proj.bias'],
             'spatial.positions': state['pos_embed'][:, 1:]}
    taken |= {k.replace('spatial', 'temporal'): v for k, v in taken.items() if 'project' in k}
    for k, v in with_vit.state_dict().items(): assert torch.equal(v, taken.get(k, without.state_dict()[k])), k
    assert with_vit.config == without.config and with_vit.config['weights'] is None
    with warnings.catch_warnings(action='ignore'):
        torch.testing.assert_close(with_vit.eval()(clips())['logits'], without.eval()(clips())['logits'], atol=1e-6, rtol=0)   # no template yet: the backbone's own answer
        for m in (with_vit, without): torch.manual_seed(1); [nn.init.normal_(getattr(m, p).templates) for p in PARTS]
        assert not torch.allclose(with_vit(clips())['logits'], without(clips())['logits'], atol=1e-4)

@pytest.mark.parametrize('wrong, says', [
    ({'patch_embed.proj.bias': torch.zeros(95)}, r'vit.pth: bias of the patch projection \[95\] instead of \[96\]'), ({'patch_embed.proj.bias': 3}, 'bias of the patch projection int'),
    ({'pos_embed': 'none'}, 'position embedding str'), ({'patch_embed.proj.weight': torch.zeros(96, 48)}, r'patch projection \[96, 48\]'),
    ({'pos_embed': torch.zeros(1, 197, 95)}, r'position embedding \[1, 197, 95\] instead of \[1, 197, 96\]')])
@each
def test_a_vit_of_other_shapes_changes_nothing(wrong, says, parts):
    good = {'patch_embed.proj.weight': torch.randn(96, 3, 4, 4), 'patch_embed.proj.bias': torch.randn(96), 'pos_embed': torch.randn(1, 197, 96)}
    m = small(parts); before = values(m)
    with pytest.raises(UserError, match=says) as e: m.load_vit({**good, **wrong}, 'vit.pth')
    assert '\n' not in str(e.value) and unchanged(m, before)
    m.load_vit(good); assert not unchanged(m, before)
