"The loop of the segment tower from outside: stopped, killed and uninterrupted runs are one, accumulation is exact, and the folder holds what it must and nothing else."
import json, os, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
from distortkit.core.config import ConfigError, load_settings
from distortkit.segment.settings import SegmentSettings, load_config
from house import diary, equal

TINY = dict(data=dict(patch_sizes=(32,48), patch_size=48), student=dict(dims=(24,16,16), depths=(1,1,1), dropout=.1), model=dict(embed_dim=16), knobs=dict(k_choices=(2,4)), autoencoder=dict(hidden_channels=8),
    train=dict(steps=5, eval_interval=3, grad_accum=2, save_interval=1, val_samples=2, log_interval=1, log_image_interval=0, device='cpu', lr=3e-3))

def settings(folder, **kw):
    merged = {k: {**TINY.get(k, {}), **kw.get(k, {})} for k in {**TINY, **kw}}; merged['train']['checkpoint_dir'] = str(folder)
    return load_settings(SegmentSettings, merged)

def train(*a, **kw):
    from distortkit.segment.train import train_segment
    torch.set_num_threads(1); return train_segment(settings(*a, **kw))

def last(folder, name='last.pt'): return torch.load(Path(folder)/name, weights_only=True)
def differences(a, b):
    found = [f'{n}: {k}' for n in ('last.pt','best.pt') for k in ('model','optimizer','scheduler','epoch','global_step','best_metric','rng') if not equal(last(a, n)[k], last(b, n)[k])]
    return found+['diary']*(diary(a)!=diary(b))+['artifact']*(not equal(last(a, 'artifacts/student.pt'), last(b, 'artifacts/student.pt')))

@pytest.fixture(scope='module')
def whole(tmp_path_factory): return train(tmp_path_factory.mktemp('whole')/'run')

def test_a_run_that_was_ended_from_outside_goes_on(whole, tmp_path):
    "Processes of their own, ended by a signal in their fourth step; the next ones end where the uninterrupted run did."
    code = """import json, os, sys, time, torch, torch._dynamo; from pathlib import Path; from distortkit.segment import train as T; from distortkit.segment.settings import load_config
torch.set_num_threads(1); old = T.SegmentStep.__call__
def call(self, model, batch, train, autocast):
    if train and int(batch['step'][0])==3: (home/'part').write_text(str(os.getpid())); (home/'part').rename(home/'mark'); time.sleep(1)
    return old(self, model, batch, train, autocast)
T.SegmentStep.__call__ = call; jobs = {}
for home in map(Path, sys.argv[1:]):
    if not (pid := os.fork()): f = os.open(home/'said', os.O_CREAT|os.O_WRONLY); os.dup2(f, 1); os.dup2(f, 2); T.train_segment(load_config(home/'c.json')); sys.exit(0)
    jobs[home.name] = pid
print(json.dumps({n: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for n,pid in jobs.items()}))"""   # imported once, for both
    ends = {signal.SIGINT: 'interrupted.pt', signal.SIGKILL: 'last.pt'}; homes = {n: tmp_path/n.name for n in ends}
    for home in homes.values(): home.mkdir(); (home/'c.json').write_text(settings(home/'run').model_dump_json())
    job = subprocess.Popen([sys.executable, '-c', code, *map(str, homes.values())], stdout=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'}); end,waiting = time.monotonic()+60,dict(homes)
    while waiting and job.poll() is None and time.monotonic()<end:
        for n,home in [*waiting.items()]:
            if (home/'mark').exists(): os.kill(int((home/'mark').read_text()), n); waiting.pop(n)
        time.sleep(.02)
    codes = json.loads(job.communicate(timeout=60)[0])
    for n,home in homes.items():
        said = (home/'said').read_text(); assert codes[n.name]!=0 and (home/'run'/ends[n]).is_file(), said
        assert ('--resume auto' in said)==(n==signal.SIGINT) and not (home/'run/artifacts').exists()
        torch.rand(7); assert not differences(whole, train(home/'run', train=dict(resume='auto')))

def test_averages_of_losses_are_in_the_checkpoint(whole):
    c = last(whole); assert 'averages.sizes' in c['model'] and (c['model']['averages.sizes']>0).any()
    assert not [k for k in last(whole, 'artifacts/student.pt')['student'] if k.startswith(('averages','decoder','adapters'))]

def test_workers_change_nothing(whole, tmp_path):
    "But for the dice of the loader, which nothing depends on."
    assert not [d for d in differences(whole, train(tmp_path/'run', data=dict(num_workers=2, prefetch_factor=2))) if 'rng' not in d]

def test_accumulated_batches_are_one_large_batch(tmp_path):
    "With the statistics of batch normalisation held, two batches of two give the weights that one of four gives."
    from distortkit.segment import train as T
    one,done = dict(student=dict(enabled=False), data=dict(patch_sizes=(32,), patch_size=32)),{}
    class Calm(T.Learner):
        def __init__(self, *a):
            super().__init__(*a); torch.manual_seed(0); norms = [m for m in self.modules() if isinstance(m, torch.nn.BatchNorm2d)]
            for m in norms: m.momentum = None
            with torch.no_grad(): self.net.encode(torch.rand(8, 3, 32, 32))   # statistics to hold
        def train(self, mode=True):
            super().train(mode)
            for m in self.modules():
                if isinstance(m, torch.nn.BatchNorm2d): m.eval()
            return self
    with pytest.MonkeyPatch.context() as m:
        m.setattr(T, 'Learner', Calm)
        for name,batch,accum in (('large',4,1), ('parts',2,2), ('singles',1,4), ('wrong',2,1)):
            done[name] = last(train(tmp_path/name, **one, train=dict(batch_size=batch, grad_accum=accum, steps=3, eval_interval=3)))
    gap = lambda n: sum((done[n]['model'][k]-v).square().sum().item() for k,v in done['large']['model'].items() if v.is_floating_point())**.5; assert done['parts']['global_step']==3
    assert max(gap('parts'), gap('singles'))<.1*gap('wrong'), {n: gap(n) for n in done}

def test_targets_teach_nothing(whole, tmp_path):
    "The same scenes with their truth taken away or turned to nonsense: the same weights."
    from distortkit.segment import train as T
    class Changed(torch.utils.data.Dataset):
        def __init__(self, data, how): self.data,self.how = data,how
        def __len__(self): return len(self.data)
        def __getattr__(self, name): return getattr(self.data, name)
        def __getitem__(self, i):
            it = dict(self.data[i]); t = it.pop('target1'); return it if self.how=='none' else it|dict(target1=(t*7919)%13)
    make = T.make_source
    for how in ('none','nonsense'):
        with pytest.MonkeyPatch.context() as m:
            m.setattr(T, 'make_source', lambda *a, how=how, **kw: Changed(make(*a, **kw), how)); f = train(tmp_path/how)
        assert equal(last(f)['model'], last(whole)['model']) and equal(last(f)['optimizer'], last(whole)['optimizer'])
        seen = {k for l in diary(f) for k in l}; assert ('iou' in seen)==(how=='nonsense') and {'iou','utilisation','speckle','view_consistency'}<={k for l in diary(whole) for k in l}

def test_the_folder_and_its_settings(whole):
    from distortkit.segment.train import load_run_model
    assert load_config(whole)==settings(whole); assert json.loads((whole/'run_meta.json').read_text())['steps']==5
    assert {p.name for p in (whole/'artifacts').iterdir()}=={'student.pt','decoder_training_only.pt'} and last(whole, 'artifacts/decoder_training_only.pt')['training_only'] is True
    out = load_run_model(whole)(torch.rand(1, 3, 37, 50)); assert [tuple(f.shape[2:]) for f in out]==[(3,4),(5,7),(10,13)]

def test_tensorboard_goes_to_runs_train_where_nothing_is_said(tmp_path, monkeypatch):
    from distortkit.segment.train import train_segment
    monkeypatch.chdir(tmp_path); monkeypatch.setenv('DISTORTKIT_RUNS', str(tmp_path)); folder = train_segment(settings('', train=dict(steps=1, grad_accum=1, val_samples=1)))
    assert folder==tmp_path/'runs/train' and list((tmp_path/'runs/train/tb').glob('events.*'))

def test_both_schedules_of_sizes(tmp_path):
    a = train(tmp_path/'all', train=dict(steps=2, multi_scale_mode='per_step_all_scales', grad_accum=1)); b = train(tmp_path/'one', train=dict(steps=6, eval_interval=6, grad_accum=1))
    sizes = lambda f: {int(k.rsplit('_', 1)[1]) for l in diary(f) for k in l if k.startswith('raw_fine')}; assert sizes(a)==sizes(b)=={32,48} and last(a)['global_step']==2
    assert all({'raw_fine_32','raw_fine_48'}<=l.keys() for l in diary(a) if l['kind']=='step' and l['step']==1)   # every size in the first step

def test_what_is_refused(whole, tmp_path):
    from distortkit.core.checkpoint import CheckpointError
    for kw,error,said in ((dict(distill=dict(tv_weight=.2)),CheckpointError,'distill.tv_weight was 0.1'), (dict(student=dict(dims=(8,8,8))),CheckpointError,'student.dims')):
        with pytest.raises(error, match=said): train(whole, **kw, train=dict(resume='auto'))
    with pytest.raises(CheckpointError, match='does not exist'): train(tmp_path/'x', train=dict(resume=str(tmp_path/'no.pt')))
    with pytest.raises(ConfigError, match='disabled'): settings(tmp_path, data=dict(manifest_path='a.json'))
    with pytest.raises(ConfigError, match='elevation'): settings(tmp_path, data=dict(elevation='dem.tif'))
    assert not (tmp_path/'x').exists() and last(whole)['global_step']==5

CROWD = dict(data=dict(source='photos', patch_sizes=(32,), patch_size=32, windows=5, paste=.6), distill=dict(use_teacher=True, scales=3, members=2, near=.5, slices='fine', feature_weight=0), autoencoder=dict(enabled=False))

def test_crowds_are_the_same_however_they_are_made(tmp_path):
    "Two processes that load, none, files of another run, and a run that was ended in between and whose files were deleted: one and the same run."
    import shutil
    one = train(tmp_path/'one', **CROWD); kept = sorted(p.name for p in (one/'pieces').iterdir()); assert 2<=len(kept)<=7 and all(n.endswith('.npz') for n in kept)
    vary = lambda **kw: {**CROWD, 'data': CROWD['data']|kw}
    two = train(tmp_path/'two', **vary(num_workers=2, prefetch_factor=2)); assert not [d for d in differences(one, two) if 'rng' not in d] and sorted(p.name for p in (two/'pieces').iterdir())==kept
    other = train(tmp_path/'other', **vary(pieces_folder=str(two/'pieces'))); assert not differences(one, other) and not (other/'pieces').exists()
    half = train(tmp_path/'half', **CROWD, train=dict(steps=3)); shutil.rmtree(half/'pieces'); assert not [d for d in differences(one, train(tmp_path/'half', **CROWD, train=dict(resume='auto'))) if 'scheduler' not in d]

def test_a_network_teaches_where_nothing_else_does(tmp_path):
    "The shipped recipe, small, and the student that learns from the run it made: affinities at the finest resolution alone, no hierarchy, no file."
    def small(config, *more): return load_config(config, ['data.photos=""','data.patch_sizes=[32]','data.patch_size=32','data.windows=3','data.num_workers=0','distill.members=2','distill.scales=3','train.steps=3','train.batch_size=2','train.val_samples=2','train.device=cpu','train.log_image_interval=0','train.eval_interval=3',*more])
    from distortkit.segment.train import load_run_model, train_segment
    torch.set_num_threads(1); big = train_segment(small('teacher', 'student.dims=[40,24,16]', f'train.checkpoint_dir={tmp_path}/big')); small_ = train_segment(small('default', 'student.dims=[24,16,8]', f'distill.teacher={big}', f'train.checkpoint_dir={tmp_path}/small'))
    assert load_run_model(small_).dims==(24,16,8) and (big/'pieces').is_dir() and not (small_/'pieces').exists()
    for run in (big,small_): parts = diary(run)[-1]; assert parts['affinity']>0 and not {'feature','clustering','tv','agreement','consistency','recon','boundary'}&set(parts), parts
