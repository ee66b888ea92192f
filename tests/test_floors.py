"Imports go down the stairs: never up, never across, and inside a floor only to rooms with a smaller number."
import sys
from configparser import ConfigParser
from house import FLOORS, ROOT, TOWERS, imports, modules

LOSSES,MODELS = range(30,40), range(40,50)
PYPI = dict(yaml='pyyaml', pytorch_msssim='pytorch-msssim', cv2='opencv-python-headless', skimage='scikit-image', sklearn='scikit-learn', PIL='pillow', jupyter_client='ipykernel')

def floor(room): return next(i for i,rooms in enumerate(FLOORS) if room in rooms)
def dotted(name): return '.'.join(name)

def own(m):
    "Modules of the package that `m` imports."
    by_name = {o.name: o for o in modules()}
    for target in imports(m.path):
        hit = next((by_name[target[:n]] for n in range(len(target),1,-1) if target[:n] in by_name), None)
        if hit and hit is not m: yield hit

def neighbours(): return [(m,other) for m in modules() for other in own(m) if other.room==m.room and other.notebook!=m.notebook]

def test_no_import_goes_up_or_across():
    rooms = {room for floor in FLOORS for room in floor}
    bad = [f"{dotted(m.name)} imports {dotted(t)}" for m in modules() for t in imports(m.path)
           if t[0]=='distortkit' and len(t)>1 and t[1] in rooms and t[1]!=m.room and floor(t[1])>=floor(m.room)]
    assert not bad, f"not a floor below: {'; '.join(bad)}"

def test_inside_a_floor_numbers_fall():
    bad = sorted({f"{m.notebook.name} imports {other.notebook.name}" for m,other in neighbours() if other.number>=m.number})
    assert not bad, f"a room may import only smaller numbers: {'; '.join(bad)}"

def test_losses_and_models_meet_only_in_step():
    bad = [f"{m.notebook.name} imports {other.notebook.name}" for m,other in neighbours() if m.room in TOWERS
           and ((m.number in MODELS and other.number in LOSSES) or (m.number in LOSSES and other.number in MODELS))]
    assert not bad, f"a loss and a model may not know each other: {'; '.join(bad)}"

def test_stages_are_imported_by_nobody():
    for m in modules(): assert 'stages' not in m.notebook.parts and 'explore' not in m.notebook.parts, f"{m.notebook.name} exports a module"

def test_what_is_imported_is_required():
    ini = ConfigParser(delimiters=['='], interpolation=None); ini.read(ROOT/'settings.ini')
    required = {r.split('>')[0].split('=')[0].split('<')[0].lower() for r in ini['DEFAULT']['requirements'].split()}
    for m in modules():
        for target in imports(m.path):
            top = target[0]
            if top in sys.stdlib_module_names or top=='distortkit': continue
            assert PYPI.get(top, top).lower() in required, f"{'.'.join(m.name)} imports {top}, which settings.ini does not require"
