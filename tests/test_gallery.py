"Every figure function is in the gallery, and each figure there names what is on its axes, with units, in a picture that is light."
import ast, base64, os, re, runpy
from functools import cache
from itertools import pairwise
import pytest
from house import ROOT, cells, code, modules, notebooks, relative

GALLERIES = [p for p in notebooks() if '_gallery' in p.name]  # each tower has its own
CELLS = [c for p in GALLERIES for c in cells(p)]
UNITS = re.compile(r'px|%|°|\bstep|epoch|share|score|intensity|per |cosine|SSIM|agreement|sum|part|clipping|norm|loss|0\.\.1|\bs\b')

@cache
def figure_functions():
    "module -> exported names of functions that draw."
    found = {}
    for m in modules():
        tree = ast.parse(m.path.read_text(encoding='utf-8'))
        listed = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '')=='__all__'), [])
        mine = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
        if names := [n for n in listed if n in mine and (n.startswith('show_') or n=='before_after')]: found['.'.join(m.name)] = names
    return found

def called(): return {ast.unparse(n.func) for c in CELLS if c['cell_type']=='code' for n in ast.walk(ast.parse(code(c))) if isinstance(n, ast.Call)}

def test_every_figure_function_is_shown():
    seen = called(); missing = [f"{module}.{name}" for module,names in figure_functions().items() for name in names if name not in seen]
    assert len(figure_functions())>=3 and not missing, f"no gallery calls {', '.join(missing)}"

def test_every_picture_is_light():
    heavy = [f"{relative(p)}: {len(base64.b64decode(v))/1000:.0f} kB" for p in notebooks() for c in cells(p, 'code') for o in c.get('outputs', [])
             for k,v in o.get('data', {}).items() if k=='image/png' and len(base64.b64decode(''.join(v)))>40_000]
    assert not heavy, f"more than 40 kB: {'; '.join(heavy)}"
    shown = sum('image/png' in o.get('data', {}) for c in CELLS for o in c.get('outputs', []))
    assert shown>=sum(map(len, figure_functions().values())), f"a gallery is committed without some of its pictures"

def test_every_figure_has_a_sentence():
    for before,c in pairwise(CELLS):
        names = [n for names in figure_functions().values() for n in names if c['cell_type']=='code' and re.search(rf'\b{n}\(', code(c))]
        words = ''.join(before['source'])
        for n in names: assert before['cell_type']=='markdown' and f'`{n}`' in words, f"nothing tells how to read {n}"

NUMBER = re.compile(r'(\$.*\$|[-−+]?[\d.]*(e[-−+]?\d+)?)$')  # a tick that is a number; others are names and need no unit

def unlabelled(fig):
    "Axes of a figure that count something without a name and a unit."
    axes = [a for a in fig.axes if a.axison and a.get_visible()]
    counts = lambda axis: len(axis.get_ticklocs()) and all(NUMBER.match(t.get_text()) for t in axis.get_ticklabels())
    lower = lambda a: any(b.get_xlabel() and abs(b.get_position().x0-a.get_position().x0)<.03 and b.get_position().y1<=a.get_position().y0+.01 for b in axes)
    pictures = [a for a in axes if a.images and not len(a.get_xticks())]
    if pictures and not any('px' in a.get_xlabel() for a in pictures): yield f"no size in px below any of the pictures {[a.get_title() for a in pictures]}"
    for a in axes:
        name = a.get_title() or a.get_title(loc='left') or a.get_xlabel() or a.get_ylabel()
        if counts(a.xaxis) and a.get_label()!='<colorbar>' and not lower(a) and not UNITS.search(a.get_xlabel()): yield f"x of {name!r} is called {a.get_xlabel()!r}"
        if counts(a.yaxis) and not UNITS.search(a.get_ylabel()): yield f"y of {name!r} is called {a.get_ylabel()!r}"

@pytest.fixture(scope='module')
def gallery(tmp_path_factory):
    "The figures of the gallery, drawn in this process."
    import matplotlib; matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    folder = tmp_path_factory.mktemp('gallery'); here,was = os.getcwd(),os.environ.get('IN_TEST'); plt.close('all')
    try:
        with plt.rc_context({'figure.max_open_warning': 0}):
            for p in GALLERIES:
                (folder/'code.py').write_text('\n'.join(code(c) for c in cells(p, 'code'))); os.chdir(p.parent); runpy.run_path(str(folder/'code.py'))
        yield [plt.figure(n) for n in plt.get_fignums()]
    finally: os.chdir(here); plt.close('all'); os.environ.pop('IN_TEST', None) if was is None else os.environ.update(IN_TEST=was)

def test_every_axis_has_a_name_and_a_unit(gallery):
    for fig in gallery: fig.canvas.draw()
    bad = [f"figure {fig.number}, {b}" for fig in gallery for b in unlabelled(fig)]
    assert len(gallery)>=sum(map(len, figure_functions().values())) and not bad, '; '.join(bad)

def test_words_can_be_read_at_notebook_width(gallery):
    "Figures are no wider than a notebook, and words in them at least 6.5 points high."
    from matplotlib.text import Text
    for fig in gallery:
        assert fig.get_figwidth()*fig.dpi<=1000, f"figure {fig.number} is {fig.get_figwidth()*fig.dpi:.0f} px wide"
        small = {t.get_text() for t in fig.findobj(Text) if t.get_text().strip() and t.get_visible() and t.get_fontsize()<6.5}
        assert not small, f"figure {fig.number}: too small to read: {small}"
