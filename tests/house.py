"What the tests share: the notebooks and the modules made from them, how both are numbered, commands as they are typed, runs and files to look at."
import ast, json, re, warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT/'distortkit'
FLOORS = ['core'], ['geometry'], ['lens','segment','selective'], ['commands'], ['cli']
TOWERS = FLOORS[2]

@dataclass(frozen=True)
class Module:
    "A generated module: its dotted name, its file, and the notebook its header names."
    name:tuple; path:Path; notebook:Path
    @property
    def room(self): return self.name[1]
    @property
    def number(self): return int(re.match(r'\d+', self.notebook.name)[0])

def made(path): return path.name not in ('__init__.py','_modidx.py')

@cache
def modules(package=PACKAGE):
    "Every generated module of the package."
    found = []
    for path in sorted(package.rglob('*.py')):
        if not made(path): continue
        header = re.search(r'File to edit: (\S+\.ipynb)', path.read_text(encoding='utf-8'))
        assert header, f"{path.relative_to(package)} was not made from a notebook"
        found.append(Module(('distortkit', *path.relative_to(package).with_suffix('').parts), path, (path.parent/header[1]).resolve()))
    return found

@cache
def notebooks(root=ROOT):
    "Every notebook under nbs/ that is not scratch."
    return [p for p in sorted((root/'nbs').rglob('*.ipynb')) if not any(part[0] in '_.' for part in p.relative_to(root/'nbs').parts)]

def cells(path, kind=None): return [c for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if kind in (None, c['cell_type'])]
def source(cell): return ''.join(cell['source'])
def directives(cell): return re.findall(r'^#\|\s*(\S+)', source(cell), re.M)
def is_exported(cell): return cell['cell_type']=='code' and any(d.startswith(('export','exports','exporti')) for d in directives(cell))
def tags(cell): return cell['metadata'].get('tags', [])

def code(cell):
    "Python of a code cell; lines that start with % or ! are IPython's."
    return '\n'.join('' if re.match(r'\s*[%!]', l) else l for l in source(cell).splitlines())

def imports(path, package=PACKAGE):
    "Dotted names imported by `path` as tuples, lazy imports included."
    here = ('distortkit', *path.relative_to(package).with_suffix('').parts)
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): yield from (tuple(a.name.split('.')) for a in node.names)
        if isinstance(node, ast.ImportFrom):
            base = here[:len(here)-node.level] if node.level else ()
            yield from ((*base, *filter(None, (node.module or '').split('.')), a.name) for a in node.names)

def relative(path): return path.relative_to(ROOT).as_posix()

def small_checkpoint(path):
    "A small untrained lens model of stage 1, saved."
    import torch
    from distortkit.core.checkpoint import save_checkpoint
    from distortkit.lens.hybrid import HybridModel, ModelSettings
    settings = ModelSettings(backbone_name='curves+tiny', residual_hidden_dim=8, residual_max_disp=1.); torch.manual_seed(0)
    return save_checkpoint(path, dict(model=HybridModel(settings).state_dict(), extra=dict(stage='stage1_param_only', model_settings=settings.model_dump(mode='json'))))

def ask(app, *words, **kw):
    "Type a command in this process; its exit code and everything it said. What ends it is an exit, never a traceback."
    from typer.testing import CliRunner
    done = CliRunner().invoke(app, [*map(str, words)], **kw)
    assert (done.exception is None or isinstance(done.exception, SystemExit)) and 'Traceback' not in done.output, f"{words}: {done.output} {done.exception!r}"
    return done.exit_code,done.output

def call(app, *words, code=0, **kw):
    "Type a command that must end with this code; what it said."
    got,said = ask(app, *words, **kw); assert got==code, f"{words}: {got} {said}"
    return said

def refused(app, *words, **kw):
    "Type a command that must end in one sentence; the sentence."
    said = call(app, *words, code=1, **kw); assert said.count('distortkit: ')==1, said
    return said

def diary(folder):
    "The lines of a run without its clock."
    lines = [json.loads(l) for l in (Path(folder)/'history.jsonl').read_text().splitlines()]
    return [{k: v for k,v in l.items() if k not in ('seconds','images_per_s')} for l in lines]

def equal(a, b):
    "Bit for bit, whatever it is."
    import torch
    if isinstance(a, torch.Tensor): return isinstance(b, torch.Tensor) and a.dtype==b.dtype and torch.equal(a, b)
    if isinstance(a, dict): return a.keys()==b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list,tuple)): return len(a)==len(b) and all(map(equal, a, b))
    return a==b

def tif(path, bands, **kw):
    "A raster of bands (C,H,W), in folders of its own where there are none."
    import rasterio
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with rasterio.open(path, 'w', driver='GTiff', count=len(bands), height=bands.shape[1], width=bands.shape[2], dtype=bands.dtype, **kw) as dst: dst.write(bands)
    return path
