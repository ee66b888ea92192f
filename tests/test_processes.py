"Two processes, really started by torchrun: the numbers of one, one writer, and a resume that is exact."
import importlib.util, json, os, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
import pytest, torch
from distortkit.core.checkpoint import CheckpointError, load_checkpoint
from distortkit.core.samples import read_samples
from house import diary

TRAIN = r'''
import faulthandler, json, math, os, signal, sys
from pathlib import Path
import torch
from torch.utils.data import DataLoader
torch.set_num_threads(1)
if __name__=='__main__': faulthandler.dump_traceback_later(240, exit=True)  # a hang says where; two cores with a load of 9 need 64 s
from distortkit.core.data import make_loader
from distortkit.lens.step import LensStep
from distortkit.lens.train import run_stage

home,rank,world = Path(__file__).parent,int(os.environ.get('RANK', 0)),int(os.environ.get('WORLD_SIZE', 1))
samples,BATCH,THEIRS = torch.load(home/'pairs.pt', weights_only=True),4//world,False

class Pairs(torch.utils.data.Dataset):
    "Held pairs; some curves are hidden by the dice of the process."
    def __init__(self, samples, hide=False): self.samples,self.hide = samples,hide
    def __len__(self): return len(self.samples)
    def __getitem__(self, at):
        i = at[1] if isinstance(at, tuple) else at; s = self.samples[i]|dict(image_id=f'pair {i}'); m = s['curve_mask']
        return s|dict(curve_mask=m&(torch.rand(m.shape)<.9)) if self.hide else s

def build_train_val_loaders(stage):
    train,val = Pairs(samples[:20], THEIRS),make_loader(Pairs(samples[20:]), 2, shuffle=False)
    return DataLoader(train, BATCH, shuffle=True, num_workers=1) if THEIRS else make_loader(train, BATCH, seed=3),val

def stage(folder, *more, resume='', workers=0):
    settings = ['epochs=3', 'log_interval=1', 'max_steps_per_epoch=null', 'max_val_steps=null', 'best_metric_name=epe_px_median', 'scheduler.name=cosine', 'optimizer.lr=1e-3', *more]
    return run_stage('stage1', str(home/'curves.yaml'), 'demo_stage1', 'debug_smoke', str(home/folder), loader_module='two_train', init_from='', resume_from=resume, overrides=settings)

def at(n, do, where=None):
    "Do something in the n-th training step, in one process."
    old,calls = LensStep.__call__,[]
    def call(self, model, batch, train, autocast):
        calls.extend([1]*train)
        if train and len(calls)==n and where in (None, rank): batch = do(batch) or batch
        return old(self, model, batch, train, autocast)
    LensStep.__call__ = call
    return lambda: setattr(LensStep, '__call__', old)
def spoilt(batch): return batch|dict(target_grid=batch['target_grid']*math.nan)
def tried(f):
    try: f(); return 'done'
    except BaseException as e: return f'{type(e).__name__}: {e}'

def play():
    "Everything that needs both processes; what each of them saw."
    global THEIRS
    seen = {}
    run = stage('two'); seen['world'] = [run.engine.acc.num_processes, world]; seen['weights'] = [p.double().sum().item() for p in run.engine.model.parameters()]
    stage('dies', 'checkpoint_every_steps=2', resume='auto'); THEIRS = True; stage('theirs')
    for n,number in ((4, signal.SIGTERM), (3, signal.SIGINT)):   # only the second process is asked to stop
        back = at(n, lambda b: os.kill(os.getpid(), number), 1)
        seen[number.name] = tried(lambda: stage('theirs_cut', resume='auto')); back()
    stage('theirs_cut', resume='auto'); THEIRS = False
    back = at(3, spoilt, 1); seen['nan'] = tried(lambda: stage('nan')); back()
    back = at(3, spoilt, 1); run = stage('left_out', 'fail_on_nonfinite_loss=false'); back()
    seen['left_out'] = [run.run.history.series('nonfinite_steps')[1] if rank==0 else None, run.engine.scheduler.last_epoch, run.engine.global_step]
    return seen

if __name__=='__main__':
    sys.modules['two_train'] = sys.modules['__main__']
    if sys.argv[1]=='die': at(4, lambda b: os._exit(7), 1); stage('dies', 'checkpoint_every_steps=2')
    else: (home/f'seen{rank}.json').write_text(json.dumps(play()))
'''

def torchrun(home, word, processes=2):
    env = {k: v for k,v in os.environ.items() if k not in ('WORLD_SIZE','RANK')} | dict(OMP_NUM_THREADS='1', DISTORTKIT_RUNS=str(home/'runs'), PYTHONUNBUFFERED='1')
    return subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes), home/'two_train.py', word], capture_output=True, text=True, env=env, timeout=320)

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with pairs, settings and the script."
    from distortkit.lens.bank import make_source
    from distortkit.lens.data import SyntheticPairs
    home = tmp_path_factory.mktemp('processes')
    pairs = SyntheticPairs([make_source('coffee')], (32,48), 27, images=False).__getitems__([(0,i) for i in range(27)])
    torch.save([{k: v for k,v in s.items() if isinstance(v, torch.Tensor)} for s in pairs], home/'pairs.pt')
    (home/'two_train.py').write_text(TRAIN); (home/'curves.yaml').write_text('backbone_name: curves\ncurve_hidden_dim: 8\n')
    return home

@pytest.fixture(scope='module')
def both(home):
    "What two processes saw, after a run whose second process died."
    died = torchrun(home, 'die'); left = sorted(p.name for p in (home/'dies').glob('*.pt'))
    done = torchrun(home, 'play'); assert done.returncode==0, done.stdout[-3000:]+done.stderr[-3000:]
    return [json.loads((home/f'seen{r}.json').read_text()) for r in (0,1)],done.stdout,died,left

@pytest.fixture(scope='module')
def alone(home):
    "The same script in this process."
    spec = importlib.util.spec_from_file_location('two_train', home/'two_train.py'); train = importlib.util.module_from_spec(spec)
    sys.modules['two_train'] = train; threads = torch.get_num_threads(); spec.loader.exec_module(train)
    yield train
    torch.set_num_threads(threads); del sys.modules['two_train']

def off(a, b):
    "The largest difference of two diaries, or of two models."
    if isinstance(a, Path): a,b = diary(a),diary(b)
    if isinstance(a, list):
        assert [(l['kind'],l['step'],l.keys()) for l in a]==[(l['kind'],l['step'],l.keys()) for l in b]
        return max(abs(x[k]-y[k])/max(1, abs(y[k])) for x,y in zip(a, b) for k in x if isinstance(x[k], float) and 'max' not in k)  # the largest of a batch depends on the batch
    return max((a[k]-b[k]).abs().max().item() for k in b)

def weights(folder): return load_checkpoint(folder/'last.pt')['model']

def test_two_processes_make_the_steps_of_one(home, both, alone):
    "The same global batch, once as two halves in two processes, once whole, once as two halves in turn."
    (a,b),_,_,_ = both; assert a['world']==b['world']==[2,2] and a['weights']==b['weights']
    alone.stage('one'); alone.BATCH = 2; alone.stage('in_turn', 'grad_accumulation=2'); alone.BATCH = 4
    assert off(home/'two', home/'one')<1e-5 and off(weights(home/'two'), weights(home/'one'))<1e-5
    val = lambda name: [l for l in diary(home/name) if l['kind']=='val']
    assert off(val('in_turn'), val('one'))<1e-5 and off(weights(home/'in_turn'), weights(home/'one'))<1e-5
    fresh = load_checkpoint(home/'one/best.pt')['model']; assert [l['step'] for l in diary(home/'two') if l['kind']=='step']==[*range(1, 16)]
    assert load_checkpoint(home/'two/last.pt')['optimizer']['state'].keys()==load_checkpoint(home/'one/last.pt')['optimizer']['state'].keys() and fresh.keys()==weights(home/'two').keys()

def test_the_rows_of_two_processes_are_those_of_one(home, both, alone):
    "Each process judges every second batch; names and numbers stand in the order of the loader, each sample once."
    alone.stage('rows'); two,one = read_samples(home/'two'),read_samples(home/'rows')
    assert [(s.step, s.epoch) for s in two]==[(s.step, s.epoch) for s in one]==[(0,0),(5,1),(10,2),(15,3)]
    for a,b in zip(two, one):
        assert a.image_id==b.image_id==[f'pair {i}' for i in range(7)] and list(a.columns)==list(b.columns) and {'k1','epe_px','det_min','safe'}<=set(a.columns)
        for k,v in a.columns.items(): assert v==pytest.approx(b.columns[k], rel=1e-3, abs=1e-5), k
    assert len(set(two[3].columns['identity_epe_px']))==7

def test_only_the_first_process_writes(home, both):
    told = both[1].splitlines(); assert sum(l.startswith('epoch 3/3  step 15') and 'val' in l for l in told)==len({'two','dies','theirs','theirs_cut','left_out'})
    facts = json.loads((home/'two/resolved_config.json').read_text()); assert facts['environment']['world_size']==2
    assert not list(home.glob('two.*')) and len([l for l in diary(home/'two') if l['kind']=='val'])==4

def test_a_process_that_dies_ends_the_run_which_goes_on(home, both):
    (a,_),_,died,left = both
    assert died.returncode!=0 and 'Timeout (' not in died.stderr and left==['best.pt','last.pt']  # the other one did not wait for it
    assert all(torch.equal(x, y) for x,y in zip(weights(home/'dies').values(), weights(home/'two').values())) and off(home/'dies', home/'two')==0

def test_resume_of_two_processes_is_exact(home, both):
    "Stopped twice by a signal to one of them; the data throws dice of each process."
    (a,b),told,_,_ = both
    assert a['SIGTERM']==b['SIGTERM']=='KeyboardInterrupt: SIGTERM' and a['SIGINT']==b['SIGINT']=='KeyboardInterrupt: SIGINT'
    assert told.count('interrupted.pt goes on from')==2 and diary(home/'theirs')==diary(home/'theirs_cut')
    assert (home/'theirs/samples.jsonl').read_bytes()==(home/'theirs_cut/samples.jsonl').read_bytes()
    x,y = (load_checkpoint(home/name/'last.pt') for name in ('theirs','theirs_cut'))
    assert all(torch.equal(x['model'][k], y['model'][k]) for k in x['model']) and len(x['rng'])==2
    for p,q in zip(x['rng'], y['rng']): assert torch.equal(p['torch'], q['torch'])
    assert not torch.equal(x['rng'][0]['torch'], x['rng'][1]['torch'])

def test_what_one_process_meets_all_know(both):
    "A loss that is not finite in one of them stops both with one sentence, or is left out by both."
    a,b = both[0]
    assert a['nan']==b['nan'] and a['nan'].startswith('FloatingPointError: training, epoch 1, step 2') and 'grid' in a['nan']
    assert a['left_out']==[[1,0,0],14,15] and b['left_out'][1:]==[14,15]

def test_another_number_of_processes_is_refused_in_one_sentence(home, both, alone):
    kept = (home/'two/last.pt').read_bytes(),(home/'two/history.jsonl').read_bytes()
    with pytest.raises(CheckpointError, match=r'last.pt was written by a run of 2 processes, this one has 1: start as many'): alone.stage('two', resume=str(home/'two/last.pt'))
    assert kept==((home/'two/last.pt').read_bytes(),(home/'two/history.jsonl').read_bytes())

def test_a_launcher_that_starts_too_few_is_noticed(alone, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2'); monkeypatch.setattr('accelerate.Accelerator', lambda **kw: SimpleNamespace(num_processes=1))
    with pytest.raises(RuntimeError, match='2 processes were asked for, accelerate runs 1'): alone.stage('few')
