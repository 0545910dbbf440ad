"""What goes along to a lent GPU, and how the tree is made small for the trip.

    python tests/device/prepare.py fetch     wheels and facts into .lease/ (ignored by git), and the command for that machine
    python tests/device/prepare.py thin      takes reports and most notebooks out of the tree, waits, and puts them back: on Enter, Ctrl-C, SIGTERM or after --minutes
    python tests/device/prepare.py restore   puts them back after a thin that was killed
"""
import argparse, re, select, signal, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ROOM = 64*2**20            # bytes that travel: the tree with what is carried
# what that machine lacks; versions are those of constraints.txt. Not pyarrow: 55 MB, and records travel without it
WHEELS = 'av dlib-bin fastai fastcore fasttransform fastdownload fastprogress plum-dispatch beartype python-fasthtml starlette itsdangerous python-multipart'.split()
PLATFORMS = [f'manylinux_2_{n}_x86_64' for n in (34, 31, 28, 27, 24, 17, 5)]+['manylinux2014_x86_64', 'manylinux1_x86_64']
INSTALL = 'python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target .site .lease/wheels/*.whl && export PYTHONPATH=$PWD/.site:$PWD PYTHONUNBUFFERED=1'

def git(root, *arguments) -> str:
    r = subprocess.run(['git', *arguments], cwd=root, capture_output=True, text=True)
    if r.returncode: sys.exit(f"error: git {' '.join(arguments[:2])}: {r.stderr.strip() or 'failed'}")
    return r.stdout

def pinned(root) -> dict[str, str]:
    norm = lambda s: s.lower().replace('_', '-')
    return {norm(n): v for n, v in re.findall(r'^([\w.-]+)==(\S+)', (root/'constraints.txt').read_text(), re.M)}

def travelling(root) -> int: # bytes
    "Tracked and untracked files that are here, and what is carried."
    names = git(root, 'ls-files', '-z', '--cached', '--others', '--exclude-standard').split('\0')
    paths = {root/n for n in names if n} | {p for p in (root/'.lease').rglob('*') if p.is_file()}
    return sum(p.stat().st_size for p in paths if p.is_file())

def fetch(root, python='3.12'):
    "Wheels for that machine's Python, one version of each, then what home knows."
    versions, folder = pinned(root), root/'.lease'/'wheels'
    if missing := [w for w in WHEELS if w not in versions]: sys.exit(f"error: constraints.txt: no version of {', '.join(missing)}; pin it")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f'{w}=={versions[w]}' for w in WHEELS]
    for old in folder.glob('*.whl'):
        if not any(old.name.lower().replace('_', '-').startswith(f'{w}-{versions[w]}-') for w in WHEELS): old.unlink()   # two versions would stop the install
    command = [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--only-binary=:all:', '--python-version', python, '--implementation', 'cp', '-d', str(folder)]
    for p in PLATFORMS: command += ['--platform', p]
    if subprocess.run([*command, *wanted]).returncode: sys.exit('error: pip could not fetch the wheels; see above')
    from deepfakenb.runs.queue import write_known
    known = write_known(root/'.lease'/'known.json')
    print(f"{len(wanted)} wheels, {sum(f.stat().st_size for f in folder.glob('*.whl'))/1e6:.0f} MB; {len({*known.runs})} runs are finished here")
    print('carry: .lease', 'command there:', f'  {INSTALL} && python3 -m deepfakenb.cli.main lease --minutes 8 --out $OUT', sep='\n')

def patterns(root) -> list[str]:
    "Everything but reports and notebooks; of those, the experiments and what holds cells that need CUDA."
    flagged = [p.relative_to(root) for p in sorted((root/'nbs').rglob('*.ipynb')) if re.search(r'"#\| ?cuda', p.read_text(encoding='utf8'))]
    return ['/*', '!/reports/', '!/nbs/*', '/nbs/experiments/', *(f'/{p}' for p in flagged if p.parent.name == 'nbs')]

def restore(root): git(root, 'sparse-checkout', 'disable')

def thin(root, minutes: float):
    "Make the tree small, wait, put it back, whatever happens."
    def stop(*_): raise KeyboardInterrupt
    for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(s, stop)
    chosen = patterns(root)
    try:
        git(root, 'sparse-checkout', 'set', '--no-cone', *chosen)
        size = travelling(root)
        print(f'{size/2**20:.1f} MiB travel' + (f'; too much: {ROOM/2**20:.0f} MiB may' if size > ROOM else ''), flush=True)
        if size > ROOM: return 1
        print(f'thin for {minutes:g} minutes; Enter puts everything back', flush=True)
        end = time.monotonic()+60*minutes
        while time.monotonic() < end and not select.select([sys.stdin], [], [], 1)[0]: pass
    except KeyboardInterrupt: print('stopped')
    finally:
        for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(s, signal.SIG_IGN)     # this ends in order
        restore(root); print('everything is back', flush=True)
    return 0

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=('fetch', 'thin', 'restore'))
    p.add_argument('--minutes', type=float, default=28., help='of thin')
    p.add_argument('--root', type=Path, default=ROOT, help='the checkout')
    a = p.parse_args()
    return dict(fetch=lambda: fetch(a.root), thin=lambda: thin(a.root, a.minutes), restore=lambda: restore(a.root))[a.what]() or 0

if __name__ == '__main__': sys.exit(main())
