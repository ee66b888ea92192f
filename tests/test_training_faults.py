"What can go wrong in a training, seen through the function that every door calls: each guard fires, and says what it must."
import json, math, pickle, sys, types, warnings
from pathlib import Path
import pytest, torch
from distortkit.core.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from distortkit.core.config import ConfigError
from distortkit.core.data import make_loader
from distortkit.core.samples import read_samples
from distortkit.lens.album import read_album
from distortkit.lens.backends import BACKENDS, WarpBackend, make_backend
from distortkit.lens.bank import make_source
from distortkit.lens.data import SyntheticPairs
from distortkit.lens.hybrid import HybridModel, ModelSettings
from distortkit.lens.proxy import ProxyScorer, compute_proxy_score
from distortkit.lens.step import LensStep
from distortkit.lens.train import run_stage

class Pairs(torch.utils.data.Dataset):
    "Held pairs; sample number `bad` is not a number."
    def __init__(self, samples, bad=None, key='target_grid'): self.samples,self.bad,self.key = samples,bad,key
    def __len__(self): return len(self.samples)
    def __getitem__(self, at):
        i = at[1] if isinstance(at, tuple) else at; s = self.samples[i]
        return s|{self.key: s[self.key]*math.nan} if i==self.bad else s

@pytest.fixture(scope='module')
def samples():
    return SyntheticPairs([make_source(n) for n in ('coffee','scene/3')], (32,48), 20, images=True).__getitems__([(0,i) for i in range(20)])

@pytest.fixture
def lab(samples, tmp_path, monkeypatch):
    "Runs of a stage on held pairs: 3 batches of 4 to learn from, 2 to judge by."
    threads = torch.get_num_threads(); torch.set_num_threads(1)
    monkeypatch.setenv('DISTORTKIT_RUNS', str(tmp_path/'runs')); monkeypatch.delenv('IN_TEST', raising=False)
    home = types.SimpleNamespace(path=tmp_path, train=Pairs(samples[:12]), val=Pairs(samples[12:]))
    pairs = types.ModuleType('held_pairs'); monkeypatch.setitem(sys.modules, 'held_pairs', pairs)
    pairs.build_train_val_loaders = lambda stage: (make_loader(home.train, 4, seed=1), make_loader(home.val, 4, shuffle=False))
    pairs.only_one = lambda stage: [1]; pairs.number = 3
    for name,text in dict(curves='backbone_name: curves', hybrid='backbone_name: curves+tiny\nresidual_hidden_dim: 8\nresidual_max_disp: 1.0').items():
        (tmp_path/f'{name}.yaml').write_text(f'{text}\ncurve_hidden_dim: 8\n')
    def stage(folder, *settings, name='stage1', model=None, loss=None, **kw):
        defaults = ['epochs=2', 'max_steps_per_epoch=null', 'max_val_steps=null', 'best_metric_name=epe_px_median', 'optimizer.lr=1e-3']
        return run_stage(name, str(tmp_path/f"{model or ('curves' if name=='stage1' else 'hybrid')}.yaml"), loss or f'demo_{name}', 'debug_smoke', str(tmp_path/folder) if folder else '',
                         **(dict(loader_module='held_pairs', init_from='')|kw), overrides=[*defaults, *settings])
    home.stage = stage
    yield home
    torch.set_num_threads(threads)

def notes(run): return [l['text'] for l in run.history.lines if l['kind']=='note']
def at(monkeypatch, n, do):
    "Do something with the result of the n-th training step."
    old,calls = LensStep.__call__,[]
    def call(self, model, batch, train, autocast):
        r = old(self, model, batch, train, autocast); calls.extend([1]*train)
        if train and len(calls)==n: do(model, r)
        return r
    monkeypatch.setattr(LensStep, '__call__', call)

# numbers that are not finite

@pytest.mark.parametrize('name,key,said', [('stage1','target_grid','grid'), ('stage2','target_image','ssim: target'), ('stage2','input_image','ssim|pixel|residual_flow')])
def test_a_loss_that_is_not_finite_stops_and_names_the_part(lab, samples, name, key, said):
    lab.train = Pairs(samples[:12], 5, key)
    with pytest.raises(FloatingPointError, match=rf'training, epoch 1, step \d: .*({said}).*[Nn]a[Nn]'): lab.stage('run', name=name)

def test_or_it_is_left_out_and_counted_and_the_schedule_waits(lab, samples):
    lab.train = Pairs(samples[:12], 5)
    done = lab.stage('run', 'fail_on_nonfinite_loss=false', 'scheduler.name=cosine')
    assert done.run.history.series('nonfinite_steps')[1]==[1,1] and (done.engine.global_step, done.engine.scheduler.last_epoch)==(6,4)
    assert done.run.history.all_finite() and all(p.isfinite().all() for p in done.engine.model.parameters())

def test_a_validation_that_is_not_finite_is_never_the_best(lab, samples):
    lab.val = Pairs(samples[12:], 1)
    with pytest.raises(FloatingPointError, match='validation, epoch 1, step 0.*grid'): lab.stage('stops')
    lab.val = Pairs(samples[12:16], 1)
    done = lab.stage('goes_on', 'fail_on_nonfinite_loss=false')
    val = [l for l in done.run.history.lines if l['kind']=='val']
    assert [(l['is_best'], l['nonfinite_batches'], 'epe_px_median' in l) for l in val]==[(False,1,False)]*3 and not (done.run.dir/'best.pt').exists()

def test_weights_that_are_not_finite_are_named(lab):
    bad = HybridModel(ModelSettings(backbone_name='curves', curve_hidden_dim=8)); torch.nn.init.constant_(bad.evidence.trust.weight, math.nan)
    save_checkpoint(lab.path/'bad.pt', dict(model=bad.state_dict()))
    with pytest.raises(FloatingPointError, match=r"training|validation, epoch 1, step 0: in the model: params \(4, 8\) holds NaN"): lab.stage('run', init_from=str(lab.path/'bad.pt'))

# warnings

def test_saturation_is_told_once_per_epoch_with_four_names_and_shares(lab):
    (lab.path/'tight.yaml').write_text('backbone_name: curves\ncurve_hidden_dim: 8\nparam_bounds: {'+', '.join(f'{n}: [-1.0e-7, 1.0e-7]' for n in ('k1','k2','k3','p1','p2','dcx'))+'}\n')
    told = notes(lab.stage('run', 'param_saturation_warn_threshold=.6', 'log_interval=1', model='tight').run)
    assert len(told)==2
    for text in told: names = text.split(' of the batch')[0].split(', '); assert len(names)==4 and all(n.split()[1].endswith('%') and int(n.split()[1][:-1])>60 for n in names)
    assert notes(lab.stage('calm', 'param_saturation_warn_threshold=.6', 'log_interval=1').run)==[]

@pytest.mark.parametrize('most,bias,said', [(1., 3., 'reaches 1.00 of 1 px'), (8., .4, 'reaches 3.04 of 8 px, 24 px of the picture')])
def test_the_residual_warning_can_fire(lab, most, bias, said):
    "At 95 % of what the head can do, or at so many px of the picture."
    (lab.path/'far.yaml').write_text(f'backbone_name: curves+tiny\nresidual_hidden_dim: 8\ncurve_hidden_dim: 8\nresidual_max_disp: {most}\n')
    model = HybridModel(ModelSettings(backbone_name='curves+tiny', residual_hidden_dim=8, curve_hidden_dim=8, residual_max_disp=most))
    torch.nn.init.constant_(model.residual.last.bias, bias); save_checkpoint(lab.path/'far.pt', dict(model=model.state_dict()))
    told = notes(lab.stage('run', 'log_interval=1', 'optimizer.lr=1e-6', 'residual_warn_abs_max_px=20', name='stage2', model='far', init_from=str(lab.path/'far.pt')).run)
    assert len(told)==2 and all(said in t for t in told)

@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason='the device is there')
@pytest.mark.parametrize('device', ['cuda','mps'])
def test_a_missing_device_is_the_processor(lab, device):
    with pytest.warns(UserWarning, match=f'there is no {device} device here: running on the cpu'): done = lab.stage('run', f'device={device}', 'epochs=1')
    assert done.engine.acc.device.type=='cpu' and done.engine.global_step==3

# stopping and going on

def test_an_interrupt_leaves_a_file_that_goes_on_within_the_epoch(lab, monkeypatch, capsys):
    lab.stage('whole')
    with monkeypatch.context() as m:
        def stop(model, r): raise KeyboardInterrupt
        at(m, 2, stop)
        with pytest.raises(KeyboardInterrupt): lab.stage('cut')
    cut = load_checkpoint(lab.path/'cut/interrupted.pt'); assert (cut['epoch'], cut['global_step'], cut['batches_done'])==(0,1,1)
    lab.stage('cut', resume_from=str(lab.path/'cut/interrupted.pt'), init_from='elsewhere.pt')
    assert 'resume_from wins over init_from: elsewhere.pt is not read' in capsys.readouterr().out
    a,b = (load_checkpoint(lab.path/n/'last.pt') for n in ('whole','cut'))
    assert all(torch.equal(a['model'][k], b['model'][k]) for k in a['model']) and (a['epoch'], a['global_step'])==(b['epoch'], b['global_step'])==(2,6)
    assert (lab.path/'whole/samples.jsonl').read_bytes()==(lab.path/'cut/samples.jsonl').read_bytes() and [s.step for s in read_samples(lab.path/'cut')]==[0,3,6]

def test_what_is_no_checkpoint_of_this_run_is_refused_by_name(lab):
    lab.stage('run', 'epochs=1'); good = (lab.path/'run/last.pt').read_bytes(); before = (lab.path/'run/resolved_config.json').read_text()
    class Trap:
        def __reduce__(self): return Path.touch, (lab.path/'sprung',)
    def refused(file, match, **kw):
        with pytest.raises(CheckpointError, match=f'{file}.*{match}') as e: lab.stage('run', resume_from=str(lab.path/'run'/file), **kw)
        assert '\n' not in str(e.value)
    for name,data in dict(half=good[:len(good)//2], empty=b'', photo=b'\xff\xd8\xff\xe0 JFIF', trap=pickle.dumps(Trap(), 2)).items(): (lab.path/f'run/{name}.pt').write_bytes(data)
    torch.save(dict(model=Trap()), lab.path/'run/trap_inside.pt'); torch.save(dict(model=HybridModel(ModelSettings(backbone_name='curves')).state_dict()), lab.path/'run/weights.pt')
    refused('half.pt', 'truncated'); refused('empty.pt', 'empty'); refused('photo.pt', 'not a checkpoint'); refused('trap.pt', 'not a checkpoint')
    refused('trap_inside.pt', 'not a checkpoint of plain tensors'); refused('weights.pt', 'lacks extra')
    refused('last.pt', 'stage1_param_only, this run is stage2_hybrid', name='stage2', model='curves')
    (lab.path/'wider.yaml').write_text('backbone_name: curves\ncurve_hidden_dim: 9\n'); refused('last.pt', 'curve_hidden_dim is 8 there, 9 here', model='wider')
    assert not (lab.path/'sprung').exists() and (lab.path/'run/resolved_config.json').read_text()==before
    with pytest.raises(FileNotFoundError, match='gone.pt'): lab.stage('run', resume_from=str(lab.path/'run/gone.pt'))

def test_init_takes_the_weights_alone_and_validation_changes_nothing(lab):
    first = lab.stage('first'); kept = {p.name: p.read_bytes() for p in (lab.path/'first').iterdir() if p.is_file()}
    weights = load_checkpoint(lab.path/'first/last.pt')['model']
    seen = lab.stage('first', resume_from=str(lab.path/'first/last.pt'), validate_only=True)
    assert all(torch.equal(weights[k], v) for k,v in seen.engine.model.state_dict().items()) and seen.engine.optimizer is None
    assert kept=={p.name: p.read_bytes() for p in (lab.path/'first').iterdir() if p.is_file()} and not list(seen.run.dir.glob('*.pt'))
    assert seen.metrics['epe_px_median']==pytest.approx(first.run.history.series('epe_px_median','val')[1][-1], abs=1e-5)
    from_first = lab.stage('second', init_from=str(lab.path/'first/last.pt'))
    look = [l for l in from_first.run.history.lines if l['kind']=='val'][0]
    assert look['step']==0 and look['epe_px_median']==pytest.approx(seen.metrics['epe_px_median'], abs=1e-5) and from_first.engine.global_step==6
    assert load_checkpoint(lab.path/'second/best.pt')['optimizer']['param_groups'][0]['lr']==1e-3

@pytest.mark.parametrize('how', ['disk','model','figure','note'])
def test_the_album_never_stops_a_run_nor_changes_it(lab, monkeypatch, how):
    "A full disk, a model that fails on the album, a figure that fails, a diary that cannot take the note: the weights are those of a run without an album."
    def full(*a, **kw): raise OSError(28, 'No space left on device')
    plain = lab.stage('plain', 'album=0', name='stage2'); assert not (lab.path/'plain/album').exists()
    for what in dict(disk=['write_whole'], model=['AlbumWriter._maps'], figure=['det_plate'], note=['write_whole'])[how]: monkeypatch.setattr(f'distortkit.lens.album.{what}', full)
    if how=='note': monkeypatch.setattr('distortkit.core.runs.Run.note', full)
    done = lab.stage('run', name='stage2'); assert done.engine.global_step==6
    assert [t for t in notes(done.run) if 'album' in t]==([] if how=='note' else ['no more pictures for the album: OSError: [Errno 28] No space left on device'])
    a,b = (load_checkpoint(lab.path/n/'last.pt') for n in ('plain','run')); assert all(torch.equal(a['model'][k], b['model'][k]) for k in a['model'])
    assert (lab.path/'plain/samples.jsonl').read_bytes()==(lab.path/'run/samples.jsonl').read_bytes()

def test_the_album_of_a_run(lab):
    "The first validation samples, the flow of the best and the last epoch, pictures for TensorBoard at the best; the loader may have no names."
    done = lab.stage('run', name='stage2'); album,seen = read_album(lab.path/'run'),read_samples(lab.path/'run')
    assert [d['image_id'] for d in album.items]==seen[0].image_id[:12] and album.flow_step('last')==seen[-1].step==6
    best = [l['step'] for l in done.run.history.lines if l.get('is_best')][-1]; assert album.flow_step('best')==best
    assert album.corrected(0, seen[-1], album.flow('last')).shape==album.pictures(0)[0].shape==(*album.size, 3)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    tags = EventAccumulator(str(lab.path/'run/tb')).Reload().Tags(); assert {t.split('/')[0] for t in tags['images']}=={'look','detJ','flow'} and len(tags['images'])==3*min(4, len(album))

# settings that do not fit

def test_stage_and_loss_must_fit(lab):
    for text,match in (('stage: stage2_hybrid\ngrid_weight: 1', 'stage2_hybrid, not for stage1'), ('stage: stage1_param_only\njacobian_weight: .1', 'jacobian_weight'),
                       ('stage: debug\ngrid_weight: 1\nflow_tv_weight: .1\njacobian_weight: .1', 'flow_tv_weight, jacobian_weight must be 0 in stage1_param_only')):
        (lab.path/'loss.yaml').write_text(text+'\n')
        with pytest.raises(ValueError, match=match): lab.stage('run', loss=str(lab.path/'loss.yaml'))
    assert not (lab.path/'run').exists()

@pytest.mark.parametrize('more,match', [(dict(loader_fn='only_one'), 'must return .train_loader, val_loader., got list'), (dict(loader_fn='nothing'), 'no function nothing'), (dict(loader_fn='number'), 'no function number'),
    (dict(loader_module='no_such_module'), 'no_such_module cannot be imported'), (dict(warp_backend='gl'), 'geometry, person1, mock')])
def test_a_wrong_loader_or_backend_is_refused(lab, more, match):
    with pytest.raises(ValueError, match=match): lab.stage('run', **more)
    assert not (lab.path/'run').exists()

def test_protocols_and_the_mock(lab):
    for name in BACKENDS: assert isinstance(make_backend(name), WarpBackend)
    assert isinstance(compute_proxy_score, ProxyScorer) and not isinstance(3, ProxyScorer) and not isinstance(compute_proxy_score, WarpBackend)
    done = lab.stage('run', 'epochs=1', warp_backend='mock'); assert done.engine.global_step==3
    assert json.loads((lab.path/'run/resolved_config.json').read_text())['settings']['train']['warp_backend']=='mock'

# schedule and precision

def test_the_schedule_ends_where_it_should_under_a_cap(lab):
    done = lab.stage('run', 'scheduler.name=cosine', 'scheduler.min_lr=1e-5', 'max_steps_per_epoch=2', 'grad_accumulation=2', 'epochs=4')
    assert done.engine.global_step==4 and done.run.history.series('lr')[1][-1]==pytest.approx(1e-5) and done.run.history.series('lr')[1][0]<1e-3

@pytest.fixture
def float16(monkeypatch):
    "Loss scaling as on a GPU, on the processor; the lengths of the gradients that AdamW is given."
    import distortkit.core.steps as steps
    make,given,step = steps.make_accelerator,[],torch.optim.AdamW.step
    def scaled(device, amp):
        acc = make(device, False)
        if amp: acc.scaler,acc.native_amp,acc.state._mixed_precision = torch.amp.GradScaler('cpu', init_scale=2.**14, growth_interval=4),True,'fp16'
        return acc
    def look(self, *a, **kw):
        given.append(torch.cat([p.grad.flatten() for g in self.param_groups for p in g['params'] if p.grad is not None]).norm().item()); return step(self, *a, **kw)
    monkeypatch.setattr(steps, 'make_accelerator', scaled); monkeypatch.setattr(torch.optim.AdamW, 'step', look)
    return given

AMP = ('amp_enabled=true', 'scheduler.name=cosine', 'grad_clip_norm=.05', 'log_interval=1')

def overflow(model, r):
    "The gradient of this step will be infinite."
    if hasattr(model, 'evidence'): handle = model.evidence.trust.bias.register_hook(lambda g: (handle.remove(), g*math.inf)[1])

def test_gradients_are_unscaled_before_they_are_clipped(lab, float16):
    "A scaled run is the plain one; without clipping the gradients are longer."
    scaled = lab.stage('scaled', *AMP); assert len(float16)==6 and max(float16)<.0501; float16.clear()
    plain = lab.stage('plain', *AMP[1:]); assert max(float16)<.0501; float16.clear()
    lab.stage('free', *AMP[:2], 'grad_clip_norm=null'); assert max(float16)>.06
    for a,b in zip(scaled.engine.model.parameters(), plain.engine.model.parameters()): assert torch.allclose(a, b, atol=1e-5)
    assert scaled.run.history.series('grad_norm')[1]==pytest.approx(plain.run.history.series('grad_norm')[1], rel=1e-3)

def test_a_skipped_step_moves_neither_weights_nor_schedule(lab, float16, monkeypatch):
    "The scale is halved after it, doubled after four good ones, and goes on from the checkpoint."
    with monkeypatch.context() as m: at(m, 2, overflow); whole = lab.stage('whole', *AMP, 'epochs=3')
    lr = whole.run.history.series('lr', 'step')[1]; assert lr[0]==lr[1]>lr[2]
    assert whole.run.history.series('steps_skipped')[1]==[1,0,0] and len(float16)==8 and all(map(math.isfinite, float16))
    assert (whole.engine.global_step, whole.engine.scheduler.last_epoch)==(9,8) and whole.run.history.all_finite()
    state = load_checkpoint(lab.path/'whole/last.pt')['scaler']; assert state['scale']==2.**14   # halved, and doubled after four good steps
    def stop(model, r): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        at(m, 2, overflow); at(m, 5, stop)
        with pytest.raises(KeyboardInterrupt): lab.stage('cut', *AMP, 'epochs=3')
    assert load_checkpoint(lab.path/'cut/interrupted.pt')['scaler']['scale']==2.**13
    lab.stage('cut', *AMP, 'epochs=3', resume_from='auto')
    a,b = (load_checkpoint(lab.path/n/'last.pt') for n in ('whole','cut')); assert a['scaler']==b['scaler'] and all(torch.equal(a['model'][k], b['model'][k]) for k in a['model'])

def test_half_precision_on_the_processor_learns_the_same(lab):
    "bfloat16 and weights that lie pixel by pixel, beside full precision: the same losses within rounding."
    full,low = (lab.stage(n, *more, 'log_interval=1', 'optimizer.lr=1e-4', name='stage2') for n,more in (('full',()), ('low',('amp_enabled=true','channels_last=true'))))
    assert low.engine.acc.scaler is None and low.engine.model.residual.last.weight.is_contiguous(memory_format=torch.channels_last)
    a,b = (r.run.history.series('loss','step')[1] for r in (full, low)); assert b==pytest.approx(a, rel=.03) and a!=b

# scores

def scorer(lab, text):
    (lab.path/'theirs.py').write_text('import math, sys, time, torch\ncalls = []\n'+text)
    return 'proxy_enabled=true', f"proxy_module_path={lab.path/'theirs.py'}", 'proxy_function_name=score', 'best_metric_name=auto', 'log_interval=0'

BROKEN = dict(raises="def score(pred, gt, config=None): raise RuntimeError('no server')", nonsense="def score(pred, gt, config=None): return 'good'",
    nothing="def score(pred, gt, config=None): return None", exits="def score(pred, gt, config=None): sys.exit(3)", import_error='import no_such_module', syntax='def score(:', no_function='score = 3',
    nan="def score(pred, gt, config=None): return dict(total_score=math.nan, sub_scores={}, flags=dict(hard_fail=False, reasons=[]))",
    hangs="def score(pred, gt, config=None):\n    calls.append(1)\n    time.sleep(.1 if len(calls)<3 else 8)\n    return dict(total_score=.5, sub_scores={}, flags=dict(hard_fail=False, reasons=[]))")

@pytest.mark.parametrize('how', BROKEN)
def test_a_broken_scorer_never_stops_a_run(lab, how, monkeypatch):
    monkeypatch.setattr('distortkit.lens.patience.PATIENCE', .3); monkeypatch.setattr('distortkit.lens.proxy._told', set())  # a failure is told once per process
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always'); done = lab.stage('run', *scorer(lab, BROKEN[how]), name='stage2')
    assert done.engine.global_step==6 and (done.run.dir/'best.pt').is_file() and done.run.history.all_finite()
    said = [str(w.message) for w in told if 'scor' in str(w.message)]
    if how=='hangs': assert any('no answer in 0.3 s' in s for s in said) and done.run.history.last('proxy_error','val')>0; return
    assert ('proxy_error' in read_samples(done.run.dir)[0].columns)==(how not in ('import_error','syntax','no_function'))
    assert any('proxy_total_score cannot be measured: the best checkpoint is judged by loss' in t for t in notes(done.run)) and (said or how=='nan')
    best = load_checkpoint(done.run.dir/'best.pt'); assert best['extra']['best_metric_name']=='loss' and best['extra']['proxy_enabled'] is True

def test_the_best_epoch_is_the_one_with_the_highest_score(lab):
    "Four looks of two batches: before training, and after each of three epochs."
    script = "told = [.2,.2,.5,.5,.9,.9,.4,.4]\ndef score(pred, gt, config=None):\n    if len(pred)!=4: raise ValueError('batches only')\n    calls.append(1)\n    return dict(total_score=told[len(calls)-1], sub_scores=dict(edge=.1), flags=dict(hard_fail=False, reasons=[]))"
    done = lab.stage('run', *scorer(lab, script), 'epochs=3', name='stage2'); val = [l for l in done.run.history.lines if l['kind']=='val']
    assert [(l['epoch'], round(l['proxy_total_score'], 3), l['is_best']) for l in val]==[(0,.2,True), (1,.5,True), (2,.9,True), (3,.4,False)]
    best,last = (load_checkpoint(done.run.dir/f) for f in ('best.pt','last.pt')); assert best['epoch']==2 and best['best_metric']==pytest.approx(.9) and best['extra']['proxy_total_score']==pytest.approx(.9)
    assert last['extra']['proxy_total_score']==pytest.approx(.4) and [best['extra'][k] for k in ('stage','best_metric_name','best_metric_mode')]==['stage2_hybrid','proxy_total_score','max']
    assert val[0]['proxy_edge']==pytest.approx(.1) and done.metrics['epoch']==2

# everything together

def test_what_was_asked_for_is_written_before_the_first_step(lab, monkeypatch):
    seen = []
    at(monkeypatch, 1, lambda model, r: seen.append(json.loads((lab.path/'run/resolved_config.json').read_text()))); lab.stage('run', 'epochs=1')
    s = seen[0]['settings']; assert {'model','bounds','loss','train','runtime'}<=set(s) and s['train']['optimizer']['lr']==1e-3 and s['train']['scheduler'] and 'commit' in seen[0]['environment']['git']

def test_the_keys_of_the_log(lab):
    done = lab.stage('run', 'log_interval=1', 'proxy_enabled=true', name='stage2'); h = done.run.history
    names = ('k1','k2','k3','p1','p2','dcx','dcy','scale')
    assert {*(f'param_sat_frac_{n}' for n in names), 'param_sat_frac_max', 'params_abs_mean', 'params_abs_max', *(f'param_{n}_mean' for n in ('k1','k2','k3','scale')), 'residual_lowres_abs_mean_px', 'residual_lowres_max_px',
        'residual_fullres_norm_abs_mean', 'residual_fullres_norm_max', 'model_debug_params_abs_mean', 'lr', 'loss', 'grad_norm'}<=set(h.keys('train'))
    assert {*(f'warp_{n}' for n in ('oob_ratio','negative_det_pct','det_min','det_p01','det_mean','high_grad_area_frac','residual_abs_mean_norm','residual_max_norm','safety_safe')), 'proxy_total_score', 'proxy_hard_fail', 'epe_px_median'}<=set(h.keys('val'))
    rows = set(read_samples(done.run.dir)[0].columns); assert {'k1','s','det_min','safe','residual_max_px','epe_px','proxy_total_score'}<=rows
    assert rows&{k for k in h.keys()}<={k for k in rows if k.startswith('proxy_')}   # what is told of each sample becomes no curve
    assert h.all_finite() and 0<=h.last('warp_safety_safe')<=1

def test_three_stages_in_a_row_learn(lab):
    "Each starts from the best weights of the one before, which it finds itself; without them it says what to do."
    go = lambda name: lab.stage('', f'run_name={name}', name=name, model='hybrid', init_from='previous')
    with pytest.raises(FileNotFoundError, match='stage1_param_only/best.pt, which is missing: train stage1_param_only first'): go('stage2')
    for name,folder in dict(stage1='stage1_param_only', stage2='stage2_hybrid', stage3='stage3_finetune').items():
        done = lab.stage('', 'epochs=3', f'run_name={folder}', 'optimizer.lr=3e-3', name=name, model='hybrid', init_from='previous'); h = done.run.history; loss = h.series('loss')[1]
        assert done.run.dir==lab.path/'runs'/folder and h.all_finite() and loss[-1]<loss[0] and load_checkpoint(done.run.dir/'best.pt')['extra']['stage']==folder
