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
    assert got == code and len(err) == 1 and word in err[0] and 'Traceback' not in out+err[0], (got, err)
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
