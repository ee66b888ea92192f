"The tables of features point to cells and tests that exist, that test, and that speak of what the row names."
import ast, re
import pytest
from house import ROOT, cells, code, source

TABLES = {'A': (ROOT/'nbs/20_lens/06_features.ipynb', 71), 'B': (ROOT/'nbs/30_segment/05_features.ipynb', 60), 'C': (ROOT/'nbs/40_selective/05_features.ipynb', 51)}  # letter -> notebook, number of features
ROWS = [(m[1], m[2], [p.strip() for p in m[3].split(' · ')], table.parent.name) for letter,(table,_) in TABLES.items() for c in cells(table, 'markdown')
        for m in re.finditer(rf'^\| ({letter}\d+) \|([^|]*)\|([^|]*)\|$', source(c), re.M)]
TESTS = re.compile(r'\btest_\w+\(|\bassert\b|\bexpect_fail\b|pytest\.raises')

def section(notebook, heading):
    "Code of the cells below a heading, down to the next of its kind."
    found,inside = None,False
    for c in cells(notebook):
        if c['cell_type']=='markdown':
            heads = re.findall(r'^##? (.+)$', source(c), re.M)
            if heads: inside = heading in heads
            if inside and found is None: found = ''
        elif inside: found += '\n'+code(c)
    return found

def shown(place, tower='20_lens'):
    "The code a place means; None where there is none."
    where,what = place.split(' › ', 1)
    if where.startswith('tests/'):
        path = ROOT/where; tree = ast.parse(path.read_text(encoding='utf-8')) if path.exists() else ast.Module([], [])
        return next((ast.unparse(n) for n in tree.body if isinstance(n, ast.FunctionDef) and n.name==what), None)
    path = ROOT/'nbs'/(where if '/' in where else f'{tower}/{where}'); path = path.with_suffix('.ipynb')
    return section(path, what) if path.exists() else None

def test_every_feature_once(): assert [r[0] for r in ROWS]==[f'{letter}{i+1}' for letter,(_,n) in TABLES.items() for i in range(n)]

@pytest.mark.parametrize('number,feature,places,tower', ROWS, ids=[r[0] for r in ROWS])
def test_a_feature_is_shown(number, feature, places, tower):
    found = {p: shown(p, tower) for p in places}
    for place,text in found.items():
        assert text is not None, f"{number}: there is no {place}"
        assert TESTS.search(text), f"{number}: nothing is tested below {place}"
    for name in re.findall(r'`([\w.]+)`', feature):
        assert any(re.search(rf'\b{re.escape(name)}\b', t) for t in found.values()), f"{number}: none of its places speaks of {name}"
