"The selective tower from outside: the baseline's four commands on a toy folder, decisions from the bundle, the acceptance of phase 1, and what is refused."
import csv, json, shutil, subprocess, sys
from functools import partial
from pathlib import Path
import numpy as np, pytest, torch
import house
from distortkit.commands.selective import app

QUICK = ['--image_size','32','--lr-head=2e-3','--grad_accum_steps','1','--set','mirror=false','--set','device=cpu']

call,refused = (partial(f, app, prog_name='distortkit selective') for f in (house.call, house.refused))

@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "Real digits in folders as people have them: a CSV with a header for training, a JSON of pairs for validation."
    from distortkit.selective.offline import offline_rows
    home = tmp_path_factory.mktemp('toy'); train,val = offline_rows('digits', home/'set')
    lines = ['image,label',*(f'{r.path.name},{r.label}' for r in train)]; (home/'t.csv').write_text('\n'.join(lines)+'\n', encoding='utf-8-sig')
    (home/'v.json').write_text(json.dumps([['image','label'],*([r.path.name,r.label] for r in val)]))
    return dict(home=home, train=home/'set/train', val=home/'set/val', labels={str(r.path): r.label for r in val})

@pytest.fixture(scope='module')
def run(toy):
    "The four commands in their order, run as the baseline's users type them, in a folder of their own."
    home = toy['home']; out = home/'outputs'
    with pytest.MonkeyPatch.context() as m:
        m.chdir(home); m.setenv('DISTORTKIT_RUNS', str(home/'runs'))
        said = call('splits', '--natix_val_dir', toy['val'], '--val_labels_file', home/'v.json', '--val_select_ratio', '0.3', '--output', 'splits.json'); assert 'val_calib' in said
        call('train', '--mode', 'train', '--train_image_dir', toy['train'], '--train_labels_file', home/'t.csv', '--val_image_dir', toy['val'], '--val_labels_file', home/'v.json',
             '--epochs', '4', '--output_dir', './outputs', '--val_select_ratio', '0.3', *QUICK)
        said = call('sweep', '--val_probs', './outputs/val_probs.pt', '--val_labels', './outputs/val_labels.pt', '--target_fnr', '0.05', '--output', './outputs/thresholds.json')
        assert 'exited positives' in said and '<- chosen' in said
        call('export', '--output_dir', './outputs')
    return out

def test_the_four_commands_leave_their_files(run):
    from distortkit.selective.artifacts import read_artifact
    for name in ('model_best.pth','config.json','metrics.csv','val_probs.pt','val_labels.pt','thresholds.json','bundle.json','splits.json'): assert (run/name).is_file(), name
    for kind in ('config','splits','thresholds','bundle'): read_artifact(run, kind)
    v = read_artifact(run, 'bundle'); assert (v['active_exit_policy'],v['version'],v['policy_file'])==('softmax','1.0','thresholds.json')
    assert not any(Path(n).is_absolute() or '/' in n for n in v['files'])
    t = read_artifact(run, 'thresholds'); assert t['feasible'] and t['policy']=='asym' and t['target_fnr']==.05 and t['bound']<=.05
    assert t['sweep_results'] and all({'fpr_on_exits','bound','n_pos_exits','misses'}<=set(r) for r in t['sweep_results'])   # the other rate stands beside the limited one
    mine,given = read_artifact(run, 'splits'),json.loads((run.parent/'splits.json').read_text()); assert all(mine[p]==given[p] for p in ('val_select','val_calib','val_test'))

def test_decisions_keep_the_limit_and_name_what_cannot_be_read(run, toy, tmp_path):
    pictures = tmp_path/'in'; shutil.copytree(toy['val'], pictures); (pictures/'0000_bad.png').write_bytes(b'nothing')
    said = call('decide', pictures, '--bundle', run, '-o', tmp_path/'out.csv', code=2); assert '0000_bad.png' in said and '1 could not be read' in said
    rows = list(csv.DictReader(open(tmp_path/'out.csv', encoding='utf-8'))); assert len(rows)==len(toy['labels'])+1
    label = {Path(p).name: v for p,v in toy['labels'].items()}; good = [r for r in rows if not r['error']]; out = [r for r in good if r['exits']=='True']
    assert {r['answer'] for r in good if r['exits']=='False'}<={''} and {r['answer'] for r in out}=={'0','1'} and 0<len(out)<len(good)
    missed = [r['answer']=='0' for r in out if label[Path(r['file']).name]==1]; assert len(missed)>100 and sum(missed)/len(missed)<=.08
    call('decide', pictures/'0000_bad.png', '--bundle', run, code=1); assert 'no picture' in refused('decide', tmp_path/'none', '--bundle', run)
    call('decide', sorted(pictures.glob('*.png'))[1], '--bundle', run/'bundle.json', '-o', tmp_path/'one.jsonl'); assert json.loads((tmp_path/'one.jsonl').read_text())['policy']=='softmax'

def test_a_moved_bundle_decides_alike_without_the_run(run, toy, tmp_path):
    from distortkit.selective.decide import Bundle
    call('export', '--run', run, '-o', tmp_path/'a'); shutil.copytree(tmp_path/'a', tmp_path/'b'); shutil.rmtree(tmp_path/'a')
    some = sorted(toy['labels'])[:30]; a,b = (list(Bundle.load(f).decide(some)) for f in (run,tmp_path/'b')); assert a==b
    code = "import sys\nfrom distortkit.commands.selective import app\napp(sys.argv[1:], prog_name='distortkit selective')"
    done = subprocess.run([sys.executable, '-c', code, 'decide', *some[:5], '--bundle', str(tmp_path/'b'), '-o', str(tmp_path/'p.jsonl')], capture_output=True, text=True); assert done.returncode==0, done.stderr
    assert [json.loads(l)['answer'] for l in (tmp_path/'p.jsonl').read_text().splitlines()]==[r['answer'] for r in b[:5]]   # another process

def test_a_changed_bundle_is_refused(run, toy, tmp_path):
    some = next(iter(toy['labels'])); call('export', '--run', run, '-o', tmp_path/'b')
    for name in ('model.safetensors','thresholds.json','config.json','splits.json','metrics.csv'):
        d = tmp_path/name; shutil.copytree(tmp_path/'b', d); data = bytearray((d/name).read_bytes()); data[len(data)//2] ^= 1; (d/name).write_bytes(data)
        assert 'SHA-256 has changed' in refused('decide', some, '--bundle', d); (d/name).unlink(); assert 'missing' in refused('decide', some, '--bundle', d)
    v = json.loads((tmp_path/'b/bundle.json').read_text())
    for change,said in ((dict(version='2.0'), 'version'), (dict(policy_file='../thresholds.json'), ''), (dict(active_exit_policy='scrc'), 'scrc'), (dict(threshold=.88), 'threshold')):
        (tmp_path/'b/bundle.json').write_text(json.dumps(v|change)); assert said in refused('decide', some, '--bundle', tmp_path/'b')

def test_no_evidence_no_exit(run, toy, tmp_path):
    probs,labels = (torch.load(run/f'val_{k}.pt', weights_only=True) for k in ('probs','labels')); few = tmp_path/'run'; shutil.copytree(run, few, ignore=shutil.ignore_patterns('tb'))
    np.save(tmp_path/'p.npy', probs[:40].numpy()); np.save(tmp_path/'y.npy', labels[:40].numpy())
    said = call('sweep', '--val_probs', tmp_path/'p.npy', '--val_labels', tmp_path/'y.npy', '--output', few/'thresholds.json'); assert 'never exits' in said
    t = json.loads((few/'thresholds.json').read_text()); assert (t['feasible'],t['exit_threshold'],t['coverage'],t['fnr_on_exits'])==(False,None,0,1)
    call('export', '--run', few); assert f"0 answered 0, 0 answered 1, {len(toy['labels'])} abstained" in call('decide', toy['val'], '--bundle', few, '-o', tmp_path/'o.csv')

def test_calibrate_sweep_calibrated_and_evaluate(run, tmp_path):
    from distortkit.selective.artifacts import read_artifact
    from distortkit.selective.sweep import halves, read_scores
    few = tmp_path/'run'; shutil.copytree(run, few, ignore=shutil.ignore_patterns('tb'))
    call('calibrate', '--run', few, '--method', 'temperature', '--alpha', '0.05', '--thresholds', '[0.5, 0.8]'); n = len(halves(read_scores(few))[0])
    for kind in ('calibrator','scrc','scrc_sweep'): read_artifact(few, kind)
    assert [r['threshold'] for r in read_artifact(few, 'scrc_sweep')['results']]==[.5,.8] and read_artifact(few, 'calibrator')['n']==n
    call('sweep', '--run', few, '--calibrated', '--target_fnr', '0.1'); t = read_artifact(few, 'thresholds'); assert t['scores']=='calibrated' and t['n']==len(read_scores(few))-n
    call('export', '--run', few); call('calibrate', '--run', few, '--method', 'odir'); assert 'another calibrator.json' in refused('export', '--run', few)
    call('export', '--run', few, '--policy', 'scrc'); assert read_artifact(few, 'bundle')['policy_file']=='scrc_params.json'
    call('eval', '--val_probs', few/'val_probs.pt', '--val_labels', few/'val_labels.pt', '--draws', '20', '-o', tmp_path/'e.json'); e = read_artifact(tmp_path/'e.json', 'eval'); assert e['measures']['accuracy']>.8
    assert 'test_probs.pt' in refused('eval', '--run', few); assert 'no logits of a gate' in refused('gate', '--run', few)

def test_compare_shows_every_policy(run, tmp_path):
    said = call('sweep', '--run', run, '--target_fnr', '0.05', '--compare', '--output', tmp_path/'t.json')
    for policy in ('empirical','clopper_pearson','ltt','sgr','crc','asym'): assert f'\n{policy} ' in said
    assert said.count('no guarantee')==2
    said = call('sweep', '--run', run, '--policy', 'empirical', '--thresholds', '[0.5, 0.7, 0.9]', '--output', tmp_path/'t.json'); assert 'gives no guarantee' in said
    assert [r['threshold'] for r in json.loads((tmp_path/'t.json').read_text())['sweep_results']]==[.5,.7,.9]

def test_a_boundary_value_exits():
    from distortkit.selective.thresholds import ExitRule
    rule = ExitRule(policy='empirical', t0=.88, t1=.88, target_fnr=.02, delta=.1)
    assert rule.exits([[.88,.12],[.12,.88],[.8799,.1201],[.5,.5]]).tolist()==[True,True,False,False]
    with np.errstate(all='raise'): p = np.random.default_rng(0).random(2000); p = np.stack([1-p, p], 1)
    assert (rule.exits(p)==(p.max(1)>=.88)).all()

class TestPhase1:
    "The acceptance of phase 1."
    def test_config(self, run):
        from distortkit.core.config import ConfigError, load_settings
        from distortkit.selective.settings import OPENS, SelectiveSettings, load_config
        s = load_config(run); assert (s.phase,s.exit_policy,s.target_fnr_exit,s.dropout,s.label_smoothing)==(1,'softmax',.02,.3,.1)
        values = dict(use_dirichlet=True, calibrator='odir', gate_loss_weight=.5, aux_weight=.5, risk_weight=.5, coverage_weight=.5, exit_policy='scrc', peft_type='lora', optimizer='fsam', aggressive_augmentation=True, pretrain_epochs=1, conformal_weight=.5)
        also = dict(exit_policy=dict(gate_loss_weight=1.), pretrain_epochs=dict(peft_type='lora'))
        for name in OPENS:
            with pytest.raises(ConfigError, match=name): load_settings(SelectiveSettings, {name: values[name]})
            load_settings(SelectiveSettings, {name: values[name], 'phase': OPENS[name]}|also.get(name, {}))

    def test_data(self, run, toy):
        from distortkit.selective.labels import read_labels
        from distortkit.selective.parts import read_splits
        from distortkit.selective.settings import load_config
        from distortkit.selective.train import pictures_of
        rows = read_labels(toy['val'], toy['home']/'v.json'); splits = read_splits(run/'splits.json'); parts = [set(splits[p]) for p in ('val_select','val_calib','val_test')]
        assert len(rows)==len(toy['labels']) and set.union(*parts)=={r.key for r in rows} and sum(map(len, parts))==len(rows)
        assert len(json.loads((run/'val_keys.json').read_text()))==len(parts[1]) and tuple(pictures_of(load_config(run), rows)[0]['image'].shape)==(3,32,32)

    def test_model(self, run):
        from distortkit.selective.bundle import trained_model
        from distortkit.selective.settings import load_config
        model = trained_model(run, load_config(run)); linear = [m for m in model.head.modules() if isinstance(m, torch.nn.Linear)]
        assert [(m.in_features,m.out_features) for m in linear]==[(model.backbone.hidden_size,768),(768,2)] and not any(p.requires_grad for p in model.backbone.parameters())

    def test_training(self, run):
        from distortkit.selective.train import COLUMNS
        state = torch.load(run/'model_best.pth', weights_only=True); assert {'epoch','model_state_dict','optimizer_state_dict','scheduler_state_dict','best_acc','patience_counter','ema_state_dict'}<=set(state)
        lines = list(csv.DictReader(open(run/'metrics.csv'))); assert tuple(lines[0])==COLUMNS and len(lines)==4 and float(lines[-1]['Best_Val_Acc'])>.8
        p,y = (torch.load(run/f'val_{k}.pt', weights_only=True) for k in ('probs','labels')); assert p.shape==(len(y),2) and (p.argmax(1)==y).float().mean()>.8
        assert all(k.startswith('head.') for k in state['model_state_dict'])

    def test_scripts(self):
        for command in ('splits','train','sweep','calibrate','gate','eval','export','decide'):
            said = call(command, '--help'); assert f' distortkit selective {command} ' in said.split('Options')[0].split('\n', 1)[1]

@pytest.mark.parametrize('words,said', [
    (['splits','--val_dir','nosuch'], 'nosuch'), (['splits','--val_dir','{val}','--val_select_ratio','1.5'], 'ratio'), (['splits','--val_dir','{val}','--val_labels_file','no.csv'], 'no.csv'),
    (['train','--train_image_dir','offline:cats'], 'offline:faces'), (['train'], 'train_image_dir is not given'), (['train','--target_coverage','.9'], 'no option --target_coverage'), (['train','--set','target_coverage=.9'], 'target_coverage'),
    (['train','--set','dropout=2'], 'dropout'), (['train','--set','dropout'], 'KEY=VALUE'), (['train','--optimizer','fsam'], 'belongs to phase 4'), (['train','--peft_type','lora'], 'belongs to phase 3'), (['train','--lr_head'], 'needs a value'),
    (['train','--phase','2','--train_image_dir','offline:digits'], 'phase 1'), (['train','--config','nosuch'], 'nosuch'),
    (['sweep'], '--run'), (['sweep','--run','nosuch'], "no run 'nosuch'"), (['sweep','--val_probs','{run}/val_probs.pt'], 'needs --val_labels'), (['sweep','--run','{run}','--val_probs','x.pt'], 'say where the scores are'),
    (['sweep','--run','{run}','--policy','best'], 'not one of'), (['sweep','--run','{run}','--target_fnr','0'], 'target_fnr'), (['sweep','--run','{run}','--target_fnr','nan'], 'target_fnr'), (['sweep','--run','{run}','--delta','2'], 'delta'),
    (['sweep','--run','{run}','--thresholds','[.5,'], 'JSON'), (['sweep','--run','{run}','--thresholds','__import__("os").getcwd()'], 'JSON'), (['sweep','--run','{run}','--thresholds','[0.5, true]'], 'JSON'), (['sweep','--run','{run}','--thresholds','[0.2]'], 'from .5 to 1'),
    (['sweep','--val_probs','{run}/val_labels.pt','--val_labels','{run}/val_probs.pt'], 'probs must be (N,2)'), (['sweep','--val_probs','{run}/config.json','--val_labels','{run}/val_labels.pt'], 'damaged'),
    (['sweep','--run','{run}','--calibrated'], 'calibrator.json'), (['calibrate','--run','{run}','--method','best'], 'best'), (['gate'], 'say which run'), (['export'], 'say which run'), (['export','--run','{run}','--policy','gate'], 'gate.json'),
    (['decide','{val}','--bundle','nosuch'], 'there is no bundle'), (['decide','{val}','--bundle','{run}','-o','out.txt'], '.csv or .jsonl')])
def test_a_mistake_is_one_sentence(run, toy, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path); monkeypatch.setenv('DISTORTKIT_RUNS', str(tmp_path/'runs')); before = {p: p.stat().st_mtime_ns for p in run.iterdir()}
    told = refused(*(w.format(run=run, val=toy['val']) for w in words)); assert said in told, told
    assert {p: p.stat().st_mtime_ns for p in run.iterdir()}==before and not list(tmp_path.rglob('*.pt'))   # nothing was touched

def test_help_needs_nothing_heavy():
    seen = subprocess.run([sys.executable, '-c', 'import sys, distortkit.commands.selective; print(*sys.modules)'], capture_output=True, text=True, check=True).stdout.split()
    assert not {'torch','numpy','transformers','peft','matplotlib','sklearn'} & set(seen)

@pytest.fixture(scope='module')
def quick(toy, run):
    "Train with some settings on the toy folders, phase 1 being on record; the run folder."
    from distortkit.selective.settings import SelectiveSettings
    from distortkit.selective.train import train_selective
    def go(name, **more):
        s = dict(train_image_dir=str(toy['train']), train_labels_file=str(toy['home']/'t.csv'), val_image_dir=str(toy['val']), val_labels_file=str(toy['home']/'v.json'), image_size=32, epochs=2, warmup_epochs=0,
            val_select_ratio=.3, grad_accum_steps=1, lr_head=2e-3, mirror=False, device='cpu', output_dir=str(toy['home']/name))
        with pytest.MonkeyPatch.context() as m: m.setenv('DISTORTKIT_RUNS', str(toy['home']/'runs')); return train_selective(SelectiveSettings(**s|more), check=more.get('phase', 1)<3)
    return go

def decided(run, toy, **how):
    "Bundle and its rows for val_calib, with the scores training left."
    from distortkit.selective.bundle import export_bundle
    from distortkit.selective.decide import Bundle
    from distortkit.selective.sweep import read_scores
    bundle = Bundle.load(export_bundle(run, **how)); s = read_scores(run); rows = list(bundle.decide([toy['val']/k for k in s.keys]))
    assert np.abs(np.array([r['score'] for r in rows])-s.probs[:,1]).max()<1e-5   # the model of the bundle is the trained one
    return bundle,rows,s

def test_a_gate_decides(quick, toy):
    run = quick('gated', phase=2, gate_loss_weight=1., exit_policy='gate', mode='train_cached', epochs=6, target_fnr_exit=.1)
    assert 'has no gate.json' in refused('export', '--run', run); call('gate', '--run', run); bundle,rows,s = decided(run, toy)
    assert bundle.values['active_exit_policy']=='gate' and bundle.policy.rule.rule is not None
    said = bundle.policy.answers(s.probs, s.gate)[0]; assert [r['answer'] for r in rows]==[a if a>=0 else None for a in said.tolist()] and any(r['exits'] for r in rows)

def test_adapters_travel_with_the_bundle(quick, toy):
    from distortkit.selective.artifacts import write_artifact
    from distortkit.selective.sweep import read_scores, sweep_thresholds
    run = quick('lora', phase=3, peft_type='lora', peft_r=4, mode='train', lr_head=5e-3); s = read_scores(run); write_artifact(run, 'thresholds', sweep_thresholds(s.probs, s.labels, .1))
    bundle,_,_ = decided(run, toy); moved = [p for k,p in bundle.model.named_parameters() if 'lora_B' in k]; assert moved and all(p.abs().max()>0 for p in moved)

def test_a_published_backbone_is_named_and_checked(quick, toy, tmp_path):
    from distortkit.selective.artifacts import write_artifact
    from distortkit.selective.backbones import make_backbone
    from distortkit.selective.sweep import read_scores, sweep_thresholds
    make_backbone('tiny', seed=5).model.save_pretrained(tmp_path/'vit'); run = quick('hub', model_path=str(tmp_path/'vit'), mode='train_cached'); s = read_scores(run); write_artifact(run, 'thresholds', sweep_thresholds(s.probs, s.labels, .1))
    bundle,_,_ = decided(run, toy); assert not bundle.values['backbone']['in_model_file'] and (run/'model.safetensors').stat().st_size<1_000_000
    some = next(iter(toy['labels'])); call('decide', some, '--bundle', run); make_backbone('tiny', seed=6).model.save_pretrained(tmp_path/'vit')
    assert 'is not the one the bundle was made with' in refused('decide', some, '--bundle', run); shutil.rmtree(tmp_path/'vit'); assert 'vit' in refused('decide', some, '--bundle', run)

def test_a_run_as_one_page(run, tmp_path):
    from distortkit.cli import app as everything
    house.call(everything, 'report', run, '-o', tmp_path/'page.html')
    text = (tmp_path/'page.html').read_text(encoding='utf-8'); assert 'The rule is that of thresholds.json' in text and 'Risk and coverage' in text and 'src="http' not in text
