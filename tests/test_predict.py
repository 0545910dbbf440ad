"`deepfakenb predict` and `deepfakenb checkpoint import`: what is printed and written, and every kind of bad input in one clear line."
import csv, io, json, os, pickle, signal, subprocess, sys, time
import numpy as np, pytest
from PIL import Image
from deepfakenb.tasks import sequence

@pytest.fixture(scope='module')
def faces():
    "Two rendered faces of 256 px in which the detector finds one face each: uint8 (2, 256, 256, 3)."
    from deepfakenb.data.facefind import detect_faces
    from deepfakenb.data.synth.people import sample_people
    from deepfakenb.data.synth.render import render
    images = render(sample_people(8, seed=5), 256).images.permute(0, 2, 3, 1).numpy()
    found = [i for i in images if len(detect_faces(i)) == 1]
    assert len(found) >= 2
    return np.stack(found[:2])

@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    "A small SeqFakeFormer with random weights."
    import torch
    from deepfakenb.models.checkpoints import save_model
    from deepfakenb.models.base import build_model
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp('model')/'small.safetensors'
    save_model(build_model('seqfakeformer', backbone='resnet10-narrow', width=32, heads=2), path, track='components', size=64)
    return path

@pytest.fixture(scope='module')
def folder(tmp_path_factory, faces):
    "One file of each kind."
    d = tmp_path_factory.mktemp('pictures')
    face, other = map(Image.fromarray, faces)
    face.save(d/'good.png'); other.save(d/'good.jpg', quality=95)
    (d/'truncated.jpg').write_bytes((d/'good.jpg').read_bytes()[:9000])
    (d/'empty.jpg').write_bytes(b'')
    Image.fromarray(faces[0][:1, :1]).save(d/'dot.png')
    face.convert('L').save(d/'grey.png')
    Image.fromarray(np.asarray(face.convert('L')).astype(np.uint16)*257).save(d/'deep.png')
    face.save(d/'moving.gif', save_all=True, append_images=[Image.new('RGB', face.size)]*2)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)).save(d/'noface.png')
    five = np.full((700, 800, 3), 128, np.uint8)
    for i, (y, x) in enumerate(((10, 10), (10, 270), (10, 530), (270, 10))): five[y:y+256, x:x+256] = faces[i % 2]
    five[270:690, 300:720] = np.asarray(face.resize((420, 420), Image.Resampling.BICUBIC))
    Image.fromarray(five).save(d/'five.png')
    (d/'notes.txt').write_text('no picture')
    return d

def one_line(text): return text.strip() and '\n' not in text.strip() and 'Traceback' not in text

def test_one_picture(deepfakenb, folder, checkpoint, tmp_path):
    code, out, err = deepfakenb('predict', folder/'good.png', '--checkpoint', checkpoint, '--out', tmp_path)
    assert code == 0 and not err, err
    assert 'proves nothing' in out and 'unknown training' in out and 'sequence: ' in out and 'next best' in out
    code, text, err = deepfakenb('predict', folder/'good.png', '--checkpoint', checkpoint, '--out', tmp_path, '--json')
    assert code == 0 and not err
    document = json.loads(text)
    answer, = document['images']
    assert 'proves nothing' in document['warning'] and document['model']['track'] == 'components' and document['set_aside'] == []
    assert f"sequence: {'-'.join(answer['sequence']) or 'no edit'}," in out                 # the same answer, told twice
    assert np.isclose(np.prod([s['probability'] for s in answer['steps']]), answer['probability'], atol=1e-5)
    assert all(0 < s['second_probability'] <= s['probability'] <= 1 for s in answer['steps']) and 1 <= len(answer['steps']) <= 5
    assert answer['face']['found'] == 1
    made = [p.name for p in tmp_path.iterdir()]
    assert made == ['good.png.attention.png']
    panels = len(answer['steps'])+1
    assert Image.open(tmp_path/made[0]).size[0] == panels*256+(panels+1)*8                 # the crop and a panel a step

def test_panels_differ_from_the_picture(folder, checkpoint):
    from deepfakenb.inference.predict import find_detector, predict_file
    answer = predict_file(find_detector(checkpoint=checkpoint), folder/'good.png')
    assert len(answer.maps) == len(answer.steps) and all(m.shape == (64, 64) and m.min() >= 0 and m.std() > 0 for m in answer.maps)
    assert answer.crop.shape == (64, 64, 3)

def test_crop_and_no_crop(deepfakenb, folder, checkpoint, tmp_path):
    def face(*more): return json.loads(deepfakenb('predict', *more, '--checkpoint', checkpoint, '--out', tmp_path, '--json')[1])['images'][0]['face']
    assert face(folder/'noface.png', '--no-crop') is None                                    # no face is looked for
    several = face(folder/'five.png')
    assert several['found'] >= 3 and several['chosen'] == 'largest'
    x0, y0, x1, y1 = several['box']
    assert x0 > 280 and y0 > 250                                                              # the large one, below on the right
    out = deepfakenb('predict', folder/'five.png', '--checkpoint', checkpoint, '--out', tmp_path)[1]
    assert f"the largest of {several['found']}" in out

@pytest.mark.parametrize('name', ['grey.png', 'deep.png', 'moving.gif'])
def test_unusual_but_whole(deepfakenb, folder, checkpoint, tmp_path, name):
    code, out, err = deepfakenb('predict', folder/name, '--checkpoint', checkpoint, '--out', tmp_path)
    assert code == 0 and not err and (tmp_path/f'{name}.attention.png').exists()

@pytest.mark.parametrize('name, word', [('truncated.jpg', 'truncated'), ('empty.jpg', 'empty'), ('dot.png', 'pixels'), ('noface.png', 'no face'),
                                        ('notes.txt', 'not an image'), ('absent.jpg', 'no such file')])
def test_unusable_picture(deepfakenb, folder, checkpoint, tmp_path, name, word):
    code, out, err = deepfakenb('predict', folder/name, '--checkpoint', checkpoint, '--out', tmp_path)
    assert code == 1 and one_line(err) and name in err and word in err, err
    assert not list(tmp_path.iterdir())

def test_folder(deepfakenb, folder, checkpoint, tmp_path):
    code, out, err = deepfakenb('predict', folder, '--checkpoint', checkpoint, '--out', tmp_path, '--json')
    document = json.loads(out)
    assert code == 0 and [os.path.basename(i['file']) for i in document['images']] == ['deep.png', 'five.png', 'good.jpg', 'good.png', 'grey.png', 'moving.gif']
    assert [os.path.basename(a['file']) for a in document['set_aside']] == ['dot.png', 'empty.jpg', 'noface.png', 'truncated.jpg']
    assert '6 of 10 pictures judged, 4 set aside' in err and err.count('set aside: ') == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == [*(f"{os.path.basename(i['file'])}.attention.png" for i in document['images']), 'pictures.csv']
    with open(tmp_path/'pictures.csv', encoding='utf8', newline='') as f: rows = list(csv.DictReader(f))
    assert [(r['file'], r['sequence'], r['probability']) for r in rows[:6]] == [(i['file'], '-'.join(i['sequence']), f"{i['probability']:.6f}") for i in document['images']]
    assert [(r['file'], r['set_aside']) for r in rows[6:]] == [(a['file'], a['why']) for a in document['set_aside']] and all(not r['sequence'] and not r['probability'] for r in rows[6:])

def test_folder_without_a_usable_picture(deepfakenb, folder, checkpoint, tmp_path):
    empty, useless, out = tmp_path/'empty', tmp_path/'useless', tmp_path/'out'
    empty.mkdir(); useless.mkdir()
    code, _, err = deepfakenb('predict', empty, '--checkpoint', checkpoint, '--out', out)
    assert code == 1 and one_line(err) and 'empty: no picture' in err and not out.exists()
    for name in ('truncated.jpg', 'dot.png'): (useless/name).write_bytes((folder/name).read_bytes())
    code, _, err = deepfakenb('predict', useless, '--checkpoint', checkpoint, '--out', out)
    assert code == 1 and 'none of 2 pictures' in err and err.count('set aside: ') == 2 and 'Traceback' not in err

class Bomb:
    "A pickle that would leave a file behind."
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return open, (self.path, 'w')

@pytest.mark.parametrize('command', ['predict', 'import'])
def test_pickle_with_code(deepfakenb, folder, tmp_path, command):
    import torch
    for i, save in enumerate((pickle.dumps, lambda o: (torch.save(o, b := io.BytesIO()), b.getvalue())[1])):
        bad, crater = tmp_path/f'bad{i}.pt', tmp_path/f'crater{i}'
        bad.write_bytes(save({'best_state_dict_adaptive': Bomb(crater)}))
        out = tmp_path/'out'
        arguments = ('predict', folder/'good.png', '--checkpoint', bad, '--track', 'components', '--out', out) if command == 'predict' else ('checkpoint', 'import', bad, out)
        code, _, err = deepfakenb(*arguments)
        assert code == 1 and one_line(err) and bad.name in err, err
        assert not crater.exists() and not out.exists()

def test_checkpoint_of_another_kind(deepfakenb, folder, tmp_path):
    import torch
    from safetensors.torch import save_file
    other, text = tmp_path/'other.safetensors', tmp_path/'text.safetensors'
    save_file({'weight': torch.zeros(3)}, other); text.write_text('hello')
    for bad in (other, text, tmp_path/'absent.safetensors'):
        code, _, err = deepfakenb('predict', folder/'good.png', '--checkpoint', bad, '--track', 'components', '--size', 64, '--out', tmp_path/'out')
        assert code == 1 and one_line(err) and bad.name in err, err

def test_model_without_attention(deepfakenb, folder, tmp_path):
    from deepfakenb.models.checkpoints import save_model
    from deepfakenb.models.base import build_model
    path = tmp_path/'heads.safetensors'
    save_model(build_model('multi-cls', backbone='resnet10-narrow'), path, track='attributes', size=64)
    code, out, err = deepfakenb('predict', folder/'good.png', '--checkpoint', path, '--out', tmp_path, '--json')
    answer, = json.loads(out)['images']
    assert code == 0 and len(answer['steps']) == 5 and set(answer['sequence']) <= {'Bangs', 'Eyeglasses', 'Beard', 'Smiling', 'Young'}
    assert Image.open(tmp_path/'good.png.attention.png').size[0] == 256+2*8                  # the crop alone

def test_checkpoint_that_says_too_little(deepfakenb, folder, tmp_path):
    from deepfakenb.models.checkpoints import save_model
    from deepfakenb.models.base import build_model
    path = tmp_path/'bare.safetensors'
    save_model(build_model('multi-cls', backbone='resnet10-narrow'), path)
    base = ('predict', folder/'good.png', '--checkpoint', path, '--out', tmp_path/'out')
    for more, word in (((), '--track'), (('--track', 'components'), '--size'), (('--track', 'noses', '--size', 64), 'noses')):
        code, _, err = deepfakenb(*base, *more)
        assert code == 2 and one_line(err) and word in err, err
    assert deepfakenb(*base, '--track', 'components', '--size', 64)[0] == 0

def test_options_do_not_overrule_what_a_model_was_trained_on(deepfakenb, folder, checkpoint, tmp_path):
    for more, said in ((('--track', 'attributes'), '--track attributes: this model was trained on components; omit --track or name another model'),
                       (('--size', 128), '--size 128: this model was trained on 64 px; omit --size or name another model')):
        code, out, err = deepfakenb('predict', folder/'good.png', '--checkpoint', checkpoint, '--out', tmp_path/'out', *more)
        assert code == 2 and one_line(err) and said in err and not out, err
    assert deepfakenb('predict', folder/'good.png', '--checkpoint', checkpoint, '--out', tmp_path/'out', '--track', 'components', '--size', 64)[0] == 0

def test_a_failure_leaves_nothing_behind(deepfakenb, folder, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'useless').mkdir(); (tmp_path/'useless'/'dot.png').write_bytes((folder/'dot.png').read_bytes())
    for path, where in ((folder/'notes.txt', ()), (folder/'notes.txt', ('--out', 'new/below')), (tmp_path/'useless', ())):
        assert deepfakenb('predict', path, '--checkpoint', checkpoint, *where)[0] == 1
        assert [p.name for p in tmp_path.iterdir()] == ['useless']
    (tmp_path/'mine').mkdir()
    assert deepfakenb('predict', folder/'notes.txt', '--checkpoint', checkpoint, '--out', 'mine')[0] == 1 and (tmp_path/'mine').is_dir()   # it was there before

def test_run(deepfakenb, folder, checkpoint, tmp_path):
    "A finished run is named by the beginning of its id or by its folder, and tells where it comes from."
    import pandas as pd, shutil, torch
    from deepfakenb.runs import store as runs
    from deepfakenb.runs.spec import RunSpec
    spec = RunSpec(paper='p1', model='seqfakeformer', model_args=dict(backbone='resnet10-narrow', width=32, heads=2),
                   data=dict(track='components', preset='smoke', size=64), train=dict(epochs=1), seed=0, preset='smoke')
    job = runs.begin(spec, tmp_path, fingerprint='data')
    pd.DataFrame(dict(epoch=[0], train_loss=[1.])).to_csv(job.folder/'history.csv', index=False)
    for name in sequence.CHECKPOINTS.values(): shutil.copy(checkpoint, job.folder/name)
    labels = torch.tensor([[1, 2, 0, 0, 0]]*4)
    said = dict(labels=labels[:2], sequences=labels[:2], probabilities=torch.ones(2, 5))
    items = pd.DataFrame(dict(path=['a.jpg', 'b.jpg'], label=labels[:2].tolist(), sequence='nose-eye', split='test'))
    frame = pd.concat([sequence.prediction_frame(items.assign(split=s), said, said) for s in ('val', 'test')], ignore_index=True)
    run = job.finish(dict(test=sequence.sequence_scores(frame, 'test'), val=sequence.sequence_scores(frame, 'val')), frame, data_kind='synthetic', duration_s=1.)
    answers = []
    for name in (('--run', run.id[:6], '--reports', tmp_path), ('--run', run.path), ('--checkpoint', run.path/'best_adaptive.safetensors')):
        code, out, err = deepfakenb('predict', folder/'good.png', *name, '--out', tmp_path/'out')
        assert code == 0 and 'rendered and edited by this workbook (components, preset smoke); Adaptive-Acc on their test split 100.0 %' in out and 'mean nothing' in out, err
        answers.append(out.split('\n\n')[1])
    assert len(set(answers)) == 1                                                           # three names, one model
    (run.path/'best_adaptive.safetensors').unlink()                                         # a clone has the record without the weights
    code, _, err = deepfakenb('predict', folder/'good.png', '--run', run.path, '--out', tmp_path/'out')
    assert code == 1 and one_line(err) and 'reproduce' in err

def test_wrong_usage(deepfakenb, folder, checkpoint, tmp_path):
    for arguments, word in (((folder/'good.png', '--run', 'x', '--checkpoint', checkpoint), 'one of them'), ((folder/'good.png', '--best', 'all'), '--best'),
                            ((folder/'good.png', '--size', 3), 'size')):
        code, _, err = deepfakenb('predict', *arguments, '--out', tmp_path)
        assert code == 2 and one_line(err) and word in err, err
    mine = tmp_path/'mine'; mine.mkdir(); (mine/'letter.txt').write_text('mine')
    code, _, err = deepfakenb('predict', folder/'good.png', '--run', mine, '--out', tmp_path/'out')         # somebody's folder: never told to delete it
    assert code == 1 and one_line(err) and 'not the folder of a run' in err and 'runs list' in err and 'delete' not in err and 'DONE' not in err, err
    code, _, err = deepfakenb('predict', folder/'good.png', '--run', 'nosuchrun', '--reports', tmp_path, '--out', tmp_path)
    assert code == 1 and one_line(err) and 'nosuchrun' in err

def test_no_demonstration_model(deepfakenb, folder, tmp_path, monkeypatch):
    import deepfakenb.inference.predict as p
    monkeypatch.setattr(p, 'weights_dir', lambda: tmp_path/'weights')
    code, _, err = deepfakenb('predict', folder/'good.png', '--out', tmp_path/'out')
    assert code == 1 and one_line(err) and '--checkpoint' in err and 'demonstration' in err

def test_demonstration_model(deepfakenb, folder, tmp_path, root):
    demo = root/'data'/'weights'/'demo'
    if not (demo/'model.safetensors').exists(): pytest.skip('no demonstration model in this checkout yet')
    assert (demo/'model.safetensors').stat().st_size <= 8e6
    code, out, err = deepfakenb('predict', folder/'good.png', '--out', tmp_path)
    assert code == 0 and 'faces rendered and edited by this workbook' in out and 'proves nothing' in out, err

def test_unwritable_folder(deepfakenb, folder, checkpoint, tmp_path):
    (tmp_path/'file').write_text('in the way')
    for out in (tmp_path/'file', tmp_path/'file'/'below'):
        code, said, err = deepfakenb('predict', folder, '--checkpoint', checkpoint, '--out', out)
        assert code == 1 and one_line(err) and 'file' in err and '--out' in err and 'sequence:' not in said, err

def test_ctrl_c(faces, checkpoint, tmp_path, root):
    many, out = tmp_path/'many', tmp_path/'out'
    many.mkdir()
    for i in range(400): Image.fromarray(faces[i % 2]).save(many/f'{i:03}.jpg', quality=90)
    work = subprocess.Popen([sys.executable, '-c', 'import sys; from deepfakenb.cli.main import main; sys.exit(main())', 'predict', str(many),
                             '--checkpoint', str(checkpoint), '--out', str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            cwd=root, env={**os.environ, 'DEEPFAKENB_QUIET': '1', 'OMP_NUM_THREADS': '1'})
    try:
        limit = time.time()+90
        while len(list(out.glob('[0-9]*.png'))) < 3 and work.poll() is None and time.time() < limit: time.sleep(.05)
        work.send_signal(signal.SIGINT)
        err = work.communicate(timeout=60)[1]
    finally:
        if work.poll() is None: work.kill()
    assert work.returncode == 130 and one_line(err) and err.startswith('stopped: '), err
    made = list(out.iterdir())
    assert 3 <= len(made) < 400 and all(p.name.endswith('.attention.png') for p in made)     # no half-written file
    for p in made: Image.open(p).load()

def test_import_published(deepfakenb, folder, tmp_path):
    import torch
    from deepfakenb.models.checkpoints import load_model
    good, out = tmp_path/'good.pt', tmp_path/'imported.safetensors'
    torch.save({'epoch': 3, 'unrelated': torch.zeros(2)}, good)
    code, _, err = deepfakenb('checkpoint', 'import', good, out)
    assert code == 1 and one_line(err) and 'good.pt' in err and not out.exists(), err
    code, _, err = deepfakenb('checkpoint', 'import', tmp_path/'absent.pt', out)
    assert code == 1 and one_line(err) and 'absent.pt' in err

def test_real_portraits(shared, checkpoint, tmp_path):
    "Real photographs go through from file to picture; what an untrained model says of them is neither looked at nor kept."
    from deepfakenb.inference.predict import find_detector
    from deepfakenb.inference.predict import predict_files
    portraits = sorted((shared/'portraits').glob('*.jpg'))[::40]
    if not portraits: pytest.skip('no portraits in shared/')
    album = tmp_path/'album'
    album.mkdir()
    for p in portraits: (album/p.name).symlink_to(p)
    answers = predict_files(find_detector(checkpoint=checkpoint), album, tmp_path/'out')
    assert len(answers.done) >= .9*len(portraits) and len(answers.done)+len(answers.aside) == len(portraits)
    assert all(p.face['found'] >= 1 and made.exists() for p, made in answers.done) and all('no face' in why for _, why in answers.aside)

def test_fake_probability_of_a_ranking_model(deepfakenb, folder, faces, tmp_path):
    "Paper 3's P(x) stands in the line and in the document, and is the model's own; other models have none."
    import torch
    from deepfakenb.inference.predict import find_detector, model_input
    from deepfakenb.losses.contrastive import fake_probability
    from deepfakenb.models.base import build_model
    from deepfakenb.models.checkpoints import save_model
    torch.manual_seed(1)
    path = tmp_path/'ranker.safetensors'
    save_model(build_model('contrastive-ranking', backbone='resnet10-narrow', d=32, heads=2, feed_forward=32, depth=1, level=2, tau=.3), path, track='components', size=64)
    code, out, err = deepfakenb('predict', folder/'good.png', '--checkpoint', path, '--no-crop', '--out', tmp_path/'o')
    answer, = json.loads(deepfakenb('predict', folder/'good.png', '--checkpoint', path, '--no-crop', '--out', tmp_path/'o', '--json')[1])['images']
    assert code == 0 and 0 <= answer['forged'] <= 1 and f"forged: P(x) {answer['forged']:.3f}" in out, err
    model, crop = find_detector(checkpoint=path).model, np.asarray(Image.fromarray(faces[0]).resize((64, 64), Image.Resampling.BOX))
    with torch.no_grad(): own = fake_probability(model.network.encode(model.backbone(model_input(crop)))[0], .3).item()
    assert abs(own-answer['forged']) < .02                                                    # the crop here is made by another resampling

@pytest.mark.parametrize('name, options, judges', [('contrastive-mil', dict(backbone='resnet10-narrow', d=32, heads=2, feed_forward=32, depth=1), 'contrastive-mil judges frames of videos'), ('gml', dict(backbone='xception-narrow'), 'gml judges clips of videos')])
def test_a_detector_of_videos_is_not_asked_for_a_track(deepfakenb, folder, tmp_path, name, options, judges):
    "It is told what the model does and how to call it, whatever else is given; so is who names its run."
    from deepfakenb.models.base import build_model
    from deepfakenb.models.checkpoints import save_model
    path = save_model(build_model(name, **options), tmp_path/'detector.safetensors')
    for further in ((), ('--track', 'components'), ('--track', 'components', '--size', '64')):
        code, out, err = deepfakenb('predict', folder/'good.png', '--checkpoint', path, *further, '--out', tmp_path/'o')
        assert code == 2 and one_line(err) and 'detector.safetensors' in err and judges in err and 'deepfakenb predict VIDEO --run' in err and not (tmp_path/'o').exists(), err

def test_the_run_of_a_detector_of_videos_is_not_asked_for_a_track(monkeypatch):
    from types import SimpleNamespace as Stub
    from deepfakenb.core import UserError
    from deepfakenb.inference import predict
    monkeypatch.setattr(predict, 'named_run', lambda run, out: Stub(id='0123456789ab', spec=Stub(model='contrastive-mil')))
    with pytest.raises(UserError, match='run 0123456789ab: contrastive-mil judges frames of videos.*predict VIDEO --run 0123456789ab') as e: predict.find_detector('0123')
    assert one_line(str(e.value))

def test_too_small_for_two_patches_names_the_file(deepfakenb, folder, tmp_path):
    from deepfakenb.models.base import build_model
    from deepfakenb.models.checkpoints import save_model
    path = save_model(build_model('contrastive-ranking', backbone='resnet10-narrow', d=32, heads=2, feed_forward=32, depth=1, level=4), tmp_path/'ranker.safetensors', track='components', size=16)
    for crop in ('--crop', '--no-crop'):
        code, out, err = deepfakenb('predict', folder/'good.png', '--checkpoint', path, crop, '--out', tmp_path/'o')
        assert code == 1 and one_line(err) and 'good.png' in err and '16 px' in err and '1 patch' in err, err
    many = tmp_path/'many'; many.mkdir()
    for name in ('a.png', 'b.png'): (many/name).write_bytes((folder/'good.png').read_bytes())
    code, out, err = deepfakenb('predict', many, '--checkpoint', path, '--out', tmp_path/'o')
    assert code == 1 and all(name in err for name in ('a.png: at 16 px, 1 patch', 'b.png: at 16 px, 1 patch')), err

@pytest.mark.parametrize('name, options, patches', [('contrastive-ranking', dict(d=32, heads=2, feed_forward=32, depth=1, level=2), 8), ('seqfakeformer', dict(width=32, heads=2), 4), ('multi-cls', {}, 4)])
def test_fewer_pixels_than_patches(deepfakenb, folder, faces, tmp_path, name, options, patches):
    "Nothing is enlarged into an answer: one line and exit 1; in a folder it is set aside, and the others are judged."
    from deepfakenb.models.base import build_model
    from deepfakenb.models.checkpoints import save_model
    path = save_model(build_model(name, backbone='resnet10-narrow', **options), tmp_path/'m.safetensors', track='components', size=64)
    def predict(what): return deepfakenb('predict', what, '--checkpoint', path, '--no-crop', '--out', tmp_path/'o')
    code, out, err = predict(folder/'dot.png')
    assert code == 1 and one_line(err) and f'dot.png: at 64 px, 1 pixel a side, fewer than the {patches}×{patches} patches' in err and not (tmp_path/'o').exists(), err
    many = tmp_path/'many'; many.mkdir()
    for n in (patches-1, patches): Image.fromarray(faces[0][:n]).save(many/f'{n:02}.png')
    code, out, err = predict(many)
    assert code == 0 and f'{patches-1:02}.png: at 64 px, {patches-1} pixels a side' in err and '1 of 2 pictures judged, 1 set aside' in err, err

@pytest.mark.parametrize('name, options, head', [('contrastive-ranking', dict(d=32, heads=2, feed_forward=32, depth=1, level=2), 'network.class_head.weight'), ('multi-cls', {}, 'heads.weight')])
def test_a_head_of_nan_is_no_answer(deepfakenb, folder, tmp_path, name, options, head):
    import torch
    from deepfakenb.models.base import build_model
    from deepfakenb.models.checkpoints import save_model
    m = build_model(name, backbone='resnet10-narrow', **options)
    with torch.no_grad(): m.get_parameter(head)[0] = float('nan')
    path = save_model(m, tmp_path/'m.safetensors', track='components', size=64)
    code, out, err = deepfakenb('predict', folder/'good.png', '--checkpoint', path, '--no-crop', '--out', tmp_path/'o')
    assert code == 1 and one_line(err) and 'good.png' in err and 'weights are damaged' in err and 'nan' not in out and 'no edit' not in out and not (tmp_path/'o').exists(), (out, err)

def test_fake_probability_of_a_bench_run(root):
    "An edited picture of the bench, asked of a finished ranking run."
    import torch
    from deepfakenb.analysis.patches import edited_faces
    from deepfakenb.core import UserError
    from deepfakenb.inference.predict import Detector, ask, model_input
    from deepfakenb.losses.contrastive import fake_probability
    from deepfakenb.runs.store import list_runs
    from deepfakenb.vocab import Vocabulary
    here = [r for r in list_runs(preset='bench') if r.spec.model == 'contrastive-ranking' and (r.path/'best_fixed.safetensors').is_file() and r.spec.model_args.get('contrastive', True)]
    if not here: pytest.skip('no ranking run with its weights in this checkout')
    from deepfakenb.analysis.results import images_on_disk
    d = here[0].spec.data
    data, why = images_on_disk(d['track'], d['preset'], here[0].fingerprint)
    if data is None: pytest.skip(why)
    from deepfakenb.data.images import open_image, square
    files = data.frame[(data.frame['split'] == 'test') & (data.frame['sequence'] != 'original')]['file'].iloc[:3]
    detector = Detector(here[0].model('fixed').eval(), Vocabulary(d['track']), d['size'], 'a bench run')
    for f in files:
        crop = square(open_image(f), d['size'])
        said = ask(detector, crop).forged
        with torch.no_grad(): own = fake_probability(detector.model.network.encode(detector.model.backbone(model_input(crop)))[0], detector.model.config['tau']).item()
        assert 0 < said < 1 and abs(said-own) < 1e-5
