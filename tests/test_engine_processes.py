"Two processes, started by torchrun: averaged weights, Friendly SAM and an early end are those of one, and resume exactly."
import json, os, subprocess, sys
import pytest, torch
from distortkit.core.checkpoint import load_checkpoint
from house import diary, equal

TRAIN = r'''
import faulthandler, json, os, signal, sys
from pathlib import Path
import torch
import torch.nn.functional as F
from torch import nn
torch.set_num_threads(1)
if __name__=='__main__': faulthandler.dump_traceback_later(150, exit=True)  # a hang says where
from distortkit.core.data import make_loader
from distortkit.core.device import leave_processes
from distortkit.core.engine import Engine, EngineSettings, StepResult
from distortkit.core.runs import Run

home,rank,world = Path(__file__).parent,int(os.environ.get('RANK', 0)),int(os.environ.get('WORLD_SIZE', 1))
class Points(torch.utils.data.Dataset):
    "Points inside and outside of a circle."
    x = torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
    def __init__(self, at): self.at = at
    def __len__(self): return len(self.at)
    def __getitem__(self, i): p = self.x[self.at[i[1] if isinstance(i, tuple) else i]]; return dict(x=p, y=(p.norm()<1.2).long())

def step(model, batch, train, autocast):
    score = model(batch['x']); loss = F.cross_entropy(score, batch['y'])
    return StepResult(loss, per_sample=dict(surprise=F.cross_entropy(score, batch['y'], reduction='none')))
def calls(n, do, where):
    "A step that does something in its n-th training call in one process."
    seen = []
    def f(model, batch, train, autocast):
        seen.extend([1]*train)
        if train and len(seen)==n and rank==where: do()
        return step(model, batch, train, autocast)
    return f
script = [5.,4.,3.,3.5,3.,2.,1.]

def fit(name, step=step, drop=0., resume='', **kw):
    "Train; the engine, or what ended it."
    torch.manual_seed(0); model = nn.Sequential(nn.Linear(2,16), nn.Tanh(), nn.Dropout(drop), nn.Linear(16,2))
    settings = EngineSettings.model_validate(dict(epochs=6, log_interval=1, device='cpu', best_metric_name='measure', ema_decay=.9, early_stop_patience=2, fallback_batch=3, grad_accumulation=4//world,
        optimizer=dict(name='fsam', lr=.02, rho=.1), scheduler=dict(name='cosine', warmup=.1))|kw)
    summary = lambda s: dict(surprise_mean=s['surprise'].mean().item(), measure=script[e.epoch+(e.global_step>0)])
    e = Engine(model, step, settings, Run.open(home/name, settings.model_dump(), resume=bool(resume), tensorboard=False), summary)
    try: e.fit(make_loader(Points(range(64)), 4, seed=1), make_loader(Points(range(64, 96)), 8, shuffle=False), home/name/resume if resume else None)
    except KeyboardInterrupt as stop: return f'KeyboardInterrupt: {stop}'
    return e

if __name__=='__main__':
    e = fit(f'plain{world}'); seen = dict(epoch=e.epoch, weights=[p.double().sum().item() for p in e.model.parameters()], average=[p.double().sum().item() for p in e.average.shadow.values()])
    if world==2:
        fit('whole', drop=.3)
        for n,number in ((12, signal.SIGTERM), (24, signal.SIGINT)): seen[number.name] = fit('cut', calls(n, lambda: os.kill(os.getpid(), number), 1), .3, 'interrupted.pt' if n>12 else '')
        seen['end'] = fit('cut', drop=.3, resume='interrupted.pt').epoch
    leave_processes(); seen['threads'] = [p.read_text() for p in Path('/proc/self/task').glob('*/comm') if 'gloo' in p.read_text()]  # one of them may end a process that ends
    (home/f'seen{world}{rank}.json').write_text(json.dumps(seen))
'''

@pytest.fixture(scope='module')
def played(tmp_path_factory):
    "The runs of two processes and of one; what each process saw, what was printed."
    home = tmp_path_factory.mktemp('engine'); (home/'train.py').write_text(TRAIN); said = {}
    env = {k: v for k,v in os.environ.items() if k not in ('WORLD_SIZE','RANK')}|dict(OMP_NUM_THREADS='1', DISTORTKIT_RUNS=str(home/'runs'), PYTHONUNBUFFERED='1')
    for n in (1,2):
        how = ['-m','torch.distributed.run','--standalone','--nproc_per_node','2'] if n==2 else []
        done = subprocess.run([sys.executable, *how, home/'train.py'], capture_output=True, text=True, env=env, timeout=200); assert done.returncode==0, done.stderr[-3000:]
        said[n] = done.stdout
    return home,{p.stem[4:]: json.loads(p.read_text()) for p in home.glob('seen*.json')},said

def test_both_have_the_same_weights_and_averages_as_one(played):
    home,seen,_ = played
    assert seen['20']['weights']==seen['21']['weights'] and seen['20']['average']==seen['21']['average']
    one,two = (load_checkpoint(home/f'plain{n}/best.pt') for n in (1,2)); assert one['epoch']==two['epoch']==2 and not equal(one['model'], one['raw_model'])
    for key in ('model','raw_model'):
        for k,v in one[key].items(): assert torch.allclose(v, two[key][k], atol=1e-5), (key, k)

def test_both_stop_together_and_say_why_once(played):
    home,seen,said = played
    assert [seen[k]['epoch'] for k in ('10','20','21')]==[4,4,4] and [l['text'] for l in diary(home/'plain2') if l['kind']=='note']==['stopped early: measure was not better than 3 for 2 epochs (early_stop_patience 2)']
    assert said[1].count('stopped early')==1 and said[2].count('stopped early')==3 and said[2].count('fallback_batch is left out')==5 and 'left out' not in said[1]

def test_resume_of_two_processes_is_exact(played):
    "Stopped twice, once in each way, with dropout thrown twice in each step."
    home,seen,_ = played
    for k in ('20','21'): assert (seen[k]['SIGTERM'], seen[k]['SIGINT'], seen[k]['end'])==('KeyboardInterrupt: SIGTERM','KeyboardInterrupt: SIGINT',4)
    for file in ('last.pt','best.pt'):
        a,b = (load_checkpoint(home/n/file) for n in ('whole','cut')); assert [k for k in {**a, **b} if not equal(a.get(k), b.get(k))]==[]
    assert diary(home/'whole')==diary(home/'cut')
    assert not equal(load_checkpoint(home/'whole/last.pt')['model'], load_checkpoint(home/'plain2/last.pt')['model'])

def test_a_process_that_ends_leaves_no_thread_behind(played):
    "A thread of the group that frees a tensor while Python ends would abort the process."
    _,seen,_ = played; assert [seen[k]['threads'] for k in ('10','20','21')]==[[],[],[]]
