"Every model of paper 1, as a user meets it: `deepfakenb predict` takes it, and the attention explorer shows it, or says that there is nothing to show."
import contextlib, io, json
import numpy as np, pytest, torch
from PIL import Image
from deepfakenb.models.base import build_model, model_names
from deepfakenb.vocab import TRACKS, Vocabulary

torch.set_num_threads(1)
CNN, SMALL = dict(backbone='resnet10-narrow'), dict(backbone='resnet10-narrow', width=32, feed_forward=32, head_width=32)
TOKENS, SLOTS, ONE, NONE = 'a picture a token', 'a picture a slot', 'one picture for all slots', 'nothing to show'
MODELS = {'multi-cls': (CNN, NONE, []), 'drn': (dict(width=.125), NONE, []), 'detr': (SMALL, SLOTS, ['decoder layer 1', 'decoder layer 2']),
          'one-pass': (SMALL, SLOTS, ['decoder layer 1', 'decoder layer 2']), 'seqfakeformer': (SMALL, TOKENS, ['decoder layer 1', 'decoder layer 2']),
          'seqfakeformer-reversed': (SMALL, TOKENS, ['decoder layer 1', 'decoder layer 2']),
          'multi-attentional': (dict(backbone='efficientnet-narrow', width=32), ONE, ['attention']),
          'two-stream': (dict(backbone='xception-narrow'), ONE, [f'cross.{b}.to_{s}' for b in ('block3', 'block7') for s in ('rgb', 'srm')]+['guide.attention'])}

@pytest.fixture(scope='module')
def faces():
    "Two rendered faces: uint8 (2, 64, 64, 3)."
    from deepfakenb.data.synth.people import sample_people
    from deepfakenb.data.synth.render import render
    return render(sample_people(2, seed=5), 64).images.permute(0, 2, 3, 1).numpy()

@pytest.fixture(scope='module', params=MODELS)
def made(request):
    "Name, untrained model, how it attends, names in the explorer's menu."
    torch.manual_seed(3)
    options, how, names = MODELS[request.param]
    return request.param, build_model(request.param, **options).eval(), how, names

def test_none_is_forgotten():
    from deepfakenb.models.base import model_module
    from deepfakenb.models.sequence import SequenceModel
    from deepfakenb.models.base import model_class
    ours = {n for n in model_names() if issubclass(model_class(n), SequenceModel) and model_module(n) not in ('models.contrastiveranking', 'models.joint')}   # paper 3's, and what trains a backbone for all of these
    assert set(MODELS) == ours

def test_predict(made, faces, tmp_path):
    from deepfakenb.cli.main import main
    from deepfakenb.models.checkpoints import save_model
    name, model, how, _ = made
    checkpoint, picture = save_model(model, tmp_path/'m.safetensors', track='components', size=64), tmp_path/'face.png'
    Image.fromarray(faces[0]).save(picture)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(['predict', str(picture), '--no-crop', '--checkpoint', str(checkpoint), '--out', str(tmp_path/'out'), '--json'])
    assert code == 0, err.getvalue()
    document = json.loads(out.getvalue())
    answer, = document['images']
    assert document['model']['name'] == name and answer['slots'] == (how != TOKENS) and (len(answer['steps']) == 5 if answer['slots'] else 1 <= len(answer['steps']) <= 5)
    from deepfakenb.inference.predict import model_input
    decoded = model.predict(model_input(faces[0]))
    assert np.isclose(answer['probability'], decoded.scores.exp().item(), rtol=1e-3, atol=1e-6)
    assert answer['sequence'] == [TRACKS['components'][t] for t in decoded.sequences[0].tolist() if t]
    if answer['slots']: assert [s['token'] for s in answer['steps']] == [TRACKS['components'][t] for t in decoded.tokens[0].tolist()]   # NA is told
    panels = 1+len(answer['steps'])*(how != NONE)
    assert Image.open(next((tmp_path/'out').iterdir())).size[0] == panels*256+(panels+1)*8

def test_explorer(made, faces):
    from dataclasses import replace
    from deepfakenb.explore.explorer import State, picture, text
    from deepfakenb.explore.explorer import AttentionExplorer, layers
    name, model, how, names = made
    ui = AttentionExplorer(model, faces, [[2, 1, 0, 0, 0], [0]*5], vocabulary=Vocabulary('components'), size=96)
    e, state = ui.explorer, ui.state
    assert [said for said, _ in layers(e.names)] == names and e.reads == (how == TOKENS) and e.steps == (6 if e.reads else 5)
    assert all(t.disabled != e.reads for t in ui.tokens) and (how == TOKENS or 'left alone' not in text(e, state))
    head = round(10*3.1)+8                                                               # the words above the pictures
    first, second = (picture(e, replace(state, step=i)) for i in (0, 1))
    panels = 2 if how == NONE else 4 if 'seca' in model.config else 3                   # with SECA its weight map too
    assert first.shape[1] == panels*96+(panels+1)*8
    if how == NONE: assert np.array_equal(first, second) and (first[-20, -50] == 235).all()
    else: assert np.array_equal(first[head:], second[head:]) == (how == ONE)
    for full in e.names:                                                                  # every attention, every head
        ui.controls['attention'].value = full
        for option in (h for _, h in ui.controls['head'].options):
            ui.controls['head'].value = option
            assert e.attention(ui.state) == full and ui.state.head == option
    assert len(ui.controls['head'].options) == 1+e.heads(ui.state)
