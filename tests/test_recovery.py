"Recovery: limits, orders, the paired test of right against wrong order, and `deepfakenb recover` with good and bad input and photographs of all kinds."
import io, json
import numpy as np, pytest, torch
from PIL import Image
from deepfakenb.core import UserError
from deepfakenb.vocab import TRACKS

@pytest.fixture(scope='module')
def generator():
    from deepfakenb.models.generator import load_generator
    return load_generator(device='cpu')

@pytest.fixture(scope='module')
def smoke(generator):
    "Edited test files of the smoke tracks of two edits or more, with what the log knows: track → (files' images, labels, originals, log)."
    from deepfakenb.data.images import open_image
    from deepfakenb.data.synth.tracks import GroupEditor, find_preset, track_people
    from deepfakenb.inference.recover import recorded, replay
    from deepfakenb.analysis.recovery import test_rows as rows_of
    from deepfakenb.vocab import Vocabulary
    out = {}
    for track in TRACKS:
        root, shards = rows_of(track, 'smoke', 6)
        key, rows = next(iter(shards.items()))
        rows = [r for r in rows if '-' in r['sequence']][::2][:16]
        who = torch.tensor([r['person'][1] for r in rows])
        editor = GroupEditor(track, find_preset('smoke'), generator, track_people(int(who.max())+1, key), key)
        labels = torch.tensor([Vocabulary(track).parse(r['label']) for r in rows])
        states = replay(editor, who, labels)
        files = torch.stack([torch.from_numpy(open_image(root/r['file'])).permute(2, 0, 1) for r in rows])
        out[track] = files, labels, states, recorded(editor, who, labels, states)
    return out

def levels(a, b): return (a.float()-b.float()).abs().mean((1, 2, 3)).numpy()

def test_orders():
    from deepfakenb.inference.recover import inverse_order, recover, wrong_order
    asked = []
    class Witness:
        def undo(self, images, rows, edits, generator): asked.append(dict(zip(rows.tolist(), edits.tolist()))); return images
    labels = torch.tensor([[1, 2, 4, 5, 3], [0]*5, [5, 1, 0, 0, 0]])
    recover(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), labels, Witness(), None)
    assert [[a[i] for a in asked if i in a] for i in range(3)] == [[3, 5, 4, 2, 1], [], [1, 5]]
    wrong = wrong_order(labels, 0)
    assert wrong[2].tolist() == [5, 1, 0, 0, 0] and sorted(wrong[0].tolist()) == [1, 2, 3, 4, 5] and not torch.equal(wrong[0], inverse_order(labels)[0])

def test_empty_sequence_is_the_identity(smoke, generator):
    from deepfakenb.inference.recover import recover
    for files, labels, _, log in smoke.values(): assert recover(files, torch.zeros_like(labels), log, generator)[-1] is files

def test_no_dependence_on_the_batch(smoke, generator):
    from deepfakenb.inference.recover import Donors, recover
    files, labels, _, log = smoke['components']
    whole = recover(files[:3], labels[:3], log, generator)[-1]
    one = recover(files[2:3], labels[2:3], Donors(log.pictures[2:3], log.masks[2:3]), generator)[-1]
    assert (whole[2:].int()-one.int()).abs().max() <= 1

def test_own_component_gives_the_original_back(smoke, generator):
    "One edit, undone under a mask of everything with the original: what is left is one pass through the generator."
    from deepfakenb.data.synth.edit import reencode
    from deepfakenb.inference.recover import Donors, recover
    _, labels, states, log = smoke['components']
    single = labels.clone(); single[:, 1:] = 0
    back = recover(states[1], single, Donors(states[0][:, None], torch.ones_like(log.masks)), generator)[-1]
    assert (back.int()-reencode(states[0], generator).int()).abs().max() <= 1

@pytest.mark.parametrize('track', TRACKS)
def test_right_order_beats_wrong_order(smoke, generator, track):
    "Paired over smoke test files: the interval of the mean difference leaves zero out, and recovery beats doing nothing."
    from deepfakenb.inference.recover import recover, undo, wrong_order
    from deepfakenb.analysis.recovery import mean_interval
    files, labels, states, log = smoke[track]
    assert levels(files, states[-1]).max() < 4                    # the replay is the file, up to JPEG
    right, wrong = levels(recover(files, labels, log, generator)[-1], states[0]), levels(undo(files, wrong_order(labels, 1), log, generator)[-1], states[0])
    assert mean_interval(wrong-right).low > 0, mean_interval(wrong-right)
    assert right.mean() < levels(files, states[0]).mean()

def test_what_a_wrong_order_loses_is_the_log(smoke, generator):
    "Components put back from one other picture: both orders lead to the same face, while the log's orders differ."
    from deepfakenb.inference.recover import Donors, recover, undo, wrong_order
    files, labels, states, log = smoke['components']
    one = Donors(states[0][:, None].flip(-1), log.masks)
    def apart(knowledge): return levels(recover(files, labels, knowledge, generator)[-1], undo(files, wrong_order(labels, 1), knowledge, generator)[-1]).mean()
    assert apart(one) < .2*apart(log), (apart(one), apart(log))

def test_the_committed_embedding_knows_people():
    from deepfakenb.data.synth.render import render
    from deepfakenb.models.identity import embed_with, identity_file, load_identity, shots, verification
    net = load_identity(device='cpu')
    assert identity_file().stat().st_size <= 2e6 and {'people', 'epochs', 'seed', 'auc'} <= set(net.record)
    got = verification(embed_with(net, render(shots(24, 3, 8_900_000), 96).images), torch.arange(24).repeat_interleave(3), n=20)
    assert got['auc'][0] > .85 and abs(got['auc'][0]-net.record['auc'][0]) < .08

def test_kept_numbers_are_read(tmp_path):
    from deepfakenb.core import write_json
    from deepfakenb.analysis.recovery import made_from, recoveries, who_answers
    kept = dict(components=dict(asked=dict(faces=1), made_from=made_from(), answers=who_answers('components', 'bench', out=tmp_path), rows=[]))
    assert set(kept['components']['made_from']) == {'generator', 'identity', 'code'} and kept['components']['answers']['run'] == ''       # no run here: the demonstration model
    write_json(tmp_path/'bench'/'p1'/'recovery.json', kept)
    assert recoveries('components', 'bench', tmp_path) == kept['components'] == recoveries('components', 'bench', tmp_path, faces=1)
    with pytest.raises(UserError, match='attributes: not measured yet; run'): recoveries('attributes', 'bench', tmp_path, only_kept=True)

@pytest.mark.parametrize('what, words', [('generator', 'the generator has changed'), ('identity', 'the identity network has changed'), ('code', 'the code that measures has changed'), ('made_from', 'the generator has changed'),
                                         ('answers', 'another model answers now'), ('run', 'another model answers now'), ('nobody', 'another model answers now'), ('faces', 'another value of faces')])
def test_numbers_that_no_longer_hold_are_measured_anew(tmp_path, monkeypatch, what, words):
    "Other weights, other code, another answering model, other options: measured anew, and with `only_kept` told."
    from deepfakenb.analysis import recovery as recovery_scores
    from deepfakenb.core import read_json, write_json
    found = dict(asked=dict(faces=1), made_from=recovery_scores.made_from(), answers=recovery_scores.who_answers('components', 'bench', out=tmp_path))
    if what in found['made_from']: found['made_from'][what] = '0'
    if what == 'made_from': del found['made_from']                # a file of an older workbook
    if what == 'answers': found['answers'] = dict(found['answers'], weights='0')
    if what == 'run': found['answers'] = dict(run='a', weights='0')
    if what == 'nobody': found['answers'] = None
    file, options = tmp_path/'bench'/'p1'/'recovery.json', dict(faces=2) if what == 'faces' else {}
    write_json(file, dict(components=found))
    monkeypatch.setattr(recovery_scores, 'measure', lambda *a, **k: dict(new=True))
    with pytest.raises(UserError, match=f'recovery of components: .*{words}; run'): recovery_scores.recoveries('components', 'bench', tmp_path, only_kept=True, **options)
    assert read_json(file) == dict(components=found)
    assert recovery_scores.recoveries('components', 'bench', tmp_path, **options) == dict(new=True) == read_json(file)['components']

def test_who_answers(tmp_path, monkeypatch):
    "The best on validation of the runs whose weights are here; a run that answered before counts without them, as long as its record names the same weights."
    from types import SimpleNamespace
    from deepfakenb.analysis import recovery as recovery_scores
    from deepfakenb.runs import store as runs
    from deepfakenb.core import write_json
    from deepfakenb.protocols import base
    def run(id, score, weights=True):
        write_json(tmp_path/id/'run.json', dict(files={'best_adaptive.safetensors': id*20}))
        if weights: (tmp_path/id/'best_adaptive.safetensors').write_bytes(b'')
        return SimpleNamespace(id=id, path=tmp_path/id, spec=SimpleNamespace(model='seqfakeformer', data=dict(track='attributes')), metrics=dict(val=dict(adaptive=dict(adaptive_acc=score))))
    monkeypatch.setattr(runs, 'list_runs', lambda out, preset: [run('a', 40.), run('b', 41.), run('c', 42., weights=False), run('d', 43.)])
    rows = [SimpleNamespace(row='Ours', specs=[SimpleNamespace(id=i) for i in 'abc']), SimpleNamespace(row='SGD with momentum', specs=[SimpleNamespace(id='d')])]
    monkeypatch.setattr(base, 'get', lambda paper: SimpleNamespace(tables=dict(t=SimpleNamespace(cells=lambda preset: rows))))    # d is no row of its own
    who = lambda **k: recovery_scores.who_answers('attributes', 'bench', **k)
    assert who() == dict(run='b', weights='b'*12) and who(beside='c') == dict(run='c', weights='c'*12) and who(beside='a') == who()
    assert recovery_scores.who_answers('components', 'bench')['run'] == ''
    found = dict(asked={}, made_from=recovery_scores.made_from(), answers=dict(run='c', weights='c'*12))
    assert recovery_scores.why_stale(found, 'attributes', 'bench') == ''                                  # committed, read where its weights are not
    assert recovery_scores.why_stale(dict(found, answers=dict(run='a', weights='a'*12)), 'attributes', 'bench') == 'another model answers now'

def test_the_committed_numbers_hold():
    "What p1 shows was measured with today's generator, code and recorded runs; right and wrong order, each with the log and without."
    from deepfakenb.core import read_json, reports_dir
    from deepfakenb.analysis.recovery import made_from
    from deepfakenb.analysis.recovery import false_alarm_text, order_summary
    from deepfakenb.analysis.robustness import checkpoint_hash
    from deepfakenb.runs.store import load_run
    found = read_json(reports_dir()/'bench'/'p1'/'recovery.json')
    assert set(found) == set(TRACKS)
    for f in found.values():
        assert f['made_from'] == made_from() and f['answers']['weights'] == checkpoint_hash(load_run(f['answers']['run']), 'adaptive')
        assert {f'{how}{tail}_{m}' for how in ('right', 'wrong') for tail in ('', '_alone') for m in ('psnr', 'lpips', 'identity')} <= set(f['columns']) and len(f['pairs']) == 10
        assert order_summary(f)['difference'].low > 0                                       # with the log the right order is closer
    c = order_summary(found['components'], 'psnr')
    assert abs(c['difference_alone'].mean) < .1 < 3 < -c['difference'].mean                 # of the components that is the log's doing
    commuting = [l for l in found['components']['pairs'] if l['order'][0] < l['jpeg']]
    assert commuting and max(l['psnr'][0] for l in commuting) > 3 and max(abs(l['alone']['psnr'][0]) for l in found['components']['pairs']) < .1
    assert false_alarm_text(found).count('untouched faces') == 2

def test_figure_7_shows_what_is_printed():
    from deepfakenb.figures.recovery import printed_distances
    assert printed_distances() == dict(right=.1921, wrong=.2127)

def test_the_printed_distances_stand_in_the_paper(shared):
    "As decimal numbers of the paper's text, once each."
    text = shared/'papers'/'seqfakeformer.txt'
    if not text.exists(): pytest.skip("the paper's text is not here")
    lines = text.read_text(encoding='utf8').split()
    assert lines.count('0.1921') == lines.count('0.2127') == 1

@pytest.fixture(scope='module')
def pictures(tmp_path_factory, smoke):
    d = tmp_path_factory.mktemp('pictures')
    for track, (files, _, states, _) in smoke.items():
        for name, x in (('edited', files), ('original', states[0])): Image.fromarray(x[0].permute(1, 2, 0).numpy()).save(d/f'{track}-{name}.png')
    for k in ('face', 'steps'): Image.fromarray(smoke['attributes'][0][0].permute(1, 2, 0).numpy()).save(d/f'p.{k}.png')
    (d/'folder').mkdir(); (d/'folder'/'mine.txt').write_text('mine')
    Image.new('RGB', (200, 200), 'grey').save(d/'noface.png'); (d/'notes.txt').write_text('no picture'); (d/'file').write_text('')
    return d

def test_recover_command(deepfakenb, smoke, pictures, tmp_path):
    from deepfakenb.vocab import Vocabulary
    name = Vocabulary('components').sequence_name(smoke['components'][1][0].tolist())
    code, out, err = deepfakenb('recover', pictures/'components-edited.png', '--sequence', name, '--original', pictures/'components-original.png', '--no-crop', '--out', tmp_path/'a.png')
    assert code == 0 and not err, err
    steps = name.split('-')
    assert f"undone: {', '.join(steps[::-1])}" in out and 'not what the edit covered' in out and all(s in out for s in ('step', 'changed by', 'a.steps.png'))
    assert Image.open(tmp_path/'a.png').size == Image.open(tmp_path/'a.face.png').size == (128, 128) and Image.open(tmp_path/'a.steps.png').size[0] == (len(steps)+1)*256+(len(steps)+2)*8
    code, out, err = deepfakenb('recover', pictures/'attributes-edited.png', '--sequence', 'smiling-Young', '--no-crop', '--out', tmp_path/'b.jpg')
    assert code == 0 and 'undone: Young, Smiling' in out and 'median person' in out and Image.open(tmp_path/'b.jpg').format == 'JPEG'
    assert 'unchanged but for JPEG, which compresses all of it anew (quality 95)' in out and 'as it was' not in out
    code, out, err = deepfakenb('recover', pictures/'attributes-edited.png', '--sequence', 'original', '--track', 'attributes', '--no-crop', '--out', tmp_path/'c.png')
    assert code == 0 and 'No edit to undo: the picture is written pixel by pixel as it was read.' in out and np.array_equal(np.asarray(Image.open(tmp_path/'c.png')), np.asarray(Image.open(pictures/'attributes-edited.png')))

@pytest.mark.parametrize('ending, kind', [('jpg', 'JPEG'), ('webp', 'WEBP')])
def test_a_compressed_picture_is_not_called_unchanged(deepfakenb, pictures, tmp_path, ending, kind):
    code, out, err = deepfakenb('recover', pictures/'attributes-edited.png', '--sequence', 'original', '--track', 'attributes', '--no-crop', '--out', tmp_path/f'a.{ending}')
    assert code == 0 and f'No edit to undo: the picture is unchanged but for {kind}, which compresses all of it anew (quality 95).' in out and 'pixel by pixel' not in out, err
    assert not np.array_equal(np.asarray(Image.open(tmp_path/f'a.{ending}').convert('RGB')), np.asarray(Image.open(pictures/'attributes-edited.png')))

@pytest.fixture(scope='module')
def wall():
    "Two pictures of one rendered person, 200 px, each on a wall of noise of 320 x 260 px."
    from deepfakenb.data.synth.render import render
    from deepfakenb.data.synth.tracks import track_people
    person = track_people(6, 12)[4:5].replace(pose=[0., 0., 0.])
    def hung(who):
        out = np.random.default_rng(1).integers(0, 256, (260, 320, 3), dtype=np.uint8)
        out[40:240, 70:270] = render(who, 200).images[0].permute(1, 2, 0).numpy()
        return out
    return hung(person), hung(person.replace(smiling=.9))

def test_the_photograph_comes_back(deepfakenb, wall, tmp_path):
    "At its own size; pixels outside the square, and most inside, are the photograph's own; the face and the steps lie beside it."
    from deepfakenb.cli.recover import read_face
    for k, x in enumerate(wall): Image.fromarray(x).save(tmp_path/f'{k}.png')
    code, out, err = deepfakenb('recover', tmp_path/'0.png', '--sequence', 'lip', '--original', tmp_path/'1.png', '--out', tmp_path/'to'/'a.png')
    assert code == 0 and 'Mixed into' in out and 'a.face.png' in out and not err, err
    assert sorted(p.name for p in (tmp_path/'to').iterdir()) == ['a.face.png', 'a.png', 'a.steps.png'] and Image.open(tmp_path/'to'/'a.face.png').size == (128, 128)
    back, (x0, y0, x1, y1) = np.asarray(Image.open(tmp_path/'to'/'a.png')), read_face(tmp_path/'0.png').square
    changed = np.any(back != wall[0], -1)
    assert back.shape == wall[0].shape and .02 < changed[y0:y1, x0:x1].mean() < .4 and changed.sum() == changed[y0+1:y1-1, x0+1:x1-1].sum()
    assert changed.nonzero()[0].min() > y0+.4*(y1-y0)                    # a mouth, with its soft rim, is below the eyes
    code, out, err = deepfakenb('recover', tmp_path/'0.png', '--sequence', 'original', '--track', 'components', '--out', tmp_path/'b.png')
    assert code == 0 and 'No edit to undo' in out and 'Mixed' not in out and np.array_equal(np.asarray(Image.open(tmp_path/'b.png')), wall[0])

def test_the_middle_square_of_a_wide_picture(deepfakenb, wall, tmp_path):
    Image.fromarray(wall[0]).save(tmp_path/'0.png'); Image.fromarray(wall[1]).save(tmp_path/'1.png')
    code, out, err = deepfakenb('recover', tmp_path/'0.png', '--sequence', 'hair-lip', '--original', tmp_path/'1.png', '--no-crop', '--out', tmp_path/'a.png')
    back = np.asarray(Image.open(tmp_path/'a.png')); same = (back == wall[0]).all(-1)
    assert code == 0 and '260 px at (30, 0)' in out and same[:, :31].all() and same[:, 289:].all() and not same.all(), err

@pytest.mark.parametrize('kind', ('grey', 'transparent', 'turned', 'small', 'jpeg'))
def test_any_photograph_comes_back(deepfakenb, wall, tmp_path, kind):
    "Grey, transparent, turned by its EXIF, smaller than the generator's picture: as `open_image` shows it."
    from deepfakenb.cli.recover import read_face
    from deepfakenb.data.images import open_image
    im, name, options = Image.fromarray(wall[0]), 'a.png', {}
    if kind == 'grey': im = im.convert('L')
    if kind == 'transparent': im.putalpha(Image.linear_gradient('L').resize(im.size).point(lambda v: 255-v//4))
    if kind == 'turned': im, options = im.transpose(Image.Transpose.ROTATE_90), dict(exif=Image.Exif()); options['exif'][0x0112] = 6
    if kind == 'small': im = im.resize((120, 98), Image.Resampling.LANCZOS)
    if kind == 'jpeg': name = 'a.jpg'
    im.save(tmp_path/name, **options); Image.fromarray(wall[1]).save(tmp_path/'1.png')
    seen = open_image(tmp_path/name)
    assert seen.shape == {'small': (98, 120, 3)}.get(kind, wall[0].shape)
    code, out, err = deepfakenb('recover', tmp_path/name, '--sequence', 'nose', '--original', tmp_path/'1.png', '--out', tmp_path/'back.png')
    assert code == 0, err
    back, (x0, y0, x1, y1) = open_image(tmp_path/'back.png'), read_face(tmp_path/name).square
    changed = np.any(back != seen, -1)
    assert back.shape == seen.shape and changed.any() and changed.sum() == changed[max(0, y0+1):y1-1, max(0, x0+1):x1-1].sum()

def test_portraits_keep_their_sharpness(deepfakenb, generator, shared, tmp_path):
    "Photographs of people: the generator's softness alone changes no pixel; undoing an edit changes none outside the square."
    from deepfakenb.cli.recover import change_weight, into_photograph, read_face, undone
    from deepfakenb.data.synth.edit import reencode
    files = sorted((shared/'portraits').glob('*.jpg'))[::40][:5]
    if not files: pytest.skip('no portraits')
    for f in files:
        cut = read_face(f); copy = reencode(cut.face, generator)
        assert change_weight(cut.face, copy).mean() > .2 and np.array_equal(into_photograph(cut, [cut.face, copy])[0], cut.photograph)
        back, weight = into_photograph(cut, undone(cut.face, [5, 0, 0, 0, 0], 'attributes'))
        x0, y0, x1, y1 = cut.square
        outside = np.ones(back.shape[:2], bool); outside[max(0, y0):y1, max(0, x0):x1] = False
        assert back.shape == cut.photograph.shape and np.array_equal(back[outside], cut.photograph[outside]) and (weight > 0).mean() < .8
    code, out, err = deepfakenb('recover', files[0], '--sequence', 'Young', '--out', tmp_path/'a.png')
    assert code == 0 and Image.open(tmp_path/'a.png').size == Image.open(files[0]).size, err

def test_recover_asks_a_model(deepfakenb, pictures, tmp_path):
    code, out, err = deepfakenb('recover', pictures/'components-edited.png', '--original', pictures/'components-original.png', '--no-crop', '--out', tmp_path/'d.png')
    assert code == 0 and 'demonstration model' in out and 'proves nothing' in out and 'the model says' in out, err

@pytest.mark.parametrize('arguments, code, words', [
    (('nothing.png', '--sequence', 'eye'), 1, 'no such file'),
    (('notes.txt', '--sequence', 'eye'), 1, 'not an image'),
    (('noface.png', '--sequence', 'eye'), 1, 'no face found'),
    (('components-edited.png', '--sequence', 'eye-nose', '--no-crop'), 1, '--original'),
    (('components-edited.png', '--sequence', 'eye-nose', '--original', 'nothing.png', '--no-crop'), 1, 'no such file'),
    (('components-edited.png', '--sequence', 'eye-ear', '--no-crop'), 2, 'one track'),
    (('components-edited.png', '--sequence', 'eye-eye', '--no-crop'), 2, 'twice'),
    (('components-edited.png', '--sequence', 'eye-Young', '--no-crop'), 2, 'one track'),
    (('components-edited.png', '--sequence', 'eye', '--run', 'x'), 2, 'either'),
    (('components-edited.png', '--run', 'nosuchrun', '--no-crop'), 1, 'no finished run'),
    (('components-edited.png', '--run', 'folder', '--no-crop'), 1, 'not the folder of a run'),
    (('p.face.png', '--sequence', 'Young', '--no-crop', '--out', 'p.png'), 2, 'p.face.png would be written, and is read'),
    (('p.steps.png', '--sequence', 'Young', '--no-crop', '--out', './p.jpg'), 2, 'p.steps.png would be written, and is read'),
    (('components-edited.png', '--sequence', 'eye', '--original', 'p.face.png', '--no-crop', '--out', 'p.webp'), 2, 'p.face.png would be written, and is read'),
    (('components-edited.png', '--track', 'attributes', '--no-crop'), 2, 'trained on components'),
    (('components-edited.png', '--best', 'last'), 2, 'fixed or adaptive'),
    (('components-edited.png', '--sequence', 'Young', '--no-crop', '--out', 'x.txt'), 2, '--out'),
    (('components-edited.png', '--sequence', 'Young', '--no-crop', '--out', './components-edited.png'), 2, 'name another file'),
    (('components-edited.png', '--sequence', 'Young', '--no-crop', '--out', 'file/x.png'), 1, 'cannot be written')])
def test_bad_input_is_one_line(deepfakenb, pictures, monkeypatch, arguments, code, words):
    monkeypatch.chdir(pictures)
    before = {p: p.read_bytes() for p in pictures.rglob('*') if p.is_file()}
    got, out, err = deepfakenb('recover', *arguments)
    assert {p: p.read_bytes() for p in pictures.rglob('*') if p.is_file()} == before, 'a file was written or lost'
    assert got == code and err.startswith('error: ') and err.count('\n') == 1 and words in err and 'Traceback' not in err, (got, err)
