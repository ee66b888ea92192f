"distortkit/ is what the notebooks say: nothing edited by hand, nothing missing, nothing left over."
import re, shutil, subprocess, sys
from pathlib import Path
from house import PACKAGE, ROOT, cells, modules, notebooks, source

def generated(package): return {p.relative_to(package).as_posix(): p.read_text(encoding='utf-8') for p in sorted(package.rglob('*.py'))}

def test_export_changes_nothing(tmp_path):
    shutil.copy(ROOT/'settings.ini', tmp_path)
    shutil.copytree(PACKAGE, tmp_path/'distortkit', ignore=shutil.ignore_patterns('__pycache__'))
    for p in notebooks():
        to = tmp_path/p.relative_to(ROOT); to.parent.mkdir(parents=True, exist_ok=True); shutil.copy(p, to)
    subprocess.run([Path(sys.executable).with_name('nbdev_export')], cwd=tmp_path, check=True, capture_output=True, text=True)
    old,new = generated(PACKAGE), generated(tmp_path/'distortkit')
    differ = sorted(k for k in {**old, **new} if old.get(k)!=new.get(k))
    assert not differ, f"run `make nbs`; out of step with the notebooks: {', '.join(differ)}"

def test_no_module_is_an_orphan():
    for m in modules():
        assert m.notebook.exists(), f"{'.'.join(m.name)} says it was made from {m.notebook.name}, which is gone: delete the module"
        told = [d for c in cells(m.notebook, 'code') for d in re.findall(r'^#\|\s*default_exp[ \t]+(\S+)', source(c), re.M)]
        told += [d for c in cells(m.notebook, 'code') for d in re.findall(r'^#\|\s*export\w*[ \t]+(\S+)', source(c), re.M)]
        assert '.'.join(m.name[1:]) in told, f"{m.notebook.name} exports {', '.join(told) or 'nothing'}, not {'.'.join(m.name)}: delete the module"

def test_every_notebook_with_exports_has_its_module():
    made = {m.notebook for m in modules()}
    for p in notebooks():
        if any(re.search(r'^#\|\s*default_exp', source(c), re.M) for c in cells(p, 'code')): assert p in made, f"{p.name} was never exported: run `make nbs`"
