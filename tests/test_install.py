"What make setup promises: exact pins for all that is installed, and a wheel that can train."
import importlib.util, os, re, shutil, subprocess, sys, zipfile
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, distribution, version
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
import pytest
from house import ROOT

INI = ConfigParser(delimiters=['='], interpolation=None); INI.read(ROOT/'settings.ini')
LINES = [Requirement(l) for l in (ROOT/'constraints.txt').read_text().splitlines() if l.strip() and not l.startswith('#')]
WEIGHTS = 'model.json','model.safetensors','seer.safetensors','gate.json','metrics.json'
PINS = {canonicalize_name(r.name): r for r in LINES if r.marker is None or r.marker.evaluate()}

def closure(names):
    "Every distribution that the named ones need here."
    todo,seen = list(names),set()
    while todo:
        r = Requirement(todo.pop()); name = canonicalize_name(r.name)
        if (r.marker and not r.marker.evaluate({'extra': ''})) or (name, *r.extras) in seen: continue
        seen.add((name, *r.extras))
        for need in distribution(name).requires or ():
            need = Requirement(need)
            if need.marker is None or any(need.marker.evaluate({'extra': e}) for e in ('', *r.extras)): need.marker = None; todo.append(str(need))
    return {s[0] for s in seen}

def test_every_pin_is_exact():
    for r in LINES: assert re.fullmatch(r'==[\w.]+', str(r.specifier)), f"{r} is not an exact pin"

def test_all_that_is_needed_is_pinned_and_installed_so():
    browser = [r for r in INI['DEFAULT']['browser_requirements'].split() if importlib.util.find_spec(Requirement(r).name)]  # where make test-browser has run
    needed = closure(INI['DEFAULT']['requirements'].split() + INI['DEFAULT']['dev_requirements'].split() + browser + ['pip','setuptools','wheel'])
    assert len(needed)>100
    missing = sorted(needed-set(PINS))
    assert not missing, f"constraints.txt does not pin {', '.join(missing)}"
    for name in sorted(needed):
        assert Version(version(name)).public in PINS[name].specifier, f"{name} {version(name)} is installed, {PINS[name]} is pinned"

def test_the_extras_are_those_of_settings():
    for extra in ('dev','browser'):
        asked = {canonicalize_name(Requirement(r).name) for r in distribution('distortkit').requires if f'extra == "{extra}"' in r}
        assert asked=={canonicalize_name(Requirement(r).name) for r in INI['DEFAULT'][f'{extra}_requirements'].split()}, f"{extra}: run make setup"
        assert asked<=set(PINS), f"constraints.txt does not pin {', '.join(asked-set(PINS))}"

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel, built in a copy."
    at = tmp_path_factory.mktemp('build')
    for name in ('settings.ini','setup.py','MANIFEST.in','README.md','LICENSE','constraints.txt'): shutil.copy(ROOT/name, at)
    for name in ('distortkit','nbs/stages'): shutil.copytree(ROOT/name, at/name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in WEIGHTS: (at/'distortkit/weights/lens').mkdir(exist_ok=True); (at/'distortkit/weights/lens'/name).touch() # also where this tree has none
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '.', '--no-deps', '--no-build-isolation', '--no-index', '-q', '-w', 'out'], cwd=at, check=True,
                   env={**os.environ, 'PIP_DISABLE_PIP_VERSION_CHECK': '1'})
    return zipfile.ZipFile(next((at/'out').glob('*.whl')))

def test_the_wheel_holds_all_it_needs(wheel):
    names = set(wheel.namelist())
    for p in (ROOT/'distortkit').rglob('*'):
        if p.is_file() and '__pycache__' not in p.parts: assert p.relative_to(ROOT).as_posix() in names
    for p in (ROOT/'nbs/stages').glob('*.ipynb'): assert wheel.read(f'distortkit/stages/{p.name}')==p.read_bytes()
    assert {f'distortkit/weights/lens/{n}' for n in WEIGHTS}|{'distortkit/weights/segment/model.npz'}<=names
    assert not [n for n in names if n.startswith(('nbs/','tests/'))]

def test_the_wheel_has_the_command(wheel):
    entry = next(n for n in wheel.namelist() if n.endswith('entry_points.txt'))
    assert 'distortkit = distortkit.cli:main' in wheel.read(entry).decode().replace('distortkit=','distortkit = ')
