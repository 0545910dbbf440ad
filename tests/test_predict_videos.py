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
