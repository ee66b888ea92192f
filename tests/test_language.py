"What source may not say: machine settings and places, unsafe calls, packages that do not work here, unfinished business."
import ast, json, re
from collections import defaultdict
from pathlib import Path
from house import PACKAGE, ROOT, imports, modules, notebooks, relative

HERE = Path(__file__)
TEXT = [p for p in (*notebooks(), *PACKAGE.rglob('*.py'), *PACKAGE.rglob('*.yaml'), *(ROOT/'tests').glob('*.py'), ROOT/'setup.py',
                    ROOT/'settings.ini', ROOT/'Makefile', ROOT/'constraints.txt', *(p for p in (ROOT/'.ci').iterdir() if p.is_file())) if p!=HERE]
PLACES = re.compile(r'(?<![\w.~:/])/(?:work|tmp|root|home|opt|Users)/\w')
UNFINISHED = re.compile(r'\b(?:TODO|FIXME|XXX|HACK)\b')

def words(path):
    "Text of a file; of a notebook without the bytes of its pictures."
    if path.suffix!='.ipynb': return path.read_text(encoding='utf-8')
    nb = json.loads(path.read_text(encoding='utf-8'))
    outputs = [o for c in nb['cells'] for o in c.get('outputs', [])]
    shown = [o.get('text', '') for o in outputs]+[t for o in outputs for k,t in o.get('data', {}).items() if k.startswith('text/')]
    return '\n'.join(''.join(t) for t in [c['source'] for c in nb['cells']]+shown)

def hits(pattern): return [f"{relative(p)}: {m[0]!r}" for p in TEXT for m in pattern.finditer(words(p))]

def test_openmp_stays_in_the_environment(): assert not hits(re.compile('KMP'+'_'))
def test_no_place_of_one_machine(): assert not hits(PLACES)
def test_nothing_is_left_unfinished(): assert not hits(UNFINISHED)
def test_no_index_is_named():
    assert not [l for p in ('constraints.txt','Makefile','.ci/setup') for l in (ROOT/p).read_text().splitlines() if re.search(r'index-url|find-links|https?:|file:| @ ', l)]

def test_no_package_that_does_not_work_here():
    for m in modules():
        for target in imports(m.path): assert target[0] not in ('torchvision','timm'), f"{'.'.join(m.name)} imports {target[0]}"

def test_nothing_unsafe():
    for m in modules():
        name = '.'.join(m.name)
        for target in imports(m.path): assert target[0] not in ('pickle','cPickle','dill','joblib','marshal'), f"{name} imports {target[0]}"
        for node in ast.walk(ast.parse(m.path.read_text(encoding='utf-8'))):
            if not isinstance(node, ast.Call): continue
            called,given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert called not in ('eval','exec','os.system','os.popen','yaml.unsafe_load'), f"{name} line {node.lineno} calls {called}"
            assert given.get('shell')!='True' and given.get('allow_pickle')!='True', f"{name} line {node.lineno}: {ast.unparse(node)[:80]}"
            if called=='torch.load': assert given.get('weights_only')=='True', f"{name} line {node.lineno}: torch.load without weights_only=True"

def test_nothing_is_written_twice():
    "No function of four statements or more stands in two places."
    seen = defaultdict(list)
    for m in modules():
        for node in ast.walk(ast.parse(m.path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.FunctionDef):
                body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
                if len(body)>=4: seen[ast.dump(ast.Module(body, []))].append(f"{'.'.join(m.name)}.{node.name}")
    assert not [names for names in seen.values() if len(names)>1]
