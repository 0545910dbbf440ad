"Commands for one's own work: scores of any program and labelled videos evaluated, the doctor, one's own trainings, runs listed, shown and compared."
import csv, io, json, math, os, shutil
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from sklearn import metrics as sk
from deepfakenb.analysis import evaluate as ev
from deepfakenb.cli.main import main
from deepfakenb.core import UserError
from deepfakenb.metrics import detection as of
from deepfakenb.runs import launch, store
from deepfakenb.runs.spec import RunSpec

@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    monkeypatch.setattr(os, 'environ', os.environ.copy())
    monkeypatch.delenv('DEEPFAKENB_DATA_ROOT', raising=False); monkeypatch.setenv('DEEPFAKENB_DEVICE', 'cpu'); monkeypatch.setenv('DEEPFAKENB_QUIET', '1')

@pytest.fixture
def call(capsys):
    "Code, what was said, what was said about trouble."
    def call(*arguments):
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        return code, *capsys.readouterr()
    return call

@pytest.fixture
def document(call):
    "What a command says with --json; it must succeed."
    def document(*arguments):
        code, out, err = call(*arguments, '--json')
        assert code == 0, err
        return json.loads(out, parse_constant=lambda c: pytest.fail(f'{c} is not JSON'))
    return document

def refused(got, code, *words):
    assert got[0] == code and got[2].startswith('error: ') and got[2].count('\n') == 1 and all(w in got[2] for w in words), got

# --- evaluate: pictures

def test_a_folder_of_pictures_is_told_the_way(tmp_path, call):
    for n in ('real/a.png', 'fake/swap/b.JPG'): (tmp_path/'pics'/n).parent.mkdir(parents=True, exist_ok=True); (tmp_path/'pics'/n).touch()
    refused(call('evaluate', tmp_path/'pics', '--out', tmp_path/'out'), 1, 'pics: holds pictures', 'CSV (columns score, label)', 'deepfakenb evaluate FILE.csv')
    assert not (tmp_path/'out').exists() and 'folder of videos (no pictures)' in ' '.join(call('evaluate', '--help')[1].replace('│', ' ').split())

# --- evaluate: a table

def table(path, n=400, seed=0, spread=.6, pairs=40, levels=50):
    "Scores with ties, two manipulations, people who are liked or not."
    r = np.random.default_rng(seed)
    group, kind = np.arange(n) % pairs, r.integers(0, 4, n)
    label = (kind > 1).astype(int)
    score = np.round(np.clip(.2*label+.1*(kind == 3)+.4*r.random(pairs)[group]+spread*.5*r.random(n), 0, 1)*levels)/levels
    f = pd.DataFrame(dict(score=score, label=label, group=[f'g{g}' for g in group], method=np.where(kind == 2, 'swap', np.where(kind == 3, 'morph', ''))))
    f.to_csv(path, index=False)
    return f

def test_scores_agree_with_scikit_learn(tmp_path, document):
    f = table(tmp_path/'a.csv')
    got = document('evaluate', tmp_path/'a.csv')
    assert [s['method'] for s in got['scores']] == ['all', 'morph', 'swap'] and got['rows'] == len(f) and got['left_out'] == [] and got['threshold'] == .5
    for line, part in zip(got['scores'], (f, f[f.method != 'swap'], f[f.method != 'morph'])):
        y, s = part.label, part.score
        want = dict(AUC=sk.roc_auc_score(y, s), AP=sk.average_precision_score(y, s), ACC=sk.accuracy_score(y, s >= .5), BACC=sk.balanced_accuracy_score(y, s >= .5))
        for k, v in want.items(): assert line[k]['value'] == pytest.approx(100*v, rel=1e-5), k
        assert line['log_loss']['value'] == pytest.approx(sk.log_loss(y, s.clip(1e-6, 1-1e-6)), rel=1e-5)
        assert line['EER']['value'] == pytest.approx(of.equal_error_rate(y, s), rel=1e-5) and line['ECE']['value'] == pytest.approx(of.calibration_error(y, s), rel=1e-5)
        assert (line['n'], line['fakes'], line['drawn']) == (len(part), int(y.sum()), part.group.nunique())

def test_intervals_are_drawn_over_groups(tmp_path, document):
    f = table(tmp_path/'a.csv', pairs=12)
    by_group = document('evaluate', tmp_path/'a.csv')['scores'][0]
    for m in ('AUC', 'AP', 'ACC', 'BACC'): assert [by_group[m][k] for k in ('value', 'low', 'high')] == pytest.approx(list(of.pair_interval(m, f.label, f.score, f.group)), rel=1e-5)
    f.drop(columns='group').to_csv(tmp_path/'b.csv', index=False)
    by_row = document('evaluate', tmp_path/'b.csv')
    width = lambda s: s['AUC']['high']-s['AUC']['low']
    assert by_row['intervals'].endswith('over rows') and width(by_group) > 1.5*width(by_row['scores'][0]), 'rows of a group are not independent'
    doubled = pd.concat([f, f]); doubled.to_csv(tmp_path/'c.csv', index=False)
    assert document('evaluate', tmp_path/'c.csv')['scores'][0]['AUC'] == pytest.approx(by_group['AUC']), 'each row twice is no more evidence'

def test_a_naive_bootstrap_gives_the_same_intervals(tmp_path, document):
    f = table(tmp_path/'a.csv', n=120, pairs=15)
    got, r, drawn = document('evaluate', tmp_path/'a.csv')['scores'][0], np.random.default_rng(1), []
    parts = {g: p for g, p in f.groupby('group')}
    for _ in range(500):
        d = pd.concat([parts[g] for g in r.choice(list(parts), len(parts))])
        drawn.append((sk.roc_auc_score(d.label, d.score)*100, of.equal_error_rate(d.label, d.score), sk.log_loss(d.label, d.score.clip(1e-6, 1-1e-6))))
    for k, m in enumerate(('AUC', 'EER', 'log_loss')):
        want = np.quantile([d[k] for d in drawn], (.025, .975))
        assert [got[m]['low'], got[m]['high']] == pytest.approx(want, abs=.25*(want[1]-want[0])), m

def test_perfect_reversed_and_constant(tmp_path, document):
    write = lambda s: (tmp_path/'a.csv').write_text('score,label\n'+''.join(f'{v},{k % 2}\n' for k, v in enumerate(s)))
    for s, auc, eer in (([.1, .9]*20, 100, 0), ([.9, .1]*20, 0, 100), ([.5, .5]*20, 50, 50)):
        write(s); got = document('evaluate', tmp_path/'a.csv')
        assert got['scores'][0]['AUC']['value'] == auc and got['scores'][0]['EER']['value'] == eer
        assert any('below 50' in n for n in got['notes']) == (auc == 0) and any('no error was seen' in n for n in got['notes']) == (auc == 100)

@pytest.mark.parametrize('label', ['real', 'fake'])
def test_one_class_is_undefined_never_zero(tmp_path, call, document, label):
    (tmp_path/'a.csv').write_text('score,label\n'+''.join(f'{v},{label}\n' for v in (.1, .3, .8, .9)))
    got = document('evaluate', tmp_path/'a.csv')
    for m in ('AUC', 'AP', 'EER', 'BACC'): assert got['scores'][0][m] == dict(value=None, low=None, high=None, note='one class only')
    assert got['scores'][0]['ACC']['value'] == 50 and got['scores'][0]['log_loss']['value'] > 0
    code, out, _ = call('evaluate', tmp_path/'a.csv', '--csv', tmp_path/'o.csv')
    assert code == 0 and out.count('one class only') >= 4 and '0.0 ' not in out.split('AP')[0]
    rows = {r['metric']: r for r in csv.DictReader(open(tmp_path/'o.csv'))}
    assert rows['AUC']['value'] == '' and rows['AUC']['note'] == 'one class only' and rows['ACC']['value'] == '50'

def test_numbers_that_are_no_probabilities(tmp_path, document, call):
    f = table(tmp_path/'a.csv').assign(score=lambda f: np.round(np.log((f.score+.01)/(1.01-f.score)), 6))
    f.to_csv(tmp_path/'m.csv', index=False)
    p, m, t = document('evaluate', tmp_path/'a.csv'), document('evaluate', tmp_path/'m.csv'), document('evaluate', tmp_path/'m.csv', '--threshold', 0)
    for k in ('AUC', 'AP', 'EER'): assert m['scores'][0][k] == pytest.approx(p['scores'][0][k])
    for k in ('ECE', 'log_loss'): assert m['scores'][0][k]['value'] is None and 'no probabilities' in m['scores'][0][k]['note'] and t['scores'][0][k]['value'] is None
    assert m['scores'][0]['ACC']['value'] is None and 'threshold' in m['scores'][0]['ACC']['note'] and m['threshold'] is None and any('no probabilities' in n for n in m['notes'])
    assert t['scores'][0]['ACC'] == p['scores'][0]['ACC'] and t['threshold'] == 0
    assert 'note: the scores run from' in call('evaluate', tmp_path/'m.csv')[1]

def test_bad_rows_are_counted_and_named(tmp_path, call, document):
    "Every row is used or named with its line; whatever is done to a row, the others keep their scores."
    f, r = table(tmp_path/'a.csv', n=200), np.random.default_rng(3)
    lines = (tmp_path/'a.csv').read_text().splitlines()
    harm = dict(score=('', 'nan', 'inf', '-inf', 'high', '0,5x'), label=('', '2', 'maybe', '-1', 'nan'))
    at = sorted(r.choice(200, 40, replace=False))
    for k, i in enumerate(at):
        cells = lines[i+1].split(',')
        if k % 9 == 8: lines[i+1] = ','.join(cells[:2]); continue
        column = ('score', 'label')[k % 2]; cells[k % 2] = f'"{harm[column][k//2 % len(harm[column])]}"'
        lines[i+1] = ','.join(cells)
    (tmp_path/'b.csv').write_text('\n'.join(lines)+'\n'); f.drop(index=at).to_csv(tmp_path/'c.csv', index=False)
    bad, clean = document('evaluate', tmp_path/'b.csv'), document('evaluate', tmp_path/'c.csv')
    assert [x['where'] for x in bad['left_out']] == [f'line {i+2}' for i in at] and bad['rows'] == 200 and bad['scores'] == clean['scores']
    assert bad['scores'][0]['n']+len(bad['left_out']) == bad['rows'] and all(x['why'] for x in bad['left_out'])
    said = call('evaluate', tmp_path/'b.csv')[1]
    assert 'left out: 40 of 200' in said and f'line {at[0]+2}: ' in said and 'and 32 more' in said

def test_frames_become_videos(tmp_path, document):
    f = table(tmp_path/'a.csv').assign(video=lambda f: [f'v{i//5}' for i in range(len(f))]).assign(label=lambda f: [i//5 % 2 for i in range(len(f))], method='')
    f.to_csv(tmp_path/'a.csv', index=False); f.rename(columns=dict(video='file')).drop(columns='group').to_csv(tmp_path/'b.csv', index=False)
    refused_groups = document('evaluate', tmp_path/'b.csv')
    v = f.groupby('video').agg(score=('score', 'mean'), label=('label', 'first'))
    assert refused_groups['level'] == 'video' and refused_groups['scores'][0]['n'] == 80 and refused_groups['scores'][0]['AUC']['value'] == pytest.approx(100*sk.roc_auc_score(v.label, v.score), rel=1e-5)
    rows = document('evaluate', tmp_path/'b.csv', '--level', 'row')
    assert rows['scores'][0]['n'] == 400 and rows['scores'][0]['drawn'] == 80 and rows['scores'][0]['AUC']['value'] == pytest.approx(100*sk.roc_auc_score(f.label, f.score), rel=1e-5)

def test_other_names_and_separators(tmp_path, document):
    f = table(tmp_path/'a.csv')
    f.assign(truth=f.label.map({0: 'Real', 1: 'FAKE'})).rename(columns=dict(score='p of fake'))[['truth', 'method', 'p of fake', 'group']].to_csv(tmp_path/'b.csv', index=False, sep=';', encoding='utf-8-sig')
    assert document('evaluate', tmp_path/'b.csv', '--columns', 'score=p of fake,label=truth')['scores'] == document('evaluate', tmp_path/'a.csv')['scores']

@pytest.mark.parametrize('text, arguments, code, words', [
    (None, [], 1, ['a.csv', 'no such file']),
    ('a,b\n1,2\n', [], 2, ['no column score', 'a, b', '--columns score=NAME']),
    ('score,label\n', [], 1, ['no rows']),
    ('score,label\nx,1\n', [], 1, ['none of 1 rows', 'line 2', "'x'"]),
    ('score,label\n.5,1\n', ['--columns', 'score=p'], 2, ['no column p', 'score, label']),
    ('score,label\n.5,1\n', ['--columns', 'points=p'], 2, ['points', 'choose from score']),
    ('score,label\n.5,1\n', ['--columns', 'score'], 2, ['score=NAME']),
    ('score,label\n.5,1\n', ['--level', 'clip'], 2, ['row or video']),
    ('score,label\n.5,1\n', ['--level', 'video'], 2, ['no column video']),
    ('score,label\n.5,1\n', ['--run', 'abc'], 2, ['--run', 'folder of videos']),
    ('score,label\n.5,1\n', ['--draws', '3'], 2, ['--draws']),
    ('score,label\n.5,1\n', ['--csv', 'a.csv/none/o.csv'], 1, ['o.csv', 'cannot be written'])])
def test_trouble_with_a_table_is_one_line(tmp_path, call, monkeypatch, text, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    if text is not None: Path('a.csv').write_text(text)
    refused(call('evaluate', 'a.csv', *arguments), code, *words)

# --- evaluate: videos

@pytest.fixture(scope='module')
def films(tmp_path_factory):
    from deepfakenb.data.codec import write_video
    from facefilm import walk
    d, film = tmp_path_factory.mktemp('films'), walk(24)[0]
    for name, frames in (('real/one.mp4', film[:8]), ('real/two.mp4', film[6:14]), ('fake/swap/one.mp4', film[14:]), ('fake/morph/two.mp4', film[10:18]), ('fake/wall.mp4', np.full((6, 96, 96, 3), 120, np.uint8)), ('loose.mp4', film[:4])): write_video(d/name, frames)
    return d

@pytest.fixture(scope='module')
def judge(tmp_path_factory):
    "A run on record with weights (untrained: what is looked at is the way)."
    from deepfakenb.models.base import build_model
    from deepfakenb.models.checkpoints import save_model
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp('reports')
    spec = RunSpec('own', 'mesonet', {}, dict(name='video', dataset='ffpp', preset='smoke', size=48), dict(epochs=1), 0, 'own')
    return write_detection(spec, out, weights=build_model('mesonet')), out

def write_detection(spec, out, seed=0, quality=.3, fingerprint='data', weights=None, videos=40):
    "A detector's run without the training."
    from deepfakenb.models.checkpoints import save_model
    from deepfakenb.tasks.base import task_of
    task, r, frames = task_of(spec.data), np.random.default_rng(seed), []
    from deepfakenb.tasks.answers import margins
    from deepfakenb.tasks.detection import level_scores
    for split in ('val', 'test'):
        label = np.arange(videos) % 2
        frames.append(pd.DataFrame(dict(video=[f'{split}{i:03}' for i in range(videos)], method=np.where(label == 1, 'X', 'original'), label=label.astype('int8'), split=split, group=np.arange(videos)//2, start=0,
                                        margin=margins(np.clip(.5+quality*(label-.5)+.3*r.standard_normal(videos), .01, .99)))))
    frame = pd.concat(frames, ignore_index=True)
    job = store.begin(spec, out, fingerprint=fingerprint)
    pd.DataFrame(dict(epoch=[0, 1, 2], train_loss=[1., .5, .4], auc=[60., 70., 65.])).to_csv(job.folder/'history.csv', index=False)
    if weights is not None: save_model(weights, job.folder/task.checkpoints['best'])
    scored = lambda s: level_scores((p := frame[frame.split == s]).assign(score=1/(1+np.exp(-p['margin']))), 'frame')
    return job.finish(dict(val=scored('val'), test=scored('test'), best_epoch=dict(best=1), loss=dict(first=1., last=.4), level='frame'), frame, data_kind='synthetic', duration_s=12.)

def test_labelled_folder_judged_by_a_run(films, judge, tmp_path, call, document):
    run, reports = judge
    got = document('evaluate', films, '--run', run.id, '--reports', reports, '--out', tmp_path/'o')
    assert got['model'] == f'run {run.id}' and 'rendered faces' in got['warning'] and got['rows'] == 6 and [s['method'] for s in got['scores']] == ['all', 'morph', 'swap']
    assert {x['where']: x['why'] for x in got['left_out']} == {'loose.mp4': 'lies neither in real/ nor in fake/', 'fake/wall': 'no face found'} and (got['scores'][0]['n'], got['scores'][0]['fakes']) == (4, 2)
    table = document('evaluate', tmp_path/'o'/'scores.csv')
    assert table['scores'] == got['scores'], 'the written scores say the same'
    from deepfakenb.inference.videos import find_video_detector, predict_videos
    alone = predict_videos(find_video_detector(run.id, reports), films/'real'/'one.mp4', tmp_path/'p')[0]
    assert float(pd.read_csv(tmp_path/'o'/'scores.csv').set_index('video').loc['real/one', 'score']) == pytest.approx(alone.score), 'as predict judges it'
    code, out, err = call('evaluate', films, '--run', run.id, '--reports', reports, '--out', tmp_path/'o')
    assert code == 0 and 'left out: 2 of 6' in out and 'no face found' in out and 'score' in err and 'drawn over 4 videos' in out

def test_labels_from_a_table(films, judge, tmp_path, document, call):
    run, reports = judge
    labels = tmp_path/'labels.csv'
    labels.write_text('file,label,group,method\nreal/one.mp4,real,a,\nreal/two,0,b,\nswap/one.mp4,1,a,swap\nfake/swap/one.mp4,1,a,swap\nfake/morph/two,fake,b,morph\nzzz,1,c,\nloose,2,c,\n')
    got = document('evaluate', films, '--run', run.id, '--reports', reports, '--out', tmp_path/'o', '--labels', labels)
    assert got['intervals'].endswith('over groups') and got['scores'][0]['n'] == 4 and got['scores'][0]['drawn'] == 2
    said = {x['where']: x['why'] for x in got['left_out']}
    assert len(said) == 4 and any('zzz' in w and 'no video' in y for w, y in said.items()) and any("label '2'" in y for y in said.values()) and any('swap/one.mp4' in w for w in said) and said['fake/wall.mp4'] == 'has no label'
    assert not (tmp_path/'o'/'faces'/'crops'/'loose').exists(), 'judging costs: only labelled videos are judged'

def test_trouble_with_a_folder_is_one_line(films, judge, tmp_path, call):
    run, reports = judge
    (tmp_path/'bare').mkdir(); (tmp_path/'loose').mkdir(); shutil.copy(films/'loose.mp4', tmp_path/'loose')
    refused(call('evaluate', tmp_path/'bare', '--run', run.id, '--reports', reports), 1, 'no video')
    refused(call('evaluate', tmp_path/'loose', '--run', run.id, '--reports', reports), 1, 'real/ or fake/', '--labels')
    refused(call('evaluate', films, '--run', 'zzzz', '--reports', reports), 1, 'no finished run')
    refused(call('evaluate', films/'loose.mp4'), 2, 'deepfakenb predict')
    refused(call('evaluate', films, '--columns', 'score=p'), 2, '--columns')
    other = write_detection(RunSpec('own', 'mesonet', {}, dict(name='video', dataset='ffpp', preset='smoke', size=48), dict(epochs=2), 0, 'own'), tmp_path/'r')
    refused(call('evaluate', films, '--run', other.id, '--reports', tmp_path/'r', '--out', tmp_path/'o'), 1, 'weights are not on this machine')
    assert not (tmp_path/'o').exists()

# --- doctor

def test_doctor_says_what_works(call, document, tmp_path, monkeypatch):
    monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path/'data'))
    code, out, err = call('doctor', '--json')
    got = json.loads(out)
    assert code == (0 if got['works']['smoke'] else 1) and err == ''
    broken = [f for f in got['findings'] if f['ok'] is False]
    assert not [f for f in broken if 'smoke' in f['needed'] and f['part'] != 'machine'], 'the tests run, so software and weights are there'
    assert all(f['remedy'] for f in broken) and not got['works']['paper'] and {'real datasets', 'published'} <= {f['what'] for f in broken}
    assert not (tmp_path/'data').exists(), 'the doctor changes nothing'
    text = call('doctor')[1]
    assert 'what would work' in text and all(f"preset {p}" in text for p in ('smoke', 'bench', 'paper')) and all(f['remedy'] in text for f in broken)

@pytest.mark.parametrize('change, what, words', [
    (dict(DEEPFAKENB_DATA='{file}/x'), 'room for data', ['cannot be written', 'DEEPFAKENB_DATA']),
    (dict(DEEPFAKENB_REPORTS='{file}/x'), 'room for reports', ['cannot be written', '--out']),
    (dict(DEEPFAKENB_DEVICE='abacus'), 'device', ['abacus', 'cpu']),
    (dict(DEEPFAKENB_DATA_ROOT='{file}-none'), 'DEEPFAKENB_DATA_ROOT', ['no such folder', 'unset it'])])
def test_doctor_fails_with_the_remedy(call, tmp_path, monkeypatch, change, what, words):
    (tmp_path/'file').write_text('')
    for k, v in change.items(): monkeypatch.setenv(k, v.format(file=tmp_path/'file'))
    code, out, _ = call('doctor', '--json')
    got = json.loads(out); found = next(f for f in got['findings'] if f['what'] == what)
    assert code == 1 and not got['works']['smoke'] and found['ok'] is False and all(w in found['said']+' '+found['remedy'] for w in words)
    text = call('doctor')[1]
    assert f'preset smoke' in text and what in text.split('what would work')[1]

def test_doctor_counts_sets_of_one_name(call, tmp_path, monkeypatch):
    monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path))
    for n in ('faces-ffpp-laptop-1', 'faces-ffpp-laptop-2', 'faces-ffpp-laptop-3', 'ffpp-smoke-1', 'celebdf-smoke-1', 'celebdf-smoke-2'):
        (tmp_path/'generated'/n).mkdir(parents=True)
        if 'celebdf' not in n: (tmp_path/'generated'/n/'dataset.json').touch()
    said = next(f for f in json.loads(call('doctor', '--json')[1])['findings'] if f['what'] == 'generated sets')['said']
    assert said == 'faces-ffpp-laptop (3), ffpp-smoke; begun and not complete: celebdf-smoke (2)'

@pytest.mark.parametrize('command', [(), ('reproduce',), ('train',), ('doctor',), ('lease',), ('data', 'faces'), ('cluster',), ('predict',), ('evaluate',)])
def test_help_is_plain(command, call):
    said = ' '.join(call(*command, '--help')[1].split())
    assert not [w for w in ('goes on', 'state of the code', 'by nobody', 'preset would. ') if w in said], said

# --- train

def test_dry_run_trains_what_the_notebook_would(tmp_path, call):
    code, out, _ = call('train', '--model', 'gml', '--set', 'model.backbone=xception-narrow', '--set', 'model.block=none', '--set', 'lr=1e-3,3e-4', '--set', 'drop_epochs=[4,6]',
                        '--data', 'dataset=ffpp,methods=Deepfakes,FaceSwap,frames=8', '--seeds', '0-1', '--dry-run', '--out', tmp_path/'reports')
    declared = {n: p.default for n, p in launch.notebook_parameters(launch.TRAIN_NOTEBOOK).items()}
    options = {k: declared[k] for k in ('epochs', 'bs', 'lr_backbone', 'optimizer', 'weight_decay', 'momentum', 'warmup_epochs', 'drop_factor', 'clip', 'augment', 'channels_last', 'bf16', 'class_weights', 'balance', 'steps')}
    want = [RunSpec('own', 'gml', dict(backbone='xception-narrow', block=None), dict(name='video', dataset='ffpp', preset='smoke', size=64, methods=['Deepfakes', 'FaceSwap'], frames=8), dict(options, lr=lr, drop_epochs=[4, 6]), s, 'own') for lr in (1e-3, 3e-4) for s in (0, 1)]
    assert code == 0 and [l.split()[0] for l in out.splitlines() if l.startswith(' ') and l.split()[0] != 'run'] == [s.id for s in want] and '4 of 4 runs to train' in out and not (tmp_path/'reports').exists()

@pytest.mark.parametrize('arguments, words', [
    ([], ['--model', 'xception']), (['--model', 'xcpetion'], ['xcpetion', 'xception']),
    (['--model', 'mesonet', '--set', 'lr_bakbone=1'], ['lr_bakbone', 'did you mean lr_backbone?', 'warmup_epochs']),
    (['--model', 'mesonet', '--set', 'width=2'], ['did you mean model.width?']), (['--model', 'mesonet', '--set', 'model.depth=2'], ['model.depth', 'variant, width, dropout']),
    (['--model', 'mesonet', '--data', 'track=components'], ['data.track', 'dataset']), (['--model', 'multi-cls', '--data', 'dataset=ffpp'], ['data.dataset', 'track']),
    (['--model', 'mesonet', '--set', 'epochs=ten'], ['epochs=ten', 'whole number']), (['--model', 'mesonet', '--set', 'epochs=0'], ['at least 1']),
    (['--model', 'mesonet', '--set', 'model.variant=meso-5'], ['meso-5']), (['--model', 'mesonet', '--seeds', '3-1'], ['--seeds 3-1', '0-4']), (['--model', 'mesonet', '--set', 'seed=1'], ['--seeds']),
    (['--model', 'timesformer', '--set', 'model.size=64', '--set', 'model.patch=8', '--set', 'model.depth=1', '--set', 'model.dim=48', '--set', 'model.heads=4', '--data', 'frames=5'], ['data.frames=5', 'reads 8'])])
def test_unknown_keys_are_refused_with_the_choices(tmp_path, call, arguments, words):
    refused(call('train', *arguments, '--out', tmp_path/'r'), 2, *words)
    assert not (tmp_path/'r').exists()

@pytest.mark.parametrize('model, entry, words', [
    ('mesonet', 'dataset=nope', ['dataset nope', 'ffpp, celebdf, deeperforensics']), ('mesonet', 'preset=huge', ['preset huge', 'smoke, laptop, warm, bench']), ('mesonet', 'dataset=celebdf,preset=warm', ['celebdf', 'warm']),
    ('mesonet', 'methods=Foo', ['methods=Foo', 'Deepfakes, Face2Face, FaceSwap, NeuralTextures']), ('mesonet', 'methods=Deepfakes,Foo', ['methods=Foo']), ('mesonet', 'dataset=celebdf,methods=FaceSwap', ['Celeb-synthesis']),
    ('mesonet', 'compression=c99', ['compression=c99', 'c23, c40']), ('mesonet', 'splits=mine', ['splits=mine', 'official, by-source']), ('mesonet', 'rule=oval-2', ['oval-2', 'square-1.3']), ('mesonet', 'preset=paper', ['--data-root']),
    ('multi-cls', 'track=nope', ['track=nope', 'components, attributes']), ('multi-cls', 'preset=huge', ['preset huge', 'smoke or bench']), ('multi-cls', 'preset=paper', ['--data-root'])])
def test_data_that_there_is_not_is_told_before_anything_starts(tmp_path, call, model, entry, words):
    for dry in (('--dry-run',), ()):
        refused(got := call('train', '--model', model, '--data', entry, *dry, '--out', tmp_path/'r'), 2, *words)
        assert len(got[2]) < 200 and not (tmp_path/'r').exists()

def test_what_the_tables_read_passes_the_check():
    from deepfakenb.protocols.base import PAPERS, get
    seen = {}
    for p in PAPERS:
        for t in get(p).tables.values():
            for c in (c for preset in ('smoke', 'bench') for c in t.cells(preset)):
                for s in c.specs: seen.setdefault(json.dumps(s.data, sort_keys=True), s)
    assert len(seen) > 20
    for s in seen.values(): s.task.check(s.data)

def test_absent_weights_are_told_before_anything_starts(tmp_path, call, monkeypatch):
    monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path))
    refused(call('train', '--model', 'xception', '--set', 'model.backbone=xception-narrow', '--set', 'model.weights=imagenet', '--out', tmp_path/'r'), 1, 'weights not available', 'xception-narrow')

def test_stopping_says_how_to_go_on(tmp_path, call, monkeypatch):
    from deepfakenb.cli import train
    def stopped(*a): raise KeyboardInterrupt(launch.Summary(trained=['a'], left=['b', 'c']))
    monkeypatch.setattr(train, 'trained', stopped)
    code, _, err = call('train', '--model', 'mesonet', '--out', tmp_path/'r')
    assert code == 130 and err == 'stopped; 1 runs were finished, 2 are left; run the same command again to go on\n'

@pytest.fixture
def faces(tmp_path):
    "Cut-out faces of a tiny video set: forged ones are brighter."
    import cv2
    folder, rows, r = tmp_path/'faces', [], np.random.default_rng(0)
    for split, n in (('train', 12), ('val', 8), ('test', 8)):
        for v in range(n):
            label = v % 2
            for k in range(4):
                file = f'crops/{split}{v}/{k}.png'; (folder/file).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder/file), np.clip(90+60*label+25*r.standard_normal((32, 32, 3)), 0, 255).astype(np.uint8))
                rows.append(dict(video=f'{split}{v}', frame=k, file=file, method='X' if label else 'original', label=label, compression='c23', split=split, dataset='ffpp', source='', identities=f'{split}{v//2}'))
    pd.DataFrame(rows).to_parquet(folder/'faces.parquet'); (folder/'dataset.json').write_text(json.dumps(dict(data_kind='synthetic')))
    return folder

def test_a_sweep_from_the_command_to_the_comparison(tmp_path, faces, call, document, monkeypatch):
    monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path/'data'))
    command = ('train', '--model', 'mesonet', '--set', 'model.variant=meso-4', '--set', 'bs=4', '--set', 'epochs=3', '--data', 'size=32', '--data-root', faces, '--out', tmp_path/'r')
    code, out, err = call(*command, '--seeds', '0-1')
    assert code == 0 and '2 trained, 0 reused, 0 failed' in out, (out, err)
    rows = document('runs', 'list', '--out', tmp_path/'r', '--paper', 'own', '--dataset', 'ffpp')['runs']
    assert [r['preset'] for r in rows] == ['own']*2 and {r['seed'] for r in rows} == {0, 1} and all(r['epochs'] == 3 and r['state'] == 'current' for r in rows) and all(r['run'] in out for r in rows)
    one = rows[0]['run']
    assert (tmp_path/'r'/'own'/'runs'/one/'train.ipynb').is_file(), 'the notebook as it ran'
    assert document('runs', 'show', one, '--out', tmp_path/'r')['history'][-1]['epoch'] == 3
    method = document('runs', 'compare', one, '--all-seeds', '--out', tmp_path/'r')['methods'][0]
    assert sorted(method['runs']) == sorted(r['run'] for r in rows) and method['value'] == pytest.approx(np.mean([r['AUC (videos)'] for r in rows]), rel=1e-4)
    code, out, err = call('train', '--like', one, '--set', 'epochs=4', '--data-root', faces, '--out', tmp_path/'r', '--dry-run')
    assert code == 0 and '"epochs": 4' in out and '"variant": "meso-4"' in out and '1 of 1 runs to train' in out
    code, out, err = call(*command, '--seeds', '0-1'); assert code == 0 and '0 trained, 2 reused' in out
    code, out, err = call(*command, '--set', 'lr=1e30', '--set', 'clip=0', '--set', 'weight_decay=0')
    assert code == 1 and '0 trained, 0 reused, 1 failed' in out and err.startswith('failed ') and err.count('\n') == 1 and 'Traceback' not in err

# --- runs

def detector(out, seed=0, quality=.3, lr=1e-3, **kw):
    return write_detection(RunSpec('own', 'mesonet', {}, dict(name='video', dataset=kw.pop('dataset', 'ffpp'), preset='smoke', size=48), dict(epochs=3, lr=lr), seed, kw.pop('preset', 'own')), out, seed=100*seed+round(1e5*lr), quality=quality, **kw)

@pytest.fixture
def reports(tmp_path):
    "Two methods of three seeds, one run of another dataset, one of lists of edits."
    import test_runs
    made = dict(good=[detector(tmp_path, s, .5) for s in range(3)], poor=[detector(tmp_path, s, .15, 5e-4) for s in range(3)], other=detector(tmp_path, dataset='celebdf'), edits=test_runs.write(test_runs.spec(), tmp_path))
    return tmp_path, made

def test_list_filters_and_sorts(reports, document, call):
    out, made = reports
    every = document('runs', 'list', '--out', out)
    assert len(every['runs']) == 8 and every['damaged'] == []
    ids = lambda *a: [r['run'] for r in document('runs', 'list', '--out', out, *a)['runs']]
    assert set(ids('--model', 'mesonet')) == {r.id for r in (*made['good'], *made['poor'], made['other'])} and ids('--dataset', 'celebdf') == [made['other'].id] == ids('--dataset', 'celebdf', '--paper', 'own') and ids('--dataset', 'components') == [made['edits'].id] == ids('--preset', 'smoke')
    auc = {r.id: r.metrics['test']['video']['AUC'] for r in (*made['good'], *made['poor'])}
    assert [auc[i] for i in ids('--dataset', 'ffpp', '--sort', 'AUC')] == sorted(auc.values(), reverse=True) and [auc[i] for i in ids('--dataset', 'ffpp', '--sort', 'AUC', '--reverse')] == sorted(auc.values())
    assert ids('--sort', 'AUC')[-1] == made['edits'].id, 'a run without the score comes last'
    table = list(csv.DictReader(io.StringIO(call('runs', 'list', '--out', out, '--csv', '--sort', 'seed')[1])))
    assert [r['seed'] for r in table] == sorted(r['seed'] for r in table) and len(table) == 8 and {r['run']: r['AUC (videos)'] for r in table}[made['edits'].id] == ''
    assert float(next(r for r in table if r['run'] == made['good'][1].id)['AUC (videos)']) == pytest.approx(auc[made['good'][1].id])
    for arguments, words in ((['--model', 'meso'], ['mesonet', 'multi-cls']), (['--dataset', 'x'], ['celebdf, components, ffpp']), (['--paper', 'p9'], ['p1', 'own']), (['--sort', 'x'], ['AUC', 'Fixed-Acc']), (['--csv', '--json'], ['one of them'])): refused(call('runs', 'list', '--out', out, *arguments), 2, *words)

def test_damaged_runs_are_told_apart(reports, call, document):
    out, made = reports
    (made['other'].path/'history.csv').write_text('x')
    refused(call('runs', 'list', '--out', out, '--preset', 'nix'), 2, '--preset nix', 'smoke, bench, paper, own')
    refused(call('runs', 'list', '--out', out/'nonexistent'), 2, 'nonexistent: no such folder')
    code, text, err = call('runs', 'list', '--out', out, '--json')
    got = json.loads(text); assert code == 0 and len(got['runs']) == 7 and [r['run'] for r in got['damaged']] == [made['other'].id] and err.count('\n') == 1
    assert made['other'].id not in call('runs', 'list', '--out', out, '--csv')[1] and 'damaged' in call('runs', 'list', '--out', out)[1]

def test_epochs_are_counted_from_one(reports, call, document):
    out, made = reports
    run = made['good'][0]
    assert run.metrics['best_epoch'] == dict(best=1) and list(run.history['epoch']) == [0, 1, 2], 'as on disk'
    text, full = call('runs', 'show', run.id, '--out', out)[1], document('runs', 'show', run.id, '--out', out)
    assert 'chosen epochs: best 2' in text and 'in 3 epochs' in text and full['chosen_epochs'] == dict(best=2) and [h['epoch'] for h in full['history']] == [1, 2, 3] and 'best_epoch' not in json.dumps(full)
    table = list(csv.DictReader(io.StringIO(call('runs', 'show', run.id, '--csv', '--out', out)[1])))
    assert [r['epoch'] for r in table] == ['1', '2', '3'] and table[full['chosen_epochs']['best']-1]['auc'] == max(r['auc'] for r in table)
    assert full['spec']['train']['lr'] == 1e-3 and full['metrics']['test']['video']['n'] == 40 and full['provenance']['data_kind'] == 'synthetic'
    assert document('runs', 'compare', run.id, '--out', out)['methods'][0]['chosen_epochs'] == [dict(best=2)]

def test_compare_means_and_intervals_over_seeds(reports, call, document):
    out, made = reports
    rows = document('runs', 'compare', made['good'][0].id, made['poor'][0].id, '--all-seeds', '--metric', 'AUC', '--metric', 'BACC', '--out', out)['methods']
    assert [(r['metric'], r['method']) for r in rows] == [('AUC', 1), ('AUC', 2), ('BACC', 1), ('BACC', 2)] and all(r['seeds'] == [0, 1, 2] for r in rows)
    read = lambda runs: [r.predictions[r.predictions.split == 'test'].sort_values('video') for r in runs]
    for row, name in zip(rows, ('good', 'poor')):
        p = read(made[name]); s, y, g = np.stack([f.score for f in p]), p[0].label, p[0].group
        assert [row[k] for k in ('value', 'low', 'high')] == pytest.approx(list(of.pair_interval('AUC', y, s, g)), rel=1e-5)
        assert row['each'] == pytest.approx([100*sk.roc_auc_score(y, f.score) for f in p], rel=1e-5) and row['value'] == pytest.approx(np.mean(row['each']), rel=1e-5)
    a, b = (np.stack([f.score for f in read(made[n])]) for n in ('good', 'poor'))
    d = of.pair_difference('AUC', y, b, a, g)
    assert [rows[1][k] for k in ('difference', 'difference_low', 'difference_high')] == pytest.approx(list(d), rel=1e-5) and d.high < 0 and 'difference' not in rows[0]
    text = call('runs', 'compare', *(r.id for r in (*made['good'], *made['poor'])), '--out', out)[1]
    assert text.count('0, 1, 2') == 4 and 'one seed' not in text and 'lr' in text
    alone = call('runs', 'compare', made['good'][0].id, '--out', out)[1]; assert 'one seed' in alone

def test_compare_knows_what_cannot_be_compared(reports, call, document):
    out, made = reports
    refused(call('runs', 'compare', made['good'][0].id, made['edits'].id, '--out', out), 2, 'different things', 'videos', 'images')
    refused(call('runs', 'compare', made['good'][0].id, '--metric', 'Fixed-Acc', '--out', out), 2, 'AUC')
    refused(call('runs', 'compare', 'zzzz', '--out', out), 1, 'no finished run')
    fewer = detector(out, lr=7e-4, videos=30)
    rows = document('runs', 'compare', made['good'][0].id, fewer.id, '--metric', 'AUC', '--out', out)['methods']
    assert 'difference' not in rows[1] and 'different videos' in rows[1]['difference_note'] and rows[1]['n'] == 30
    again = detector(out, 0, .5, preset='bench')             # the same training, filed elsewhere, is the same seed
    assert document('runs', 'compare', made['good'][0].id, again.id, made['good'][1].id, '--metric', 'AUC', '--out', out)['methods'][0]['seeds'] == [0, 1]
