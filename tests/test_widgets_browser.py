"The attention explorer in JupyterLab, in headless Chromium: run all cells, move a slider, see the picture change."
import hashlib, json, os, shutil, signal, subprocess, sys, time
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on the PATH')]

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
def lab(tmp_path, root):
    "JupyterLab with its own configuration on a copy of the notebook; nothing of it survives the test."
    import psutil
    work, settings = tmp_path/'work', tmp_path/'settings'/'@jupyterlab'/'apputils-extension'
    work.mkdir(); settings.mkdir(parents=True)
    shutil.copy(root/'nbs'/'explore'/'attention.ipynb', work)
    (settings/'notification.jupyterlab-settings').write_text('{"fetchNews": "false", "checkForUpdates": false}')
    folders = {f'JUPYTER_{k}_DIR': str(tmp_path/k.lower()) for k in ('CONFIG', 'RUNTIME', 'DATA')}
    env = {**os.environ, **folders, 'JUPYTERLAB_SETTINGS_DIR': str(tmp_path/'settings'), 'JUPYTERLAB_WORKSPACES_DIR': str(tmp_path/'workspaces'),
           'DEEPFAKENB_ROOT': str(root), 'PYTHONPATH': str(root), 'IPYTHONDIR': str(tmp_path/'ipython')}
    log = open(tmp_path/'lab.log', 'w')
    options = ['--no-browser', '--ServerApp.port=0', '--ip=127.0.0.1', f'--ServerApp.root_dir={work}', '--IdentityProvider.token=let-me-in', '--LabApp.news_url=None']
    process = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *options, *(['--allow-root'] if os.getuid() == 0 else [])],
                               cwd=work, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    children = []
    try:
        yield (*ready_address(tmp_path/'runtime', process), work)
    finally:
        me = psutil.Process(process.pid) if process.poll() is None else None
        children = me.children(recursive=True) if me else []
        if me: os.killpg(process.pid, signal.SIGTERM)
        try: process.wait(15)
        except subprocess.TimeoutExpired: os.killpg(process.pid, signal.SIGKILL); process.wait()
        gone, alive = psutil.wait_procs(children, timeout=10)
        for p in alive: p.kill()
        log.close()
    assert not alive, f'left over: {alive}'

def shown(page) -> str: # hash of the bytes of the explorer's picture
    got = page.evaluate('''async () => { const i = document.querySelector("img.widget-image"); if (!i || !i.src) return null;
                            return [...new Uint8Array(await (await fetch(i.src)).arrayBuffer())] }''')
    assert got and bytes(got[:4]) == b'\x89PNG', 'no picture'
    return hashlib.sha256(bytes(got)).hexdigest()

def wait_for_picture(page, seconds=120):
    "Wait for the explorer; an error in a cell, or a question of JupyterLab, ends the waiting with its words."
    limit = time.time()+seconds
    while time.time() < limit:
        if page.locator('img.widget-image').count(): return
        for bad in ('.jp-Dialog', '[data-mime-type="application/vnd.jupyter.stderr"]:has-text("Error")'):
            if page.locator(bad).count(): raise AssertionError(page.locator(bad).first.inner_text()[-2000:])
        page.wait_for_timeout(100)
    raise AssertionError('no explorer')

def until_changed(page, before, seconds=15) -> str:
    limit = time.time()+seconds
    while time.time() < limit:
        now = shown(page)
        if now != before: return now
        page.wait_for_timeout(50)
    raise AssertionError('the picture did not change')

def test_slider_changes_the_picture(lab, root):
    from playwright.sync_api import sync_playwright
    from deepfakenb.data.synth.tracks import ensure_track
    demo = root/'data'/'weights'/'demo'/'run.json'
    ensure_track(json.loads(demo.read_text())['spec']['data']['track'] if demo.exists() else 'components', 'smoke')     # made before the browser waits for it
    url, token, work = lab
    original = (root/'nbs'/'explore'/'attention.ipynb').read_bytes()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        try:
            page = browser.new_page(viewport=dict(width=1400, height=1100))
            page.goto(f'{url}lab/tree/attention.ipynb?token={token}', wait_until='domcontentloaded')
            page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=40_000)
            page.wait_for_selector('text=/\\(ipykernel\\) \\| Idle/', timeout=40_000)      # the status bar: the kernel is there
            page.click('.lm-MenuBar-item:has-text("Run")')
            page.click('.lm-Menu-item:has-text("Run All Cells")')
            wait_for_picture(page)
            handle = page.locator('.widget-slider:has-text("step") .noUi-handle').first
            handle.scroll_into_view_if_needed()
            first = shown(page)
            handle.focus(); page.keyboard.press('ArrowRight')
            second = until_changed(page, first)
            page.keyboard.press('ArrowLeft')
            assert until_changed(page, second) == first                          # back at the same picture, to the byte
            page.locator('.widget-toggle-buttons button', has_text='1').first.click()
            until_changed(page, first)                                           # another head
        except BaseException:
            page.screenshot(path=str(work.parent/'failed.png'))
            raise
        finally: browser.close()
    assert (root/'nbs'/'explore'/'attention.ipynb').read_bytes() == original     # the test worked on a copy
