"`deepfakenb data`: one line and an exit code for everything that a user can get wrong."
import json, os, signal, subprocess, sys
from pathlib import Path
import pytest
from deepfakenb.cli.main import main
from deepfakenb.core import weights_dir
from deepfakenb.data.seqdeepfake import SeqDeepFake, annotation_file
from seqdata import picture, tiny

@pytest.fixture
def call(capfd):
    "Call the command as a terminal does: exit code, output, error lines."
    def run(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return code, out, [l for l in err.splitlines() if l.strip()]
    return run

def spoil(root, change, split='val'):
    file = root/annotation_file('components', split)
    lines = file.read_text().splitlines(); file.write_text('\n'.join(change(lines))+'\n')

def test_a_sound_dataset(tmp_path, call):
    code, out, err = call('data', 'check', tiny(tmp_path))
    assert code == 0 and not err and 'nothing wrong' in out and 'eye-hair-lip-nose-eyebrow' in out and '30 images' in out

@pytest.mark.parametrize('harm, words', [
    (lambda r: spoil(r, lambda l: ['path,label']+l[1:]), ('val.csv:1', 'no column file_path')),
    (lambda r: spoil(r, lambda l: l[:3]+[l[3].replace('[1', '[7')]+l[4:]), ('val.csv:4', '7 is not an id')),
    (lambda r: spoil(r, lambda l: l[:7]+[l[7].replace('[4, 1,', '[4, 0, 1,').replace('0, 0]', '0]')]+l[8:]), ('val.csv:8', 'a hole')),
    (lambda r: spoil(r, lambda l: l+l[-1:]), ('val.csv:12', 'listed twice')),
    (lambda r: spoil(r, lambda l: l[:1]), ('val.csv', 'nothing listed')),
    (lambda r: (r/annotation_file('components', 'test')).unlink(), ('test.csv', 'no annotations')),
    (lambda r: next((r/'facial_components/images/test').rglob('*.jpg')).unlink(), ('test.csv:', 'missing file')),
    (lambda r: cut(r, .5), ('unreadable', 'truncated')),
    (lambda r: cut(r, 0), ('unreadable', '0 bytes')),
    (lambda r: next((r/'facial_components/images/val/nose').glob('*.jpg')).write_text('no picture'), ('unreadable', 'not an image')),
    (lambda r: leak(r), ('same picture in two splits', 'has the content of'))])
def test_each_fault_is_named(tmp_path, call, harm, words):
    root = tiny(tmp_path); harm(root)
    code, out, err = call('data', 'check', root)
    assert code == 1 and not err and 'errors: 1' in out
    for word in words: assert word in out, out
    code, out, _ = call('data', 'check', root, '--json')
    problems = json.loads(out)['problems']
    assert code == 1 and sum(p['severity'] == 'error' for p in problems) == 1 and str(tmp_path) not in out

def cut(root, share):
    file = next((root/'facial_components/images/val/nose').glob('*.jpg')); data = file.read_bytes(); file.write_bytes(data[:int(share*len(data))])

def leak(root):
    frame = SeqDeepFake.read(root, 'components')
    Path(frame.split('test').file[2]).write_bytes(Path(frame.split('train').file[2]).read_bytes())

def test_many_problems_are_cut_in_the_table_only(tmp_path, call):
    root = tiny(tmp_path, n=5)
    for f in (root/'facial_components/images/train').rglob('*.jpg'): f.unlink()
    code, out, _ = call('data', 'check', root, '--most', 3)
    assert code == 1 and 'and 22 more of this kind' in out and out.count('.jpg') == 3
    assert len(json.loads(call('data', 'check', root, '--json')[1])['problems']) == 25

def test_odd_names_do_not_confuse_the_table(tmp_path, call):
    root = tiny(tmp_path, n=1)
    spoil(root, lambda l: l+['facial_components/images/val/[bold]/[/x].jpg,"[/red]"'])
    code, out, err = call('data', 'check', root)
    assert code == 1 and not err and '[/red]' in out

@pytest.mark.parametrize('arguments, code, word', [
    (('check', 'absent'), 1, 'absent: no such folder'), (('check', 'empty'), 1, 'empty: an empty folder'), (('check', 'strange'), 1, 'strange: no dataset that is known'),
    (('check',), 2, 'DIR'), (('check', 'empty', '--most', '0'), 2, 'most'), (('make', 'noses', 'out'), 2, 'components, attributes'),
    (('make', 'components', 'out', '--preset', 'enormous'), 2, 'enormous'), (('render', 'strange'), 1, 'strange'), (('render', 'out', '--n', '0'), 2, 'n'),
    (('render', 'out', '--size', '1'), 2, 'size'), (('render', 'strange/file.txt/out', '--n', '1', '--size', '32'), 1, 'file.txt'), (('render', 'out', '--n', 'many'), 2, '--n')])
def test_mistakes_are_one_line(tmp_path, call, monkeypatch, arguments, code, word):
    monkeypatch.chdir(tmp_path); (tmp_path/'empty').mkdir(); (tmp_path/'strange').mkdir(); (tmp_path/'strange'/'file.txt').write_text('x')
    got, out, err = call('data', *arguments)
    assert got == code and len(err) == 1 and word in err[0] and len(err[0]) <= 200 and 'Traceback' not in out+err[0], (got, err)
    assert not (tmp_path/'out').exists() and (tmp_path/'strange'/'file.txt').read_text() == 'x'

def test_ctrl_c_leaves_no_half_folder(tmp_path, call, monkeypatch):
    import deepfakenb.data.synth.render as render
    def interrupt(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(render, 'sample_people', interrupt)
    code, _, err = call('data', 'render', tmp_path/'faces', '--n', '2', '--size', '32')
    assert code == 130 and len(err) == 1 and not list(tmp_path.iterdir())

def test_ctrl_c_during_a_check(tmp_path):
    root = tiny(tmp_path, n=1)
    slow = 'import sys, time, deepfakenb.data.layouts as l\nplain = l.content_hash\n' \
           'def f(x): sys.stdout.write("at work\\n"); sys.stdout.flush(); time.sleep(1); return plain(x)\n' \
           'l.content_hash = f\nfrom deepfakenb.cli.main import main\nsys.exit(main(sys.argv[1:]))'
    p = subprocess.Popen([sys.executable, '-c', slow, 'data', 'check', str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert p.stdout.readline().startswith('at work')
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and len(err.strip().splitlines()) == 1 and 'stopped' in err, err
    assert out.count('at work') < 14                                   # what had not begun was dropped

def test_help_shows_examples_and_loads_nothing_heavy():
    code = 'import sys; from deepfakenb.cli.main import main; c = main(["data", "check", "--help"]); heavy = {"torch", "pandas", "numpy", "fastai", "PIL"} & set(sys.modules); sys.exit(c or bool(heavy))'
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, 'COLUMNS': '120'}, timeout=60)
    assert p.returncode == 0 and 'deepfakenb data check data/real' in p.stdout, p.stderr

@pytest.mark.skipif(not (weights_dir()/'generator.safetensors').exists(), reason='the generator has no weights here')
def test_what_make_writes_passes_the_check(tmp_path, call, monkeypatch):
    from deepfakenb.data.synth import tracks
    monkeypatch.setitem(tracks.PRESETS, 'tiny', tracks.TrackPreset('tiny', 56, 28, 28))
    for track in ('components', 'attributes'):
        code, out, err = call('data', 'make', track, tmp_path, '--preset', 'tiny')
        assert code == 0, err
    code, out, _ = call('data', 'check', tmp_path)
    assert code == 0 and 'nothing wrong' in out, out
    code, _, err = call('data', 'make', 'components', tmp_path, '--preset', 'tiny')
    assert code == 1 and 'exists already' in err[-1]

# ---- faces: nothing made is a failure

def noise(path, n=3, side=64, seed=0):
    import numpy as np
    from deepfakenb.data.codec import write_video
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)); return path

def test_no_face_at_all_is_a_failure(tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(3): noise(tmp_path/f'clips/{i}.mp4', seed=i)
    for again in range(2):                                              # nor is it a success when it is asked again
        code, out, err = call('data', 'faces', 'clips', 'crops')
        assert code == 1 and not out and len(err) == 2 and err[0].startswith('note: ') and err[1].startswith('error: clips: no face in any of 3 videos') and 'crops' in err[1] and '--detector' in err[1], err
    (tmp_path/'clips/3.mp4').write_bytes(b'no video')
    code, out, err = call('data', 'faces', 'clips', 'crops', '--limit', '2')
    assert code == 1 and 'other settings' in err[-1]
    code, out, err = call('data', 'faces', 'clips', 'more', '--limit', '2')
    assert code == 1 and not out and 'no face in any of 4 videos (1 of them could not be read)' in err[-1] and 'a higher --limit' in err[-1], err

def test_one_face_is_enough(tmp_path, call):
    from deepfakenb.data.codec import write_video
    from facefilm import walk
    noise(tmp_path/'clips/noise.mp4'); write_video(tmp_path/'clips/person.mp4', walk(3, 2)[0])
    code, out, _ = call('data', 'faces', tmp_path/'clips', tmp_path/'crops', '--size', '32')
    assert code == 0 and '1 videos without a face: noise' in out and ' faces of 1 videos' in out, out

# ---- a list that is cut off is named, with its line

def cut_bench(root, keep):
    from test_video_index import bench
    file = bench(root)/'UADFV.json'; text = file.read_text(); file.write_text(text[:keep if keep > 1 else int(len(text)*keep)]); return root

@pytest.mark.parametrize('keep', (2, 10, 25, .5, .99))
@pytest.mark.parametrize('above', (False, True))
def test_a_cut_list_is_named_with_its_line(tmp_path, call, keep, above):
    root = cut_bench(tmp_path/'lab', keep)
    where = tmp_path if above else root
    code, out, err = call('data', 'check', where)
    assert code == 1 and 'UADFV.json:1' in out+''.join(err) and 'not valid JSON' in out+''.join(err) and 'no dataset' not in out+''.join(err), (out, err)
    for options in ((), ('--dataset', 'deepfakebench')):
        if options and above: continue
        code, out, err = call('data', 'faces', where, tmp_path/'out', *options)
        assert code == 1 and len(err) == 1 and 'UADFV.json:1: wrong structure: not valid JSON' in err[0], err
    assert not (tmp_path/'out').exists()

def test_a_cut_list_beside_real_and_fake_is_noted(tmp_path, call):
    for n in ('real', 'fake'): noise(tmp_path/f'set/{n}/a.mp4', seed=len(n)+ord(n[0]))
    (tmp_path/'set/UADFV.json').write_text('{"UADFV": {')
    code, out, err = call('data', 'check', tmp_path/'set')
    assert code == 0 and 'nothing wrong' in out and len(err) == 1 and err[0].startswith('note: ') and 'UADFV.json:1' in err[0], (out, err)

@pytest.mark.parametrize('text, word', (('<!DOCTYPE html><html>', 'UADFV.json:1: wrong structure: not valid JSON'), ('', 'UADFV.json: nothing listed: an empty file'), ('{\n"UADFV":\n{"UADFV_Real" {', 'UADFV.json:3: ')))
@pytest.mark.parametrize('sub', ('', 'dataset_json'))
def test_a_list_that_is_none(tmp_path, call, text, word, sub):
    (tmp_path/'lab'/sub).mkdir(parents=True); (tmp_path/'lab'/sub/'UADFV.json').write_text(text)
    code, out, err = call('data', 'check', tmp_path/'lab')
    assert code == 1 and word in (' '.join(err) or out.replace('│', ' ')).replace('  ', ' ') or word.split(': ')[0] in out, (out, err)
    code, _, err = call('data', 'faces', tmp_path/'lab', tmp_path/'out'); assert code == 1 and len(err) == 1 and word in err[0], err

def test_a_broken_json_beside_videos_is_only_noted(tmp_path, call):
    noise(tmp_path/'clips/a.mp4'); (tmp_path/'clips/notes.json').write_text('[1, 2')
    code, _, err = call('data', 'faces', tmp_path/'clips', tmp_path/'out')
    assert code == 1 and 'notes.json:1' in err[0] and err[0].startswith('note: ') and 'no face in any of 1 videos' in err[1]
    (tmp_path/'strange').mkdir(); (tmp_path/'strange/sound.json').write_text('[1, 2]')
    assert 'no dataset that is known' in call('data', 'check', tmp_path/'strange')[2][0]

# ---- a terminal that knows ASCII only

ASCII = dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')

def ascii_only(*arguments, cwd=None, command=('data',), **env):
    p = subprocess.run([sys.executable, '-m', 'deepfakenb.cli.main', *command, *map(str, arguments)], cwd=cwd, env=os.environ | ASCII | env, capture_output=True, timeout=120)
    return p.returncode, p.stdout.decode('utf8', 'replace'), [l for l in p.stderr.decode('utf8', 'replace').splitlines() if l.strip()]

@pytest.mark.parametrize('arguments', (('faces', '.', 'out'), ('faces', 'clips', 'é'), ('faces', 'set', 'out'), ('check', 'set'), ('make', 'ffpp', 'é')))
def test_a_name_that_the_terminal_cannot_read_is_one_line(tmp_path, arguments):
    noise(tmp_path/'clips/a.mp4')
    if arguments[1] == '.': noise(tmp_path/'vidé/a.mp4')
    for n in ('real/é.mp4', 'fake/b.mp4'): noise(tmp_path/'set'/n, seed=len(n))
    code, out, err = ascii_only(*arguments, cwd=tmp_path)
    assert code == 1 and not out and len(err) == 1 and '\\xe9' in err[0] and 'PYTHONUTF8=1' in err[0] and 'Traceback' not in err[0], (out, err)
    assert not (tmp_path/'out').exists() and not (tmp_path/'é').exists()                       # told before the work

def test_the_remedy_is_one(tmp_path):
    noise(tmp_path/'vidé/a.mp4')
    for env in (dict(PYTHONUTF8='1'), dict(LC_ALL='C.UTF-8', PYTHONUTF8='0')):
        code, _, err = ascii_only('faces', '.', 'é', cwd=tmp_path, **env); assert code == 1 and 'no face in any of 1 videos' in err[-1], err

def test_what_an_ascii_terminal_can_do_it_does(tmp_path):
    (tmp_path/'é').mkdir(); root = tiny(tmp_path/'é')
    code, out, err = ascii_only('check', root.relative_to(tmp_path), cwd=tmp_path); assert code == 0 and not err and 'nothing wrong' in out, (out, err)
    code, out, err = ascii_only('check', root.relative_to(tmp_path), '--json', cwd=tmp_path); assert code == 0 and json.loads(out)['ok']
    cut(root, .5)
    code, out, err = ascii_only('check', root.relative_to(tmp_path), cwd=tmp_path); assert code == 1 and not err and 'truncated' in out, (out, err)

@pytest.fixture(scope='module')
def clips_of_several():
    "Two finished runs of the committed results whose titles hold a sign that ASCII lacks."
    from deepfakenb.runs.store import list_runs
    return [r.id for r in list_runs(preset='bench') if '8×64 px' in r.spec.title and r.spec.data['compression'] == ['c23']][:2]

@pytest.mark.parametrize('command, words', ((('reproduce', '--dry-run', '--table', 'p4_table1'), 'x64 px'), (('reproduce', '--dry-run', '--preset', 'bench', '--paper', 'p4'), 'x64 px'),
                                            (('runs', 'list', '--table', 'p4_table1'), 'x64 px'), (('runs', 'compare'), 'x64 px'),
                                            (('cluster', '--dry-run', '--papers', 'p3'), 'x64 px'), (('train', '--model', 'gml', '--data', 'frames=8', '--dry-run'), 'x64 px')))
def test_listings_show_the_nearest_sign(command, words, clips_of_several, tmp_path):
    command += (tuple(clips_of_several) if 'compare' in command else ())+(() if command[0] in ('runs', 'train') else ('--out', tmp_path/'reports'))
    code, out, err = ascii_only(*command, command=()); assert code == 0 and words in out.replace('\n', ' ') and out.isascii() and 'Traceback' not in ' '.join(err), (out[-500:], err)

def test_what_programs_read_keeps_every_sign(clips_of_several):
    "JSON and CSV are UTF-8 whatever the terminal knows."
    code, out, err = ascii_only('runs', 'show', clips_of_several[0], '--json', command=()); assert code == 0 and '×' in json.loads(out)['title'], err

def test_a_name_that_is_no_text_anywhere(tmp_path, call):
    noise(tmp_path/'clips/a.mp4')
    try: (tmp_path/'clips'/os.fsdecode(b'caf\xe9.mp4')).write_bytes((tmp_path/'clips/a.mp4').read_bytes())
    except OSError: pytest.skip('this file system takes no such name')
    code, out, err = call('data', 'faces', tmp_path/'clips', tmp_path/'out')
    assert code == 1 and len(err) == 1 and 'caf\\xe9.mp4: its name is not readable text; rename it' in err[0], err
