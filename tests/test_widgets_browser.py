"The attention explorer in JupyterLab, in headless Chromium: run all cells, move a slider, see the picture change."
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
def lab(tmp_path, root, pictures):
    "JupyterLab with its own configuration on a copy of the notebook; nothing of it survives the test."
    import psutil
    work, settings = tmp_path/'work', tmp_path/'settings'/'@jupyterlab'/'apputils-extension'
    work.mkdir(); settings.mkdir(parents=True)
    shutil.copy(root/'nbs'/'explore'/'attention.ipynb', work)
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

def shown(page) -> str: # SHA-256 of the bytes of the explorer's picture, in hex
    got = page.evaluate('''async () => {
        const i = document.querySelector("img.widget-image"); if (!i || !i.naturalWidth) return null;
        const bytes = await (await fetch(i.src)).arrayBuffer();
        if (new TextDecoder("latin1").decode(bytes.slice(1, 4)) != "PNG") return null;
        return [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))].map(b => b.toString(16).padStart(2, "0")).join("") }''')
    assert got, 'no picture'
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
        now = shown(page)
        if now != before: return now
        page.wait_for_timeout(50)
    raise AssertionError('the picture did not change')

def test_slider_changes_the_picture(lab, root):
    from playwright.sync_api import sync_playwright
    url, token, work = lab
    original = (root/'nbs'/'explore'/'attention.ipynb').read_bytes()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=1400, height=1100))
        try:
            page.goto(f'{url}lab/tree/attention.ipynb?token={token}', wait_until='domcontentloaded')
            page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=40_000)
            page.wait_for_selector('text=/\\(ipykernel\\) \\| Idle/', timeout=40_000)      # the status bar: the kernel is there
            page.click('.lm-MenuBar-item:has-text("Run")')
            page.click('.lm-Menu-item:has-text("Run All Cells")')
            wait_for_picture(page)
            first = shown(page)
            page.locator('.widget-slider:has-text("step") .noUi-handle').focus()
            page.keyboard.press('ArrowRight')
            second = until_changed(page, first)
            page.keyboard.press('ArrowLeft')
            assert until_changed(page, second) == first                          # back at the same picture, to the byte
            page.locator('.widget-toggle-buttons').get_by_role('button', name='1', exact=True).click()
            until_changed(page, first)                                           # another head
        finally:
            page.screenshot(path=work.parent/'last.png')                          # what was to be seen at the end, or when it failed
            browser.close()
    assert (root/'nbs'/'explore'/'attention.ipynb').read_bytes() == original     # the test worked on a copy
