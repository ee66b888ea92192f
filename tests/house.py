"What the tests read: the notebooks, the modules made from them, and how both are numbered."
import ast, json, re
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
