"The face renderer: detection by a detector of photographs, determinism, datasets on disk, bad input."
import json, signal, subprocess, sys, time
import numpy as np, pytest, torch
from PIL import Image
from deepfakenb.core import ROOT, UserError
from deepfakenb.data.synth.people import ATTRIBUTES, Faces, sample_people
from deepfakenb.data.synth.render import MASKS, render, render_dataset, unpack_masks


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    return render_dataset(tmp_path_factory.mktemp('faces')/'new'/'out', 6, 64, seed=11)


def lines(out): return [json.loads(l) for l in (out/'truth.jsonl').read_text().splitlines()]


def test_hog_finds_faces_and_their_boxes():
    dlib = pytest.importorskip('dlib')
    detector, best = dlib.get_frontal_face_detector(), []
    people = sample_people(60, 808)
    r = render(people, 176)
    for image, (x0, y0, x1, y1) in zip(r.images, r.boxes.tolist()):
        iou = 0.
        for d in detector(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), 1):
            w, h = max(0., min(d.right(), x1)-max(d.left(), x0)), max(0., min(d.bottom(), y1)-max(d.top(), y0))
            iou = max(iou, w*h/((d.right()-d.left())*(d.bottom()-d.top())+(x1-x0)*(y1-y0)-w*h))
        best.append(iou)
    assert np.mean(np.array(best) >= .3) >= .9 and np.median(best) >= .55
    assert people.pose[:, 0].abs().max() > 25 and people.face_width.max()-people.face_width.min() > .3   # the sample has the spread


def test_a_face_is_the_same_in_any_company():
    people = sample_people(7, 3)
    whole = render(people, 48, batch=16)
    for batch in (1, 3):
        other = render(people, 48, batch=batch)
        for k in ('images', 'masks', 'landmarks', 'boxes'): assert torch.equal(getattr(whole, k), getattr(other, k)), (k, batch)
    assert torch.equal(render(sample_people(20, 3)[6], 48).images[0], whole.images[6])
    assert not torch.equal(render(people.replace(shot=5), 48).images, whole.images)          # the sensor's noise has its seed
    assert torch.equal(render(people.replace(shot=5), 48, noise=False).images, render(people, 48, noise=False).images)


def test_bytes_do_not_depend_on_threads(tmp_path):
    code = ("import sys, hashlib, torch; torch.set_num_threads(int(sys.argv[1]));"
            "from deepfakenb.data.synth.people import sample_people; from deepfakenb.data.synth.render import render;"
            "r = render(sample_people(4, 9), 64); print(hashlib.sha256(r.images.numpy().tobytes()+r.masks.numpy().tobytes()).hexdigest())")
    one, two = (subprocess.run([sys.executable, '-c', code, n], capture_output=True, text=True, cwd=ROOT, check=True).stdout for n in '12')
    assert one == two and len(one) == 65


def test_attributes_are_seen_where_they_should_be():
    people = sample_people(4, 5).replace(bangs=0., eyeglasses=0., beard=0., smiling=0., mouth_open=0., pose=[0., 0., 0.])
    plain = render(people, 64, noise=False)
    for name, mask in (('eyeglasses', 'glasses'), ('beard', 'beard'), ('bangs', 'hair')):
        edited = render(people.replace(**{name: 1.}), 64, noise=False)
        grown = edited.masks[:, MASKS.index(mask)] & ~plain.masks[:, MASKS.index(mask)]
        assert (grown.sum((1, 2)) > 10).all(), name
        change = (edited.images.float()-plain.images.float()).abs().mean(1)
        assert change[grown].mean() > 5*change[:, -6:, :].mean(), name                        # in the place of the edit, not on the shoulders
    for name in ('smiling', 'young'):
        assert not torch.equal(render(people.replace(**{name: 1.}), 64, noise=False).images, render(people.replace(**{name: 0.}), 64, noise=False).images)


def test_a_still_camera_does_not_follow(tmp_path):
    who = sample_people(1, 2)
    frames = Faces.cat([who.replace(mouth_open=v) for v in (0., .5, 1.)])
    still = render(frames, 64, noise=False, framed=who[[0, 0, 0]])
    follows = render(frames, 64, noise=False)
    assert (still.landmarks[2, 36:48]-still.landmarks[0, 36:48]).abs().max() < .35            # eyes stay
    assert (follows.landmarks[2, 36:48]-follows.landmarks[0, 36:48]).abs().max() > .6


def test_dataset_layout_and_truth(dataset):
    rows = lines(dataset)
    assert len(rows) == 6 and sorted(p.name for p in dataset.iterdir()) == ['images', 'masks', 'masks.json', 'truth.jsonl']
    assert json.loads((dataset/'masks.json').read_text())['names'] == list(MASKS)
    people = sample_people(6, 11)
    for i, row in enumerate(rows):
        assert set(row) == {'file', 'box', 'landmarks', 'masks', 'attributes', 'pose'} and not row['file'].startswith('/')
        image, bits = Image.open(dataset/row['file']), Image.open(dataset/row['masks'])
        assert image.size == bits.size == (64, 64) and image.mode == 'RGB'
        masks, points, (x0, y0, x1, y1) = unpack_masks(bits), np.array(row['landmarks']), row['box']
        assert masks.shape == (len(MASKS), 64, 64) and points.shape == (68, 2) and 0 < x1-x0 < 64
        assert abs(points[17:27, 1].min()-y0) < .02 and abs(points[:17, 1].max()-y1) < .02     # brows to chin
        assert points[:17, 0].min() >= x0-.02 and points[:17, 0].max() <= x1+.02               # ear to ear
        y, x = torch.where(masks[MASKS.index('eye')] | masks[MASKS.index('lip')])
        inside = (x > x0-2) & (x < x1+2) & (y > y0-2) & (y < y1+2)
        assert inside.float().mean() > .98                                                     # eyes and lips lie in the box
        assert set(row['attributes']) == set(ATTRIBUTES) and abs(row['attributes']['beard']-people.beard[i].item()) < 1e-3
        assert abs(row['pose']['yaw']-people.pose[i, 0].item()) < .01 and abs((x1-x0)/64-people.face_width[i].item()) < .01


def test_the_same_command_gives_the_same_bytes(dataset, tmp_path):
    again = render_dataset(tmp_path/'again', 6, 64, seed=11, batch=4)
    for p in sorted(dataset.rglob('*')):
        if p.is_file(): assert p.read_bytes() == (again/p.relative_to(dataset)).read_bytes(), p.name


@pytest.mark.parametrize('args, words', [((0, 64), 'at least one'), ((-3, 64), 'at least one'), ((2, 8), '16 pixels')])
def test_numbers_that_cannot_be(tmp_path, args, words):
    with pytest.raises(UserError, match=words): render_dataset(tmp_path/'out', *args)
    assert not (tmp_path/'out').exists()


def test_folders_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path/'full').mkdir(); (tmp_path/'full'/'mine.txt').write_text('keep')
    with pytest.raises(UserError, match='not empty'): render_dataset(tmp_path/'full', 1, 32)
    assert [p.name for p in (tmp_path/'full').iterdir()] == ['mine.txt']
    (tmp_path/'file').write_text('x')
    for out in (tmp_path/'file', tmp_path/'file'/'below'):
        with pytest.raises(UserError, match='is a file'): render_dataset(out, 1, 32)
    import os
    monkeypatch.setattr(os, 'access', lambda *a: False)
    with pytest.raises(UserError, match='permission'): render_dataset(tmp_path/'locked', 1, 32)
    with pytest.raises(UserError): render(sample_people(1), 4)
    with pytest.raises(UserError): render(sample_people(3)[[]], 32)


def test_an_interruption_leaves_nothing_half_written(tmp_path):
    code = "import sys; from deepfakenb.data.synth.render import render_dataset; render_dataset(sys.argv[1], 4000, 32)"
    out = tmp_path/'out'
    run = subprocess.Popen([sys.executable, '-c', code, str(out)], cwd=ROOT, stderr=subprocess.DEVNULL)
    end = time.time()+60
    while time.time() < end and not any(tmp_path.glob('.out*/images/*.png')): time.sleep(.05)
    run.send_signal(signal.SIGINT)
    assert run.wait(30) != 0
    assert list(tmp_path.iterdir()) == []
