"What README and the pages beside it promise: links that lead somewhere, commands that exist and run, findings that are today's."
import ast, re, shlex
import nbformat, numpy as np, pandas as pd, pytest
from PIL import Image

PAGES = ('README.md', 'CONTRIBUTING.md', 'ETHICS.md', 'data/README.md', 'data/weights/README.md', 'reports/bench/README.md')

def anchors(text) -> set: # of a page's headings, as GitHub names them
    return {re.sub(r'[^\w\- ]', '', h.strip().lower()).replace(' ', '-') for h in re.findall(r'^#+ (.*)$', text, re.M)}

@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(root, page):
    path = root/page
    text = path.read_text(encoding='utf8')
    for link in re.findall(r'\]\(([^)\s]+)\)', re.sub(r'`[^`]*`', '', text)):
        if re.match(r'https?:', link): continue
        file, _, anchor = link.partition('#')
        target = path.parent/file if file else path
        if file: assert target.exists(), f'{page}: {link}'
        if anchor: assert anchor in anchors(target.read_text(encoding='utf8')) or f'id="{anchor}"' in target.read_text(encoding='utf8'), f'{page}: {link}'

NOT_TRUE = re.compile(r"reproduc\w*\s+(all\s+|the\s+)*(five|5)\b|every number of ours stands beside the paper", re.I)   # what holds is said paper by paper

def test_nobody_promises_that_five_papers_are_reproduced(root, deepfakenb):
    said = {page: (root/page).read_text(encoding='utf8') for page in (*PAGES, 'settings.ini', 'pyproject.toml', 'setup.py', 'Makefile', 'nbs/index.ipynb', 'nbs/contents.ipynb')}
    said |= {'deepfakenb --help': deepfakenb('--help')[1], 'deepfakenb reproduce --help': deepfakenb('reproduce', '--help')[1]}
    for where, text in said.items(): assert not (found := NOT_TRUE.search(' '.join(re.sub(r'[│|]', ' ', text).split()))), f'{where}: {found.group()!r}'
    assert 'five deepfake-detection papers' in said['settings.ini'] and 'five deepfake-detection papers' in ' '.join(said['deepfakenb --help'].split())

def commands(text) -> list: # of the `deepfakenb …` that a page names
    return [shlex.split(m) for m in dict.fromkeys(re.findall(r'`deepfakenb ([a-z][^`]*)`', text))]

@pytest.mark.parametrize('page', PAGES[:5])
def test_commands_and_options_exist(root, page, deepfakenb):
    for words in commands((root/page).read_text(encoding='utf8')):
        named = words[:2] if words[0] in ('data', 'runs', 'course', 'checkpoint') else words[:1]
        code, out, err = deepfakenb(*named, '--help')
        assert code == 0, f'{page}: deepfakenb {" ".join(words)}: {err}'
        for option in (w for w in words if w.startswith('--')): assert re.search(rf'{option}\b', out), f'{page}: {option} of deepfakenb {" ".join(named)}'

def test_the_light_commands_of_the_readme_run(root, deepfakenb, tmp_path):
    "As printed there, with files of these names; what trains or makes data is in other tests."
    from deepfakenb.data.synth.people import sample_people
    from deepfakenb.data.synth.render import render
    picture, scores = tmp_path/'face.png', tmp_path/'scores.csv'
    Image.fromarray(render(sample_people(1, seed=5), 128).images[0].permute(1, 2, 0).numpy()).save(picture)
    pd.DataFrame(dict(label=[0, 1]*20, score=np.linspace(.1, .9, 40))).to_csv(scores, index=False)
    stand = {'IMAGE': picture, 'FILE': picture, 'scores.csv': scores, 'DIR': tmp_path/'student'}
    light, ran = ('doctor', 'train', 'predict', 'recover', 'evaluate', 'course student'), set()
    for words in commands((root/'README.md').read_text(encoding='utf8')):
        kind = next((k for k in light if words[:len(k.split())] == k.split()), None)
        if kind is None or 'VIDEO' in words: continue
        extra = ['--out', tmp_path/dict(predict='said', recover='face-again.png')[kind]] if kind in ('predict', 'recover') else []
        code, out, err = deepfakenb(*(stand.get(w, w) for w in words), *extra)
        assert code == 0 and (out or err), f'deepfakenb {" ".join(words)}: {err}'
        assert 'Traceback' not in out+err
        ran.add(kind)
    assert ran == set(light), f'no longer in the README: {set(light)-ran}'

def test_findings_are_of_todays_runs(root):
    "The cell of the README that computes the findings says again what it says there."
    cell = next(c for c in nbformat.read(root/'nbs'/'index.ipynb', 4).cells if 'pairs_difference' in c.source)
    tree = ast.parse(cell.source)
    names = {}
    exec(compile(ast.Module(tree.body[:-1], []), 'index', 'exec'), names)
    said = eval(compile(ast.Expression(tree.body[-1].value), 'index', 'eval'), names).data
    assert said.strip() == cell.outputs[0]['data']['text/markdown'].strip() and said in (root/'README.md').read_text(encoding='utf8'), 'run nbs/index.ipynb, then `make readme`'
