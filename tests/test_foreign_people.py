"People met in training, who turn up again in another dataset's test; and what a training on videos refuses."
import re, shutil, warnings
from types import SimpleNamespace
import pytest, torch
from deepfakenb.core import UserError
from deepfakenb.data.leakage import met, met_in_training
from deepfakenb.data.video import VideoIndex
from deepfakenb.models.base import build_model
from deepfakenb.runs.spec import TestSpec
from deepfakenb.tasks.base import checked
from deepfakenb.tasks.detection import VideoData, task, training_loaders
from test_video_index import REAL, celebdf, ffpp, write

def data_of(**o): return checked(VideoData, {**dict(name='video', dataset='ffpp', preset='paper', size=64, tested=1, source='real'), **o}, 'data')

OFFICIAL = dict(train=('000_M101', '001_M102'), val=('002_W110', '003_W111'), test=('004_M004', '006_M005', '012_M006'))   # 004 trains FaceForensics++, 006 validates it, 012 tests it
SHARED = {'original/004', 'original/006', 'end_to_end/004_M004', 'end_to_end/006_M005'}

def lists(root): # DeeperForensics' own, and those of FaceForensics++'s ids
    for s, names in OFFICIAL.items(): write(root/f'lists/splits/{s}.txt', ''.join(f'{n}.mp4\n' for n in names))
    for s, names in dict(val=['006_M005'], test=['012_M006']).items(): write(root/f'lists/splits/{s}_dfo.csv', ''.join(f'{n}.mp4 1\n' for n in names))

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Both datasets below one folder: films in the one that is tested, names in the one that was learned from."
    from facefilm import walk
    from deepfakenb.data.codec import write_video
    top = tmp_path_factory.mktemp('real')
    ffpp(top/'ffpp'); lists(top/'deeperforensics')
    films = [top/f'ffpp/{REAL}/{n[:3]}.mp4' for ns in OFFICIAL.values() for n in ns]+[top/f'deeperforensics/manipulated_videos/end_to_end/{n}.mp4' for ns in OFFICIAL.values() for n in ns]
    for k, f in enumerate(films):
        f.parent.mkdir(parents=True, exist_ok=True); f.unlink(missing_ok=True)
        write_video(f, walk(3, seed=k)[0])
    return top

@pytest.fixture()
def asked(folder, tmp_path_factory, monkeypatch):
    "What a run that learned from FaceForensics++ says of another test set: answers, facts, warnings."
    monkeypatch.setenv('DEEPFAKENB_DATA_ROOT', str(folder))
    monkeypatch.setenv('DEEPFAKENB_DATA', str(tmp_path_factory.getbasetemp()/'data'))
    spec = SimpleNamespace(model='mesonet', model_args={}, data=data_of(), seed=0, train=dict(bs=4, channels_last=False))
    def ask(**test):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('always')
            frame, facts, _ = task.test(spec, dict(best=build_model('mesonet')), TestSpec(**test), torch.device('cpu'))
        return frame, facts, [str(w.message) for w in told if 'met' in str(w.message) or 'seen' in str(w.message)]
    return ask

def test_a_run_is_told_whom_it_has_met(asked, folder):
    frame, facts, told = asked(dataset='deeperforensics')
    assert frame['video'].nunique() == 6 and facts['met_in_training'] == 4 and facts['videos'] == 6
    assert len(told) == 1 and '\n' not in told[0] and '4 of the 6 videos' in told[0] and "splits='ffpp'" in told[0]
    frame, facts, told = asked(dataset='deeperforensics', splits='ffpp')                      # the remedy is one
    assert set(frame['video']) == {'original/012', 'end_to_end/012_M006'} and facts['met_in_training'] == 0 and not told
    _, facts, told = asked(dataset='deeperforensics', limit=1)                                # of those that are tested
    assert facts['met_in_training'] == facts['videos'] == 2 and '2 of the 2 videos' in told[0]

def test_who_is_met_by_name(folder):
    trained, read = VideoIndex.read(folder/'ffpp'), lambda s: VideoIndex.read(folder/'deeperforensics', splits=s)
    assert set(met(trained, read('official'))) == SHARED and met(trained, read('ffpp')) == []
    assert set(met(read('official'), trained)) == set(), 'trained on 000 to 003, FaceForensics++ tests 012 and 026'

def test_where_nothing_can_be_said_it_is_said(folder, tmp_path):
    run, test = data_of(), data_of(dataset='deeperforensics')
    lists(tmp_path/'deeperforensics'); shutil.copytree(folder/'deeperforensics', tmp_path/'deeperforensics', dirs_exist_ok=True)
    for root in (None, tmp_path):
        with pytest.warns(UserWarning, match='cannot be told') as w: assert met_in_training(root, run, test, 'test', ['end_to_end/004_M004']) == dict(met_in_training=None)
        assert len(w) == 1 and '\n' not in str(w[0].message)

def test_nobody_asks_of_the_same_or_of_a_generated_set(folder):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert met_in_training(folder, data_of(), data_of(), 'test', ['original/012']) == {}
        assert met_in_training(folder, data_of(source='synthetic'), data_of(source='synthetic', dataset='deeperforensics'), 'test', ['original/012']) == {}

def test_a_file_under_another_name_is_met(tmp_path):
    "Other datasets' names are other people; their files may be ours all the same."
    ffpp(tmp_path/'ffpp'); celebdf(tmp_path/'celebdf')
    run, test = data_of(), data_of(dataset='celebdf')
    ids = VideoIndex.read(tmp_path/'celebdf').split('test').id.tolist()
    assert met_in_training(tmp_path, run, test, 'test', ids) == dict(met_in_training=0)
    other = tmp_path/'other'; shutil.copytree(tmp_path/'ffpp', other/'ffpp'); shutil.copytree(tmp_path/'celebdf', other/'celebdf')
    shutil.copy(other/'ffpp'/REAL/'000.mp4', other/'celebdf/YouTube-real/00001.mp4')
    with pytest.warns(UserWarning, match='1 of the 3 videos .* tell the number'): assert met_in_training(other, run, test, 'test', ids) == dict(met_in_training=1)

# what is refused before, or where, a training begins

@pytest.mark.parametrize('wrong', (dict(stride=0), dict(frames=0), dict(stride=-2)))
def test_a_plan_needs_frames_and_a_stride(wrong):
    entry, value = next(iter(wrong.items()))
    with pytest.raises(UserError, match=f'data.{entry} = {value}.* at least 1 each') as e: task.check(data_of(source='synthetic', preset='smoke', **wrong))
    assert '\n' not in str(e.value)

def test_the_command_line_refuses_it_too(deepfakenb):
    code, _, err = deepfakenb('train', '--model', 'gml', '--set', 'model.backbone=xception-narrow', '--data', 'stride=0', '--dry-run')
    assert code == 2 and 'data.stride = 0' in err

def test_motion_is_not_learned_from_single_frames(asked, folder, tmp_path):
    data = data_of(dataset='deeperforensics')
    opened = task.open(data)
    spec = lambda **o: SimpleNamespace(model='gml', model_args=dict(backbone='xception-narrow', **o), data=data, seed=0, train=dict(epochs=1, bs=2, augment=False))
    with pytest.raises(UserError, match='data.frames = 1: gml learns from motion .* at least 2 frames'): task.fit(spec(), opened, tmp_path, torch.device('cpu'))
    small = lambda **o: build_model('gml', backbone='xception-narrow', **o)
    for model, frames in ((small(block=None), 1), (small(), 2), (build_model('mesonet'), 1)): task.fits(model, dict(data, frames=frames))
    for block in ('cstm', 'stm', 'mcb'):
        with pytest.raises(UserError): task.fits(small(block=block), data)

@pytest.mark.parametrize('label, kind', ((0, 'real'), (1, 'forged')))
def test_one_class_is_named_and_counted(asked, label, kind):
    from dataclasses import replace
    from deepfakenb.training.options import train_options
    data = data_of(dataset='deeperforensics')
    opened = task.open(data)
    few = replace(opened, faces=opened.faces.only(label=label))
    with pytest.raises(UserError, match=re.escape(f'the train split holds one class only, {kind} (videos: 2)')): training_loaders(task, few, SimpleNamespace(data=data, seed=0), train_options(dict(bs=2)), torch.device('cpu'))
