"Checkpoints: what is saved is what is loaded; every wrong file is one clear line; nothing runs code, nothing is left half written."
import os, pathlib
import pytest, torch
from deepfakenb.core import UserError
from deepfakenb.models.checkpoints import import_published, load_model, read_header, save_model
from deepfakenb.models.multicls import MultiCls
from deepfakenb.models.seqfakeformer import SeqFakeFormer, load_published

torch.set_num_threads(1)

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return SeqFakeFormer(backbone='resnet10-narrow', width=32, feed_forward=32, head_width=32).eval()

@pytest.fixture
def saved(model, tmp_path): return save_model(model, tmp_path/'model.safetensors', track='components', size=64)

def message(f, *a, **kw):
    with pytest.raises(UserError) as e: f(*a, **kw)
    assert '\n' not in str(e.value) and len(str(e.value)) < 400
    return str(e.value)

def test_round_trip(model, saved):
    again = load_model(saved)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values())) and again.config == model.config
    assert read_header(saved)[1] == dict(track='components', size=64)

def test_same_model_same_bytes(model, tmp_path):
    a, b = (save_model(model, tmp_path/n, epoch=1).read_bytes() for n in ('a.safetensors', 'b.safetensors'))
    assert a == b

def test_half_precision(model, tmp_path):
    import copy
    a = load_model(save_model(model, tmp_path/'a.safetensors', half=True))
    b = load_model(save_model(copy.deepcopy(model).half(), tmp_path/'b.safetensors'))
    assert all(torch.equal(x, y) and x.dtype == y.dtype and x.dtype != torch.float16 for x, y in zip(a.state_dict().values(), b.state_dict().values()))

@pytest.mark.parametrize('keep', (0, 1, 7, 8, 100, 5000, -1))
def test_truncated(saved, keep):
    data = saved.read_bytes()
    saved.write_bytes(data[:keep])
    assert 'damaged' in message(load_model, saved) and 'model.safetensors' in message(load_model, saved)

def test_one_flipped_header_byte_is_an_error_not_a_crash(saved):
    data = bytearray(saved.read_bytes())
    for at in range(0, 400, 23):
        broken = bytearray(data); broken[at] ^= 0x15
        saved.write_bytes(broken)
        try: load_model(saved)
        except UserError as e: assert '\n' not in str(e)

def test_of_another_model(saved, tmp_path):
    assert 'holds a seqfakeformer, not a multi-cls' in message(load_model, saved, 'multi-cls')
    from safetensors.torch import save_file
    save_file(dict(a=torch.zeros(1)), tmp_path/'theirs.safetensors')
    assert 'without the name of a model' in message(load_model, tmp_path/'theirs.safetensors')

def test_a_folder_and_a_missing_file(tmp_path):
    assert 'no such file' in message(load_model, tmp_path) and 'no such file' in message(load_model, tmp_path/'x.safetensors')

def test_unwritable(model, tmp_path):
    (tmp_path/'file').write_text('x')
    assert 'cannot be written' in message(save_model, model, tmp_path/'file'/'model.safetensors')

@pytest.mark.parametrize('kind', ('os', 'safetensors'))
def test_failed_write_leaves_the_old_file(model, saved, monkeypatch, kind):
    import safetensors.torch
    before = saved.read_bytes()
    error = OSError(28, 'No space left on device') if kind == 'os' else safetensors.SafetensorError('No space left on device')
    def full(state, path, metadata=None): pathlib.Path(path).write_bytes(b'half'); raise error
    monkeypatch.setattr(safetensors.torch, 'save_file', full)
    assert 'No space left' in message(save_model, model, saved)
    assert saved.read_bytes() == before and [p.name for p in saved.parent.iterdir()] == ['model.safetensors']

# ---- published checkpoints

@pytest.fixture
def published(model, tmp_path):
    torch.manual_seed(1)
    other = SeqFakeFormer(backbone='resnet10-narrow', width=32, feed_forward=32, head_width=32)
    torch.save(dict(best_state_dict_fixed={'module.'+k: v for k, v in model.state_dict().items()}, best_state_dict_adaptive=other.state_dict(), epoch=3), tmp_path/'authors.pt')
    return tmp_path/'authors.pt', model, other

def test_import(published, tmp_path):
    from safetensors.torch import load_file
    file, fixed, adaptive = published
    for best, m in dict(fixed=fixed, adaptive=adaptive).items():
        out = import_published(file, tmp_path/f'{best}.safetensors', best=best)
        got = load_file(out)
        assert got.keys() == m.state_dict().keys() and all(torch.equal(got[k], v) for k, v in m.state_dict().items())
        assert torch.equal(load_model(out).input_proj.weight, m.input_proj.weight) and load_published(got).config['width'] == 32
    assert 'choose from' in message(import_published, file, tmp_path/'x.safetensors', best='mean')

def test_import_runs_no_code(published, tmp_path):
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'executed'),)
    import pickle
    files = [tmp_path/n for n in ('zip.pt', 'old.pt', 'bare.pt')]
    torch.save(dict(best_state_dict_fixed=published[1].state_dict(), x=Evil()), files[0])
    torch.save(dict(x=Evil()), files[1], _use_new_zipfile_serialization=False)
    files[2].write_bytes(pickle.dumps(dict(x=Evil())))
    for f in files: assert 'was not opened' in message(import_published, f, tmp_path/'out.safetensors') and f.name in message(import_published, f, tmp_path/'out.safetensors')
    assert not (tmp_path/'executed').exists() and not (tmp_path/'out.safetensors').exists()

def test_import_takes_numbers_beside_the_weights(published, tmp_path):
    import numpy as np
    torch.save(dict(best_state_dict_fixed=published[1].state_dict(), best=np.float64(72.6), epochs=np.int64(3)), tmp_path/'numbers.pt')
    assert load_model(import_published(tmp_path/'numbers.pt', tmp_path/'o.safetensors', best='fixed')).config['width'] == 32

def test_import_refuses_what_is_no_seqfakeformer(published, tmp_path):
    torch.save(MultiCls(backbone='resnet10-narrow').state_dict(), tmp_path/'other.pt')
    assert 'other.pt' in (m := message(import_published, tmp_path/'other.pt', tmp_path/'o.safetensors')) and 'missing' in m
    state = published[1].state_dict(); del state['mlp.layers.2.bias']
    torch.save(state, tmp_path/'hole.pt')
    assert 'mlp.layers.2.bias' in message(import_published, tmp_path/'hole.pt', tmp_path/'o.safetensors')
    assert not (tmp_path/'o.safetensors').exists()

# ---- as other training loops wrap them

def _under(prefix, state): return {prefix+k: v for k, v in state.items()}
def _ema(state): return {k: v+1 if v.is_floating_point() else v for k, v in state.items()}
WRAPPED = { # name -> (what the file holds, given the state dict; words of the line)
    'state_dict': (lambda s: dict(state_dict=s, epoch=3, best_acc=.5), 'state_dict,'), 'model': (lambda s: dict(model=s, opt=dict(state=[dict(mom=torch.zeros(2))])), 'model,'),
    'model_state_dict': (lambda s: dict(model_state_dict=s, optimizer_state_dict=dict(state={0: dict(exp_avg=torch.zeros(2))}, param_groups=[])), 'model_state_dict,'),
    'two layers': (lambda s: dict(model=dict(state_dict=s)), 'model/state_dict'), 'module': (lambda s: _under('module.', s), "without 'module.'"),
    'lightning': (lambda s: {'state_dict': _under('model.', s) | {'loss.weight': torch.ones(2)}, 'epoch': 3}, "without 'model.'"), 'compiled': (lambda s: _under('_orig_mod.', s), "without '_orig_mod.'"),
    'compiled, parallel': (lambda s: dict(model=_under('module._orig_mod.', s)), "without 'module._orig_mod.'"), 'lightning, compiled': (lambda s: dict(state_dict=_under('model._orig_mod.', s)), "without 'model._orig_mod.'"),
    'a part compiled': (lambda s: {k.replace('transformer.', 'transformer._orig_mod.'): v for k, v in s.items()}, 'bare'), 'swa': (lambda s: _under('module.', s) | dict(n_averaged=torch.tensor(3)), 'left out: n_averaged'),
    'ema beside': (lambda s: dict(state_dict_ema=_ema(s), state_dict=s), 'left out: state_dict_ema (EMA)'), 'ema beside model': (lambda s: dict(model=s, model_ema=_ema(s)), 'left out: model_ema (EMA)'),
    'ema in names': (lambda s: dict(state_dict=_under('ema_model.', _ema(s)) | _under('model.', s)), "left out: state_dict, names without 'ema_model.' (EMA)"), 'ema alone': (lambda s: dict(model_ema=s), 'taken: model_ema (EMA)'),
    'options beside': (lambda s: dict(state_dict=s, args=__import__('argparse').Namespace(lr=.1)), 'state_dict,'), 'best beside last': (lambda s: dict(best_state_dict_adaptive=s, state_dict=_ema(s)), 'left out: state_dict'),
    'classifier': (lambda s: s | {'backbone.0.body.fc.weight': torch.ones(2, 2)}, 'bare'), 'tied': (lambda s: s | {'mlp.layers.0.bias': s['mlp.layers.1.bias']}, 'bare')}

@pytest.mark.parametrize('name', WRAPPED)
def test_wrapped_weights_are_those_that_were_put_in(model, tmp_path, name, capsys):
    holds, words = WRAPPED[name]
    state = dict(model.state_dict()); torch.save(holds(state), tmp_path/'theirs.pth')
    got = load_model(import_published(tmp_path/'theirs.pth', tmp_path/'o.safetensors')).state_dict()
    if name == 'tied': state['mlp.layers.0.bias'] = state['mlp.layers.1.bias']
    assert got.keys() == state.keys() and all(torch.equal(got[k], v) for k, v in state.items())
    out, err = capsys.readouterr()
    assert not out and err.count('\n') == 1 and f'all {len(state)} names match' in err and words in err and 'theirs.pth' in err and str(tmp_path) not in err, err

def test_wrapped_safetensors(model, tmp_path):
    from safetensors.torch import save_file
    save_file(_under('model.', {k: v.contiguous() for k, v in model.state_dict().items()}), tmp_path/'hub.safetensors')
    said = []
    assert torch.equal(load_model(import_published(tmp_path/'hub.safetensors', tmp_path/'o.safetensors', tell=said.append)).input_proj.weight, model.input_proj.weight) and len(said) == 1

@pytest.mark.parametrize('wrap, words', [
    (lambda s: dict(state_dict={k: v for k, v in s.items() if k != 'mlp.layers.2.bias'}), 'mlp.layers.2.bias missing'),               # less than all
    (lambda s: _under('model.', {k: v for k, v in s.items() if 'layer1' not in k}), 'missing'), (lambda s: dict(model=s | dict(extra=torch.ones(2))), 'extra unknown'),
    (lambda s: dict(model=s | {'mlp.layers.2.bias': torch.ones(2)}), 'instead of'), (lambda s: dict(optimizer=dict(exp_avg=s)), 'optimizer/exp_avg'),  # names and shapes of weights, and none
    (lambda s: _under('student.', s), "'student.'"), (lambda s: dict(model=s, net=_ema(s)), 'holds 2 models'), (lambda s: s | _under('module.', s), 'holds 2 models'),
    (lambda s: s | {'mlp._orig_mod.layers.2.bias': torch.ones(2)}, 'mlp.layers.2.bias is there twice'), (lambda s: dict(state_dict=dict(a=torch.ones(2))), 'input_proj.weight is missing'), (lambda s: dict(state_dict={}, epoch=1), 'no weights')])
def test_what_is_not_all_of_a_model_is_refused(model, tmp_path, wrap, words, capsys):
    torch.save(wrap(dict(model.state_dict())), tmp_path/'theirs.pth')
    said = message(import_published, tmp_path/'theirs.pth', tmp_path/'o.safetensors')
    assert words in said and 'theirs.pth' in said and not (tmp_path/'o.safetensors').exists() and capsys.readouterr().err == '', said

def test_a_dict_that_holds_itself(model, tmp_path):
    d = dict(model.state_dict()); d['model'] = d; torch.save(d, tmp_path/'ring.pth')
    assert 'holds' in message(import_published, tmp_path/'ring.pth', tmp_path/'o.safetensors')

@pytest.mark.parametrize('value, word', ((float('nan'), 'NaN'), (float('inf'), 'an infinite number'), (-float('inf'), 'an infinite number')))
@pytest.mark.parametrize('name', ('mlp.layers.0.weight', 'backbone.0.body.bn1.running_var'))
def test_weights_that_are_no_numbers(model, tmp_path, name, value, word):
    state = {k: v.clone() for k, v in model.state_dict().items()}; state[name].view(-1)[1] = value
    good = dict(model.state_dict()); torch.save(dict(best_state_dict_fixed=state, best_state_dict_adaptive=good), tmp_path/'diverged.pth')
    for best in ('fixed', 'both'):
        said = message(import_published, tmp_path/'diverged.pth', tmp_path/'o.safetensors', best=best)
        assert f'{name} holds {word} (1 of' in said and 'diverged.pth' in said and not (tmp_path/'o.safetensors').exists()
    assert import_published(tmp_path/'diverged.pth', tmp_path/'o.safetensors', best='adaptive').exists()                              # the other one is sound

def test_the_flag_is_named(published, tmp_path):
    for has, other in (('fixed', 'adaptive'), ('adaptive', 'fixed')):
        torch.save({f'best_state_dict_{has}': published[1].state_dict()}, tmp_path/'one.pt')
        said = message(import_published, tmp_path/'one.pt', tmp_path/'o.safetensors', best=other)
        assert f'--best {has}' in said and import_published(tmp_path/'one.pt', tmp_path/'o.safetensors', best=has).exists(); (tmp_path/'o.safetensors').unlink()

# ---- what is no weights at all is called by its name

NO_WEIGHTS = {
    'page': (b'<!DOCTYPE html>\n<html><head><title>Google Drive - Quota exceeded</title>', 'a web page (HTML) with the title "Google Drive - Quota exceeded"'), 'page with a comment': (b'\xef\xbb\xbf\n<!-- x --><HTML lang="en">', 'a web page'),
    'pointer': (b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n', 'git lfs pull'), 'annex': (b'/annex/objects/MD5E-s12--ab.pth\n', 'git annex get'), 'annex link': (b'../../.git/annex/objects/Xx/Zz/MD5E\n', 'git-annex'),
    'json': (b'{"message": "Not Found"}', 'a JSON text'), 'xml': (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', 'an XML text'), 'text': (b'Access denied\n', 'a text that begins with "Access denied"'),
    'gzip': (b'\x1f\x8b\x08\x00\x00', 'a packed archive'), 'pdf': (b'%PDF-1.7\n', 'a PDF'), 'keras': (b'\x89HDF\r\n\x1a\n', 'Keras')}

@pytest.mark.parametrize('name', NO_WEIGHTS)
@pytest.mark.parametrize('suffix', ('.pth', '.safetensors'))
def test_what_is_no_weights_is_called_by_its_name(tmp_path, name, suffix):
    data, words = NO_WEIGHTS[name]; file = tmp_path/f'fetched{suffix}'; file.write_bytes(data)
    for said in (message(import_published, file, tmp_path/'o.safetensors'), message(load_model, file)):
        assert words in said and 'run code' not in said and said.startswith(f'fetched{suffix}: '), said

def test_the_other_format_under_a_wrong_name(saved, model, tmp_path):
    (tmp_path/'a.pth').write_bytes(saved.read_bytes()); torch.save(model.state_dict(), tmp_path/'b.safetensors')
    assert 'rename it to .safetensors' in message(import_published, tmp_path/'a.pth', tmp_path/'o.safetensors')
    assert 'rename it to .pt' in message(import_published, tmp_path/'b.safetensors', tmp_path/'o.safetensors') and 'rename it to .pt' in message(load_model, tmp_path/'b.safetensors')

def test_a_pickle_in_text_is_still_a_pickle(tmp_path):
    import pickle
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'executed'),)
    (tmp_path/'old.pt').write_bytes(pickle.dumps(Evil(), protocol=0))
    assert 'was not opened' in message(import_published, tmp_path/'old.pt', tmp_path/'o.safetensors') and not (tmp_path/'executed').exists()
