"The report as a visitor meets it: a folder of files, opened in a browser without internet."
import html
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from deepfakenb.analysis.claims import read_claims
from deepfakenb.core import ROOT, UserError, read_json
from deepfakenb.data.seqdeepfake import SeqDeepFake
from deepfakenb.data.synth.tracks import SEQUENCES
from deepfakenb.figures.base import picture_name
from deepfakenb.runs.launch import run_notebook
from deepfakenb.runs.store import list_runs
from deepfakenb.report.pages import math_svg, notebook_page
from deepfakenb.protocols.base import get
from deepfakenb.report.site import build_index, chapters_of, claims_html, findings_html, notebooks_of, run_link
from deepfakenb.report.tables import build_table, read_table, to_html
from deepfakenb.vocab import Vocabulary
from test_tables import failed_run, invented_run

FETCHES = ('src', 'srcset', 'data', 'poster')
PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='   # a PNG


class Page(HTMLParser):
    "Links, fetched files, ids and scripts of a page."
    def __init__(self, path):
        super().__init__()
        self.path, self.links, self.fetched, self.ids, self.scripts, self.tables, self.alts = path, [], [], set(), 0, 0, []
        self.feed(path.read_text(encoding='utf8'))
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if 'id' in a: self.ids.add(a['id'])
        if tag == 'a' and a.get('href'): self.links.append(a['href'])
        if tag == 'link' and a.get('href'): self.fetched.append(a['href'])
        self.fetched += [a[k] for k in FETCHES if a.get(k)]
        self.scripts += tag == 'script'; self.tables += tag == 'table'
        if tag == 'img': self.alts.append(a.get('alt', ''))


def crawl(index):
    "All pages that can be reached, and what is broken."
    seen, queue, broken = {}, [index], []
    while queue:
        path = queue.pop()
        if path in seen: continue
        page = seen[path] = Page(path)
        for url in page.links + page.fetched:
            u = urlsplit(url)
            if u.scheme in ('http', 'https', 'mailto', 'data'): continue
            target = (path.parent/unquote(u.path)).resolve() if u.path else path
            if not target.is_file(): broken.append((path.name, url)); continue
            if target.suffix == '.html': queue.append(target)
    for path, page in seen.items():
        for url in page.links:
            u = urlsplit(url)
            target = (path.parent/unquote(u.path)).resolve() if u.path else path
            if u.fragment and not u.scheme and target in seen and u.fragment not in seen[target].ids: broken.append((path.name, url))
    return seen, broken


def small_world(root):
    "Both tracks in the official layout, a few tiny pictures a sequence, with the people behind them."
    rng = np.random.default_rng(0)
    for track, names in SEQUENCES.items():
        v, home, truth = Vocabulary(track), root/f'facial_{track}', []
        (home/'annotations').mkdir(parents=True)
        for split in ('train', 'val', 'test'):
            lines = []
            for k, name in enumerate(names*2):
                path = f'facial_{track}/images/{split}/{name}/{k:06d}.jpg'
                (root/path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32)).save(root/path)
                lines.append(f'{path},"{v.from_sequence_name(name)}"'); truth.append(json.dumps(dict(file=path, person=[split, k//len(names)])))
            (home/'annotations'/f'{split}.csv').write_text('\n'.join(['file_path,label', *lines])+'\n')
        (home/'truth.jsonl').write_text('\n'.join(truth)); (home/'dataset.json').write_text('{"kind": "synthetic"}')
    return root


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    "A smoke report: runs of both tables, one of them failed, the paper's notebook executed on them, run notebooks with formulas and outputs."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('DEEPFAKENB_DATA_ROOT', str(small_world(tmp_path_factory.mktemp('world'))))
        yield make_report(tmp_path_factory.mktemp('reports'), Path(os.environ['DEEPFAKENB_DATA_ROOT']))


def make_report(out, world):
    specs = sorted(get('p1').runs('smoke'), key=lambda s: (s.model, s.data['track']) == ('seqfakeformer', 'attributes'))   # the last one will have failed
    data = {t: SeqDeepFake.read(world, t) for t in SEQUENCES}
    for k, s in enumerate(specs[:-1]):
        d = data[s.data['track']]
        items = pd.concat([d.split('val'), d.split('test')], ignore_index=True)
        run = invented_run(s, out, p=.8 if s.model == 'seqfakeformer' else .5, items=items, fingerprint=d.fingerprint())
        if k == 1: continue                                                # of this one the record is all there is, as of a committed run
        nb = new_notebook(cells=[new_markdown_cell('# Training\nTold once for all runs.'), new_code_cell('seed = 7', metadata=dict(tags=['injected-parameters'])),
                                 new_code_cell('1+1', outputs=[new_output('display_data', {'text/html': '<b>kept</b><script src="https://cdn.example.org/a.js"></script>', 'text/plain': 'x'}),
                                                               new_output('display_data', {'application/vnd.jupyter.widget-view+json': {'model_id': 'x'}, 'text/plain': 'a widget'}),
                                                               new_output('display_data', {'image/png': PIXEL, 'text/plain': '<Figure>'})])])
        nbformat.write(nb, run.path/'train.ipynb')
    failed_run(specs[-1], out, 'RuntimeError: the loss is <nan>')
    folder = out/'smoke'
    nbformat.write(new_notebook(cells=[new_markdown_cell('# Failed\nThe loss is $-\\sum_t \\log p_t$.\n\n$$\\log M = -\\frac{r^2 (c-g)^2}{\\lambda}$$')]), folder/'runs'/'unfinished'/specs[-1].id/'failed.ipynb')
    protocol = get('p1')
    from deepfakenb.core import ROOT
    run_notebook(ROOT/'nbs'/protocol.notebook, folder/'notebooks'/'p1.ipynb', dict(preset='smoke', out=str(out), tables=list(protocol.tables)), out=out)
    return build_index(folder), specs


def test_everything_is_linked_and_nothing_is_broken(report):
    index, specs = report
    pages, broken = crawl(index.resolve())
    assert broken == []
    names = {p.name for p in pages}
    assert {'index.html', 'p1.html', f'failed-{specs[-1].id}.html', 'train.html'} <= names and {f'run-{s.id}.html' for s in specs[:-1]} <= names
    first = pages[index.resolve()]
    for wanted in ('p1/tables/p1_table1.csv', 'p1/tables/p1_table2.tex', 'p1/tables/p1_breakdown.csv', 'p1/tables/p1_conflicts.tex', 'p1/figures/figure05.png', 'p1/figures/figure09.png'): assert wanted in first.links
    assert first.tables >= 29 and all(first.alts)                                    # all tables of all papers; every picture described


def test_every_figure_is_there_and_tells_its_kind(report):
    folder = report[0].parent/'p1'/'figures'
    sides = {p.stem: read_json(p) for p in folder.glob('*.json')}
    own = {f"figure_{n}" for n in ("learning_curves", "breakdown", "recovery_order", "recovery_quality", "recovery_without_log")}     # no robustness: these runs have no weights
    assert set(sides) == {f"figure{k:02d}" for k in range(2, 13)} | own
    for id, side in sides.items():
        with Image.open(folder/picture_name(side)) as im: assert im.size == (side['width'], side['height']) and side['width'] in (680, 1400)
        if id not in ('figure05', 'figure08'): assert side['data'] == 'synthetic', id           # these two show no data
        if id in ('figure09', 'figure10', 'figure_learning_curves'): assert side['preset'] == 'smoke' and side['runs']
    text = (report[0].parent/'notebooks'/'p1.html').read_text(encoding='utf8')
    assert 'Not here: accuracy' not in text and 'wrong in order' in text and 'Of 2 comparisons with Multi-Cls' in text and 'Not here: robustness' in text      # components only: one run of attributes failed


def test_pages_fetch_nothing_and_run_nothing(report):
    pages, _ = crawl(report[0].resolve())
    for path, page in pages.items():
        assert page.scripts == ('type="search"' in path.read_text(encoding='utf8')) and page.scripts >= (path.name in ('index.html', 'p1.html')), path.name   # one of our own, in pages that can be searched
        assert '<style>' not in path.read_text(encoding='utf8').split('</head>')[0] and [u for u in page.fetched if u.endswith('style.css')], path.name   # one sheet for all
        assert not [u for u in page.fetched if urlsplit(u).scheme in ('http', 'https') or u.startswith('//')], path.name
        assert 'url(http' not in path.read_text(encoding='utf8') and '@import' not in path.read_text(encoding='utf8')


def test_holes_failures_and_warnings_are_on_the_page(report):
    index, specs = report
    text = index.read_text(encoding='utf8')
    for said in ('not meaningful', 'synthetic', 'not in smoke', 'Not built yet', 'the loss is &lt;nan&gt;', specs[0].id, 'Validation selects', '12 s'): assert said in text, said
    assert text.count('class="guess') == 2*4                      # chance level and majority guess, Tables 1 to 4, one column with runs each
    assert str(index.parent.parent) not in text and str(Path.home())+'/' not in text


def test_no_page_names_a_path_of_this_machine(report):
    index, _ = report
    for path in [*index.parent.rglob('*.html'), *index.parent.glob('p1/*/*.json'), *index.parent.glob('p1/*/*.csv'), *index.parent.glob('p1/figures/*.svg')]:
        assert str(index.parent.parent) not in path.read_text(encoding='utf8'), path.name


def test_formulas_are_pictures_with_their_source(report):
    index, specs = report
    text = (index.parent/'notebooks'/f'failed-{specs[-1].id}.html').read_text(encoding='utf8')
    assert text.count('role="img"') == 2 and 'aria-label="-\\sum_t \\log p_t"' in text and '$' not in re.sub(r'<svg.*?</svg>', '', text, flags=re.S)

def test_a_run_shows_its_parameters_and_results_and_the_rest_stands_once(report):
    index, specs = report
    text = (index.parent/'notebooks'/f'run-{specs[0].id}.html').read_text(encoding='utf8')
    assert all(x in text for x in ('kept', 'a widget', 'Training', 'href="train.html"', 'What it printed')) and 'Told once' not in text
    assert 'picture made by the code above' not in text and 'alt="Learning curve of' in text
    whole = (index.parent/'notebooks'/'train.html').read_text(encoding='utf8')
    assert 'executed by papermill once for every run' in whole and whole.count('<summary>code') > 5

@pytest.mark.parametrize('k', [0, 1])
def test_a_page_of_a_run_is_written_from_its_record(report, k):
    "With an executed notebook beside it or without: parameters in a table, a curve, scores, all its files, and the way back."
    index, specs = report
    spec, page = specs[k], index.parent/'notebooks'/f'run-{specs[k].id}.html'
    text, links = page.read_text(encoding='utf8'), Page(page).links
    assert re.search(rf'<title>{spec.model} on {spec.data["track"]}, seed {spec.seed}: run {spec.id}</title>', text)
    rows = dict(re.findall(r'<tr><th scope="row"><code>(\w+)</code></th><td>(.*?)</td>', text))
    assert set(spec.train) | set(spec.data) | set(spec.model_args) | {'seed', 'protocol'} <= set(rows) and rows['epochs'] == str(spec.train['epochs']) and rows['augment'] in ('yes', 'no')
    assert '<summary>code' not in text and '{&#39;' not in text and 'True' not in text                                       # no raw Python
    assert text.count('<svg role="img" aria-label="Learning curve.') == 1 and '<h2>Scores</h2>' in text and 'adaptive acc' in text
    folder = index.parent/'runs'/spec.id
    here = {f'../runs/{spec.id}/{p.relative_to(folder).as_posix()}' for p in folder.rglob('*') if p.is_file()}
    assert len(here) == 4-k and here <= set(links) and re.search(r'\d+(\.\d)? k?B</td>', text)
    assert any(l.startswith('../index.html#p1_table') for l in links)


def test_sidecars_name_their_origin(report):
    index, specs = report
    done = {s.id for s in specs[:-1]}
    for path in sorted(index.parent.glob('p1/*/*.json')):
        side = read_json(path)
        assert side['maker'] == 'nbs/papers/p1.ipynb' and side['commit'] and side['caption'], path.name
        assert set(side['runs']) <= done
        if side['id'] in ('p1_table1', 'figure09'): assert side['runs'] and side['data'] == 'synthetic' and side['preset'] == 'smoke'


def test_the_same_runs_give_the_same_tables(report):
    folder = report[0].parent
    def files(): return {p.name: re.sub('"commit": "[^"]*"', '', p.read_text(encoding='utf8')) for p in (folder/'p1'/'tables').glob('p1_table[12].*')}
    before = files()
    for id in ('p1_table1', 'p1_table2'): build_table(id, 'smoke', folder.parent, maker='nbs/papers/p1.ipynb')
    assert len(before) == 4*2 and files() == before


def test_damage_is_told_and_the_page_is_written_all_the_same(report, tmp_path):
    folder = tmp_path/'smoke'
    shutil.copytree(report[0].parent, folder)
    (folder/'p1'/'tables'/'p1_table1.json').write_text('{"id": "p1_table1"')
    (folder/'p1'/'tables'/'p1_conflicts.json').write_text('{"kind": "sheet"}')
    figures = folder/'p1'/'figures'
    (figures/picture_name(read_json(figures/'figure08.json'))).unlink()
    (folder/'p1'/'figures'/'figure05.json').write_text('{}')
    run, other = [p for p in sorted((folder/'runs').iterdir()) if p.name != 'unfinished'][:2]
    (run/'train.ipynb').write_text('{"cells": [')
    (other/'predictions.parquet').write_bytes(b'PAR1')
    text = build_index(folder).read_text(encoding='utf8')
    for said in ('p1_table1.json', 'p1_conflicts.json: damaged', 'figure08.json: the picture is missing', 'figure05.json: damaged', 'train.ipynb: not a notebook', 'predictions.parquet'): assert said in text, said
    assert crawl((folder/'index.html').resolve())[1] == []


def test_folder_that_is_no_preset(tmp_path):
    with pytest.raises(UserError, match='smoke'): build_index(tmp_path/'elsewhere')


@pytest.mark.parametrize('bad', ['', '{', '[]', '{"cells": 3}'])
def test_damaged_notebook_is_one_clear_line(tmp_path, bad):
    (tmp_path/'a.ipynb').write_text(bad)
    with pytest.raises(UserError, match='a.ipynb: not a notebook'): notebook_page(tmp_path/'a.ipynb', tmp_path/'a.html')
    assert not (tmp_path/'a.html').exists()


def test_formulas_of_our_notebooks_can_be_set(root):
    "Formulas that matplotlib's engine does not know are shown as TeX; of ours there are few."
    found = []
    for path in sorted((root/'nbs').rglob('*.ipynb')):
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type != 'markdown': continue
            text = re.sub(r'```.*?```|`[^`\n]*`', '', cell.source, flags=re.S)
            found += [(path.name, m[0].strip('$'), m[0].startswith('$$')) for m in re.finditer(r'\$\$.+?\$\$|(?<![\\$])\$(?=\S)[^$\n]+?(?<=\S)\$(?!\d)', text, re.S)]
    assert len(found) > 20
    lost = [(n, f) for n, f, display in found if '<code>' in math_svg(f, display)]
    assert len(lost) <= .03*len(found), lost


# --- in a browser ---------------------------------------------------------------------------------------------------

CHROMIUM = next((p for p in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if p), None)


@pytest.fixture(scope='module')
def browser():
    if not CHROMIUM: pytest.skip('no Chromium on this machine')
    sync = pytest.importorskip('playwright.sync_api')
    with sync.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'])
        yield b
        b.close()


def visit(browser, path, width=1280):
    "Open a file without network; what the browser complained about."
    context = browser.new_context(viewport=dict(width=width, height=900))
    page, wrong = context.new_page(), []
    context.route(re.compile(r'^https?:'), lambda r: (wrong.append(f'asked for {r.request.url}'), r.abort()))
    page.on('console', lambda m: wrong.append(f'{m.type}: {m.text}') if m.type in ('error', 'warning') else None)
    page.on('pageerror', lambda e: wrong.append(str(e)))
    page.on('requestfailed', lambda r: wrong.append(f'failed: {r.url}'))
    page.goto(path.resolve().as_uri(), wait_until='load')
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true); document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    page.wait_for_function("[...document.images].every(i => i.complete)")
    return page, wrong


def test_browser_shows_the_report_without_complaint(report, browser):
    index, specs = report
    for name in ('index.html', 'notebooks/p1.html', f'notebooks/run-{specs[0].id}.html'):
        page, wrong = visit(browser, index.parent/name)
        assert wrong == [], name
        assert page.evaluate('[...document.images].filter(i => !i.naturalWidth).length') == 0
        assert page.evaluate('document.images.length') >= {'index.html': 4, 'notebooks/p1.html': 4}.get(name, 0), name
        assert page.get_by_text('Out[', exact=False).count() == 0
        assert page.evaluate("[...document.querySelectorAll('svg.math')].filter(s => s.getBoundingClientRect().height < 3).length") == 0
    page, _ = visit(browser, index)
    assert page.title() == 'deepfakenb report (smoke)' and page.locator('h1').count() == 1
    with page.expect_navigation(): page.get_by_role('link', name='notebook of this paper').click()
    assert page.url.endswith('notebooks/p1.html')


# of a table's words, those that stand on two lines; and tables that cross the edge. A table that is printed across the sheet (`wide`) is looked at in that width
PRINTED = r"""wide => { const bad = []; let words = 0;
  for (const t of document.querySelectorAll('main table')) { if ((t.dataset.print || '').includes('wide') != wide) continue;
    if (t.getBoundingClientRect().right > innerWidth+1) bad.push('over the edge: '+t.id);
    for (const c of t.querySelectorAll('td, th')) { const walk = document.createTreeWalker(c, NodeFilter.SHOW_TEXT);
      for (let n; n = walk.nextNode();) for (const m of n.data.matchAll(/[^\s\-–—\/]+/g)) { const r = document.createRange(); r.setStart(n, m.index); r.setEnd(n, m.index+m[0].length); words++;
        if (new Set([...r.getClientRects()].map(x => Math.round(x.top))).size > 1) bad.push('broken: '+m[0]); } } }
  return [words, bad]; }"""
LINE = {False: 703, True: 1016}    # CSS pixels of an A4 sheet less its margins, upright and across

def test_pages_fit_telephones_desks_the_dark_and_paper(report, browser):
    "One browser page: no page is wider than its screen, the search box is on it, and in print no word of a table breaks."
    index, specs = report
    page, wrong = visit(browser, index)
    for name in ('index.html', 'notebooks/p1.html', f'notebooks/run-{specs[0].id}.html'):
        page.goto((index.parent/name).resolve().as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        for width, scheme in ((360, 'light'), (390, 'dark'), (1280, 'light')):
            page.emulate_media(media='screen', color_scheme=scheme); page.set_viewport_size(dict(width=width, height=844))
            assert page.evaluate('document.documentElement.scrollWidth') <= width, (name, width)
            box = page.locator('nav.toc input')
            assert box.count() == ('run-' not in name) and all(0 <= b['x'] and b['x']+b['width'] <= width for b in [box.bounding_box()] if b) if box.count() else 'run-' in name, (name, width)
        words = 0
        for wide, line in LINE.items():
            page.emulate_media(media='print', color_scheme='light'); page.set_viewport_size(dict(width=line, height=1000))
            n, bad = page.evaluate(PRINTED, wide)
            words += n
            assert bad == [], (name, wide, bad[:5])
        assert words > 100, name
    assert wrong == []

def test_a_chapter_has_contents_and_its_tables_sort_and_are_searched(report, browser):
    index, _ = report
    page, wrong = visit(browser, index.parent/'notebooks'/'p1.html')
    assert page.evaluate("[...document.querySelectorAll('#contents a')].every(a => document.getElementById(decodeURIComponent(a.hash.slice(1)))?.tagName == 'H2')") and page.locator('#contents a').count() > 8
    table = page.locator('#p1_table1')
    head = table.locator('thead th', has_text='n').last                           # of two rows of heads, the last column
    head.click()
    column = page.evaluate("[...document.querySelector('#p1_table1').tBodies[0].rows].map(r => parseInt(r.cells[r.cells.length-1].textContent)).filter(x => !isNaN(x))")
    assert head.get_attribute('aria-sort') == 'ascending' and column == sorted(column) and column
    page.get_by_role('searchbox').fill('seqfakeformer')
    left = page.evaluate("[...document.querySelectorAll('#p1_table1 tbody tr:not([hidden])')].map(r => r.textContent.toLowerCase())")
    assert left and all('seqfakeformer' in t for t in left) and wrong == []


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_search_sort_and_print(report, browser, scheme):
    index, _ = report
    page, wrong = visit(browser, index)
    page.emulate_media(color_scheme=scheme)
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{k}").strip('rgb()').split(', ') for k in ('color', 'backgroundColor'))
    assert abs(sum(map(int, ink))-sum(map(int, paper))) > 450                                            # readable in both
    page.get_by_role('searchbox').fill('seqfakeformer')
    assert page.evaluate("[...document.querySelectorAll('main table:has(thead) tbody tr:not([hidden])')].every(r => r.textContent.toLowerCase().includes('seqfakeformer'))")
    page.get_by_role('searchbox').fill('')
    assert page.evaluate("document.querySelectorAll('main tbody tr[hidden]').length") == 0
    heads = page.locator('#runs ~ .scroll thead th, #runs + .dnb-box .scroll thead th')
    seed = next(k for k in range(heads.count()) if heads.nth(k).inner_text().strip() == 'seed')
    heads.nth(seed).click(); up = page.evaluate(f"[...document.querySelector('#runs ~ .dnb-box .scroll tbody').rows].map(r => r.cells[{seed}].textContent)")
    assert up == sorted(up, key=float) and heads.nth(seed).get_attribute('aria-sort') == 'ascending'
    assert page.evaluate("Math.abs(document.querySelector('nav.toc').getBoundingClientRect().top)") >= 0
    page.evaluate('window.scrollTo(0, 3000)'); assert page.evaluate("document.querySelector('nav.toc').getBoundingClientRect().top") == 0    # the contents stay
    page.emulate_media(media='print'); page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every(d => d.open)")
    assert wrong == []


def test_a_number_leads_to_its_runs_and_back(report):
    index, specs = report
    text = index.read_text(encoding='utf8')
    targets = set(re.findall(r'class="number" href="([^"]+)"', text))
    assert targets and all(t[1:] in set(re.findall(r'id="(run-[0-9a-f]+)"', text)) if t.startswith('#') else (index.parent/t).is_file() for t in targets)
    page = next((index.parent/'notebooks').glob('run-*.html')).read_text(encoding='utf8')
    back = re.findall(r'href="../index.html#(p1_table\d)"', page)
    assert back and all(f'id="{t}"' in text for t in back)


# --- the committed results ------------------------------------------------------------------------------------------

BENCH = ROOT/'reports'/'bench'
SIDECARS = [p for p in sorted(BENCH.glob('p*/tables/p*_table*.json')) if re.fullmatch(r'p\d_table\d+', p.stem)]

def test_a_mean_leads_to_all_its_runs():
    several = further = 0
    for path in SIDECARS:
        table = read_table(path)
        text = to_html(table, run_link({r: f'notebooks/run-{r}.html' for r in table.runs}))
        assert all(f'href="notebooks/run-{r}.html' in text for r in table.runs), table.id
        for run, test in re.findall(r'href="notebooks/run-([0-9a-f]{12}).html#test-([0-9a-f]{12})"', text):      # a number on a further test set leads to its answers
            assert (BENCH/'runs'/run/'tests'/f'{test}.parquet').is_file(), (table.id, run, test); further += 1
        lists = re.findall(r'class="number" href="#([^"]+)"', text)
        assert all(f'id="{l}"' in text for l in lists); several += len(lists)
    assert several > 20 and further > 20
    from deepfakenb.report.runpage import files_html
    run = next(r for r in list_runs(preset='bench') if (r.path/'tests').is_dir())
    assert all(f'id="test-{p.stem}"' in files_html(run, 'x') for p in (run.path/'tests').iterdir())

def test_numbers_on_the_page_that_github_shows_lead_to_their_runs():
    text = (BENCH/'README.md').read_text(encoding='utf8')
    links = re.findall(r'\]\((runs/[^)]+)\)', text)
    assert len(links) > 500 and all((BENCH/l).is_file() for l in links) and any('/tests/' in l for l in links)
    sheets = {l for p in BENCH.glob('*/tables/*.md') if '_table' not in p.stem for l in p.read_text(encoding='utf8').split('\n')}     # these name their runs as a whole
    rows = [l for l in text.split('\n') if re.search(r'\| \d+ (\(\d+\) )?× \d+', l) and l not in sheets]
    assert len(rows) > 100 and all('](runs/' in l for l in rows)                        # whoever has a number of samples has runs

def test_evidence_of_a_claim_is_linked_run_by_run():
    rows = read_claims(BENCH/'claims.csv')
    pages = {r: f'notebooks/run-{r}.html' for row in rows for r in row['runs'].split()}
    text = claims_html(BENCH, rows, pages)
    assert pages and all(f'href="{p}"' in text for p in pages.values()) and text.count('href="notebooks/run-') == sum(len(r['runs'].split()) for r in rows)
    assert 'run-' not in claims_html(BENCH, rows).replace('run-time', '')           # a run without a page is named, not linked

def test_findings_tell_their_unit_and_have_a_minus():
    rows = [r for r in read_claims(BENCH/'claims.csv') if r['seeds'].isdigit()]
    text = html.unescape(re.sub('<[^>]+>', ' ', findings_html(rows)))
    assert rows and not re.search(r'(?<![\w.])-\d', text)                            # no hyphen as a minus
    assert text.count('points ')+text.count('of R²') >= 2*len(rows) and 'points Adaptive-Acc [' in text and 'points AUC [' in text

def test_a_caption_speaks_of_a_difference_only_where_one_is_shown():
    seen = set()
    for path in SIDECARS:
        table = read_table(path)
        shown = '>Δ</th>' in to_html(table)
        assert ('Δ' in table.caption) == (shown and table.measured), table.id
        seen.add(shown)
    assert seen == {True, False}

def test_the_committed_report_has_its_chapters():
    "The papers' notebooks are committed with their outputs, and shown where their preset is; a report that lies elsewhere shows its own."
    assert {f'p{k}.ipynb' for k in range(1, 6)} <= set(chapters_of(BENCH)) <= set(notebooks_of(BENCH))
    assert 'p1.ipynb' not in chapters_of(ROOT/'reports'/'paper') and 'p1.ipynb' not in chapters_of(Path('elsewhere')/'bench')
