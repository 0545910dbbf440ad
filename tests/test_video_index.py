"Video datasets: official rules, leaks, and one line for everything that can be wrong with a folder."
import json, shutil, sys, time, types
from pathlib import Path
import pytest
from deepfakenb.cli.main import main
from deepfakenb.core import UserError
from deepfakenb.data.layouts import LAYOUTS, check, layout, recognise
from deepfakenb.data.leakage import LeakError
from deepfakenb.data.readers.ffpp import METHODS, expected, read_pairs
from deepfakenb.data.video import COLUMNS, VideoIndex

def put(root: Path, *names: str):
    "Files whose content is their name: the index does not decode."
    for name in names:
        (root/name).parent.mkdir(parents=True, exist_ok=True); (root/name).write_text(name)

def write(file: Path, obj) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(obj if isinstance(obj, str) else json.dumps(obj)); return file

PAIRS = {'train': [['000', '003'], ['001', '870'], ['004', '982']], 'val': [['002', '006']], 'test': [['012', '026']]}
REAL, FAKE = 'original_sequences/youtube/c23/videos', 'manipulated_sequences/{}/c23/videos'

def ffpp(root, methods=METHODS, qualities=('c23',), pairs=PAIRS, lists=''):
    for split, ps in pairs.items():
        write(root/lists/f'{split}.json', ps)
        for q in qualities:
            for a, b in ps:
                put(root, *[f'original_sequences/youtube/{q}/videos/{i}.mp4' for i in (a, b)],
                    *[f'manipulated_sequences/{m}/{q}/videos/{x}_{y}.mp4' for m in methods for x, y in ((a, b), (b, a))])
    return root

def celebdf(root, people=6):
    for p in range(people):
        put(root, *[f'Celeb-real/id{p}_{n:04}.mp4' for n in range(3)], *[f'Celeb-synthesis/id{p}_id{(p+k)%people}_{n:04}.mp4' for n in range(3) for k in (1, 2)], f'YouTube-real/{p:05}.mp4')
    write(root/'List_of_testing_videos.txt', '1 Celeb-real/id0_0000.mp4\n1 YouTube-real/00001.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n'); return root

def dfdc(root):
    meta = {f'{"abcdef"[o]}real.mp4': dict(label='REAL', split='train') for o in range(6)}
    meta |= {f'{"abcdef"[o]}fake{k}.mp4': dict(label='FAKE', split='train', original=f'{"abcdef"[o]}real.mp4') for o in range(6) for k in range(4)}
    put(root, *[f'dfdc_train_part_0/{n}' for n in meta], 'test/t0.mp4', 'test/t1.mp4'); write(root/'dfdc_train_part_0/metadata.json', meta)
    write(root/'test/labels.csv', 'filename,label\nt0.mp4,0\nt1.mp4,1\n'); return root

def preview(root):
    rows = {f'original_videos/{a}/{a}_{n}.mp4': dict(label='real', set='test' if a > 6 else 'train', target_id=a, swapped_id=None) for a in range(9) for n in range(2)}
    rows |= {f'method_{m}/{a}/{a}_{m}.mp4': dict(label='fake', set='test' if a > 6 else 'train', target_id=a, swapped_id=99) for a in range(9) for m in 'AB'}
    put(root, *rows); write(root/'dataset.json', rows); return root

DFO = {'train': ['000_M101', '001_M101', '002_W022'], 'val': ['003_W110'], 'test': ['004_M004', '005_M004']}
def deeperforensics(root, variants=('end_to_end', 'end_to_end_level_5', 'end_to_end_mix_2_distortions'), reals=True):
    for split, names in DFO.items():
        write(root/f'lists/splits/{split}.txt', ''.join(f'{n}.mp4\n' for n in names))
        put(root, *[f'manipulated_videos/{v}/{n}.mp4' for v in variants for n in names], *([f'{REAL}/{n[:3]}.mp4' for n in names] if reals else []))
    return root

def wilddeepfake(root):
    put(root, *[f'{k}_{s}/{a}/{k}/{10*a+n}/{f}.png' for k in ('real', 'fake') for s, m in (('train', 6), ('test', 2)) for a in range(m) for n in range(2) for f in (0, 1, 10)]); return root

def dfd(root):
    put(root, *[f'original_sequences/actors/c23/videos/{p:02}__{s}.mp4' for p in range(1, 4) for s in ('talking', 'kitchen')],
        *[f'manipulated_sequences/DeepFakeDetection/c23/videos/{p:02}_{p%3+1:02}__{s}__A1B2C3.mp4' for p in range(1, 4) for s in ('talking', 'kitchen')]); return root

def bench(root, shared=False, dataset='UADFV'):
    tree = {dataset: {}}
    for kind, end in (('Real', ''), ('Fake', '_fake')):
        names = [f'{i:04}{end}' for i in range(6)]
        put(root, *[f'{dataset}/{kind.lower()}/frames/{n}/{f:03}.png' for n in names for f in range(3)])
        row = lambda n: dict(label=f'{dataset}_{kind}', frames=[f'{dataset}\\{kind.lower()}\\frames\\{n}\\{f:03}.png' for f in range(3)])
        tree[dataset][f'{dataset}_{kind}'] = {s: {n: row(n) for n in (names if shared else names[2*k:2*k+2])} for k, s in enumerate(('train', 'val', 'test'))}
    write(root/f'{dataset}.json', tree); return root

def folder(root): put(root, 'real/a.mp4', 'real/b.mov', 'fake/a.mp4', 'fake/seq/1.png', 'fake/seq/2.png'); return root

TOYS = {'ffpp': ffpp, 'dfd': dfd, 'celebdf': celebdf, 'dfdc': dfdc, 'dfdc-preview': preview, 'deeperforensics': deeperforensics, 'wilddeepfake': wilddeepfake, 'deepfakebench': bench, 'folder': folder}

# ---------------------------------------------------------------------------------------------------------------- official rules

def test_ffpp_lists(shared, tmp_path):
    index = VideoIndex.read(shared/'labels/ffpp', 'ffpp', check_files=False)
    assert {s: index.counts().loc['original', s] for s in ('train', 'val', 'test')} == dict(train=720, val=140, test=140)
    assert (index.counts().drop('original') == [720, 140, 140]).all(axis=None) and set(index.frame.method) == {'original', *METHODS}
    pairs, problems = read_pairs(shared/'labels/ffpp'); assert not problems and [len(pairs[s]) for s in pairs] == [360, 70, 70]
    people = {s: set().union(*index.split(s).identities) for s in pairs}
    assert sum(map(len, people.values())) == len(set().union(*people.values())) == 1000 and index.leaks == ()
    a, b = pairs['test'][0]
    assert {f'Deepfakes/{a}_{b}', f'Deepfakes/{b}_{a}', f'FaceShifter/{b}_{a}', f'original/{a}', f'original/{b}'} <= set(index.split('test').id)
    root = ffpp(tmp_path/'ff', methods=('NeuralTextures',), pairs=pairs)                              # the same with files
    there = VideoIndex.read(root); assert len(there) == 2000 and len(there.split('test')) == 280 and there.frame.id.is_unique

def test_celebdf_list(shared, tmp_path):
    listed = VideoIndex.read(shared/'labels/celebdf_v2', 'celebdf', check_files=False).frame
    assert (listed.split == 'test').all() and (listed.label == 0).sum() == 178 and (listed.label == 1).sum() == 340     # 1 in the list is our 0
    assert listed[listed.path.str.startswith('YouTube-real')].label.eq(0).sum() == 70
    put(tmp_path, *listed.path, *[f'Celeb-real/id{p}_9{n:03}.mp4' for p in range(20) for n in range(3)], *[f'Celeb-synthesis/id{p}_id{p+1}_9{n:03}.mp4' for p in range(20) for n in range(3)])
    shutil.copy(shared/'labels/celebdf_v2/List_of_testing_videos.txt', tmp_path)
    index = VideoIndex.read(tmp_path); test = index.split('test')
    assert len(test) == 518 and set(test.id) == set(listed.id) and len(index) == 518+120 and {'train', 'val'} <= set(index.frame.split)
    filmed = {s: set(index.split(s).identities.map(lambda i: i[0])) for s in ('train', 'val')}; assert not filmed['train'] & filmed['val']
    assert any('identity' in n for n in index.notes) and not (set(index.split('train').source)-{''}) & {v.source or v.id for v in index.videos if v.split == 'val'}

def test_dfdc_metadata_and_csv(shared):
    index = VideoIndex.read(shared/'labels/dfdc', 'dfdc', check_files=False)
    train, test = index.frame[index.frame.split != 'test'], index.split('test')
    assert len(train) == 1455 and train.label.sum() == 1236 and len(test) == 5000 and test.label.sum() == 2500
    where = dict(zip(train.id, train.split)); fakes = train[train.label == 1]
    assert (fakes.source.map(where) == fakes.split).all() and fakes.source.ne('').all()                                 # a fake follows its original
    assert .1 <= (train.split == 'val').mean() < .13 and any('by original' in n for n in index.notes)
    assert test.set_index('id').label['original/aalscayrfi'] == 0 and test.set_index('id').label['dfdc/aamrozxzsq'] == 1

def test_deeperforensics_lists(shared):
    index = VideoIndex.read(shared/'labels/deeperforensics', 'deeperforensics', splits='ffpp', check_files=False)
    assert index.frame.split.value_counts().to_dict() == dict(val=140, test=140) and (index.frame.label == 1).all()
    pairs, _ = read_pairs(shared/'labels/ffpp')
    for s in ('val', 'test'): assert {i[0] for i in index.split(s).identities} == {x for p in pairs[s] for x in p}       # targets are FF++ ids
    assert any('known leak (identity)' in n for n in index.notes)

def test_uadfv_shares_its_videos(shared):
    file = shared/'labels/deepfakebench/UADFV.json'
    for options in ({}, dict(check_files=False), dict(check_files=False, allow_leak='identity')):
        with pytest.raises(LeakError) as e: VideoIndex.read(file, **options)
        assert len(e.value.leaks) == 98 and {l.kind for l in e.value.leaks} == {'video'} and "allow_leak=('video',)" in str(e.value) and '\n' not in str(e.value)
    allowed = VideoIndex.read(file, check_files=False, allow_leak=('video',))
    assert len(allowed) == 3*98 and len(allowed.leaks) == 98 and any('allowed leak (video): 98' in n for n in allowed.notes)
    ours = VideoIndex.read(file, check_files=False, splits='by-source')
    where = dict(zip(ours.frame.id, ours.frame.split))
    assert len(where) == 98 and ours.leaks == () and all(where[f'original/{i:04}'] == where[f'UADFV_Fake/{i:04}_fake'] for i in range(49))
    assert not ours.frame.path.str.contains('\\', regex=False).any() and ours.frame.path[0] == 'UADFV/real/frames/0000' and len(ours.frame_files('original/0000')) == 32

# ---------------------------------------------------------------------------------------------------------------- every layout

@pytest.mark.parametrize('name', TOYS)
def test_each_layout_is_recognised_and_typed(tmp_path, name):
    root = TOYS[name](tmp_path/'data'); index = VideoIndex.read(tmp_path)                # named by the folder above
    assert index.dataset == name and [f.layout.name for f in recognise(root)] == [name] and index.root == root
    f = index.frame
    assert tuple(f.columns) == COLUMNS and f.id.is_unique and set(f.label) == {0, 1} and set(f.split) <= {'train', 'val', 'test'} and (f.method.eq('original') == f.label.eq(0)).all()
    assert all(Path(p).exists() for p in f.file) and not f.path.str.contains('\\', regex=False).any() and f.identities.map(type).eq(tuple).all()
    assert set(f.source[f.label == 0]) == {''} and set(f.source)-{''} <= set(f.id)
    assert 'frame' not in f.columns and f.path.is_unique                                  # a row a video, never a row a frame
    assert all(Path(p).is_dir() == d for p, d in zip(f.file, f.frames_dir)) and VideoIndex.read(root).fingerprint() == index.fingerprint()

def test_every_video_row_of_the_table_has_a_toy_and_a_page(root):
    rows = [r for r in LAYOUTS if r.media == 'videos']
    assert {r.name for r in rows} == set(TOYS)
    page = (root/'data/README.md').read_text()
    for r in rows:
        assert r.labels and r.split and r.licence and r.access and r.reader
        assert r.home in page and f'`{r.name}`' in page, f'{r.name} is not explained in data/README.md'

def test_raw_is_c0_and_qualities_do_not_mix(tmp_path):
    root = ffpp(tmp_path/'ff', qualities=('raw', 'c23', 'c40'), lists='splits')
    for wanted in ('raw', 'c0'): assert set(VideoIndex.read(root, compression=wanted).frame.compression) == {'c0'}
    assert len(VideoIndex.read(root)) == 10+5*10 and set(VideoIndex.read(root).frame.compression) == {'c23'}
    both = VideoIndex.read(root, compression=('c23', 'c40')); assert len(both) == 120 and both.frame.id.is_unique and both.leaks == () and both.frame.source[both.frame.label == 1].str.contains('@c(?:23|40)$').all()
    with pytest.raises(UserError, match='no compression c99; there is c0, c23, c40'): VideoIndex.read(root, compression='c99')
    shutil.rmtree(root/'manipulated_sequences/FaceSwap/c40'); assert len(VideoIndex.read(root, compression='c40')) == 10+4*10      # nobody downloads everything
    assert {'Deepfakes/000_003', 'FaceSwap/000_003'} <= set(VideoIndex.read(root).frame.id)
    assert VideoIndex.read(root, methods='FaceShifter').frame.method.unique().tolist() == ['original', 'FaceShifter']

def test_decoded_frames_in_the_place_of_videos(tmp_path):
    root = ffpp(tmp_path)
    for f in list(root.rglob('*.mp4')): f.unlink(); put(f.parent.parent/'frames'/f.stem, '0.png', '2.png', '10.png'); (f.parent.parent/'frames'/f.stem/'2.png').write_text(str(f))
    index = VideoIndex.read(root); assert len(index) == 60 and index.frame.frames_dir.all()
    assert [Path(p).name for p in index.frame_files('FaceSwap/003_000')] == ['0.png', '2.png', '10.png']

def test_ffpp_and_dfd_in_one_tree(tmp_path):
    dfd(ffpp(tmp_path))
    with pytest.raises(UserError, match='ffpp in .* and dfd in '): VideoIndex.read(tmp_path)
    f = VideoIndex.read(tmp_path, 'dfd').frame
    assert len(VideoIndex.read(tmp_path, 'ffpp')) == 60 and len(f) == 12 and set(f.split) == {'test'}
    assert f.set_index('id').loc['DeepFakeDetection/01_02__talking__A1B2C3', ['source', 'identities']].tolist() == ['original/01__talking', ('01', '02')]

def test_deeperforensics_variants_and_reals(tmp_path):
    root = deeperforensics(tmp_path/'DeeperForensics-1.0')
    assert set(VideoIndex.read(root).frame.method) == {'original', 'end_to_end'}                              # eleven versions of one video are not eleven videos
    five = VideoIndex.read(root, methods='end_to_end_level_5').frame.set_index('id'); assert five.loc['end_to_end_level_5/004_M004'].split == five.loc['original/004'].split == 'test'
    with pytest.raises(UserError, match='there is by-identity, by-source, ffpp, official'): VideoIndex.read(root, splits='ours')
    alone = deeperforensics(tmp_path/'alone'/'DF', reals=False)
    assert any('fakes only' in n for n in VideoIndex.read(alone).notes) and [p.kind for p in check(alone).problems if p.kind != 'unreadable'] == ['to be added']
    elsewhere = ffpp(tmp_path/'else', pairs={'train': [['000', '001']], 'val': [['002', '003']], 'test': [['004', '005']]})
    assert (VideoIndex.read(alone, originals=elsewhere).frame.label == 0).sum() == 6
    shutil.copytree(elsewhere, alone.parent/'FaceForensics++'); found = VideoIndex.read(alone); assert (found.frame.label == 0).sum() == 6 and Path(found.frame.file[0]).is_file()

# ---------------------------------------------------------------------------------------------------------------- leaks

@pytest.mark.parametrize('harm, kind', [
    (lambda r: shutil.copy(r/REAL/'000.mp4', r/REAL/'012.mp4'), 'content'),
    (lambda r: shutil.copy(r/FAKE.format('FaceSwap')/'000_003.mp4', r/FAKE.format('Deepfakes')/'026_012.mp4'), 'content')])
def test_a_copied_file_stops_the_reading(tmp_path, harm, kind):
    root = ffpp(tmp_path); harm(root)
    with pytest.raises(LeakError) as e: VideoIndex.read(root)
    assert [l.kind for l in e.value.leaks] == [kind] and {s for s, _ in e.value.leaks[0].where} == {'train', 'test'}
    assert VideoIndex.read(root, allow_leak=kind).leaks[0].kind == kind
    with pytest.raises(LeakError): VideoIndex.read(root, allow_leak=('identity', 'source', 'video'))

def test_a_source_in_two_splits_stops_the_reading(tmp_path):
    root = dfdc(tmp_path); part = root/'dfdc_train_part_0/metadata.json'; rows = json.loads(part.read_text()); rows['afake0.mp4']['split'] = 'test'; write(part, rows)
    with pytest.raises(LeakError) as e: VideoIndex.read(root)
    assert [(l.kind, l.what) for l in e.value.leaks] == [('source', 'original/areal')] and "allow_leak=('source',)" in str(e.value)
    assert VideoIndex.read(root, splits='by-source').leaks == ()

def test_an_actor_in_two_splits_stops_the_reading(tmp_path):
    root = deeperforensics(tmp_path); write(root/'lists/splits/train.txt', '000_M101.mp4\n001_M101.mp4\n002_W022.mp4\n006_M004.mp4\n')
    put(root, *[f'manipulated_videos/{v.name}/006_M004.mp4' for v in (root/'manipulated_videos').iterdir()])
    with pytest.raises(LeakError) as e: VideoIndex.read(root)
    assert [(l.kind, l.what) for l in e.value.leaks] == [('identity', 'M004')]
    assert [p.kind for p in check(root).errors if p.kind != 'unreadable'] == ['same person in two splits']

def test_one_path_under_two_ids_is_one_video(tmp_path):
    root = bench(tmp_path); tree = json.loads((root/'UADFV.json').read_text()); real = tree['UADFV']['UADFV_Real']; real['test']['another'] = real['train']['0000']; write(root/'UADFV.json', tree)
    with pytest.raises(LeakError) as e: VideoIndex.read(root)
    assert [l.kind for l in e.value.leaks] == ['video']

def test_by_identity_refuses_what_it_cannot_part(tmp_path):
    with pytest.raises(UserError, match='hang together by identity'): VideoIndex.read(celebdf(tmp_path), splits='by-identity')
    index = VideoIndex.read(tmp_path, splits='by-source', allow_leak='identity'); assert {'train', 'val', 'test'} == set(index.frame.split) and not any(l.kind == 'source' for l in index.leaks)

# ---------------------------------------------------------------------------------------------------------------- bad input

def edit(name, change): return lambda r: write(r/name, change((r/name).read_text()))
def rows_of(name, change):
    def harm(r): rows = json.loads((r/name).read_text()); change(rows); write(r/name, rows)
    return harm
def gone(name): return lambda r: (r/name).unlink()
def empty(name): return lambda r: (r/name).write_text('')

FAULTS = {
    'ffpp: no split file': (ffpp, gone('val.json'), 'val.json', 'no such file'),
    'ffpp: half a split file': (ffpp, edit('train.json', lambda t: t[:20]), 'train.json', 'not valid JSON'),
    'ffpp: not pairs': (ffpp, edit('test.json', lambda t: '["012", "026"]'), 'test.json', 'not a pair of ids'),
    'ffpp: a missing video': (ffpp, gone(f'{REAL}/003.mp4'), f'{REAL}/003.mp4', 'listed in train.json'),
    'ffpp: zero bytes': (ffpp, empty(FAKE.format('FaceSwap')+'/003_000.mp4'), 'FaceSwap/c23/videos/003_000.mp4', '0 bytes'),
    'ffpp: unknown method': (ffpp, lambda r: put(r, 'manipulated_sequences/DeepFakes/c23/videos/000_003.mp4'), 'manipulated_sequences/DeepFakes', 'known are Deepfakes'),
    'ffpp: one id twice': (ffpp, lambda r: put(r, f'{REAL}/003.avi'), f'{REAL}/003.mp4', 'original/003'),
    'ffpp: a person in two splits': (ffpp, edit('val.json', lambda t: '[["002", "026"]]'), 'test.json', '026'),
    'celebdf: no list': (celebdf, gone('List_of_testing_videos.txt'), 'List_of_testing_videos.txt', 'no such file'),
    'celebdf: labels the other way': (celebdf, edit('List_of_testing_videos.txt', lambda t: t.translate({48: 49, 49: 48})), 'List_of_testing_videos.txt:1', 'the folder is not'),
    'celebdf: a missing video': (celebdf, edit('List_of_testing_videos.txt', lambda t: t+'1 Celeb-real/id77_0001.mp4\n'), 'List_of_testing_videos.txt:4', 'id77_0001'),
    'celebdf: a label 2': (celebdf, edit('List_of_testing_videos.txt', lambda t: '2'+t[1:]), 'List_of_testing_videos.txt:1', '1 is real'),
    'dfdc: not an object': (dfdc, edit('dfdc_train_part_0/metadata.json', lambda t: '{"areal.mp4": {"label": "REAL"}, "x.mp4": 3}'), 'metadata.json', 'x.mp4'),
    'dfdc: a list': (dfdc, edit('dfdc_train_part_0/metadata.json', lambda t: '[]'), 'dfdc_train_part_0/metadata.json', 'not an object of videos'),
    'dfdc: a missing video': (dfdc, gone('dfdc_train_part_0/areal.mp4'), 'dfdc_train_part_0/metadata.json', 'areal.mp4'),
    'dfdc: a wrong column': (dfdc, edit('test/labels.csv', lambda t: t.replace('filename,label', 'filename,is_fake')), 'test/labels.csv:1', 'is_fake'),
    'dfdc: a wrong label': (dfdc, edit('test/labels.csv', lambda t: t.replace('t1.mp4,1', 't1.mp4,FAKE')), 'test/labels.csv:3', '1 is fake'),
    'dfdc: a video twice': (dfdc, lambda r: (put(r, 'dfdc_train_part_1/areal.mp4'), write(r/'dfdc_train_part_1/metadata.json', {'areal.mp4': dict(label='REAL')})), 'dfdc_train_part_1/metadata.json', 'areal'),
    'preview: a wrong set': (preview, rows_of('dataset.json', lambda rows: rows['original_videos/0/0_0.mp4'].update(set='holdout')), 'dataset.json', 'holdout'),
    'preview: a missing video': (preview, gone('method_A/3/3_A.mp4'), 'dataset.json', 'method_A/3/3_A.mp4'),
    'deeperforensics: no list': (deeperforensics, gone('lists/splits/test.txt'), 'lists/splits/test.txt', 'no such file'),
    'deeperforensics: in two lists': (deeperforensics, edit('lists/splits/val.txt', lambda t: t+'000_M101.mp4\n'), 'lists/splits/val.txt:2', '000_M101'),
    'deeperforensics: a missing video': (deeperforensics, gone('manipulated_videos/end_to_end/000_M101.mp4'), 'lists/splits/train.txt:1', '000_M101'),
    'deeperforensics: unknown variant': (deeperforensics, lambda r: put(r, 'manipulated_videos/end_to_end_level_6/000_M101.mp4'), 'manipulated_videos/end_to_end_level_6', 'known are'),
    'wilddeepfake: still packed': (wilddeepfake, lambda r: (shutil.rmtree(r/'fake_test'), put(r, 'fake_test/1.tar.gz')), 'fake_test/1.tar.gz', 'not unpacked'),
    'deepfakebench: a level missing': (bench, rows_of('UADFV.json', lambda t: t['UADFV']['UADFV_Real'].update(train={'label': 'UADFV_Real', 'frames': ['x.png']})), 'UADFV.json', 'UADFV/UADFV_Real/train'),
    'deepfakebench: a wrong split': (bench, rows_of('UADFV.json', lambda t: t['UADFV']['UADFV_Real'].update(dev={})), 'UADFV.json', 'UADFV/UADFV_Real/dev'),
    'deepfakebench: a missing picture': (bench, gone('UADFV/real/frames/0001/002.png'), 'UADFV.json', 'UADFV/real/frames/0001/002.png'),
    'deepfakebench: cut': (bench, edit('UADFV.json', lambda t: t[:len(t)//2]), 'UADFV.json:1', 'not valid JSON'),
    'deepfakebench: nothing of another machine': (bench, edit('UADFV.json', lambda t: t.replace('"UADFV\\\\', '"D:\\\\lab\\\\U\\\\')  .replace('frames\\\\', 'f\\\\')), 'UADFV.json', '12 of 12 videos'),
    'deepfakebench: a key twice': (bench, edit('UADFV.json', lambda t: t.replace('"0001":', '"0000":', 1)), 'UADFV.json', '0000 is a key twice'),
    'deepfakebench: out of the folder': (bench, edit('UADFV.json', lambda t: t.replace('UADFV\\\\real\\\\frames\\\\0001\\\\000', '..\\\\..\\\\secret')), 'UADFV.json', 'leaves the dataset'),
    'folder: nothing real': (folder, lambda r: [p.unlink() for p in (r/'real').iterdir()], 'real', 'no video'),
    'folder: loose pictures': (folder, lambda r: put(r, 'fake/x.png'), 'fake', 'a folder of its own')}

@pytest.mark.parametrize('name', FAULTS)
def test_each_fault_is_one_line_with_its_file(tmp_path, capfd, name):
    make, harm, file, word = FAULTS[name]
    root = make(tmp_path/'data'); harm(root)
    with pytest.raises(UserError) as e: VideoIndex.read(root)
    message = str(e.value); assert '\n' not in message and word in message and file in message and str(tmp_path) not in message, message
    code = main(['data', 'check', str(root), '--no-decode', '--json']); out, err = capfd.readouterr()
    problems = json.loads(out)['problems']
    assert code == 1 and not err and any(p['severity'] == 'error' and word in p['file']+p['what'] and file.split(':')[0] in p['file']+' '+p['what'] for p in problems), problems

def test_a_list_too_short_to_be_recognised(tmp_path):
    root = bench(tmp_path); text = (root/'UADFV.json').read_text()
    for keep in (1, 9, 25): write(root/'UADFV.json', text[:keep]); assert str(pytest.raises(UserError, VideoIndex.read, root, 'deepfakebench').value).startswith('UADFV.json:1: wrong structure: not valid JSON')

# ---- absolute paths in a DeepfakeBench list

def moved(root, path): return write(root/'UADFV.json', json.loads((root/'UADFV.json').read_text(), object_hook=lambda o: {k: [path(f) for f in v] if k == 'frames' else v for k, v in o.items()}))
LABS = {'windows': lambda f: 'D:\\lab\\data\\'+f, 'linux': lambda f: '/Users/someone/data/rgb/'+f.replace('\\', '/'), 'share': lambda f: '\\\\server\\faces\\'+f, 'home': lambda f: '~/faces/'+f.replace('\\', '/'), 'root': lambda f: '/'+f.replace('\\', '/'),
        'drive letter alone': lambda f: 'C:'+f, 'dots': lambda f: '/mnt/x/../y/./'+f.replace('\\', '/'), 'two labs': lambda f: ('D:\\a\\' if 'real' in f else 'E:\\quite\\another\\')+f,
        'half': lambda f: f if 'real' in f else '/mnt/x/'+f.replace('\\', '/'), 'shorter here': lambda f: 'D:\\lab\\real\\lab\\'+f}

@pytest.mark.parametrize('lab', LABS)
@pytest.mark.parametrize('rgb', (False, True))
def test_paths_of_another_machine_are_found_by_their_end(tmp_path, lab, rgb):
    expected = VideoIndex.read(bench(tmp_path/'as it was')); root = bench(tmp_path/'here'); moved(root, LABS[lab])
    if rgb: (root/'rgb').mkdir(); (root/'UADFV').rename(root/'rgb/UADFV')
    index = VideoIndex.read(root)
    assert index.frame.path.str.removeprefix('rgb/').tolist() == expected.frame.path.tolist() and index.frame[['id', 'label', 'split', 'source']].equals(expected.frame[['id', 'label', 'split', 'source']])
    assert [[Path(f).relative_to(root).as_posix().removeprefix('rgb/') for f in index.frame_files(v.id)] for v in index.videos] == [list(v.frames) for v in expected.videos] and not index.notes

def test_the_longest_end_wins(tmp_path):
    root = bench(tmp_path); moved(root, LABS['windows']); shutil.copytree(root/'UADFV/real', root/'real')          # real/frames/0000 is there too
    assert VideoIndex.read(root/'UADFV.json').frame.path[0] == 'UADFV/real/frames/0000'
    shutil.rmtree(root/'UADFV/real'); assert VideoIndex.read(root/'UADFV.json').frame.path[0] == 'real/frames/0000'

def test_what_has_no_place_here_is_counted(tmp_path, capfd):
    root = bench(tmp_path); moved(root, LABS['windows']); shutil.rmtree(root/'UADFV/fake'); (root/'UADFV/real/frames/0000/001.png').unlink()
    with pytest.raises(UserError) as e: VideoIndex.read(root)
    assert '6 of 12 videos' in str(e.value) and 'UADFV.json' in str(e.value) and 'D:' in str(e.value) and 'and 6 more' in str(e.value) and '\n' not in str(e.value), e.value
    (root/'UADFV/real/frames/0000/001.png').write_text('x'); index = VideoIndex.read(root, missing='skip'); assert len(index) == 6 and index.notes == ('6 listed videos are not there and were left out',)
    assert main(['data', 'check', str(root), '--no-decode']) == 1 and '6 of 12' in capfd.readouterr().out

def test_a_place_that_several_claim_is_not_guessed(tmp_path):
    root = bench(tmp_path); moved(root, lambda f: 'D:\\'+f.replace('_fake', '').replace('frames\\', '')); shutil.move(root/'UADFV/real/frames', root/'x'); shutil.rmtree(root/'UADFV')
    for p in sorted((root/'x').iterdir()): p.rename(root/p.name)
    with pytest.raises(UserError, match='several folders of another machine claim the place of D:') as e: VideoIndex.read(root)     # real/0000 and fake/0000, but one 0000 here
    assert '12 of 12 videos' in str(e.value)

def test_paths_of_another_machine_without_files(tmp_path):
    root = bench(tmp_path); moved(root, LABS['linux']); shutil.rmtree(root/'UADFV')
    index = VideoIndex.read(root/'UADFV.json', check_files=False); assert len(index) == 12 and index.frame.path[0] == 'Users/someone/data/rgb/UADFV/real/frames/0000'

def test_a_download_that_is_not_complete(tmp_path):
    root = ffpp(tmp_path); (root/REAL/'003.mp4').unlink(); (root/FAKE.format('FaceSwap')/'012_026.mp4').unlink()
    index = VideoIndex.read(root, missing='skip'); assert len(index) == 58 and '2 listed videos' in index.notes[0]
    with pytest.raises(UserError, match='and 1 more'): VideoIndex.read(root)
    other = ffpp(tmp_path/'other', qualities=('c23', 'c40')); shutil.rmtree(other/'manipulated_sequences/FaceSwap/c40/videos'); (other/FAKE.format('Face2Face')/'000_003.mp4').unlink()
    with pytest.raises(UserError, match='FaceSwap/c40/videos'): VideoIndex.read(other, compression='c40', methods='FaceSwap')
    assert len(VideoIndex.read(other, compression='c40', methods='Face2Face')) == 20                   # what is incomplete and not wanted does not matter
    with pytest.raises(UserError, match='Face2Face/c23/videos/000_003'): VideoIndex.read(other)
    five = deeperforensics(tmp_path/'dfo'); (five/'manipulated_videos/end_to_end_level_5/000_M101.mp4').unlink()
    assert len(VideoIndex.read(five)) == 12
    with pytest.raises(UserError, match='end_to_end_level_5/000_M101'): VideoIndex.read(five, methods='end_to_end_level_5')

def test_a_split_of_ours_does_not_depend_on_what_is_read(tmp_path):
    pairs = {s: [[f'{i:03}', f'{i+1:03}'] for i in range(a, b, 2)] for s, a, b in (('train', 0, 40), ('val', 40, 50), ('test', 50, 60))}
    root = ffpp(tmp_path, qualities=('c23', 'c40'), pairs=pairs); of = lambda **k: dict(zip((f := VideoIndex.read(root, splits='by-identity', **k).frame).id, f.split))
    with pytest.raises(LeakError, match="splits='by-identity'"): VideoIndex.read(root, splits='by-source')      # fakes by source, but their faces are in both
    whole = of(); assert set(whole.values()) == {'train', 'val', 'test'} and of(methods='FaceSwap').items() <= whole.items() and of(compression='c40') == whole

def test_wrong_names_are_one_line(tmp_path):
    root = ffpp(tmp_path/'ff')
    for options, word in ((dict(dataset='faceforensics'), 'choose from'), (dict(methods='Deepfake'), 'there is Deepfakes'), (dict(allow_leak='all'), 'content, identity'), (dict(splits='ffpp'), 'by-source, official')):
        with pytest.raises(UserError, match=word) as e: VideoIndex.read(root, **options)
        assert e.value.code == 2
    for path, word in ((tmp_path/'none', 'no such folder'), (tmp_path/'empty', 'empty folder')):
        (tmp_path/'empty').mkdir(exist_ok=True)
        with pytest.raises(UserError, match=word): VideoIndex.read(path)
    with pytest.raises(UserError, match='no such video'): VideoIndex.read(root).frame_files('FaceSwap/1_2')
    with pytest.raises(UserError, match='a video file'): VideoIndex.read(root).frame_files('FaceSwap/000_003')

def test_check_survives_thousands_of_files(tmp_path, capfd):
    for kind in ('real', 'fake'):
        (tmp_path/kind).mkdir()
        for i in range(1200): (tmp_path/kind/f'{i}.mp4').write_bytes(b'' if i % 3 == 0 else b'\0\0\0\x18ftypmp42'+bytes(i % 50) if i % 3 == 1 else f'{kind} {i}'.encode())
    start = time.perf_counter(); code = main(['data', 'check', str(tmp_path), '--most', '2']); out, err = capfd.readouterr()
    assert code == 1 and not err and '2,400 videos' in out and 'errors: 2400' in out and 'more of this kind' in out and len(out.splitlines()) < 40
    assert time.perf_counter()-start < 20

def test_a_name_that_is_no_text(tmp_path, capfd):
    import os
    folder(tmp_path)
    try: (tmp_path/'real'/os.fsdecode(b'caf\xe9.mp4')).write_text('x')
    except OSError: pytest.skip('this file system takes no such name')
    with pytest.raises(UserError, match='not readable text') as e: VideoIndex.read(tmp_path)
    str(e.value).encode()
    for options in ((), ('--json',)): assert main(['data', 'check', str(tmp_path), '--no-decode', *options]) == 1 and 'caf' in capfd.readouterr().out

def test_check_of_a_sound_set_of_videos(tmp_path, capfd):
    import numpy as np
    from deepfakenb.data.codec import write_video
    for i, name in enumerate(('real/a', 'real/b', 'fake/a')): (tmp_path/name).parent.mkdir(exist_ok=True); write_video(tmp_path/f'{name}.mp4', np.random.default_rng(i).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
    assert main(['data', 'check', str(tmp_path)]) == 0 and '3 videos' in capfd.readouterr().out
    whole = (tmp_path/'real/b.mp4').read_bytes(); (tmp_path/'real/b.mp4').write_bytes(whole[:len(whole)//2])
    assert main(['data', 'check', str(tmp_path)]) == 1 and 'unreadable' in capfd.readouterr().out
    (tmp_path/'real/b.mp4').write_bytes((tmp_path/'fake/a.mp4').read_bytes())
    assert main(['data', 'check', str(tmp_path)]) == 1 and 'same content, two labels' in capfd.readouterr().out

# ---------------------------------------------------------------------------------------------------------------- commands

def test_the_options_of_the_commands_are_those_of_the_functions():
    import inspect
    from deepfakenb.cli import data
    from deepfakenb.data.faces.extract import extract_faces
    from deepfakenb.data.synth.sets import PLANS
    from deepfakenb.data.synth.videos import make_videos
    theirs, ours = inspect.signature(extract_faces).parameters, inspect.signature(data.faces).parameters
    for name in ('rule', 'size', 'detector', 'step', 'workers'): assert (ours[name].default or None) == theirs[name].default
    assert {'preset', 'seed', 'workers', 'device'} <= set(inspect.signature(make_videos).parameters) and set(data.VIDEO_SETS) == set(PLANS)

def test_commands_call_what_makes_videos_and_faces(tmp_path, capfd, monkeypatch):
    called = {}
    def make_videos(name, out, *, preset='smoke', seed=0, workers=1, device=None): called['make'] = (name, preset, seed, workers, device); Path(out).mkdir(); return Path(out)
    def extract_faces(index, out, **options): called['faces'] = (index, options); return types.SimpleNamespace(faces=1, summary=lambda: 'done')
    monkeypatch.setitem(sys.modules, 'deepfakenb.data.synth.videos', types.SimpleNamespace(make_videos=make_videos))
    monkeypatch.setitem(sys.modules, 'deepfakenb.data.faces.extract', types.SimpleNamespace(extract_faces=extract_faces))
    assert main(['data', 'make', 'celebdf', str(tmp_path/'out'), '--seed', '3', '--workers', '2']) == 0 and called['make'] == ('celebdf', 'smoke', 3, 2, None)
    root = ffpp(tmp_path/'ff', qualities=('c23', 'c40'))
    assert main(['data', 'faces', str(root), str(tmp_path/'crops'), '--compression', 'c40', '--methods', 'FaceSwap,Deepfakes', '--workers', '2']) == 0
    index, options = called['faces']; assert len(index) == 30 and set(index.frame.compression) == {'c40'} and options['workers'] == 2 and options['limit'] is None
    put(tmp_path/'plain', 'holiday.mp4'); assert main(['data', 'faces', str(tmp_path/'plain'), str(tmp_path/'more')]) == 0 and called['faces'][0] == tmp_path/'plain'
    capfd.readouterr(); (root/'val.json').unlink()
    assert main(['data', 'faces', str(root), str(tmp_path/'crops')]) == 1
    err = capfd.readouterr().err.strip().splitlines(); assert len(err) == 1 and 'val.json' in err[0]

@pytest.mark.parametrize('name', ('ffpp', 'celebdf', 'deeperforensics', 'dfdc', 'dfd', 'wilddeepfake'))
def test_what_make_writes_is_read_as_it_was_meant(tmp_path, name):
    from deepfakenb.data.synth.sets import PLANS, VIDEO_PRESETS
    plan = PLANS[name](VIDEO_PRESETS['smoke'].people[name], 0)
    for path, text in plan.texts.items(): write(tmp_path/path, text)
    for v in (*plan.reals, *plan.fakes): put(tmp_path, *[o.path if o.path.endswith('.mp4') else f'{o.path}/{i}.png' for o in v.outputs for i in (0, 1)], *([v.mask] if getattr(v, 'mask', '') else []))
    index = VideoIndex.read(tmp_path); rows = index.frame.set_index('id')
    assert index.dataset == name and {'train', 'test'} <= set(rows.split) or name == 'dfd'
    meant = {v.id: v for v in (*plan.reals, *plan.fakes) if v.outputs and not v.id.startswith('source_videos')}
    assert set(rows.index) == set(meant)
    for i, v in meant.items():
        assert rows.label[i] == hasattr(v, 'target')
        if rows.label[i] and name not in ('wilddeepfake',) and rows.source[i]: assert rows.source[i] == v.target
    if name in ('ffpp', 'deeperforensics'): assert index.notes == ()
