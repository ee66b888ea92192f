"Weights in a folder: the same to the last bit, refused when anything in it changed, and what `distortkit correct` uses unasked."
import json, shutil
import numpy as np, pytest, torch
from PIL import Image
from safetensors.torch import load_file
from distortkit.cli import app
from distortkit.core.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from distortkit.core.data import embedded_photos
from distortkit.lens import shipped
from distortkit.lens.correct import Corrector
from distortkit.lens.curves import find_curves
from distortkit.lens.evidence import lens_prior
from distortkit.lens.gate import Gate
from distortkit.lens.guess import Guess
from distortkit.lens.hybrid import HybridModel, ModelSettings, load_model
from distortkit.lens.seer import Seer, VoteNet
from distortkit.lens.shipped import FACTS, LARGEST, PARTS, read_bundle, save_bundle
from house import ROOT, ask, small_checkpoint

WHOLE = (shipped.SHIPPED/FACTS).is_file() # does this tree come with weights?

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A run `small` of stage 1 and its bundle `weights`, with a seer and a gate that lets all but the straight pass."
    home = tmp_path_factory.mktemp('a home'); small_checkpoint(home/'runs/small/best.pt'); torch.manual_seed(1)
    save_bundle(home/'weights', home/'runs/small/best.pt', Seer(VoteNet(4), 1.25), Gate(risk_px=99., min_px=0), dict(n=1), trained_on=dict(photographs=3)); return home

@pytest.fixture
def default(home, monkeypatch):
    "The bundle of the package: the real one where there is one."
    if not WHOLE: monkeypatch.setattr(shipped, 'SHIPPED', home/'weights')
    return shipped.SHIPPED

def refused(home, name, data, tmp_path):
    "What is said of a copy in which one file is gone (None), or holds other bytes."
    at = tmp_path/'copy'; shutil.copytree(home/'weights', at, dirs_exist_ok=True)
    (at/name).unlink() if data is None else (at/name).write_bytes(data)
    with pytest.raises(CheckpointError) as said: read_bundle(at)
    assert '\n' not in str(said.value); return str(said.value)

def changed_facts(home, **change): return json.dumps(json.loads((home/'weights'/FACTS).read_text())|change).encode()

def test_round_trip_to_the_last_bit(home):
    run,b = home/'runs/small/best.pt',read_bundle(home/'weights'); was = load_checkpoint(run)['model']; now = b.model.state_dict()
    assert set(now)=={k for k in was if k.startswith('evidence.')} and all(torch.equal(was[k], v) for k,v in now.items()) and b.model.backbone is b.model.residual is None
    for rgb in (embedded_photos()['motorcycle'](), embedded_photos()['coffee']()[:300,:180]):
        curves = [torch.as_tensor(v)[None] for v in find_curves(rgb)]
        with torch.no_grad(): a,c = load_model(run)(None, *curves, residual=False),b.model(None, *curves)
        assert torch.equal(a['params'], c['params']) and torch.equal(a['covariance'], c['covariance'])
    assert b.seer.scale==1.25 and b.gate.risk_px==99 and b.facts.trained_on==dict(photographs=3) and b.facts.stage=='stage1_param_only'
    assert (home/'weights'/PARTS[0]).stat().st_size<.05*run.stat().st_size

def test_halves_become_floats_and_later_stages_keep_everything(tmp_path):
    s = ModelSettings(backbone_name='curves+tiny', residual_hidden_dim=8, param_hidden_dim=8); net = HybridModel(s).half(); extra = dict(stage='stage2_hybrid', model_settings=s.model_dump(mode='json'))
    b = save_bundle(tmp_path/'b', save_checkpoint(tmp_path/'half.pt', dict(model=net.state_dict(), extra=extra))); held = load_file(b/PARTS[0])
    assert set(held)==set(net.state_dict()) and {v.dtype for v in held.values()}<={torch.float32,torch.int64} and Corrector.from_pretrained(b, 'cpu').flow

@pytest.mark.parametrize('name', [FACTS, *PARTS])
def test_a_missing_or_damaged_file_is_named(home, name, tmp_path):
    assert name in refused(home, name, None, tmp_path)
    data = bytearray((home/'weights'/name).read_bytes()); assert name in refused(home, name, bytes(data[:len(data)//2]), tmp_path)
    if name!=FACTS: data[-3] ^= 4; assert f'{name} is not as it was written' in refused(home, name, bytes(data), tmp_path)

@pytest.mark.parametrize('change,said', [(dict(format=2),'format'), (dict(files={'model.safetensors': 'a'*64, '../model.safetensors': 'a'*64}),"'../model.safetensors' is must"), (dict(files={}),'model.safetensors among them'),
    (dict(trained_on={'/data/photos': 2}),'place on a disk'), (dict(recipe=dict(train=dict(photos='C:\\photos'))),'place on a disk'), (dict(seconds=-1),'seconds'), (dict(more=1),'unknown field more'), (dict(settings=dict(backbone_name='vgg')),'backbone')])
def test_facts_that_cannot_be_are_refused(home, change, said, tmp_path): assert said in refused(home, FACTS, changed_facts(home, **change), tmp_path)

def test_weights_of_another_model_and_what_is_no_json(home, tmp_path):
    settings = json.loads((home/'weights'/FACTS).read_text())['settings']
    assert 'of another model' in refused(home, FACTS, changed_facts(home, settings=settings|dict(curve_hidden_dim=12)), tmp_path)
    for data in (b'\xff\xfe', b'[]', b'3', b'{'): assert 'model.json is damaged' in refused(home, FACTS, data, tmp_path)

def test_too_large(home, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, 'LARGEST', 30_000)
    with pytest.raises(CheckpointError, match='MB are allowed'): read_bundle(home/'weights')
    with pytest.raises(CheckpointError, match='too large to be shipped'): save_bundle(tmp_path/'b', home/'runs/small/best.pt', Seer(VoteNet(8)))
    assert not list(tmp_path.iterdir())

def test_whole_or_not_at_all(home, tmp_path, monkeypatch):
    run = home/'runs/small/best.pt'; b = save_bundle(tmp_path/'b', run); before = {p.name: p.read_bytes() for p in b.iterdir()}
    held = lambda: {p.name: p.read_bytes() for p in b.iterdir()}==before and [p.name for p in tmp_path.iterdir()]==['b']
    with pytest.raises(FileExistsError, match='is there already'): save_bundle(b, run)
    full = lambda *a, **k: (_ for _ in ()).throw(OSError(28, 'No space left on device'))
    for target,name in ((shipped, '_swap'), (shipped, 'save_file'), (Seer, 'save'), (shipped.os, 'rename')):
        with monkeypatch.context() as m:
            m.setattr(target, name, full)
            with pytest.raises(OSError): save_bundle(b, run, Seer(VoteNet(4)), overwrite=True)
        assert held(), name
    (b/'card.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='card.txt'): save_bundle(b, run, overwrite=True)
    (b/'card.txt').unlink(); assert held(); save_bundle(b, run, gate=Gate(), overwrite=True); assert (b/PARTS[2]).is_file() and [p.name for p in tmp_path.iterdir()]==['b']
    with pytest.raises(FileExistsError, match='no part of a bundle'): save_bundle(run.parent, run, overwrite=True)

def test_the_default(default):
    corrector = Corrector.from_pretrained(device='cpu'); assert corrector.name=='default' and Corrector.from_pretrained('default', 'cpu').name=='default'
    rgb = embedded_photos()['motorcycle'](); out,facts = corrector.correct(rgb); assert out.shape==rgb.shape and out.dtype==rgb.dtype
    low,high = facts['interval_px']; assert 0<=low<=high and facts['displacement_px']>=0 and facts['checkpoint']=='default' and {'mode_used','code','reason','params','params_sd'}<=set(facts)
    assert sum(p.stat().st_size for p in default.iterdir())<=LARGEST==12_000_000 and json.dumps(facts, allow_nan=False)
    deep = corrector.correct(rgb.astype(np.uint16)*257)[0]; assert deep.shape==rgb.shape and deep.dtype==np.uint16
    assert corrector.correct(np.full((120,90,3), 127, np.uint8))[1]['mode_used']=='declined'

def test_seer_and_gate_are_listened_to(home):
    rgb = embedded_photos()['motorcycle'](); whole = Corrector.from_pretrained(home/'weights', 'cpu'); alone = Corrector(whole.model); same = Corrector.from_pretrained(home/'runs/small', 'cpu')
    sure = Seer(VoteNet(4)); sure.guess = lambda rgb: Guess(np.zeros(7), 1e-6*lens_prior().double().numpy()); drawn = Corrector(whole.model, seer=sure).estimate(rgb)
    assert whole.gate.risk_px==99 and whole.seer.scale==1.25 and drawn.displacement_px<.5*alone.estimate(rgb).displacement_px and drawn.params[7]==1 and drawn.covariance.shape==(8,8)
    assert same.gate is None and same.seer is None and torch.equal(alone.estimate(rgb).params, same.estimate(rgb).params) and whole.estimate(rgb).code is None
    wide = Corrector(whole.model, gate=Gate(risk_px=99., min_px=0, scale=4.)); narrow = np.diff(alone.estimate(rgb).interval_px); assert np.diff(wide.estimate(rgb).interval_px)>1.3*narrow
    shut = Corrector(whole.model, gate=Gate()); out,facts = shut.correct(rgb); assert out is rgb and facts['code'] in ('NO_PROMISE','NEARLY_STRAIGHT') and facts['interval_px']

def call(home, *words): return ask(app, *words, env=dict(DISTORTKIT_RUNS=str(home/'runs')))

def test_correct_without_a_checkpoint(home, default, tmp_path):
    (tmp_path/'in').mkdir(); Image.fromarray(embedded_photos()['motorcycle']()).save(tmp_path/'in/a.jpg'); Image.new('RGB', (160,120), 'grey').save(tmp_path/'in/wall.png')
    code,said = call(home, 'correct', tmp_path/'in', '-o', tmp_path/'out', '--device', 'cpu', '--workers', 1); assert code==0, said
    told = {l['file']: l for l in map(json.loads, (tmp_path/'out/metadata.jsonl').read_text().splitlines())}; line = next(l for l in said.splitlines() if 'a.jpg ->' in l); a = told['a.jpg']
    assert a['checkpoint']=='default' and len(a['interval_px'])==2 and 'left alone: ' in next(l for l in said.splitlines() if 'wall.png ->' in l)
    assert (f"displacement {a['displacement_px']:.1f} px (90 %: {a['interval_px'][0]:.1f} to {a['interval_px'][1]:.1f})" if a['mode_used']!='declined' else a['reason']) in line
    assert json.loads((tmp_path/'out/a.metadata.json').read_text())['interval_px']==a['interval_px']
    code,said = call(home, 'correct', tmp_path/'in', '-o', tmp_path/'out', '--device', 'cpu', '--workers', 1); assert code==0 and '2 done before' in said
    code,said = call(home, 'correct', tmp_path/'in', '-o', tmp_path/'out2', '-c', 'small', '--device', 'cpu', '--workers', 1); assert code==0 and json.loads((tmp_path/'out2/a.metadata.json').read_text())['checkpoint']=='small/best.pt'

def test_another_gate_is_another_key(home, tmp_path):
    from distortkit.lens.batch import Order, check_order
    b = save_bundle(tmp_path/'b', home/'runs/small/best.pt', gate=Gate(risk_px=1.)); first = check_order(Order(str(b), device='cpu')).key
    save_bundle(b, home/'runs/small/best.pt', gate=Gate(risk_px=2.), overwrite=True); assert check_order(Order(str(b), device='cpu')).key!=first

def test_always_opens_the_gate_and_is_another_order(home, tmp_path):
    b = save_bundle(tmp_path/'b', home/'runs/small/best.pt', gate=Gate(scale=2.)); Image.fromarray(embedded_photos()['motorcycle']()).save(tmp_path/'a.png'); facts = []
    for more in ([], ['--always']):
        code,said = call(home, 'correct', tmp_path/'a.png', '-o', tmp_path/'out', '-c', b, '--device', 'cpu', '--workers', 1, *more); assert code==0, said
        facts.append(json.loads((tmp_path/'out/a.metadata.json').read_text()))
    assert facts[0]['code']=='NO_PROMISE' and facts[1]['code'] not in ('NO_PROMISE','DOUBT','NEARLY_STRAIGHT') and facts[0]['interval_px']==facts[1]['interval_px'], facts

def test_a_tree_without_weights_says_what_to_do(home, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, 'SHIPPED', tmp_path/'none'); Image.new('RGB', (160,120), 'grey').save(tmp_path/'a.png')
    for words in (['correct',tmp_path/'a.png','-o',tmp_path/'out'], ['calibrate',tmp_path/'a.png','--checkpoint','default'], ['profile','fit',tmp_path/'a.png','-o',tmp_path/'a.yaml'], ['infer-test',tmp_path,tmp_path/'out','--checkpoint-id','default']):
        code,said = call(home, *words); assert code==1 and '`make weights` trains them' in said and len(said.strip().splitlines())==1 and not (tmp_path/'out').exists(), said
    code,said = call(home, 'eval', 'lens', '-n', 1, '-c', 'default'); assert code==1 and 'make weights' in said

def test_what_ships_was_never_near_a_disk(default):
    facts = (default/FACTS).read_text(); assert not any(p in facts for p in (str(ROOT), '/', '\\\\')), facts
    assert not WHOLE or read_bundle(default).facts.steps>1000

def test_weights_from_nothing(home, tmp_path, monkeypatch):
    tiny = [w for t in ('epochs=1','synthetic_train_steps=2','synthetic_val_steps=1','synthetic_batch_size=4','scenes=6','album=0','device=cpu') for w in ('--set',t)]
    words = ['weights','-o',tmp_path/'made','-n',2,'--run-name',tmp_path/'run',*tiny]; runs = dict(DISTORTKIT_RUNS=str(tmp_path/'runs'))
    from distortkit.lens import make_weights as work
    with monkeypatch.context() as m: # stopped after the training
        m.setattr(work, 'gather_guesses', lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        code,said = ask(app, *words, env=runs); assert code==130 and '--resume goes on' in said and not (tmp_path/'made').exists(), said
    best = (tmp_path/'run/best.pt').read_bytes()
    code,said = ask(app, *words, '--resume', env=runs); assert code==0 and 'stage 1 is trained' in said and 'MB; stage 1 ' in said, said
    b = read_bundle(tmp_path/'made'); assert (tmp_path/'run/best.pt').read_bytes()==best and b.gate.risk_px is None and b.gate.samples==4 and b.facts.steps in (0,2) and b.seer is None
    code,said = ask(app, *words, '--resume', '--set', 'seed=4', env=runs); assert code==1 and 'other settings (seed)' in said
