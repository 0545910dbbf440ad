"One face of a photograph: rendered faces, real portraits where there are some, and pictures that hold none or several."
import numpy as np
import pytest
from PIL import Image

from deepfakenb.core import UserError
from deepfakenb.data.facefind import crop_square, detect_faces, find_face, square_around
from deepfakenb.data.images import open_image


@pytest.fixture(scope='module')
def rendered():
    "Six rendered faces (H, W, 3) uint8, their true boxes, and what is found in them."
    from deepfakenb.data.synth.people import sample_people
    from deepfakenb.data.synth.render import render
    r = render(sample_people(6, 3), 256)
    images = r.images.permute(0, 2, 3, 1).numpy()
    return images, r.boxes.numpy(), found(images)


def overlap(a, b):
    "Intersection over union of two boxes."
    w, h = (min(a[k+2], b[k+2])-max(a[k], b[k]) for k in (0, 1))
    if w <= 0 or h <= 0: return 0.
    return w*h/((a[2]-a[0])*(a[3]-a[1])+(b[2]-b[0])*(b[3]-b[1])-w*h)


def found(images):
    out = []
    for im in images:
        try: out.append(find_face(im))
        except UserError: out.append(None)
    return out


def test_rendered_faces_are_found_where_they_are(rendered):
    images, boxes, faces = rendered
    assert sum(f is not None for f in faces) >= 5
    assert np.median([overlap(f.box, b) for f, b in zip(faces, boxes) if f]) >= .5


def test_five_faces_the_largest_is_taken_and_the_number_is_told(rendered):
    images, _, faces = rendered
    clear = [im for im, f in zip(images, faces) if f and f.score > .5][:3]
    assert len(clear) == 3
    page = np.full((320, 900, 3), 128, np.uint8)
    sizes, x = (160, 200, 300, 160), 10
    for k, s in enumerate(sizes):
        page[10:10+s, x:x+s] = np.array(Image.fromarray(clear[k % 3]).resize((s, s))); x += s+15
    face = find_face(page)
    assert face.found >= 3 and face.rule == 'largest'
    assert 10+160+15+200+15 <= (face.box[0]+face.box[2])/2 <= 10+160+15+200+15+300     # in the largest picture
    areas = [(b[2]-b[0])*(b[3]-b[1]) for b, _ in detect_faces(page)]
    assert (face.box[2]-face.box[0])*(face.box[3]-face.box[1]) == max(areas)
    assert find_face(page, choose='score').score == max(s for _, s in detect_faces(page))


def test_a_small_picture_and_a_large_one(rendered):
    images, _, faces = rendered
    im, box = next((im, f.box) for im, f in zip(images, faces) if f and f.score > .8)
    for side in (72, 1500):
        f = find_face(np.array(Image.fromarray(im).resize((side, side), Image.Resampling.LANCZOS)))
        assert overlap(np.array(f.box)*256/side, box) > .6, side


def test_crop_has_the_asked_size_and_holds_the_box(rendered):
    images, _, faces = rendered
    im, f = next((im, f) for im, f in zip(images, faces) if f)
    for margin, size in ((1., 64), (1.3, 128), (2.5, 96)):
        g = find_face(im, margin=margin, size=size)
        assert g.crop.shape == (size, size, 3) and g.crop.dtype == np.uint8
        assert abs((g.square[2]-g.square[0]) - margin*max(f.box[2]-f.box[0], f.box[3]-f.box[1])) <= 1
    assert square_around((0, 0, 10, 10), 1.0) == (0, 0, 10, 10) and crop_square(images[0], (-5, -5, 5, 5)).shape == (10, 10, 3)


@pytest.mark.parametrize('image', [np.zeros((1, 1, 3), np.uint8), np.zeros((15, 400, 3), np.uint8), np.full((200, 300, 3), 90, np.uint8),
                                   np.zeros((40, 40, 4), np.uint8), np.zeros((40, 40, 3), np.float32)])
def test_nothing_to_find_is_one_clear_line(image):
    with pytest.raises(UserError) as e: find_face(image, name='odd.png')
    assert str(e.value).startswith('odd.png: ') and '\n' not in str(e.value) and ';' in str(e.value)


def test_unknown_rule():
    with pytest.raises(UserError, match='largest'): find_face(np.zeros((64, 64, 3), np.uint8), choose='best')


def test_lying_photograph_is_turned_by_its_tag(rendered, tmp_path):
    images, _, faces = rendered
    im = next(im for im, f in zip(images, faces) if f and f.score > .8)
    exif = Image.Exif(); exif[0x0112] = 6                     # stored lying, "turn by 90 degrees"
    Image.fromarray(np.rot90(im).copy()).save(tmp_path/'lying.jpg', exif=exif, quality=95)
    with pytest.raises(UserError): find_face(np.array(Image.open(tmp_path/'lying.jpg')))     # as stored: none
    assert find_face(open_image(tmp_path/'lying.jpg')).found == 1


def test_real_portraits(shared):
    files = sorted((shared/'portraits').glob('*.jpg'))[::16]
    if not files: pytest.skip('no portraits')
    faces = found([open_image(f) for f in files])
    assert sum(f is not None for f in faces) >= .95*len(files)
    ok = [f for f in faces if f]
    assert np.mean([f.found == 1 for f in ok]) >= .9
    assert all(40 < f.box[2]-f.box[0] < 225 for f in ok)       # pixels of the photograph, 225 wide
