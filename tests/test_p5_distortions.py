"The distortion matrix on a real run folder: level 0 is the undistorted test, real and forged are distorted alike, nothing is made that was not asked for."
import numpy as np, pytest, torch
from types import SimpleNamespace
from deepfakenb.analysis.distortions import MATRIX_ROWS, crops_of, distorted_test, distortion_matrix, distortion_probe, matrix_sheet
from deepfakenb.core import UserError
from deepfakenb.data.distorted import distortion
from deepfakenb.data.perturbations import PERTURBATIONS, VARIANTS
from deepfakenb.protocols.base import get
from deepfakenb.runs.spec import RunSpec, TestSpec
from deepfakenb.training.run import train_run

CODES = tuple(p.code for p in PERTURBATIONS.values())

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A statistic of the clip, trained for a moment on the smoke videos."
    spec = RunSpec('detectors', 'motion-statistic', dict(statistic='difference-ratio'), dict(name='video', dataset='ffpp', preset='smoke', size=32, frames=4, tested=2),
                   dict(epochs=1, bs=8, steps=2, lr=.1, lr_backbone=.1, warmup_epochs=0, drop_epochs=[]), 0, 'smoke')
    return train_run(spec, tmp_path_factory.mktemp('reports'), device='cpu')

def test_level_0_is_the_undistorted_test(run):
    "The same answers by two ways: no distortion at all, and each kind at level 0."
    task, model = run.spec.task, run.model()
    clean, facts, _ = task.test(run.spec, dict(best=model), TestSpec(), torch.device('cpu'))
    for code in ('GB', 'GNC', 'VC'):
        for variant in VARIANTS:
            answers, same, _ = task.test(run.spec, dict(best=model), TestSpec(distortion=f'{code}:0', variant=variant), torch.device('cpu'))
            assert np.array_equal(answers.margin, clean.margin) and answers.video.tolist() == clean.video.tolist() and same == facts, (code, variant)
    assert distorted_test('GB', 0, on='').id == TestSpec().id and distorted_test('GB', 0, 'official').id == distorted_test('VC', 0).id

def test_nothing_is_made_unasked(run):
    small = dict(on='', kinds=('GB', 'BW'), levels=(1, 5), variants=VARIANTS)
    before = distortion_matrix(dict(row=[run]), **small)
    assert not (run.path/'tests').exists() and {l['level'] for l in before if l['value'] is not None} == {0} and not matrix_sheet(before)
    told = []
    made = distortion_matrix(dict(row=[run]), make=True, tell=told.append, **small)
    assert len(told) == 8 == len(list((run.path/'tests').glob('*'))) and all(l['value'] is not None for l in made)
    assert distortion_matrix(dict(row=[run]), **small) == made and len(matrix_sheet(made).rows) == 4
    at = {(l['kind'], l['variant'], l['level']): l for l in made}
    own = run.metrics['test']['video']['AUC']
    assert abs(at['GB', 'repaired', 0]['value']-own) < 1e-3 and at['GB', 'repaired', 0]['videos'] == run.metrics['test']['video']['n']
    for n in (1, 5): assert abs(at['BW', 'official', n]['lost']) < 1e-9          # the official blocks vanish on crops this small
    for l in made:
        if l['level']: assert abs(l['lost']-(at[l['kind'], l['variant'], 0]['value']-l['value'])) < .1

@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('code', CODES)
def test_real_and_forged_are_distorted_alike(code, variant):
    "Equal pixels under equal names stay equal, whatever the label: a function of clips and names cannot know who is forged."
    clip = torch.randint(0, 256, (1, 3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    both = clip.expand(2, -1, -1, -1, -1).contiguous()
    real, forged = distortion(f'{code}:4', variant=variant)(both, ['000', '000'], ['original/000:0', 'Deepfakes/000_003:0'])
    assert torch.equal(real, forged)

def test_probe_knows_only_where_the_distortion_is_the_answer(run):
    x, y, g, v = crops_of(run, TestSpec())
    clips, labels = x.repeat(6, 1, 1, 1, 1), np.tile(y, 6)                       # few videos: each several times, under names of its own
    noise = torch.randint(-6, 7, clips.shape, generator=torch.Generator().manual_seed(0))
    clips = (clips.short()+noise).clamp(0, 255).to(torch.uint8)
    found = distortion_probe(clips, labels, np.arange(len(labels))//5, [f'{n}/{k}' for k, n in enumerate(np.tile(v, 6))], 'GNC:5')
    assert found['real, distorted against clean'].mean > 95 and found['forgeries alone distorted'].mean > 95 > found['both distorted'].mean
    assert found['forgeries alone distorted'].mean-found['both distorted'].mean > 15
    with pytest.raises(UserError, match='two of each'): distortion_probe(clips[:4], [0, 0, 0, 0], [0, 1, 2, 3], list('abcd'))

def test_rows_are_rows_of_the_table():
    assert set(MATRIX_ROWS) <= {r.label for r in get('p5').tables['p5_table3'].rows}
    ids = {distorted_test(c, n, v).id for c in CODES for n in range(6) for v in VARIANTS}
    assert len(ids) == 7*5*2+1
