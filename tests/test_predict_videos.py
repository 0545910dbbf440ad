"`deepfakenb predict VIDEO`: what is printed and written, what is set aside, and bad input in one line."
import csv, json
import numpy as np, pytest, torch
from facefilm import walk
from deepfakenb.core import UserError, weights_dir
from deepfakenb.data.codec import probe, write_video
from deepfakenb.inference import videos
from deepfakenb.models.base import build_model
from deepfakenb.tasks.base import task_named

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('films')
    film = walk(20)[0]
    write_video(d/'anna.mp4', film)
    (d/'sub').mkdir()
    write_video(d/'sub'/'short.mp4', film[:5])
    write_video(d/'wall.mp4', np.full((8, 96, 96, 3), 120, np.uint8))
    (d/'text.mp4').write_text('no video')
    return d

@pytest.fixture
def detector(monkeypatch, request):
    name, frames = getattr(request, 'param', ('xception', 1))
    torch.manual_seed(0)
    d = videos.VideoDetector(build_model(name, backbone='xception-narrow').eval(), dict(rule='first-1.3', size=64, frames=frames, stride=1), 96, 'toy', 'Untrained: its answers mean nothing.', task_named('video'))
    monkeypatch.setattr(videos, 'find_video_detector', lambda run=None, out=None: d)
    return d

def test_a_folder(deepfakenb, folder, detector, tmp_path):
    code, out, err = deepfakenb('predict', folder, '--out', tmp_path/'o', '--overlay')
    assert code == 0 and 'its answers mean nothing' in out and '2 of 4 videos judged, 2 set aside' in err and 'Traceback' not in out+err
    rows = {r['video'].split('/')[-1].split('.')[0]: r for r in csv.DictReader((tmp_path/'o'/'videos.csv').open())}
    assert set(rows) == {'anna', 'short', 'wall', 'text'} and rows['wall']['set aside because'] == 'no face found' and rows['wall']['score'] == '', 'a missing score is not zero'
    assert rows['anna']['decision'] in ('real', 'forged') and (float(rows['anna']['score']) > .5) == (rows['anna']['decision'] == 'forged')
    curve = list(csv.DictReader(next((tmp_path/'o').glob('anna*.csv')).open()))
    assert len(curve) == int(rows['anna']['samples']) and abs(np.mean([float(r['score']) for r in curve])-float(rows['anna']['score'])) < 1e-3
    film = next((tmp_path/'o').glob('anna*.mp4'))
    assert probe(film).frames == 20 and next((tmp_path/'o').glob('anna*.png')).stat().st_size > 2000

@pytest.mark.parametrize('detector', [('gml', 8)], indirect=True)
def test_a_clip_network_sets_short_films_aside(deepfakenb, folder, detector, tmp_path):
    code, out, err = deepfakenb('predict', folder, '--out', tmp_path/'o', '--json')
    said = {v['video'].split('/')[-1].split('.')[0]: v for v in json.loads(out)['videos']}
    assert code == 0 and 'no 8 frames' in said['short']['set_aside'] and 'score' not in said['short'] and 0 <= said['anna']['score'] <= 1

def test_one_video_gives_the_same_alone(deepfakenb, folder, detector, tmp_path):
    scores = [json.loads(deepfakenb('predict', p, '--out', tmp_path/n, '--json')[1])['videos'] for p, n in ((folder, 'a'), (folder/'anna.mp4', 'b'), (folder, 'a'))]
    anna = [next(v for v in vs if 'anna' in v['video'])['score'] for vs in scores]
    assert anna[0] == anna[1] == anna[2]

def test_nothing_to_judge_is_an_error(deepfakenb, folder, detector, tmp_path):
    (tmp_path/'only').mkdir()
    (tmp_path/'only'/'wall.mp4').write_bytes((folder/'wall.mp4').read_bytes())
    code, out, err = deepfakenb('predict', tmp_path/'only', '--out', tmp_path/'o')
    assert code == 1 and 'none of 1 videos' in err and 'Traceback' not in err

def test_bad_input_is_one_line(deepfakenb, folder, tmp_path, detector):
    for arguments, says in (((folder/'text.mp4',), 'text.mp4'), ((folder/'nothing.mp4',), 'no such file'), ((folder/'anna.mp4', '--checkpoint', folder/'x.safetensors'), '--run')):
        code, out, err = deepfakenb('predict', *arguments, '--out', tmp_path/'o')
        assert code in (1, 2) and says in err and 'Traceback' not in err and len(err.strip().splitlines()) <= 2

def test_the_committed_detector_says_what_it_is():
    if not (weights_dir()/'demo-video'/'model.safetensors').is_file(): pytest.skip('no demonstration detector')
    d = videos.find_video_detector()
    assert d.source == 'demonstration detector' and 'proves nothing' in d.worth and d.data['preset'] == 'laptop'
    with pytest.raises(UserError): videos.find_video_detector('no-such-run')

# where it looked

@pytest.fixture(scope='module')
def flicker(tmp_path_factory):
    "A face that stands still, but for a patch in the upper left of its crop that changes in every frame; and what was filmed."
    still = np.repeat(walk(1, seed=5)[0], 14, 0)
    d = tmp_path_factory.mktemp('flicker')
    from deepfakenb.data.faces.extract import extract_faces
    write_video(d/'first.mp4', still)
    extract_faces(d/'first.mp4', d/'faces', rule='first-1.3', size=96)
    import pandas as pd
    to_crop = np.asarray(pd.read_parquet(d/'faces'/'faces.parquet')['to_crop'].iloc[0], float).reshape(2, 3)
    back = np.linalg.inv(np.vstack([to_crop, [0, 0, 1]]))[:2]
    (x0, y0), (x1, y1) = (back[:, :2]@np.array(p)+back[:, 2] for p in ((14., 14.), (40., 40.)))
    film = still.copy()
    film[::2, int(y0):int(y1), int(x0):int(x1)] = np.clip(film[::2, int(y0):int(y1), int(x0):int(x1)].astype(int)+90, 0, 255)
    return write_video(d/'flicker.mp4', film), film, to_crop

NARROW = dict(backbone='xception-narrow')
KINDS = dict(gml=('gml', NARROW, 8, 'motion', 'cstm'), resnet3d=('resnet3d', dict(depth=10, width=.25), 8, 'class-activation', None),
             longdistance=('long-distance', dict(NARROW, size=62, patch=4, dim=96), 4, 'temporal-latent:1', 'spatial-latent:2'))

def made(kind, size=64):
    name, options, frames, *_ = KINDS[kind]
    torch.manual_seed(3)
    m = build_model(name, **options).eval()
    for part in (getattr(m, 'spatial', None), getattr(m, 'temporal', None)):
        if part is not None: torch.nn.init.normal_(part.templates)
    if kind == 'resnet3d': m.head.weight.data = torch.stack([-m.head.weight[0].abs(), m.head.weight[1].abs()]).detach()
    return videos.VideoDetector(m, dict(rule='first-1.3', size=62 if kind == 'longdistance' else size, frames=frames, stride=1), 96, 'toy', 'Untrained.', task_named('video'))

@pytest.mark.parametrize('kind', KINDS)
def test_overlay_shows_the_chosen_map(deepfakenb, flicker, kind, tmp_path, monkeypatch):
    "Another map is another film; heat lies inside the crop only, and on the same side of it as in the map."
    file, film, to_crop = flicker
    d = made(kind)
    monkeypatch.setattr(videos, 'find_video_detector', lambda run=None, out=None: d)
    from deepfakenb.data.codec import read_video
    pictures = {}
    for name in (n for n in (*KINDS[kind][3:], '') if n is not None):
        code, out, err = deepfakenb('predict', file, '--out', tmp_path/f'o{len(pictures)}', '--overlay', *(('--map', name) if name else ()))
        assert code == 0, err
        pictures[name] = read_video(next((tmp_path/f'o{len(pictures)}').glob('flicker*.mp4'))).astype(float)
    first, second = KINDS[kind][3:]
    if second: assert np.abs(pictures[first]-pictures[second])[4:10].max() > 30
    if kind != 'longdistance': assert np.array_equal(pictures[first], pictures[''])           # the usual one
    n = 6
    plain = read_video(file)[n].astype(float)
    h, w = plain.shape[:2]
    y, x = np.mgrid[:h, :w]
    u, v = (to_crop[i, 0]*x+to_crop[i, 1]*y+to_crop[i, 2] for i in (0, 1))                    # where each pixel lies in the crop of 96 px
    far, inside = (u < -12) | (u > 108) | (v > 108), (u > 5) & (u < 91) & (v > 5) & (v < 91)
    far[-20:] = False                                                                         # there stands the map's name
    red = pictures[first][n][..., 0]-pictures[first][n][..., 2]-(plain[..., 0]-plain[..., 2])
    assert np.abs(pictures[first][n]-plain)[far].mean() < 3 and red[inside].max() > 40
    faces_of = videos.heats(d, videos.Judged('flicker', frames=np.arange(3, 9), curve=np.zeros(6)), FaceSetOf(tmp_path/'o0'/'faces'), first)[n]
    row, column = (np.arange(s)+.5 for s in faces_of.shape)
    of = lambda values, at: float((values*at).sum()/values.sum())
    wanted = of(faces_of, column[None])/faces_of.shape[1], of(faces_of, row[:, None])/faces_of.shape[0]
    found = of(red.clip(0)*inside, u)/96, of(red.clip(0)*inside, v)/96
    assert np.allclose(found, wanted, atol=.1), (found, wanted)
    if kind == 'gml': assert max(found) < .45, 'the patch that moves is in the upper left'

def FaceSetOf(folder):
    from deepfakenb.data.sampling import FaceSet
    return FaceSet.read(folder, labelled=False)

@pytest.fixture
def even(monkeypatch):
    "A long-distance network whose final maps are nearly even and negative: the smallest cell is more than 99.9 % of the largest."
    d = made('longdistance')
    with torch.no_grad():
        for part in (d.model.spatial, d.model.temporal): part.final.weight.mul_(1e-5); part.final.bias.fill_(-.5)
    monkeypatch.setattr(videos, 'find_video_detector', lambda run=None, out=None: d)
    return d

def redness(pictures, plain): # (T,) how much of the overlay's red the middle of a film got, 0 to 1
    h, w = plain.shape[1:3]
    box = np.s_[:, h//2-12:h//2+12, w//2-12:w//2+12]
    return (pictures-plain)[box].sum((1, 2, 3))/(np.array([255., 60, 30])-plain)[box].sum((1, 2, 3))/.55

def overlaid(deepfakenb, file, folder, *more):
    from deepfakenb.data.codec import read_video
    code, out, err = deepfakenb('predict', file, '--out', folder, '--overlay', *more)
    assert code == 0, err
    return read_video(next(folder.glob('*.mp4'))).astype(float), read_video(file).astype(float)

def test_an_even_map_is_drawn_even(deepfakenb, flicker, even, tmp_path):
    "Not stretched frame by frame: a map that differs by a thousandth is one colour, and does not flicker."
    heat = videos.heat_of(even.model, torch.rand(3, 4, 3, 62, 62))
    assert .999 < heat.min()/heat.max() < 1 and abs(heat.max()-.5) < 1e-3
    film, plain = overlaid(deepfakenb, flicker[0], tmp_path/'o')
    judged = redness(film, plain)[:11]                        # the last three of 14 have no answer
    assert judged.min() > .9 and np.ptp(judged) < .08, judged

def test_a_film_has_one_scale_from_zero(deepfakenb, flicker, even, tmp_path, monkeypatch):
    "Half the heat is half the red, in another frame as well."
    values = {n: (1., .5, .25)[n % 3]*7 for n in range(11)}
    monkeypatch.setattr(videos, 'heats', lambda *a: {n: np.full((14, 14), v) for n, v in values.items()})
    film, plain = overlaid(deepfakenb, flicker[0], tmp_path/'o')
    assert np.allclose(redness(film, plain)[:11], [v/7 for v in values.values()], atol=.1)

def test_the_name_of_the_map_stands_in_the_corner(deepfakenb, flicker, even, tmp_path):
    "What the film shows there is what `in_corner` writes for this map and its largest value: another name is another picture."
    corner = lambda film: film[5, -14:, :90]
    for k, (name, size) in enumerate((('spatial-final', ', size'), ('class-activation', ''), ('', ', size'))):
        film, plain = overlaid(deepfakenb, flicker[0], tmp_path/f'o{k}', *(('--map', name) if name else ()))
        j = videos.Judged('flicker', frames=np.arange(11), curve=np.zeros(11))
        top = max(h.max() for h in videos.heats(even, j, FaceSetOf(tmp_path/f'o{k}'/'faces'), name).values())
        text = videos.map_title(even, name, top)
        assert text == f"{name or 'temporal-final'}{size}, 0 to {top:.2g}"
        def written(text): image = plain[5].astype(np.uint8).copy(); videos.in_corner(image, text); return image[-14:, :90].astype(float)
        def off(text): return np.abs(corner(film)-written(text)).mean()
        assert off(text) < 12 and off(text) < .7*off('anything else, 0 to 4') and off(text) < .5*np.abs(corner(film)-plain[5, -14:, :90]).mean()

def test_the_help_tells_the_scale_and_the_sign(deepfakenb):
    text = ' '.join(deepfakenb('predict', '--help')[1].replace('│', ' ').split())
    assert 'one scale' in text and 'from zero' in text and 'corner' in text and 'without sign' in text and 'damped' in text

def test_unknown_maps_are_refused_before_any_work(deepfakenb, flicker, tmp_path, monkeypatch):
    d = made('gml')
    monkeypatch.setattr(videos, 'find_video_detector', lambda run=None, out=None: d)
    for more, said in (((flicker[0], '--overlay', '--map', 'flow'), 'motion, anomaly, consistency, cstm'), ((flicker[0], '--map', 'motion'), '--overlay')):
        code, out, err = deepfakenb('predict', *more, '--out', tmp_path/'o')
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1 and not (tmp_path/'o').exists()

def test_the_help_names_the_maps(deepfakenb):
    text = ' '.join(deepfakenb('predict', '--help')[1].replace('│', ' ').split())
    assert '--map' in text and all(n in text for n in ('motion', 'anomaly', 'consistency', 'temporal-final', 'spatial-latent', 'class-activation'))

@pytest.mark.parametrize('kind', ['gml', 'longdistance'])
def test_one_video_gives_the_same_bytes(deepfakenb, folder, kind, tmp_path, monkeypatch):
    "Table, curve and film of a video: alone, in a folder, and once more."
    d = made(kind)
    monkeypatch.setattr(videos, 'find_video_detector', lambda run=None, out=None: d)
    for p, o in ((folder, 'a'), (folder/'anna.mp4', 'b'), (folder, 'c'), (folder, 'a')):
        assert deepfakenb('predict', p, '--out', tmp_path/o, '--overlay')[0] == 0
    for end in ('csv', 'png', 'mp4'):
        files = [next((tmp_path/o).glob(f'anna*.{end}')).read_bytes() for o in 'abc']
        assert files[0] == files[1] == files[2], end

# frames without an answer

def test_the_last_frames_and_short_runs_are_counted(deepfakenb, folder, tmp_path, monkeypatch):
    "A frame is judged by the three that follow it: the last three have no answer; with fewer than four there is none at all."
    d = made('longdistance')
    monkeypatch.setattr(videos, 'find_video_detector', lambda run=None, out=None: d)
    films = tmp_path/'films'; films.mkdir()
    from deepfakenb.data.codec import read_video
    film = read_video(folder/'anna.mp4')
    write_video(films/'whole.mp4', film[:12]); write_video(films/'three.mp4', film[:3])
    code, out, err = deepfakenb('predict', films, '--out', tmp_path/'o')
    assert code == 0, err
    got = {v['video'].split('.')[0]: v for v in json.loads(deepfakenb('predict', films, '--out', tmp_path/'o', '--json')[1])['videos']}
    assert got['whole']['samples'] == 9 and got['whole']['unanswered'] == 3 and got['whole']['short_runs'] == 0 and '3 frames with a face have no answer (the last 3 of a run of consecutive frames)' in out and got['whole']['unanswered_because'].startswith('the last 3')
    assert got['three']['set_aside'].startswith('no 4 frames') and 'longest run has 3' in got['three']['set_aside'] and got['three']['unanswered'] == 3
    rows = {r['video'].split('.')[0]: r for r in csv.DictReader((tmp_path/'o'/'videos.csv').open())}
    assert rows['whole']['frames without an answer'] == '3' and rows['three']['score'] == ''
    curve = [int(r['frame']) for r in csv.DictReader(next((tmp_path/'o').glob('whole*.csv')).open())]
    assert curve == list(range(9))

def test_every_second_frame_is_no_neighbour(folder, tmp_path):
    from dataclasses import replace
    from deepfakenb.data.faces.extract import extract_faces
    extract_faces(folder/'anna.mp4', tmp_path/'f', rule='first-1.3', size=96)
    faces = FaceSetOf(tmp_path/'f')
    second = replace(faces, frame=faces.frame[faces.frame['frame'] % 2 == 0].reset_index(drop=True))
    j, = videos.judge_faces(made('longdistance'), second).values()
    assert j.why.startswith('no 4 frames') and f'its {len(second)} frames lie 2 apart: extract every frame' in j.why and j.unanswered == j.faces == len(second) and np.isnan(j.score)
    gone = replace(faces, frame=faces.frame[~faces.frame['frame'].isin((5, 11))].reset_index(drop=True))
    j, = videos.judge_faces(made('longdistance'), gone).values()
    runs = videos.runs_of(gone.frame['frame'].to_numpy())
    assert j.samples == sum(max(0, r-3) for r in runs) and j.unanswered == j.faces-j.samples and list(j.frames) == [n for n in range(20) if {n, n+1, n+2, n+3} <= set(gone.frame['frame'])]

# folders of frames, and of faces

@pytest.fixture(scope='module')
def extracted(folder, tmp_path_factory):
    "Frames of one film, every one and every second one, and its faces, cut with --step 2 and by another rule."
    from PIL import Image
    from deepfakenb.data.codec import read_video
    from deepfakenb.data.faces.extract import extract_faces
    d, film = tmp_path_factory.mktemp('extracted'), read_video(folder/'anna.mp4')
    for name, step in (('every', 1), ('second', 2)):
        (d/name/'anna').mkdir(parents=True)
        for n in range(0, len(film), step): Image.fromarray(film[n]).save(d/name/'anna'/f'frame_{n:04}.png')
    for name, o in (('faces', dict(step=1)), ('halved', dict(step=2)), ('other', dict(rule='square-1.3'))): extract_faces(folder/'anna.mp4', d/name, **dict(dict(rule='first-1.3', size=96), **o))
    return d

RUN = ('--run', 'x')   # whose detector is the monkeypatched one

@pytest.mark.parametrize('name, key', [('second', 'anna'), ('halved', 'anna')])
def test_every_second_frame_is_named_and_counted(deepfakenb, extracted, tmp_path, monkeypatch, name, key):
    d = made('longdistance')
    monkeypatch.setattr(videos, 'find_video_detector', lambda run=None, out=None: d)
    films(monkeypatch)
    code, out, err = deepfakenb('predict', extracted/name, *RUN, '--out', tmp_path/'o')
    assert code == 1 and f'{key}: set aside: no 4 frames with a face, 1 apart and without a gap; its 10 frames lie 2 apart: extract every frame' in out and 'Traceback' not in err

def films(monkeypatch): # any --run is one of films
    from types import SimpleNamespace as Stub
    import deepfakenb.inference.predict as predict
    monkeypatch.setattr(predict, 'named_run', lambda *a: Stub(spec=Stub(task=Stub(films=True))))

def test_frames_and_faces_are_judged(deepfakenb, folder, extracted, tmp_path, monkeypatch):
    "All frames of a film, or its faces cut by the run's rule, give the film's own answer; nothing of an output folder is judged."
    d = made('longdistance')
    monkeypatch.setattr(videos, 'find_video_detector', lambda run=None, out=None: d)
    films(monkeypatch)
    def answer(path, out): return json.loads(deepfakenb('predict', path, *RUN, '--out', out, '--json')[1])['videos']
    film, = answer(folder/'anna.mp4', tmp_path/'a')
    faces, = answer(extracted/'faces', tmp_path/'b')
    frames, = answer(extracted/'every', tmp_path/'c')
    assert faces['score'] == film['score'] and frames['samples'] == film['samples'] and abs(frames['score']-film['score']) < .02
    import shutil
    inside = shutil.copytree(extracted/'every', tmp_path/'f')
    assert answer(inside, inside/'out') == answer(inside, inside/'out') == [frames]

@pytest.mark.parametrize('detector', [('xception', 1)], indirect=True)
def test_a_network_of_single_frames_takes_every_second_one(deepfakenb, extracted, detector, tmp_path, monkeypatch):
    films(monkeypatch)
    for name in ('second', 'halved'):
        assert deepfakenb('predict', extracted/name, *RUN, '--out', tmp_path/name)[0] == 0
        assert [int(r['frame']) for r in csv.DictReader(next((tmp_path/name).glob('anna.csv')).open())] == list(range(0, 20, 2))

def test_a_gap_in_a_folder_of_frames_stays_a_gap(extracted, tmp_path):
    import shutil
    shutil.copytree(extracted/'every', tmp_path/'f')
    (tmp_path/'f'/'anna'/'frame_0009.png').unlink()
    j, = videos.predict_videos(made('longdistance'), tmp_path/'f', tmp_path/'o')
    assert j.frames.tolist() == [*range(6), *range(10, 17)] and j.unanswered == 6

@pytest.mark.parametrize('name, more, said', [('other', (), 'faces cut by square-1.3 at 96 px, and this detector reads first-1.3 at 96 px'), ('faces', ('--overlay',), 'holds faces and no video'), ('every', ('--overlay',), 'holds frames and no video')])
def test_what_frames_and_faces_cannot_be_is_one_line(deepfakenb, extracted, tmp_path, monkeypatch, name, more, said):
    d = made('longdistance')
    monkeypatch.setattr(videos, 'find_video_detector', lambda run=None, out=None: d)
    films(monkeypatch)
    code, out, err = deepfakenb('predict', extracted/name, *RUN, *more, '--out', tmp_path/'o')
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1 and not (tmp_path/'o').exists()

def test_one_frame_is_singular(extracted, tmp_path):
    import shutil
    (tmp_path/'f'/'anna').mkdir(parents=True)
    shutil.copy(extracted/'every'/'anna'/'frame_0000.png', tmp_path/'f'/'anna')
    j, = videos.predict_videos(made('longdistance'), tmp_path/'f', tmp_path/'o')
    assert j.why.endswith('the longest run has 1 frame')

def test_weights_of_another_network_name_m_n_and_the_file(tmp_path, monkeypatch):
    "A run whose checkpoint was trained with another m and n than its record says."
    from pathlib import Path
    from types import SimpleNamespace as Stub
    import deepfakenb.inference.predict as predict
    file, made_with = Path('model.safetensors'), dict(NARROW, size=62, patch=4, dim=96)
    def run(**o):
        spec = Stub(model='long-distance', model_args=made_with, task=task_named('video'), data=dict(frames=4, size=62, preset='smoke'), preset='smoke', train={})
        return Stub(id='abc', spec=spec, model=lambda: build_model('long-distance', **made_with, **o), weights=lambda: tmp_path/file)
    monkeypatch.setattr(predict, 'named_run', lambda name, out: run(m=3, n=2))
    monkeypatch.setattr(predict, 'record_of', lambda r: {})
    with pytest.raises(UserError, match=r'^model.safetensors: weights of another network, m = 3 in the file, 4 in the run; n = 2 in the file, 3 in the run'): videos.find_video_detector('abc')
