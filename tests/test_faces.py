"Face extraction: detectors, tracking, crops, and runs that meet broken videos, crashes and SIGKILL."
import os, signal, subprocess, sys, time, types
import numpy as np
import pandas as pd
import pytest

from deepfakenb.core import UserError, read_json
from deepfakenb.data.codec import read_video, write_video
from deepfakenb.data.facefind import square_around
from deepfakenb.data.faces import detect
from deepfakenb.data.faces.crop import crop_maps, cut, find_landmarks, outside
from deepfakenb.data.faces.detect import Hog, build_detector
from deepfakenb.data.faces.each import Job, Settings, list_videos
from deepfakenb.data.faces.extract import extract_faces
from deepfakenb.data.faces.track import iou, track_faces
from facefilm import song, walk, write_other

SMALL = dict(size=64)
area = lambda r: (r[2]-r[0])*(r[3]-r[1])


@pytest.fixture(scope='session')
def person():
    "A person of 640×480: frames, true boxes, true landmarks."
    return walk(24, 2, size=(480, 640), side=400, fps=25)


@pytest.fixture(scope='session')
def usual(person):
    "What detection on every full frame finds."
    return [Hog().detect(f[None])[0] for f in person[0]]


@pytest.fixture(scope='session')
def short():
    "A person in 320×240, 10 frames."
    return walk(10, 2)[0]


class Crasher(Hog):
    "A detector that takes its process along when it sees a red corner."
    name = 'crasher'
    def one(self, image):
        if image[0, 0, 0] > 200 and image[0, 0, 1] < 90: os._exit(9)
        return super().one(image)


# ---- detectors

def fake(monkeypatch, name, **members):
    module = types.ModuleType(name); module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, module)
    for f in (detect._mtcnn, detect._retinaface, detect._mediapipe, detect._yunet): f.cache_clear()
    return module


IMAGE = np.zeros((1, 90, 120, 3), np.uint8); IMAGE[..., 0] = 200      # red: tells RGB from BGR


def test_mtcnn_adapter(monkeypatch):
    class MTCNN:
        def __init__(self, keep_all, device, min_face_size): assert keep_all and device == 'cpu'
        def detect(self, image):
            if not image.any(): return None, [None]
            assert image[0, 0].tolist() == [200, 0, 0]
            return np.array([[1., 2, 31, 42], [5, 5, 25, 25], [0, 0, 9, 9]]), np.array([.95, .99, .3])
    fake(monkeypatch, 'facenet_pytorch', MTCNN=MTCNN)
    d = build_detector('mtcnn', device='cpu')
    assert d.detect(IMAGE)[0][:, :4].tolist() == [[5, 5, 25, 25], [1, 2, 31, 42]] and d.detect(IMAGE*0)[0].shape == (0, 5)


def test_retinaface_adapter(monkeypatch, tmp_path):
    class RetinaFace:
        @staticmethod
        def build_model(): return 'model'
        @staticmethod
        def detect_faces(image, threshold, model):
            assert model == 'model' and threshold == .9
            if not image.any(): return ()
            assert image[0, 0].tolist() == [0, 0, 200]                # it wants BGR
            return dict(face_1=dict(score=.97, facial_area=[3, 4, 33, 44], landmarks={}))
    fake(monkeypatch, 'retinaface', RetinaFace=RetinaFace)
    monkeypatch.setenv('DEEPFACE_HOME', str(tmp_path))
    with pytest.raises(UserError, match='retinaface.h5'): build_detector('retinaface')      # would be downloaded
    (tmp_path/'.deepface'/'weights').mkdir(parents=True); (tmp_path/'.deepface'/'weights'/'retinaface.h5').write_bytes(b'w')
    d = build_detector('retinaface')
    assert d.detect(IMAGE)[0].round(2).tolist() == [[3, 4, 33, 44, np.float32(.97).round(2)]] and len(d.detect(IMAGE*0)[0]) == 0


def test_mediapipe_adapters(monkeypatch, tmp_path):
    N = types.SimpleNamespace
    class FaceDetection:
        def __init__(self, model_selection, min_detection_confidence): pass
        def process(self, image):
            assert image.shape == (90, 120, 3) or image.shape == (64, 64, 3)
            return N(detections=[N(location_data=N(relative_bounding_box=N(xmin=.1, ymin=.2, width=.5, height=.5)), score=[.8])] if image.any() else None)
    fake(monkeypatch, 'mediapipe', solutions=N(face_detection=N(FaceDetection=FaceDetection)))
    assert np.allclose(build_detector('mediapipe').detect(IMAGE)[0], [[12, 18, 72, 63, .8]]) and len(build_detector('mediapipe').detect(IMAGE*0)[0]) == 0
    class Tasks:
        @staticmethod
        def create_from_options(options): assert options.base.path.endswith('.tflite'); return Tasks()
        def detect(self, image): return N(detections=[N(bounding_box=N(origin_x=1, origin_y=2, width=30, height=40), categories=[N(score=.7)])] if image.data.any() else [])
    tasks = N(vision=N(FaceDetector=Tasks, FaceDetectorOptions=lambda base_options, min_detection_confidence: N(base=base_options)), BaseOptions=lambda model_asset_path: N(path=model_asset_path))
    fake(monkeypatch, 'mediapipe', tasks=tasks, Image=lambda image_format, data: N(data=data), ImageFormat=N(SRGB=1))
    with pytest.raises(UserError, match='tflite'): build_detector('mediapipe')
    (tmp_path/'m.tflite').write_bytes(b'm')
    assert np.allclose(build_detector('mediapipe', weights=str(tmp_path/'m.tflite')).detect(IMAGE)[0], [[1, 2, 31, 42, .7]])


def test_yunet_adapter(monkeypatch, tmp_path):
    import cv2
    (tmp_path/'bad.onnx').write_bytes(b'no model')
    detect._yunet.cache_clear()
    with pytest.raises(UserError, match='not a YuNet model'): build_detector('yunet', weights=str(tmp_path/'bad.onnx'))
    class Net:
        def setInputSize(self, size): self.size = size
        def detect(self, image):
            assert self.size == (image.shape[1], image.shape[0])
            if not image.any(): return 1, None
            assert image[0, 0].tolist() == [0, 0, 200]
            return 1, np.array([[5, 6, 20, 30, *range(10), .9]], np.float32)
    monkeypatch.setattr(cv2, 'FaceDetectorYN', types.SimpleNamespace(create=lambda *a: Net())); detect._yunet.cache_clear()
    d = build_detector('yunet', weights=str(tmp_path/'bad.onnx'))
    assert np.allclose(d.detect(IMAGE)[0], [[5, 6, 25, 36, .9]]) and len(d.detect(IMAGE*0)[0]) == 0
    detect._yunet.cache_clear()


@pytest.mark.parametrize('name', ['mtcnn', 'retinaface', 'mediapipe'])
def test_a_missing_package_is_named(monkeypatch, name):
    package = dict(mtcnn='facenet_pytorch').get(name, name)
    fake(monkeypatch, package); monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match='pip install') as e: build_detector(name)
    assert '\n' not in str(e.value)


# ---- tracking

def compare(frames, rows, t):
    "Faces lost against detection on every frame; the median overlap with it."
    place = {int(f): k for k, f in enumerate(t.frames)}
    have = [k for k, r in enumerate(rows) if len(r)]
    return [k for k in have if k not in place], np.median([iou(max(rows[k], key=area), t.boxes[place[k]]) for k in have if k in place])


def test_tracking_agrees_with_detection_on_every_frame(person, usual):
    t = track_faces(person[0], Hog())
    lost, overlap = compare(person[0], usual, t)
    assert not lost and overlap >= .85, overlap
    assert t.cost['full'] <= 2 and t.cost['near'] <= len(person[0])*.6 and not t.detected.all()
    assert np.median([iou(b, person[1][f]) for f, b in zip(t.frames, t.boxes)]) >= .6
    assert np.median([iou(b, person[1][f]) for f, b in zip(t.frames, t.boxes)]) >= np.median([iou(max(r, key=area), person[1][k]) for k, r in enumerate(usual) if len(r)])-.05


@pytest.mark.parametrize('kind', ['dark', 'small', 'cut off', 'fast', 'flicker'])
def test_hard_videos_lose_nothing_that_detection_finds(person, kind):
    x = person[0][:16].copy()
    if kind == 'dark': x = (x*.18).astype(np.uint8)
    if kind == 'small': x = np.stack([np.pad(f[::4, ::4], ((60, 60), (80, 80), (0, 0)), 'edge') for f in x])    # faces of 45 px: below what HOG sees
    if kind == 'cut off': x = x[:, :, int(person[1][:16, 0].mean()+.25*(person[1][0, 2]-person[1][0, 0])):]     # a quarter of the face outside
    if kind == 'fast': x = np.stack([np.roll(f, 70*(k % 4), 1) for k, f in enumerate(x)])
    if kind == 'flicker': x[3::5] = 100                                                                          # black-outs
    x = np.ascontiguousarray(x)
    d = Hog(upsample=1) if kind == 'small' else Hog()
    rows = [d.detect(f[None])[0] for f in x]
    t = track_faces(x, d)
    lost, overlap = compare(x, rows, t)
    assert not lost and set(t.frames) | set(t.lost) == set(range(16)) and not set(t.frames) & set(t.lost)
    if kind in ('dark', 'small', 'fast'): assert sum(map(len, rows)) >= 8
    if kind == 'flicker': assert set(t.lost) >= set(range(3, 16, 5)) 


def test_ten_faces_one_is_followed(short):
    face = short[0][36:, 60:260][:200, :200]
    import cv2
    x = np.full((4, 640, 800, 3), 120, np.uint8)
    for i in range(9): x[:, 10+(i//5)*160:160+(i//5)*160, 10+(i % 5)*158:160+(i % 5)*158] = cv2.resize(face, (150, 150))
    x[:, 335:635, 250:550] = cv2.resize(face, (300, 300))
    t = track_faces(x, Hog())
    assert t.most == 10 and len(t) == 4 and t.track.max() == 0
    assert all(iou(b, (250, 335, 550, 635)) > .2 for b in t.boxes), t.boxes


def test_one_frame_and_no_face():
    x = walk(1, 2)[0]
    assert len(track_faces(x, Hog())) == 1
    t = track_faces(np.full((5, 100, 120, 3), 80, np.uint8), Hog())
    assert len(t) == 0 and t.lost.tolist() == [0, 1, 2, 3, 4] and t.most == 0


def test_real_portraits_panned_and_zoomed(shared):
    import cv2
    from deepfakenb.data.images import open_image
    files = sorted((shared/'portraits').glob('*.jpg'))[::97]
    if not files: pytest.skip('no portraits')
    lost, overlaps, searched = 0, [], 0
    for n, f in enumerate(files):
        p = open_image(f); h, w = p.shape[:2]; x = []
        for k in range(18):
            s = 480/h*.9*(1+.1*np.sin(k/9+n)); m = np.float32([[s, 0, (640-w*s)/2+90*np.sin(k/12+n)], [0, s, (480-h*s)/2]])
            x.append(cv2.warpAffine(p, m, (640, 480), borderMode=cv2.BORDER_REFLECT, flags=cv2.INTER_CUBIC))
        t = track_faces(np.stack(x), Hog()); rows = [Hog().detect(i[None])[0] if k % 3 == 0 else [] for k, i in enumerate(x)]
        gone, o = compare(x, rows, t); lost += len(gone); overlaps.append(o); searched += t.cost['full']
    assert lost == 0 and np.mean(overlaps) >= .85 and searched <= 3*len(files), overlaps


# ---- crops

def test_dlib_predictor_and_aligned_crops(tmp_path, person):
    import dlib
    frames, boxes, points = person
    o = dlib.shape_predictor_training_options(); o.tree_depth, o.cascade_depth, o.oversampling_amount, o.num_test_splits, o.feature_pool_size, o.num_trees_per_cascade_level, o.be_verbose = 2, 3, 5, 5, 60, 20, False
    rect = lambda b: dlib.rectangle(*(int(v) for v in b))
    truth = [[dlib.full_object_detection(rect(b), [dlib.point(int(x), int(y)) for x, y in p])] for b, p in zip(boxes, points)]
    dlib.train_shape_predictor([np.ascontiguousarray(f) for f in frames], truth, o).save(str(tmp_path/'p.dat'))
    got = find_landmarks(frames[5], boxes[5], tmp_path/'p.dat')
    assert got.shape == (68, 2) and np.abs(got-points[5]).mean() < 8
    write_video(tmp_path/'v.mp4', frames[:8], crf=18)
    e = extract_faces(tmp_path/'v.mp4', tmp_path/'out', rule='aligned-1.3', landmarks=tmp_path/'p.dat', **SMALL)
    m = pd.read_parquet(tmp_path/'out'/'faces.parquet')
    assert e.faces == 8 and set(m.rule) == {'aligned-1.3'} and str(tmp_path) not in (tmp_path/'out'/'settings.json').read_text()
    for bad, word in ((tmp_path/'gone.dat', 'no such file'), (tmp_path/'v.mp4', 'not a dlib')):
        with pytest.raises(UserError, match=word): find_landmarks(frames[0], boxes[0], bad)


def test_boxes_out_of_the_frame_repeat_the_border():
    page = np.arange(30*40*3).reshape(30, 40, 3).astype(np.uint8)
    for box in ((-30, -20, 10, 20), (35, 20, 60, 45), (-5, -5, 45, 35), (100, 100, 120, 120)):
        m = crop_maps('square-1.3', [0], [box], [0], 26)[0]
        x0, y0, x1, y1 = square_around(box, 1.3)
        rows, cols = np.clip(np.arange(y0, y1), 0, 29), np.clip(np.arange(x0, x1), 0, 39)
        n = x1-x0
        assert np.array_equal(cut(page, crop_maps('square-1.3', [0], [box], [0], n)[0], n), page[rows[:, None], cols])
        assert outside(m, 26, page.shape) > 0 and cut(page, m, 26).shape == (26, 26, 3)


# ---- extraction

@pytest.fixture(scope='module')
def world(tmp_path_factory, short):
    "Good videos among everything that goes wrong."
    d = tmp_path_factory.mktemp('world')
    for k in range(4): write_video(d/'real'/f'{k:03d}.mp4', short[k:k+6], crf=20)
    whole = write_video(d/'long.mp4', short, crf=20, gop=2).read_bytes()
    (d/'cut.mp4').write_bytes(whole[:len(whole)*3//4]); (d/'empty.mp4').write_bytes(b''); (d/'page.mp4').write_text('<html>'*100); song(d/'song.mp4')
    write_video(d/'turned.mp4', np.rot90(short[:6], 1, (1, 2)), rotation=90, crf=18)
    write_other(d/'uneven.mp4', short[:6], stamps=[0, 40, 300, 310, 400, 440])
    write_other(d/'odd.mp4', short[:6, :239, :319], pix_fmt='yuv444p')
    write_video(d/'one.mp4', short[:1]); write_video(d/'wall.mp4', np.full((6, 240, 320, 3), 99, np.uint8)); write_video(d/'tiny.mp4', np.full((3, 16, 16, 3), 99, np.uint8))
    return d


GOOD = {'real/000', 'real/001', 'real/002', 'real/003', 'long', 'turned', 'uneven', 'odd', 'one'}
BAD = {'cut': 'truncated', 'empty': '0 bytes', 'page': 'not a video', 'song': 'sound'}


def same(a, b):
    "Two extractions hold the same rows and the same bytes."
    m, n = (pd.read_parquet(p/'faces.parquet') for p in (a, b))
    return m.equals(n) and all((a/f).read_bytes() == (b/f).read_bytes() for f in m.file) and {p.name for p in (a/'crops').rglob('*.jpg')} == {p.name for p in (b/'crops').rglob('*.jpg')}


@pytest.fixture(scope='module')
def alone(world, tmp_path_factory):
    "The extraction of a process that nobody disturbs."
    out = tmp_path_factory.mktemp('alone')/'out'
    return extract_faces(world, out, **SMALL), out


def test_everything_is_a_crop_or_is_listed(world, alone):
    e, out = alone
    m, s = pd.read_parquet(out/'faces.parquet'), read_json(out/'faces.json')
    assert set(m.video) == GOOD and set(e.no_face) == {'wall', 'tiny'} and {v: next(w for w in BAD.values() if w in why) for v, why in e.skipped.items()} == BAD
    assert s['counts'] == dict(videos=15, with_face=9, no_face=2, skipped=4, frames=s['counts']['frames'], faces=len(m), dropped=e.dropped)
    assert s['counts']['frames'] == len(m)+e.dropped+6+3 and s['skipped'] == e.skipped
    assert sorted(m.file) == sorted(str(p.relative_to(out)) for p in out.rglob('*.jpg')) and not m.duplicated(['video', 'frame']).any()
    need = {'video', 'frame', 'file', 'x0', 'y0', 'x1', 'y1', 'score', 'how', 'detector', 'rule', 'method', 'label', 'compression', 'split', 'source', 'dataset'}
    assert need <= set(m.columns) and m.x0.dtype == np.float32 and not m.isna().any().any() and set(m.how) <= {'detected', 'tracked'}
    assert not (out/'.work').exists() and str(world) not in (out/'faces.json').read_text()
    upright, turned = (m[m.video == v].iloc[0] for v in ('long', 'turned'))
    assert iou(*(r[['x0', 'y0', 'x1', 'y1']].to_numpy() for r in (upright, turned))) > .7         # the mark was obeyed
    assert 'left out cut' in e.summary() and all(len(l) < 300 for l in e.summary().splitlines())


def test_good_frames_of_a_truncated_video(world, tmp_path):
    e = extract_faces(world/'cut.mp4', tmp_path/'out', allow_partial=True, **SMALL)
    assert 2 <= e.faces < 10 and not e.skipped


def test_nothing_readable_is_an_error(world, tmp_path):
    with pytest.raises(UserError, match='sound'): extract_faces(world/'song.mp4', tmp_path/'out', **SMALL)


def test_workers_crash_and_change_nothing(world, alone, short, tmp_path):
    "Two processes, one of which dies on one video: that video alone is left out."
    red = short[:4].copy(); red[:, :40, :40] = (255, 0, 0)
    import shutil
    for v in ('real/000', 'real/001', 'real/002', 'empty'): (tmp_path/'in'/v).parent.mkdir(parents=True, exist_ok=True); shutil.copy(world/f'{v}.mp4', tmp_path/'in'/f'{v}.mp4')
    write_video(tmp_path/'in'/'real'/'001bomb.mp4', red, crf=18)
    e = extract_faces(tmp_path/'in', tmp_path/'out', detector=Crasher(), workers=2, **SMALL)
    assert 'crashed' in e.skipped.pop('real/001bomb') and set(e.skipped) == {'empty'}
    m, n = (pd.read_parquet(p/'faces.parquet').drop(columns='detector') for p in (tmp_path/'out', alone[1]))
    n = n[n.video.isin(m.video)].reset_index(drop=True)
    assert set(m.video) == {'real/000', 'real/001', 'real/002'} and m.equals(n) and all((tmp_path/'out'/f).read_bytes() == (alone[1]/f).read_bytes() for f in m.file)


CODE = "from deepfakenb.data.faces.extract import extract_faces\nif __name__ == '__main__': extract_faces({!r}, {!r}, size=64, workers={})"


@pytest.mark.parametrize('crops, workers', [(3, 1), (20, 2)])
def test_killed_and_continued(world, alone, tmp_path, crops, workers):
    out, script = tmp_path/'out', tmp_path/'run.py'
    script.write_text(CODE.format(str(world), str(out), workers))
    p = subprocess.Popen([sys.executable, str(script)], start_new_session=True, stderr=subprocess.DEVNULL)
    end = time.time()+60
    written = lambda: sum(n.endswith('.jpg') for _, _, names in os.walk(out) for n in names)
    while written() < crops and p.poll() is None and time.time() < end: time.sleep(.003)
    if p.poll() is None: os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    finished = {d.parent: {f.name: f.stat().st_mtime_ns for f in d.parent.iterdir()} for d in (out/'crops').rglob('record.json')}
    for folder in finished:                                               # no half video
        r = read_json(folder/'record.json'); assert len(list(folder.glob('*.jpg'))) == r.get('faces', 0)
    e = extract_faces(world, out, **SMALL)
    assert e.made == e.videos-len(finished) and same(out, alone[1])
    assert all({f.name: f.stat().st_mtime_ns for f in folder.iterdir()} == files for folder, files in finished.items())      # nothing was redone


def test_a_folder_of_frames_and_an_index(short, tmp_path):
    from PIL import Image
    (tmp_path/'f'/'12').mkdir(parents=True)
    for k in range(5): Image.fromarray(short[k]).save(tmp_path/'f'/'12'/f'{9+k}.png')
    index = types.SimpleNamespace(frame=pd.DataFrame([dict(id='fake/12', file=str(tmp_path/'f'/'12'), path='f/12', dataset='wilddeepfake', method='deepfake', label=1, compression='', split='test', source='', frames_dir=True)]))
    e = extract_faces(index, tmp_path/'out', step=2, **SMALL)
    m = pd.read_parquet(tmp_path/'out'/'faces.parquet')
    assert m.frame.tolist() == [0, 2, 4] and set(m.label) == {1} and set(m.dataset) == {'wilddeepfake'} and m.file[0] == 'crops/fake/12/000000.jpg'
    (tmp_path/'f'/'12'/'10.png').write_bytes(b'')
    index.frame['id'] = 'fake/13'
    with pytest.raises(UserError, match='10.png.*0 bytes'): extract_faces(index, tmp_path/'out2', **SMALL)


def test_faces_that_are_cut_out_already(short, tmp_path):
    "WildDeepfake comes as faces: each picture is taken whole, none is lost, whatever a detector would say."
    from PIL import Image
    root, sizes = tmp_path/'wild', ((90, 90), (70, 100), (101, 80))
    for number, (part, kind) in enumerate((('real_train', 'real'), ('real_train', 'real'), ('fake_train', 'fake'), ('real_test', 'real'), ('fake_test', 'fake'))):
        folder = root/part/str(number)/kind/'3'; folder.mkdir(parents=True)
        for k, size in enumerate(sizes): Image.new('RGB', size, (40*k, 90, 30*number)).save(folder/f'{k}.png')   # nothing that a detector would find
    from deepfakenb.data.video import VideoIndex
    index = VideoIndex.read(root, 'wilddeepfake')
    e = extract_faces(index, tmp_path/'out', size=64)
    m = pd.read_parquet(tmp_path/'out'/'faces.parquet')
    assert e.faces == 15 and not e.no_face and set(m.how) == {'given'} and set(m.rule) == {'square-1'} and set(m.detector) == {'given'}
    assert m[['x0', 'y0', 'x1', 'y1']].values.tolist() == [[0, 0, *s] for s in sizes]*5
    e = extract_faces(index, tmp_path/'hog', size=64, detector='hog')
    assert e.faces == 0 and len(e.no_face) == 5


def test_ids_that_lie_in_each_other_or_outside(tmp_path, short):
    for p in ('a.mp4', 'a/b.mp4', 'a/b.avi'): write_other(tmp_path/'in'/p, short[:1], codec='mpeg4') if (tmp_path/'in'/p).parent.mkdir(parents=True, exist_ok=True) is None else None
    jobs, _ = list_videos(tmp_path/'in', tmp_path/'out')
    assert {j.id: j.folder for j in jobs} == {'a': 'a_video', 'a/b.avi': 'a/b.avi', 'a/b.mp4': 'a/b.mp4'}
    for bad in ('../x', '/x'):
        with pytest.raises(UserError, match='outside'): list_videos(pd.DataFrame([dict(id=bad, file='x.mp4')]), tmp_path)


def test_a_folder_in_use_or_taken(world, tmp_path):
    from filelock import FileLock
    (tmp_path/'out').mkdir()
    with FileLock(tmp_path/'out'/'.lock'), pytest.raises(UserError, match='another extraction'): extract_faces(world, tmp_path/'out', **SMALL)
    (tmp_path/'full').mkdir(); (tmp_path/'full'/'thesis.txt').write_text('x')
    with pytest.raises(UserError, match='something else'): extract_faces(world, tmp_path/'full', **SMALL)
    assert [p.name for p in (tmp_path/'full').iterdir()] == ['thesis.txt']


def test_a_video_without_a_face_is_counted_in_a_runs_test(short, tmp_path, monkeypatch):
    "From the films to the caption: a video without a crop has no row in the manifest, and is counted and named all the same."
    import torch
    from deepfakenb.analysis.results import Cell
    from deepfakenb.core import write_json
    from deepfakenb.models.base import build_model
    from deepfakenb.report.tables import left_out
    from deepfakenb.runs.spec import RunSpec, TestSpec
    monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path/'data'))
    wall, films = np.full((6, 240, 320, 3), 99, np.uint8), {}
    for name, frames in dict(face=short[:4], wall=wall).items(): write_video(tmp_path/f'{name}.mp4', frames, crf=18)
    (tmp_path/'empty.mp4').write_bytes(b'')
    for id, file, split in (('original/000', 'face', 'test'), ('original/001', 'face', 'test'), ('FaceSwap/000_001', 'face', 'test'), ('FaceSwap/104_046', 'wall', 'test'), ('FaceSwap/046_104', 'empty', 'test'),
                            ('Deepfakes/000_001', 'face', 'test'), ('Deepfakes/104_046', 'wall', 'test'), ('FaceSwap/002_003', 'face', 'val'), ('FaceSwap/003_002', 'wall', 'val')):
        films[id] = dict(id=id, file=str(tmp_path/f'{file}.mp4'), method=id.split('/')[0], label=int('original' not in id), compression='c40', split=split, source='', dataset='ffpp')
    out = tmp_path/'faces'
    e = extract_faces(pd.DataFrame(films.values()), out, rule='first-1.3', **SMALL)
    assert (len(e.no_face), len(e.skipped)) == (3, 1) and read_json(out/'faces.json')['about']['FaceSwap/104_046']['split'] == 'test'
    spec = RunSpec('own', 'mesonet', {}, dict(name='video', dataset='ffpp', preset='smoke', size=48, methods=['FaceSwap']), dict(epochs=1), 0, 'own')
    def facts(test=TestSpec()): return spec.task.test(spec, dict(best=build_model('mesonet')), test, torch.device('cpu'), out)[1]
    def caption(told): return left_out([Cell('MesoNet', 'LQ', 'AUC', (types.SimpleNamespace(metrics=dict(test=told), spec=spec, tested=lambda t: dict(video=['a'])),), 1)])
    missed = ['FaceSwap/046_104', 'FaceSwap/104_046']
    told = facts()
    assert {k: told[k] for k in ('videos', 'left_out', 'without', 'no_face')} == dict(videos=5, left_out=2, without=missed, no_face=2), told    # of this split and method, no others
    assert f"2 of 5 videos (LQ: {', '.join(missed)})." in caption(told)
    assert facts(TestSpec(methods=('FaceSwap', 'Deepfakes')))['without'] == ['Deepfakes/104_046', *missed] and facts(TestSpec(methods=('Deepfakes',)))['left_out'] == 1
    old = read_json(out/'faces.json'); del old['about']; write_json(out/'faces.json', old)          # made before the splits of such videos were kept
    told = facts()
    assert (told['videos'], told['left_out']) == (3, 0) and 'no_face' not in told and caption(told).endswith(': no video among those with a face.')


def test_what_an_old_record_does_not_count_its_neighbours_answers_show():
    "The committed runs at c40 were made before faceless videos were counted: one of the thousand that c23 answers is not among theirs."
    from deepfakenb.analysis.results import cells_of
    from deepfakenb.report.tables import left_out
    said = left_out(cells_of('p2_table1', 'bench')[2])
    assert '1 of 1000 videos (LQ' in said and 'FaceSwap/104_046' in said and 'HQ' not in said, said
