"A notebook is small, clean and readable: the budgets of CONTRIBUTING.md."
import ast, json, re, shutil, subprocess, sys
from pathlib import Path
import pytest
from house import ROOT, cells, code, directives, is_exported, notebooks, relative, source, tags

EXPORTS, CODE_LINES, CELLS, FUNCTION_LINES, IMAGE, NOTEBOOK = 10, 300, 60, 40, 60_000, 150_000
HEAVY = {}  # notebook -> bytes it may have, with the reason beside it
STAGES = sorted((ROOT/'nbs/stages').glob('*.ipynb'))
QUIET = [p for p in notebooks() if p.parent.name in ('stages','explore')]
each = lambda paths: pytest.mark.parametrize('path', paths, ids=relative)

def public(tree):
    "Names a cell gives to the module."
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not any('patch' in ast.unparse(d) for d in node.decorator_list): yield node.name
        if isinstance(node, ast.Assign): yield from (t.id for t in node.targets if isinstance(t, ast.Name))

@each(notebooks())
def test_title_and_subtitle(path):
    first = source(cells(path)[0])
    assert cells(path)[0]['cell_type']=='markdown' and re.match(r'# \S.*\n+> \S', first), f"{path.name} must begin with '# Title' and '> One sentence.'"

@each(notebooks())
def test_size(path):
    lines = sum(bool(l.strip()) and not l.startswith('#|') for c in cells(path, 'code') for l in source(c).splitlines())
    names = [n for c in cells(path) if is_exported(c) for n in public(ast.parse(code(c))) if not n.startswith('_')]
    assert len(cells(path))<=CELLS, f"{path.name} has {len(cells(path))} cells"
    assert lines<=CODE_LINES, f"{path.name} has {lines} lines of code"
    assert len(set(names))<=EXPORTS, f"{path.name} exports {len(set(names))} names: {', '.join(names)}"
    size,limit = path.stat().st_size, HEAVY.get(relative(path), NOTEBOOK)
    assert size<=limit, f"{path.name} has {size//1000} kB"

@each(notebooks())
def test_a_definition_fits_a_screen(path):
    for c in cells(path):
        if not is_exported(c): continue
        for node in ast.walk(ast.parse(code(c))):
            if isinstance(node, ast.FunctionDef):
                n = node.end_lineno-node.lineno+1
                assert n<=FUNCTION_LINES, f"{path.name}: {node.name} has {n} lines"

@each(notebooks())
def test_imports_are_explicit(path):
    for c in cells(path):
        if not is_exported(c): continue
        for node in ast.walk(ast.parse(code(c))):
            if isinstance(node, ast.ImportFrom):
                assert node.names[0].name!='*', f"{path.name}: from {node.module} import * in an exported cell"
                assert not node.level, f"{path.name}: relative import of {node.module}; write distortkit.…"

@each(notebooks())
def test_outputs(path):
    nb = json.loads(path.read_text(encoding='utf-8'))
    assert 'widgets' not in nb['metadata'], f"{path.name} holds widget state"
    for i,c in enumerate(nb['cells']):
        for o in c.get('outputs', []):
            data = o.get('data', {})
            assert o['output_type']!='error', f"{path.name}, cell {i}: an error was saved: {o.get('ename')}"
            assert not any('widget' in kind for kind in data), f"{path.name}, cell {i}: a widget was saved; end the cell in a figure"
            for kind,content in data.items():
                size = len(''.join(content)) if kind.startswith('image/') else 0
                assert size<=IMAGE, f"{path.name}, cell {i}: {kind} of {size//1000} kB"

@each(QUIET)
def test_stages_and_explorers_have_no_outputs(path):
    for i,c in enumerate(cells(path, 'code')): assert not c['outputs'], f"{relative(path)}: code cell {i} has outputs"

@each([p for p in QUIET if p.parent.name=='explore'])
def test_explorers_export_nothing_and_end_in_something_to_see(path):
    for i,c in enumerate(cells(path, 'code')):
        assert not [d for d in directives(c) if d.startswith(('export','default_exp'))], f"{relative(path)}: code cell {i} exports; its functions belong into a numbered notebook"
    last = ast.parse(code(cells(path, 'code')[-1])).body[-1]
    assert isinstance(last, ast.Expr), f"{relative(path)}: the last cell must end in what it shows, not in {ast.unparse(last)[:40]!r}"

@each(STAGES)
def test_stages_take_parameters(path):
    assert sum('parameters' in tags(c) for c in cells(path, 'code'))==1, f"{path.name} needs one cell tagged parameters"

def test_notebooks_are_clean(tmp_path):
    "`nbdev_clean` has nothing to do; above all it leaves the tag `parameters` of the stages."
    shutil.copy(ROOT/'settings.ini', tmp_path)
    for p in notebooks():
        to = tmp_path/p.relative_to(ROOT); to.parent.mkdir(parents=True, exist_ok=True); shutil.copy(p, to)
    (tmp_path/'distortkit').mkdir()
    subprocess.run([Path(sys.executable).with_name('nbdev_clean')], cwd=tmp_path, check=True, capture_output=True, text=True)
    for p in STAGES: assert any('parameters' in tags(c) for c in cells(tmp_path/p.relative_to(ROOT))), f"nbdev_clean took the tag from {p.name}"
    dirty = [relative(p) for p in notebooks() if json.loads(p.read_text())!=json.loads((tmp_path/p.relative_to(ROOT)).read_text())]
    assert not dirty, f"run `make nbs`; not clean: {', '.join(dirty)}"
