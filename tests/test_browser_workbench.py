"`make workbench`: the explorers as pages without cells, each with a kernel of its own that ends with the page or after a rest."
import os, re, subprocess, sys
import psutil, pytest
from browser import Workbench, shoot
from house import ROOT, cells, notebooks, source

pytestmark = pytest.mark.browser
EXPLORERS = [p for p in notebooks() if p.parent.name=='explore']
BROKEN = ['import anywidget', '1/0', 'print("never seen")']

def kernels(bench):
    "How many kernels the server has."
    def is_kernel(p):
        try: return 'ipykernel_launcher' in ' '.join(p.cmdline())
        except psutil.Error: return False  # it has just ended
    return sum(map(is_kernel, psutil.Process(bench.process.pid).children(True)))

def test_the_front_page_lists_every_explorer(bench):
    s = bench.sheet('/')
    assert s.title()=='distortkit workbench' and kernels(bench)==0
    shown = [l.inner_text().split('\n')[0] for l in s.locator('main li').all()]
    assert sorted(shown)==sorted(source(cells(p)[0]).splitlines()[0][2:] for p in EXPLORERS)
    s.check(); shoot(s, 'workbench'); s.context.close()

def test_the_warp_explorer_is_a_page(bench):
    s = bench.open('warp.ipynb')
    assert s.title().endswith('– distortkit workbench') and 'import torch' not in s.locator('body').inner_text()
    before = s.wait_rest('canvas')
    s.press(s.slider('k1'), 'PageUp'); s.wait_change('canvas', before)
    s.check(); shoot(s, 'workbench_moved'); bench.close(s)

@pytest.mark.parametrize('name', [p.name for p in EXPLORERS])
def test_every_explorer_opens(bench, name):
    s = bench.open(name, height=1800); s.check()
    said = s.locator('#rendered_cells').inner_text()
    assert 'Traceback' not in said and 'error when executing' not in said
    shoot(s, f'workbench_{name[:-6]}'); bench.close(s)

def test_a_kernel_for_each_page_that_ends_with_it(bench):
    cell = ['import ipywidgets, os', 'ipywidgets.Text(str(os.getpid()), description="pid")']
    a,b = bench.open(cell), bench.open(cell)
    pids = [s.locator('input').input_value() for s in (a,b)]
    assert pids[0]!=pids[1] and kernels(bench)==2
    bench.close(a); b.wait_until(lambda: kernels(bench)==1, 'the first kernel to end')
    bench.close(b)

def test_a_cell_that_fails_is_a_sentence(bench):
    s = bench.open(BROKEN); said = s.locator('#rendered_cells').inner_text()
    assert 'make lab' in said and 'ZeroDivisionError' not in said and 'never seen' not in said
    shoot(s, 'workbench_broken'); bench.close(s)

def test_a_page_at_rest_loses_its_kernel_and_says_so():
    with Workbench(env=dict(IDLE='.05')) as bench:
        s = bench.open(['import ipywidgets', 'ipywidgets.IntSlider()'])
        s.wait_until(lambda: kernels(bench)==0, 'the kernel to end', 30)
        s.wait_until(lambda: 'reload the page' in s.locator('#ended').inner_text(), 'the sentence', 30)

def test_wrong_words_are_refused_in_a_sentence():
    for env in (dict(PORT='many'), dict(IDLE='long')):
        r = subprocess.run([sys.executable, ROOT/'.ci/workbench'], env={**os.environ, **env}, capture_output=True, text=True, timeout=60)
        assert r.returncode==1 and re.fullmatch(r'workbench: .*is no number.*\n', r.stderr)
