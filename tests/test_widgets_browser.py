"The explorers of attention and of films in JupyterLab, in headless Chromium: run all cells, move a slider, see the picture change."
import json, os, shutil, signal, subprocess, sys, time
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on the PATH')]
IDLE = 120   # s after which a JupyterLab that a killed test left behind ends its kernel, and then itself

def ready_address(runtime, process, limit=40): # folder where Jupyter tells its port -> (url, token)
    until = time.time()+limit
    while time.time() < until and process.poll() is None:
        for f in runtime.glob('jpserver-*.json'):
            try: info = json.loads(f.read_text())
            except ValueError: continue
            if info.get('port'): return info['url'], info['token']
        time.sleep(.1)
    raise AssertionError('JupyterLab did not start')

@pytest.fixture
def pictures():
    "The track that the notebook reads is made before JupyterLab starts: making it takes longer than a browser should wait."
    from deepfakenb.core import UserError
    from deepfakenb.data.synth.tracks import ensure_track
    from deepfakenb.inference.predict import find_detector
    try: track = find_detector().vocabulary.track
    except UserError: track = 'components'       # as the notebook does in a checkout without a demonstration model
    ensure_track(track, 'smoke')

@pytest.fixture
def lab(tmp_path, root):
    "JupyterLab with its own configuration on a folder that holds copies only; nothing of it survives the test."
    import psutil
    work, settings = tmp_path/'work', tmp_path/'settings'/'@jupyterlab'/'apputils-extension'
    work.mkdir(); settings.mkdir(parents=True)
    (settings/'notification.jupyterlab-settings').write_text('{"fetchNews": "false", "checkForUpdates": false}')
    folders = {f'JUPYTER_{k}_DIR': str(tmp_path/k.lower()) for k in ('CONFIG', 'RUNTIME', 'DATA')}
    env = {**os.environ, **folders, 'JUPYTERLAB_SETTINGS_DIR': str(tmp_path/'settings'), 'JUPYTERLAB_WORKSPACES_DIR': str(tmp_path/'workspaces'),
           'DEEPFAKENB_ROOT': str(root), 'PYTHONPATH': str(root), 'IPYTHONDIR': str(tmp_path/'ipython')}
    options = ['--no-browser', '--ServerApp.port=0', '--ip=127.0.0.1', f'--ServerApp.root_dir={work}', '--IdentityProvider.token=let-me-in', '--LabApp.news_url=None',
               f'--MappingKernelManager.cull_idle_timeout={IDLE}', '--MappingKernelManager.cull_interval=10', f'--ServerApp.shutdown_no_activity_timeout={IDLE}']
    with open(tmp_path/'lab.log', 'w') as log:
        process = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *options, *(['--allow-root'] if os.getuid() == 0 else [])],
                                   cwd=work, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    alive = []
    try:
        yield (*ready_address(tmp_path/'runtime', process), work)
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        if process.poll() is None: os.killpg(process.pid, signal.SIGTERM)
        try: process.wait(15)
        except subprocess.TimeoutExpired: os.killpg(process.pid, signal.SIGKILL); process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        for p in alive: p.kill()
    assert not alive, f'left over: {alive}'

def run_all(page, url, token, notebook):
    "Open a notebook, wait for its kernel, run all cells and wait for the explorer."
    page.goto(f'{url}lab/tree/{notebook}?token={token}', wait_until='domcontentloaded')
    page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=40_000)
    page.wait_for_selector('text=/\\(ipykernel\\) \\| Idle/', timeout=40_000)      # the status bar: the kernel is there
    page.click('.lm-MenuBar-item:has-text("Run")')
    page.click('.lm-Menu-item:has-text("Run All Cells")')
    wait_for_picture(page)

def digest(page) -> str|None: # SHA-256 of the bytes of the explorer's picture, in hex; None while it is being decoded
    return page.evaluate('''async () => {
        const i = document.querySelector("img.widget-image"); if (!i || !i.naturalWidth) return null;
        const bytes = await (await fetch(i.src)).arrayBuffer();
        const text = new TextDecoder("latin1").decode(bytes.slice(0, 10));
        if (!text.includes("PNG") && !text.includes("JFIF")) return null;
        return [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))].map(b => b.toString(16).padStart(2, "0")).join("") }''')

def shown(page, seconds=10) -> str: # its digest
    limit = time.time()+seconds
    while not (got := digest(page)):
        assert time.time() < limit, 'no picture'
        page.wait_for_timeout(50)
    return got

def wait_for_picture(page, seconds=90):
    "Wait for the explorer; an error in a cell, or a question of JupyterLab, ends the waiting with its words."
    limit, picture = time.time()+seconds, page.locator('img.widget-image')
    while time.time() < limit:
        if picture.count(): break
        for bad in ('.jp-Dialog', '[data-mime-type="application/vnd.jupyter.stderr"]:has-text("Error")'):
            if page.locator(bad).count(): raise AssertionError(page.locator(bad).first.inner_text()[-2000:])
        page.wait_for_timeout(100)
    else: raise AssertionError('no explorer')
    picture.scroll_into_view_if_needed()
    page.wait_for_function('document.querySelector("img.widget-image").naturalWidth > 500')      # decoded, and as large as four panels

def until_changed(page, before, seconds=15) -> str:
    limit = time.time()+seconds
    while time.time() < limit:
        now = digest(page)
        if now and now != before: return now
        page.wait_for_timeout(50)
    raise AssertionError('the picture did not change')

def controls_fit(page):
    "No control leaves the explorer's box."
    box = page.locator('.jp-OutputArea-output .widget-vbox').first.bounding_box()
    controls = [c.bounding_box() for c in page.locator('.widget-vbox .widget-dropdown, .widget-vbox .widget-slider').all()]
    assert any(controls) and all(c['x']+c['width'] <= box['x']+box['width']+1 for c in controls if c), 'a control leaves the window'

def test_slider_changes_the_picture(pictures, lab, root):
    from playwright.sync_api import sync_playwright
    url, token, work = lab
    shutil.copy(root/'nbs'/'explore'/'attention.ipynb', work)
    original = (root/'nbs'/'explore'/'attention.ipynb').read_bytes()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=1400, height=1100))
        try:
            run_all(page, url, token, 'attention.ipynb')
            first = shown(page)
            page.locator('.widget-slider:has-text("step") .noUi-handle').focus()
            page.keyboard.press('ArrowRight')
            second = until_changed(page, first)
            page.keyboard.press('ArrowLeft')
            assert until_changed(page, second) == first                          # back at the same picture, to the byte
            page.locator('.widget-toggle-buttons').get_by_role('button', name='1', exact=True).click()
            until_changed(page, first)                                           # another head
            page.set_viewport_size(dict(width=800, height=1100))                 # narrow: the controls wrap
            page.wait_for_timeout(500)
            controls_fit(page)
        finally:
            page.screenshot(path=work.parent/'last.png')                          # what was to be seen at the end, or when it failed
            browser.close()
    assert (root/'nbs'/'explore'/'attention.ipynb').read_bytes() == original     # the test worked on a copy

FILMS = '''
import numpy as np, torch
from deepfakenb.explore.video import video_explorer
from deepfakenb.explore.watching import Shot, Watched
from deepfakenb.models.base import build_model
torch.manual_seed(0)
joint = Watched(build_model('timesformer', attention='joint', frames=4, size=32, patch=8, dim=16, depth=1, heads=2).eval(), 32, 4)
faces = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
ui = video_explorer({'joint': joint}, dict(real=Shot('noise', faces, np.arange(8)), forged=Shot('dark', faces//2, np.arange(8))))
ui.box
'''

def test_films_are_watched(lab):
    "Frame slider and patch of the films' explorer, on noise and a random network: no data, a second of computing."
    import nbformat
    from playwright.sync_api import sync_playwright
    url, token, work = lab
    kernel = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(FILMS.strip())], metadata=kernel), work/'films.ipynb')
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=900, height=1400))            # narrow: the controls wrap
        try:
            run_all(page, url, token, 'films.ipynb')
            first = shown(page)
            page.locator('.widget-slider:has-text("frame") .noUi-handle').focus()
            page.keyboard.press('ArrowRight')
            second = until_changed(page, first)
            page.keyboard.press('ArrowLeft')
            assert until_changed(page, second) == first
            page.get_by_text('ask one patch').click()
            asked = until_changed(page, first)
            page.locator('.widget-slider:has-text("row") .noUi-handle').focus()
            page.keyboard.press('ArrowRight')
            until_changed(page, asked)                                            # another patch looks elsewhere
            controls_fit(page)
        finally:
            page.screenshot(path=work.parent/'last.png')
            browser.close()
