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
