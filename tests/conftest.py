"Fixtures that several test files share."
import contextlib, io, os, signal
from pathlib import Path
import pytest

os.environ.setdefault('DEEPFAKENB_QUIET', '1')
# a test run started in the background ignores Ctrl-C, and so would the programs that the tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).resolve().parent.parent

# files with few tests that take long: with two workers the last file to begin must not be one of them
LONG = ('test_report.py', 'test_lease.py', 'test_recovery.py', 'test_runs.py', 'test_team.py', 'test_learner.py', 'test_own_rows.py', 'test_widgets_browser.py', 'test_synth_video.py')

def pytest_collection_modifyitems(items):
    items.sort(key=lambda i: LONG.index(i.path.name) if i.path.name in LONG else len(LONG))

@pytest.fixture(scope='session')
def root() -> Path:
    "The repository."
    return ROOT

@pytest.fixture(scope='session')
def shared() -> Path:
    "The read-only folder beside the project (papers, golden numbers, portraits); tests that need it skip where it is absent."
    path = Path(os.environ.get('DEEPFAKENB_SHARED') or ROOT.parent/'shared')
    if not path.is_dir(): pytest.skip('no shared/ folder beside the project')
    return path

@pytest.fixture(scope='session')
def deepfakenb():
    "The command line in this process: arguments → (exit code, stdout, stderr)."
    from deepfakenb.cli.main import main
    def run(*arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = main([str(a) for a in arguments])
        return code, out.getvalue(), err.getvalue()
    return run
