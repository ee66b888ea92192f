"Fixtures of the browser tests: JupyterLab, the workbench, and a table of what was measured beside its goal."
import os, pytest

MEASURED = pytest.StashKey[dict]()

def pytest_configure(config):
    config.addinivalue_line('markers', 'browser: opens notebooks in JupyterLab with Chromium; `make test-browser`')
    config.stash[MEASURED] = {}

@pytest.fixture(scope='module')
def lab():
    "JupyterLab in a folder of its own, for one file of tests; skips with a sentence where there is no Chromium or Playwright."
    from browser import Lab, missing
    if missing(): pytest.skip(missing())
    with Lab() as lab: yield lab

@pytest.fixture(scope='module')
def bench():
    "The pages of `make workbench`; skips like `lab`."
    from browser import Workbench, missing
    if missing(): pytest.skip(missing())
    with Workbench() as bench: yield bench

@pytest.fixture
def figures(request):
    "Call `figures(name, measured, goal, unit)` and find it in the table at the end."
    return lambda name, measured, goal=None, unit='ms': request.config.stash[MEASURED].__setitem__(name, (measured, goal, unit))

def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[MEASURED]
    if not rows: return
    w = max(map(len, rows)); say = lambda v: '–' if v is None else v if isinstance(v, str) else f'{v:.4g}'
    terminalreporter.section(f'measured in the browser, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores')
    for name,(v,goal,unit) in rows.items(): terminalreporter.write_line(f'{name:{w}}  {say(v):>8} {unit:<4} goal {say(goal)}')
