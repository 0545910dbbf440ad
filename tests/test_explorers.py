"What the explorers of films, patches and attention draw is what the models compute: rows of the full map, sums of maps, the paper's numbers, the truth's edge."
from dataclasses import replace
import numpy as np, pytest, torch
from deepfakenb.core import UserError
from deepfakenb.explore import patches, video, watching
from deepfakenb.explore.explorer import Explorer, State, every_head, out_of_reach
from deepfakenb.models.base import build_model

torch.set_num_threads(1)
SMALL = dict(frames=4, size=32, patch=8, dim=16, depth=2, heads=2)

@pytest.fixture(scope='module')
def film():
    "A film in noise with a bright square that walks, and its 'forgery' with a dark mouth: two shots of eight frames."
    r = np.random.default_rng(0)
    real = r.integers(90, 150, (8, 64, 64, 3), dtype=np.uint8)
    for t in range(8): real[t, 10:20, 5+5*t:15+5*t] = 230
    masks = np.zeros((8, 64, 64), bool); masks[:, 40:56, 16:48] = True
    fake = real.copy(); fake[masks] //= 3
    return dict(real=watching.Shot('real', real, np.arange(8)), forged=watching.Shot('forged', fake, np.arange(8), masks))

def strong(name, **options): # weights that make attention uneven
    torch.manual_seed(1)
    m = build_model(name, **options).eval()
    for p in m.parameters(): torch.nn.init.normal_(p, std=.25)
    return m

def naive(layer, x): # (R, L, dim) -> (R, heads, L, L), written out
    q, k, _ = layer.qkv(x).chunk(3, -1)
    split = lambda z: z.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    return (split(q)@split(k).mT/(q.shape[-1]//layer.heads)**.5).softmax(-1)

@pytest.mark.parametrize('attention', ['joint', 'divided'])
@pytest.mark.parametrize('query', [(0, 0, 0), (3, 2, 1), (1, 3, 3)])
@torch.no_grad()
def test_a_query_is_the_row_of_the_whole_map(attention, query, monkeypatch):
    m, clip = strong('timesformer', attention=attention, **SMALL), torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    block = m.model.blocks[1]
    read = watching.caught(m, clip, dict(space=block.attn, **(dict(time=block.temporal_attn) if block.divided else {})))
    import deepfakenb.models.timesformer as tf
    monkeypatch.setattr(tf, 'in_the_open', lambda *a: pytest.fail('the whole map was written'))      # only the chosen row may be computed
    looks = watching.timesformer_looks(m, clip, 1, query)
    t, place = query[0], query[1]*4+query[2]
    rows = lambda w: w/w.sum(-1, keepdim=True)
    if attention == 'joint':
        whole = rows(naive(block.attn, read['space'])[0, :, 1+t*16+place, 1:])
        assert torch.allclose(looks['joint'].flatten(1), whole, atol=1e-6) and list(looks) == ['joint']
        return
    space, time = naive(block.attn, read['space']), naive(block.temporal_attn, read['time'])         # (T, heads, 17, 17), (16, heads, 4, 4)
    s = rows(space[t, :, 1+place, 1:])
    assert torch.allclose(looks['space'][:, t].flatten(1), s, atol=1e-6) and torch.allclose(looks['space'].sum((1, 2, 3)), torch.ones(2), atol=1e-5)
    assert torch.allclose(looks['time'][:, :, query[1], query[2]], time[place, :, t], atol=1e-6) and looks['time'].count_nonzero() == 2*4
    both = torch.stack([s.mean(0)[p]*time[p, :, t].mean(0) for p in range(16)], 1)                   # place by place
    assert torch.allclose(looks['time and space'][0].flatten(1), both, atol=1e-6)

@torch.no_grad()
def test_a_place_is_the_row_of_the_non_local_map():
    m = strong('resnet3d', width=.125, stem='fine', placement=(2,), pooled=4)
    clip = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    reader = watching.reader_of(m)
    x = watching.caught(m, clip, dict(x=m.nonlocal_['2'][0]))['x']
    q, k, _ = m.nonlocal_['2'][0].parts(x)
    whole = (q@k.mT).softmax(-1)[0].unflatten(0, x.shape[2:])                    # (T, H, W, keys)
    found = reader.maps(m, clip, 'stage 2, block 0', (6, .99, .01))['look']
    assert torch.allclose(found.flatten(), whole[6*x.shape[2]//8, -1, 0], atol=1e-6) and torch.allclose(found.sum(), torch.tensor(1.), atol=1e-5)
    even = reader.maps(m, clip, 'stage 2, block 0')['looked at']
    assert torch.allclose(even.flatten(), whole.flatten(0, 2).mean(0), atol=1e-6)

@torch.no_grad()
def test_a_final_map_is_the_sum_of_latent_maps():
    m = strong('long-distance', parts=('spatial',), backbone='xception-narrow', size=62, patch=4, dim=24, m=3)
    found = watching.reader_of(m).maps(m, torch.randint(0, 256, (1, 3, 62, 62), dtype=torch.uint8), 'spatial')
    assert found['latent'].shape == (12, 1, 14, 14) and found['final'].shape == (3, 1, 14, 14)
    with torch.no_grad(): m.spatial.final.weight.abs_(); m.spatial.final.bias.zero_(); m.spatial.templates.zero_()
    assert not any(v.any() for v in watching.reader_of(m).maps(m, torch.zeros(1, 3, 62, 62, dtype=torch.uint8), 'spatial').values())   # no template, no map

@pytest.mark.parametrize('attention', ['joint', 'divided'])
@pytest.mark.parametrize('query', [(3, 1., 1.), (0, 0., 1.), (4, 0, 0), (-1, 0, 0)])
def test_a_patch_outside_the_grid_is_named(attention, query):
    m, clip = strong('timesformer', attention=attention, **SMALL), torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(UserError, match=r'query = \(.*\): a place of \(4, 4, 4\) is needed, counted from 0'): watching.reader_of(m).maps(m, clip, 'block 2', query)

def test_channels_are_averaged_and_chosen(film):
    v = video.VideoViewer(dict(a=watching.Watched(strong('timesformer', attention='joint', **SMALL), 32, 4)), dict(film=film))
    state = video.VideoState(frame=2, query=(.4, .6))
    look = v.seen('a', 'forged', state)
    assert np.allclose(look.maps.sum((1, 2, 3)), 1, atol=1e-5) and look.unit == 'head'
    assert np.allclose(video._channel(look, state), look.maps.mean(0)) and np.array_equal(video._channel(look, replace(state, channel=1)), look.maps[1])
    assert look.sample.tolist()[look.now] == 2 and not np.array_equal(look.maps, v.seen('a', 'forged', replace(state, query=(.9, .6))).maps)

@pytest.mark.parametrize('width', [1, 2, 4])
def test_outline_is_the_edge_of_the_mask(width):
    r = np.random.default_rng(width); mask = np.zeros((40, 40), bool)
    for y, x in r.integers(0, 34, (4, 2)): mask[y:y+9, x:x+12] = True
    line = video.outline(mask, 40, width)
    padded = np.pad(mask, width, constant_values=True)                             # the border of the picture is no edge
    near_outside = np.array([[not padded[y:y+2*width+1, x:x+2*width+1].all() for x in range(40)] for y in range(40)])
    assert np.array_equal(line, mask & near_outside)

def test_share_and_chance():
    mask = np.zeros((30, 30), bool); mask[:15, :10] = True                         # a sixth of the picture
    heat = np.zeros((6, 6)); heat[1, 1] = 3; heat[4, 4] = 1                         # three quarters lie inside
    assert np.allclose(video.shares(heat, mask), (.75, 1/6)) and np.allclose(video.shares(np.ones((3, 3)), mask), 1/6)

def test_scores_are_those_of_predict(tmp_path):
    "A video file through the explorer, and through `deepfakenb predict`'s own function: same faces, same scores."
    from facefilm import walk
    from deepfakenb.data.codec import write_video
    from deepfakenb.inference.videos import VideoDetector, predict_videos
    from deepfakenb.tasks.base import task_named
    torch.manual_seed(0)
    file = write_video(tmp_path/'anna.mp4', walk(12)[0], fps=12)
    d = VideoDetector(build_model('xception', backbone='xception-narrow').eval(), dict(rule='first-1.3', size=64, frames=1, stride=1), 96, 'toy', 'Untrained.', task_named('video'))
    ui = video.video_explorer(d, file)
    n, s = ui.viewer.curve('toy', 'video', ui.state)
    j, = predict_videos(d, file, tmp_path/'o')
    assert n.tolist() == j.frames.tolist() and np.allclose(s, j.curve, atol=1e-5) and len(n) > 6
    assert 'Untrained.' in ui.text.value and ui.viewer.film(ui.state)['video'].rule == 'first-1.3'

def test_what_is_missing_is_told_in_one_line(film, tmp_path):
    from deepfakenb.data.codec import write_video
    models = dict(none=watching.Watched(build_model('mesonet').eval(), 64), eight=watching.Watched(build_model('gml', backbone='xception-narrow').eval(), 64, 8))
    short = {k: replace(s, faces=s.faces[:5], numbers=s.numbers[:5], masks=None) for k, s in film.items()}
    wall = watching.video_shot(write_video(tmp_path/'wall.mp4', np.full((9, 96, 96, 3), 90, np.uint8), fps=25))
    ui = video.VideoExplorer(models, dict(pair=film, short=short, wall=dict(video=wall)))
    look = lambda **k: ui.viewer.seen(k.pop('model', 'none'), k.pop('title', 'real'), video.VideoState(**k))
    assert look().why == 'this model has no map to show' and look(model='eight', film='short').why == 'needs 8 frames 1 apart without a gap' and wall.why.startswith('no face found')
    for state, said in ((video.VideoState(film='wall'), 'no face found'), (video.VideoState(model='eight', film='short'), 'no score')):
        ui.show(state); assert said in ui.text.value and '\n' not in ui.text.value
    assert video._told(np.ones((2, 2)), None, True).startswith('no mask') and video._told(np.zeros((2, 2)), np.eye(4, dtype=bool), True) == 'no heat in this frame'
    with pytest.raises(UserError, match='no such file'): watching.video_shot(tmp_path/'nowhere.mp4')
    kept = ui.state
    ui.viewer.models['lost'] = 'no-such-run'; ui.show(replace(kept, model='lost'))
    assert ui.state == kept and 'no-such-run' in ui.text.value

@pytest.mark.parametrize('form', ['contrastive-mil', 'contrastive-ranking'])
def test_shown_probability_is_the_papers(form, monkeypatch):
    from deepfakenb.losses.contrastive import fake_probability
    torch.manual_seed(4)
    m = build_model(form, backbone='resnet10-narrow', d=16, level=2, heads=2, feed_forward=16, depth=1, tau=.2).eval()
    images = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad(): tokens, _, _ = m.network.encode(m.backbone(torch.from_numpy(images).permute(0, 3, 1, 2)/255*2-1))
    drawn = {}
    monkeypatch.setattr(patches, 'curves', lambda lines, k, width, height, labels, **_: drawn.update(lines=lines, k=k, labels=labels) or np.zeros((height, width, 3), np.uint8))
    v = patches.PatchViewer(m, images)
    for k in (1, 7, 400, 2015):
        patches.picture(v, patches.PatchState(k=k))
        mine = float(fake_probability(tokens, .2, k=[k]))
        u = sorted((1-float(x) for x in v.pairs('picture', 0).u), reverse=True)                     # dissimilarities, and the definition by hand
        by_hand = np.tanh((np.mean(u[:k])-np.mean(u[k:]))/(2*.2))
        assert f'P(x;{k}) = {mine:.3f}' in drawn['labels']['picture'] and abs(drawn['lines']['picture'][1][k-1]-mine) < 1e-5 and abs(by_hand-mine) < 1e-4 and drawn['k'] == k
    patches.picture(v, patches.PatchState())
    assert f'P(x) = {float(fake_probability(tokens, .2)):.3f} at k = {drawn["k"]}' in drawn['labels']['picture']

def test_front_holds_the_least_alike_pairs():
    m = build_model('contrastive-mil', backbone='resnet10-narrow', d=16, level=2, heads=2, feed_forward=16, depth=1).eval()
    p = patches.pairs_of(m, np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    k = 25; counted = np.zeros(64)
    for i, j in sorted(((i, j) for i in range(64) for j in range(i)), key=lambda q: p.matrix[q])[:k]: counted[i] += 1; counted[j] += 1
    assert np.allclose(p.front(k).ravel(), counted/k)

def test_a_change_out_of_reach_is_told_exactly_where_nothing_moves():
    from deepfakenb.vocab import EOS, Vocabulary
    torch.manual_seed(0)
    m = build_model('seqfakeformer', backbone='resnet10-narrow', width=32, heads=2, feed_forward=32, head_width=32).eval()
    with torch.no_grad(): m.mlp.layers[-1].bias[EOS] -= 3
    e = Explorer(m, np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8), vocabulary=Vocabulary('components'))
    own = e.own(0)
    for at in range(5):
        told = tuple(t if i != at else 1+t % 5 for i, t in enumerate(own))
        for step in range(6):
            state = State(step=step, tokens=told)
            moves = np.abs(e.look(state).probabilities[step]-e.look(replace(state, tokens=own)).probabilities[step]).max() > 1e-6
            assert moves != bool(out_of_reach(e, state)) or state.tokens == own, (own, told, step)
    assert every_head(e, State()).shape[0] > 2*112                                  # a row a layer

@pytest.mark.parametrize('value, said', [(-.5, 'leave features damped everywhere'), (.5, 'leave features emphasised everywhere'), (0., 'leave features unchanged')])
def test_a_negative_map_is_not_told_as_emphasis(film, value, said):
    "Paper 2's maps are drawn by size: at -1/2 and at +1/2 the picture is the same, and only the text tells which of the two it is."
    m = build_model('long-distance', parts=('spatial',), backbone='xception-narrow', size=62, patch=4, dim=24).eval()
    with torch.no_grad(): m.spatial.final.weight.zero_(); m.spatial.final.bias.fill_(value)
    v = video.VideoViewer(dict(a=watching.Watched(m, 62)), dict(film=film))
    state = video.VideoState(frame=2)
    told = video.text(v, state)
    assert told.count(said) == 2 and told.count('without sign') == 2 and ('emphasised' in told) == (value > 0) and ('damped' in told) == (value < 0)
    assert np.allclose(v.seen('a', 'real', state).maps, abs(value))
    assert 'without sign' not in video.text(video.VideoViewer(dict(a=watching.Watched(build_model('mesonet').eval(), 64)), dict(film=film)), state)

def test_class_activation_keeps_its_scale(film):
    "Twice the head's weights are twice the heat: what is drawn on one scale for all shots must not be stretched before."
    m = build_model('xception', backbone='xception-narrow').eval()
    clip = torch.from_numpy(film['real'].faces[:1]).permute(0, 3, 1, 2)
    once = watching.reader_of(m).maps(m, clip, 'model')['class activation']
    with torch.no_grad(): m.head.weight.mul_(2)
    twice = watching.reader_of(m).maps(m, clip, 'model')['class activation']
    assert once.max() > 0 and torch.allclose(twice, 2*once, rtol=1e-4)
