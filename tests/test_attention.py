"Where detectors look: each final map, entropy with its interval, planted defects as a table, failures that are none, and which networks the survey asks."
import ast, json
import numpy as np, pandas as pd, pytest, torch
from deepfakenb.analysis.attention import (ORACLE, concentrated, effect_interval, final_maps, map_name, moved, planted, planted_sheet,
                                           received, tidy)
from deepfakenb.analysis.planting import BACKGROUND, DEFECTS, as_clips, tamper
from deepfakenb.analysis.localisation import effect, inside
from deepfakenb.core import ROOT, UserError
from deepfakenb.explore.recorder import on_grid, record
from deepfakenb.figures.detectors import failures_figure, worst
from deepfakenb.models.base import DetectorModel, build_model, model_class, model_module, model_names
from deepfakenb.protocols.base import get
from deepfakenb.protocols.detectors import NARROW
from deepfakenb.report.sheet import sheet_csv

@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    m = build_model('long-distance', parts=('spatial', 'temporal'), **NARROW['long-distance'])
    for p in (m.spatial, m.temporal): torch.nn.init.normal_(p.templates)
    return m

def drawn(n, frames, size=62): return torch.randint(0, 256, (n, frames, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

@pytest.mark.parametrize('part', ('spatial', 'temporal'))
def test_final_maps_are_what_is_received_one_by_one(network, part):
    "The mean over the maps is what `received` says; batches of another size change nothing, and the model stays in its mode."
    clips, was = drawn(5, 4), network.training
    each, together = final_maps(network, clips, part, batch=2), received(network, clips)[f'{part}.final_maps']
    assert each.shape == (5, 4, 14, 14) and network.training == was
    mean = each.mean(1)
    np.testing.assert_allclose(mean/mean.sum((1, 2), keepdims=True), together, atol=1e-6)
    np.testing.assert_allclose(each, final_maps(network, clips, part, batch=5), atol=1e-6)
    assert np.abs(each[:, 0]-each[:, 1]).max() > 1e-4, 'four maps, not one of them four times'
    with pytest.raises(UserError, match='recorded'): final_maps(build_model('long-distance', parts=('temporal' if part == 'spatial' else 'spatial',), **NARROW['long-distance']), drawn(1, 4 if part == 'spatial' else 1), part)

def test_effect_interval_is_the_bootstrap_written_out():
    "Each draw of source pairs by hand; NaN is left out of each side; what does not spread has no effect; fewer pairs, a wider interval."
    rng = np.random.default_rng(0)
    groups, a = np.repeat(np.arange(20), 4), rng.normal(size=80)+1e6                # far from zero: no digits may be lost
    b = a+.3+.2*rng.normal(size=80); b[5] = np.nan
    found = effect_interval(a, b, groups, n=200, seed=3)
    times = np.random.default_rng(3).multinomial(20, np.full(20, 1/20), 200)
    naive = [effect(np.repeat(a, t[groups]), np.repeat(b, t[groups])) for t in times]
    np.testing.assert_allclose(found, (effect(a, b), *np.quantile(naive, (.025, .975))), rtol=1e-6)
    assert found.low < found.mean < found.high
    same = effect_interval(a, a, groups); assert same.mean == 0 and abs(same.low) < 1e-9 and abs(same.high) < 1e-9
    assert all(np.isnan(effect_interval(np.ones(8), np.ones(8), np.arange(8)//2)))
    few = effect_interval(a[:16], b[:16], groups[:16]); assert few.high-few.low > found.high-found.low

def films(r, frames=4, step=0): # rendered faces -> films in which they move `step` px a frame to the right, and their landmarks
    pictures, marks = r.images.permute(0, 2, 3, 1).numpy(), r.landmarks.numpy().astype(float)
    return np.stack([np.roll(pictures, step*t, 2) for t in range(frames)], 1), np.stack([marks+[step*t, 0] for t in range(frames)], 1)

def test_defects_are_planted_in_films_that_move(network):
    "A network of several frames sees motion, not one picture repeated; the defect goes with the face."
    from deepfakenb.data.synth.people import sample_people
    from deepfakenb.data.synth.render import render
    r = render(sample_people(4, seed=3, eyeglasses=0.), 96)
    still, moving = (films(r, step=k) for k in (0, 3))
    at = {k: {(l['defect'], l['attention']): l for l in planted(network, 62, *x, np.arange(4))} for k, x in (('still', still), ('moving', moving))}
    for name in {a for _, a in at['still']}:
        assert (at['still']['red pupil', name]['before'] == at['moving']['red pupil', name]['before']) == False, 'a larger region, since the eye moves'
        changed, region = tamper(*moving, 'red pupil')
        expected = 100*inside(received(network, as_clips(changed, 62))[name], region)['share'].mean()
        assert abs(at['moving']['red pupil', name]['after'].mean-expected) < 1e-9
    assert at['moving']['red pupil', name]['area'] > at['still']['red pupil', name]['area']
    temporal = {k: received(network, as_clips(x[0], 62))['temporal.final_maps'] for k, x in (('still', still), ('moving', moving))}
    assert np.abs(temporal['moving']-temporal['still']).max() > 1e-6, 'residuals are seen'

def test_planted_as_a_table(network):
    "Before and after, the change, and what the mouth gains over the background; the same numbers in the CSV and in the sentences."
    from deepfakenb.data.synth.people import sample_people
    from deepfakenb.data.synth.render import render
    r = render(sample_people(6, seed=3, eyeglasses=0.), 96)
    lines = [dict(run='r1', **l) for l in planted(network, 62, *films(r), np.arange(6)//2)]
    names = list(dict.fromkeys(l['attention'] for l in lines))
    s = planted_sheet('planted', lines, preset='smoke', data='synthetic', maker='a test')
    assert s.columns == ('defect', 'map', 'faces', 'area, %', 'before', 'after', 'change') and s.runs == ('r1',) and '6 real test faces' in s.caption
    assert [r[0] for r in s.rows] == [d for d in (*DEFECTS, BACKGROUND, ORACLE) for _ in names] and all(r[2] == '6' for r in s.rows)
    csv = pd.read_csv(pd.io.common.StringIO(sheet_csv(s))).set_index(['defect', 'attention'])
    for n in names:
        at = {d: next(l for l in lines if (l['defect'], l['attention']) == (d, n)) for d in (*DEFECTS, BACKGROUND)}
        assert all(abs(l['after'].mean-l['before'].mean-l['more'].mean) < 1e-9 for l in at.values())
        assert abs(at[DEFECTS[0]]['beyond'].mean-(at[DEFECTS[0]]['more'].mean-at[BACKGROUND]['more'].mean)) < 1e-9
        for k in ('before', 'after', 'more', 'beyond'): assert abs(csv.loc[(DEFECTS[0], n), k]-at[DEFECTS[0]][k].mean) < 1e-4
        assert csv.loc[(DEFECTS[0], n), 'before_low'] <= csv.loc[(DEFECTS[0], n), 'before'] <= csv.loc[(DEFECTS[0], n), 'before_high']
    said = moved(tidy(lines))
    assert all(said.count(f'**{d}**') == 1 for d in (*DEFECTS, BACKGROUND, ORACLE)) and said.count(map_name(names[0])) == 5

def test_more_concentrated_is_what_the_interval_says():
    def line(name, low, high, d): return {'attention': name, 'method': 'all', 'evener': (low+high)/2, 'evener_low': low, 'evener_high': high, 'effect': d}
    for low, high, seen in ((-2, -1, 1), (1, 2, 0), (-1, 1, 0)): assert f'seen in {seen} of 1 maps' in concentrated([line('spatial.final_maps', low, high, low)])
    assert 'too little' in concentrated([line('spatial.final_maps', -.2, -.1, -.1)]) and 'too little' not in concentrated([line('spatial.final_maps', -.2, -.1, -.9)])

def test_a_failure_is_wrong_at_one_half():
    rows = pd.DataFrame(dict(label=[0, 0, 1, 1, 1], method=['original', 'original', 'Deepfakes', 'Deepfakes', 'FaceSwap'], video=list('abcde')))
    found = worst(rows, [[.6, .1, .97, .93, .2], [.8, .1, .95, .87, .4]])
    assert [(w['method'], w['video'], w['wrong']) for w in found] == [('original', 'a', True), ('Deepfakes', 'd', False), ('FaceSwap', 'e', True)]
    import matplotlib.pyplot as plt
    asked = []
    fig = failures_figure({'one': found}, lambda v: asked.append(v) or np.zeros((8, 8, 3), np.uint8))
    assert asked == ['a', 'e'] and [t.get_text() for t in fig.axes[1].texts] == ['no error'] and '0.9' not in fig.axes[1].get_title()
    plt.close(fig)

# what_holds.ipynb, as it is written

def sources(root): # code and text of the chapter's cells
    cells = json.loads((root/'nbs'/'papers'/'what_holds.ipynb').read_text(encoding='utf8'))['cells']
    return [(c['cell_type'], ''.join(c['source'])) for c in cells]

def surveyed(root) -> dict: # name -> (table, row, column), of the list `attentive`
    tree = ast.parse('\n'.join(s for kind, s in sources(root) if kind == 'code'))
    known, found = {}, None
    for n in tree.body:
        if not isinstance(n, ast.Assign): continue
        t, v = n.targets[0], n.value
        if isinstance(t, ast.Tuple) and isinstance(v, ast.Tuple):
            known |= {a.id: b.value for a, b in zip(t.elts, v.elts) if isinstance(a, ast.Name) and isinstance(b, ast.Constant)}
        if isinstance(t, ast.Name) and t.id == 'attentive': found = v
    return {k.value: tuple(known[e.id] if isinstance(e, ast.Name) else e.value for e in v.elts) for k, v in zip(found.keys, found.values)}

def recordable() -> set[str]: # detectors of the registry whose attention lies on a grid
    more, found = dict(resnet3d=dict(placement=[1, 4]), gml=dict(block='mcb', anomaly=True)), set()
    for name in model_names():
        if not model_module(name).startswith('models.') or not issubclass(model_class(name), DetectorModel): continue   # the workbook's own
        m, size = build_model(name, **{**NARROW.get(name, {}), **more.get(name, {})}).eval(), NARROW.get(name, {}).get('size', 64)
        with torch.no_grad(), record(m) as records: m(drawn(1, m.frames or 8, size))
        if any(on_grid(records[n]) for n in records): found.add(name)
    return found

def test_the_survey_asks_every_detector_with_attention(root):
    "An attention model that can be recorded on a grid is in the chapter's list, or named where it says who is not asked."
    listed, text = surveyed(root), next(s for kind, s in sources(root) if kind == 'markdown' and 'Not asked, and why' in s)
    model_of = lambda table, row: next(r.model for r in get(table.split('_')[0]).table(table).rows if r.label == row)
    for table, row, column in listed.values(): assert column in {c.label for c in get(table.split('_')[0]).table(table).columns}
    said = text[text.index('Not asked, and why'):].lower()
    def forgotten(listed): return {n for n in recordable() if n not in {model_of(t, r) for t, r, _ in listed.values()} and n not in said}
    assert not forgotten(listed)
    assert forgotten({k: v for k, v in listed.items() if k != 'WSDAN'}) == {'wsdan'}, 'this test can fail'
    for name in ('SeqFakeFormer', 'DETR', 'one-pass', 'GML'): assert name.lower() in said

@pytest.mark.parametrize('preset', ('smoke', 'bench'))
def test_the_front_lists_every_detector_of_two_cores(root, preset):
    "The chapter's own assertion, with its list and with a shorter one."
    cell = next(s for kind, s in sources(root) if kind == 'code' and 'def trained_alike' in s)
    code = cell[:cell.index('def called')]
    from deepfakenb.analysis.results import PAPERS
    exec(code, dict(preset=preset, PAPERS=PAPERS))
    with pytest.raises(AssertionError, match='p2_table10'): exec(code.replace("('p2_table10', FF), ", ''), dict(preset='bench', PAPERS=PAPERS))

FIGURES = dict(p2=('figure02', 'figure07', 'figure08', 'figure09', 'figure10', 'figure11', 'figure_crf', 'figure_where'), p3=('figure03', 'figure04', 'figure05'), p4=('figure01', 'figure_maps', 'figure_where', 'figure_when', 'figure_cost'), p5=('figure01', 'figure03', 'figure_where'))
@pytest.mark.parametrize('paper', FIGURES)
def test_the_figures_of_each_paper_are_committed_with_their_runs(root, paper):
    "A picture with something in it, a caption, and finished runs that it shows."
    import numpy as np
    from PIL import Image
    from deepfakenb.core import read_json
    from deepfakenb.figures.base import picture_name
    from deepfakenb.runs.store import Run
    folder = root/'reports'/'bench'/paper/'figures'
    for id in FIGURES[paper]:
        facts = read_json(folder/f'{id}.json')
        picture = np.asarray(Image.open(folder/picture_name(facts)).convert('RGB'))
        assert picture.shape[1] > 300 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 30, id
        assert len(facts['caption']) > 30 and facts['runs'] and all(Run(root/'reports'/'bench'/'runs'/r).problem is None for r in facts['runs']), id

def test_planted_defects_are_measured_on_two_hundred_faces(root):
    "Paper 2's Figure 8 as numbers."
    import pandas as pd
    t = pd.read_csv(root/'reports'/'bench'/'p2'/'tables'/'p2_planted.csv')
    assert (t.faces >= 200).all() and set(t.defect) == {'blurred mouth', 'red pupil', 'distorted mouth', 'blurred background'} and t.attention.nunique() == 4
    assert t[t.defect == 'blurred mouth'].beyond.notna().all() and ((t.more_low <= t.more) & (t.more <= t.more_high)).all()


@pytest.mark.parametrize('chapter, said, hole', [('p3', 'What a hundred sampled k lose', 'what sampling loses'), ('p5', 'Does a distortion give the answer away?', 'the probe of distortions')])
def test_a_table_of_another_machine_is_kept(chapter, said, hole):
    "Its weights or videos may not be here when a chapter is made again: what was measured stays."
    text = (ROOT/'nbs'/'papers'/f'{chapter}.ipynb').read_text(encoding='utf8')
    assert said in text and f'Not here: {hole}' not in text
