"The embedded videos on a small sample: what experiments/video_benchmark.ipynb measures in full, and what a notebook cannot hold."
import json, os, signal, subprocess, sys, time
import numpy as np, pytest
from deepfakenb.core import UserError, read_json

pytestmark = pytest.mark.timeout(300)
FAKED = ('Deepfakes', 'Face2Face', 'FaceSwap', 'NeuralTextures')
TINY = "VideoPreset('tiny', dict(ffpp=6, celebdf=6, deeperforensics=3, dfdc=4, dfd=2, wilddeepfake=4), (2, 3), 64, 48)"

def tiny():
    from deepfakenb.data.synth.sets import VideoPreset
    return eval(TINY)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "Six people in FaceForensics++'s layout: small, but long enough for motion."
    from deepfakenb.data.synth.sets import VideoPreset
    from deepfakenb.data.synth.videos import make_videos
    return make_videos('ffpp', tmp_path_factory.mktemp('videos')/'ffpp', preset=VideoPreset('test', dict(ffpp=6), (8, 9), 112, 64), seed=2, device='cpu')

@pytest.fixture(scope='module')
def truth(made):
    import pandas as pd
    return pd.read_parquet(made/'truth.parquet')

def path_of(root, id, quality='c23'):
    method, stem = id.split('/')
    return root/('original_sequences/youtube' if method == 'original' else f'manipulated_sequences/{method}')/quality/'videos'/f'{stem}.mp4'

def test_layout_and_splits(made, truth):
    about, codes = read_json(made/'dataset.json'), []
    assert about['kind'] == about['data_kind'] == 'synthetic' and (about['reals'], about['fakes']) == (6, 24) and len(about['generator']) == 16
    for split in ('train', 'val', 'test'):
        for a, b in read_json(made/f'{split}.json'):
            codes += [a, b]
            for q in ('c23', 'c40'):
                assert path_of(made, f'original/{a}', q).is_file()
                for m in FAKED: assert path_of(made, f'{m}/{a}_{b}', q).is_file() and path_of(made, f'{m}/{b}_{a}', q).is_file() and (made/f'manipulated_sequences/{m}/masks/videos/{a}_{b}.mp4').is_file()
    assert len(set(codes)) == len(codes) == 6                          # nobody in two splits
    people = truth.drop_duplicates('video').set_index('video').person
    assert len({people[f'original/{c}'] for c in codes}) == 6
    files = [p for p in made.rglob('*') if p.is_file()]
    assert len(files) == about['files']+5 and not any(p.name.startswith('.') for p in made.rglob('*'))

def test_a_fake_is_as_long_as_its_target_and_differs_in_the_mask_only(made, truth):
    from deepfakenb.data.codec import probe, read_video
    lengths = truth.groupby('video').size()
    for id, rows in truth[truth.method != 'original'].groupby('video'):
        source = rows.source.iloc[0]
        a, b = probe(path_of(made, source)), probe(path_of(made, id))
        assert (a.frames, a.fps, a.width, a.codec) == (b.frames, b.fps, b.width, b.codec) and b.frames == lengths[id] == lengths[source]
    for method in FAKED:
        id = truth.video[truth.method == method].iloc[0]
        source, (_, stem) = truth.source[truth.video == id].iloc[0], id.split('/')
        d = np.abs(read_video(path_of(made, id)).astype(int)-read_video(path_of(made, source))).mean(-1)
        mask = read_video(made/f'manipulated_sequences/{method}/masks/videos/{stem}.mp4')[..., 0] > 127
        assert .02 < mask.mean() < .4 and d[mask].mean() > 1.5*d[~mask].mean(), method

def test_before_compression_nothing_changes_outside_the_mask(made):
    import torch
    from deepfakenb.core import weights_dir
    from deepfakenb.data.synth.sets import VideoPreset
    from deepfakenb.data.synth.videos import Studio
    studio = Studio('ffpp', VideoPreset('test', dict(ffpp=6), (8, 9), 112, 64), 2, weights_dir()/'generator.safetensors', torch.device('cpu'))
    for f in studio.plan.fakes[:4]:
        made_now, target = studio.forged(f)
        outside = ~made_now.masks[:, None].expand_as(target.images)
        assert torch.equal(made_now.images[outside], target.images[outside]) and not torch.equal(made_now.images, target.images), f.id

@pytest.fixture(scope='module')
def table(made):
    from deepfakenb.metrics.audit import audit
    return audit(made)

def test_living_faces_move_more_smoothly(table):
    from deepfakenb.metrics.audit import motion_and_size
    told = motion_and_size(table).set_index('method')
    assert (told.effect[['Deepfakes', 'FaceSwap', 'Face2Face']] > .8).all(), told
    rough = table.groupby('method').roughness.mean()
    assert rough['original'] == rough.min()

def test_no_shortcut_in_length_colour_or_border(table):
    "Too few videos for a probe's 3 points: the forged video's numbers are held against its own original's."
    real = table[table.label == 0].set_index('person')
    between = real[['red', 'green', 'blue']].std().mean()
    for method in FAKED:
        fake = table[table.method == method].set_index('person').loc[real.index]
        assert (fake.frames == real.frames).all() and (fake.seconds == real.seconds).all()
        assert (fake[['red', 'green', 'blue']]-real[['red', 'green', 'blue']]).abs().max().max() < .1*between
        border = [c for c in table if c.split('_')[0] in ('top', 'bottom', 'left', 'right')]
        assert (fake[border]-real[border]).abs().max().max() < 2
        assert .75 < (fake.bytes/real.bytes).mean() < 1.25

def test_faces_are_found(made, truth):
    import dlib
    from deepfakenb.data.codec import read_video
    detector, hits = dlib.get_frontal_face_detector(), []
    for id, rows in truth.groupby('video'):
        x0, y0, x1, y1 = rows[['x0', 'y0', 'x1', 'y1']].iloc[4]
        found = detector(read_video(path_of(made, id), indices=[4])[0], 2)
        hits.append(any(abs((d.left()+d.right()-x0-x1)/2) < .3*(x1-x0) and .5 < d.width()/(x1-x0) < 2 for d in found))
    assert np.mean(hits) >= .95, f'{np.mean(hits):.2f} of {len(hits)}'

@pytest.mark.parametrize('name', ['celebdf', 'deeperforensics', 'dfdc', 'dfd', 'wilddeepfake'])
def test_plans_of_the_other_sets(name):
    from deepfakenb.data.synth.sets import PLANS, VIDEO_PRESETS
    for preset in (p for p in VIDEO_PRESETS.values() if name in p.people):
        plan = PLANS[name](preset.people[name], 3)
        reals = {r.id: r for r in plan.reals}
        for f in plan.fakes:
            assert reals[f.target].person != reals[f.source].person and f.target.split('/')[0] != f.method
            if reals[f.target].outputs: assert [o.crf for o in f.outputs] == [o.crf for o in reals[f.target].outputs]
        assert plan == plan and [f.id for f in PLANS[name](preset.people[name], 3).fakes] == [f.id for f in plan.fakes] != [f.id for f in PLANS[name](preset.people[name]+2, 3).fakes]

def test_dfdc_lists_agree(tmp_path):
    from deepfakenb.data.synth.videos import make_videos
    root = make_videos('dfdc', tmp_path/'dfdc', preset=tiny(), device='cpu')
    meta = read_json(root/'dfdc_train_part_0/metadata.json')
    assert {p.name for p in (root/'dfdc_train_part_0').glob('*.mp4')} == set(meta)
    assert all(e['label'] == 'REAL' or meta[e['original']]['label'] == 'REAL' for e in meta.values())
    rows = [l.split(',') for l in (root/'test/labels.csv').read_text().splitlines()[1:]]
    assert {r[0] for r in rows} == {p.name for p in (root/'test').glob('*.mp4')} and [r[1] for r in rows].count('0')*2 == [r[1] for r in rows].count('1')

def test_killed_without_warning_it_goes_on(tmp_path):
    "kill -9 in the middle: no half file, nothing is made twice, the dataset is whole."
    from deepfakenb.data.codec import probe
    from deepfakenb.data.synth.videos import make_videos
    out = tmp_path/'set'
    code = f"from deepfakenb.data.synth.sets import VideoPreset; from deepfakenb.data.synth.videos import make_videos; make_videos('dfdc', {str(out)!r}, preset={TINY}, device='cpu')"
    process = subprocess.Popen([sys.executable, '-c', code], env=os.environ | dict(OMP_NUM_THREADS='1'))
    until = time.time()+120
    while len(list(out.rglob('*.mp4'))) < 4 and process.poll() is None and time.time() < until: time.sleep(.02)
    process.send_signal(signal.SIGKILL); process.wait()
    begun = {p: p.stat().st_mtime_ns for p in out.rglob('*.mp4') if not p.name.startswith('.')}
    if process.returncode == -signal.SIGKILL: assert 4 <= len(begun) < 12 and not (out/'dataset.json').exists()
    make_videos('dfdc', out, preset=tiny(), device='cpu', workers=2)
    assert all(p.stat().st_mtime_ns == t for p, t in begun.items())
    videos = [p for p in out.rglob('*.mp4')]
    assert len(videos) == 12 == read_json(out/'dataset.json')['files'] and all(probe(p).frames in (2, 3) for p in videos) and not (out/'.making').exists()

def test_another_folder_is_refused(tmp_path, made):
    from deepfakenb.data.synth.videos import ensure_videos, make_videos
    with pytest.raises(UserError, match='choose from ffpp'): make_videos('faceforensics', tmp_path/'x')
    with pytest.raises(UserError, match='smoke, laptop, warm, bench'): make_videos('ffpp', tmp_path/'x', preset='huge')
    with pytest.raises(UserError, match='another dataset'): make_videos('ffpp', made)
    (tmp_path/'full').mkdir(); (tmp_path/'full/thesis.txt').write_text('mine')
    with pytest.raises(UserError, match='not empty'): make_videos('ffpp', tmp_path/'full')
    with pytest.raises(UserError, match='no such file'): ensure_videos('ffpp', weights=tmp_path/'none.safetensors')
    assert [p.name for p in tmp_path.iterdir()] == ['full']
