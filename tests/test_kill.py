"A training that is killed in any way, at any moment, and resumed until it is done ends as if nothing had happened."
import json, os, subprocess, sys
import pytest
from distortkit.core.samples import read_samples
from distortkit.lens.album import read_album
from house import diary, equal

CHILD = r'''
import json, os, random, resource, signal, sys, time
from pathlib import Path
import torch
from torch.utils.data import DataLoader
torch.set_num_threads(1)
import torch._dynamo, torch.utils.tensorboard, accelerate.utils, distortkit.core.figures, matplotlib.backends.backend_agg   # imported once, not in every attempt
from distortkit.core.data import make_loader
from distortkit.core.journal import Journal
from distortkit.lens import album
from distortkit.lens.bank import make_source
from distortkit.lens.data import SyntheticPairs
from distortkit.lens.hybrid import HybridModel, ModelSettings
from distortkit.lens.step import LensStep
from distortkit.lens.train import run_stage

home,WORKERS,IMAGES = Path(sys.argv[1]),0,False
sources = [make_source(n) for n in ('coffee','scene/3')]
drawn = {images: SyntheticPairs(sources, (32,48), n, images=images).__getitems__([(0,i) for i in range(n)]) for images,n in ((False,24),(True,13))}
HybridModel(ModelSettings(backbone_name='curves'))

class Pairs(torch.utils.data.Dataset):
    "Pairs, some of their curves hidden by dice of the process that loads them, as somebody else's data might be."
    def __init__(self, samples, hide): self.samples,self.hide = samples,hide
    def __len__(self): return len(self.samples)
    def __getitem__(self, at):
        s = self.samples[at[1] if isinstance(at, tuple) else at]; m = s['curve_mask']
        return s|dict(curve_mask=m&(torch.rand(m.shape)<.9)) if self.hide else s

def build_train_val_loaders(stage):
    train,val = drawn[IMAGES][:-6],drawn[IMAGES][-6:]
    if IMAGES: loader = make_loader(Pairs(train, False), 2, seed=1, workers=WORKERS)
    else: loader = DataLoader(Pairs(train, True), 4, shuffle=True, num_workers=WORKERS, persistent_workers=WORKERS>0)
    return loader,make_loader(Pairs(val, False), 4, shuffle=False)

def stage(name, folder, images):
    more = ['checkpoint_every_steps=2', 'max_steps_per_epoch=null', 'max_val_steps=null', 'best_metric_name=epe_px_median', 'scheduler.name=cosine', 'optimizer.lr=1e-3']
    small = dict(stage1=['epochs=3'], stage2=['epochs=2','grad_accumulation=2'])[name]
    return run_stage(name, str(home/('hybrid.yaml' if images else 'curves.yaml')), f'demo_{name}', 'debug_smoke', str(home/folder), loader_module='child', resume_from='auto', init_from='', overrides=more+small)

def attempt(name, folder, how, images=False, workers=0):
    "One process that trains until it is done or something happens to it; its pid."
    pid = os.fork()
    if pid: return pid
    os.setsid(); log = os.open(home/f'{folder}.log', os.O_WRONLY|os.O_CREAT|os.O_APPEND); os.dup2(log, 1); os.dup2(log, 2)
    child = sys.modules['child']; child.WORKERS,child.IMAGES = workers,images; code = 1
    try: how(); stage(name, folder, images); code = 0
    except KeyboardInterrupt: code = 130
    except BaseException as e: print(f'{type(e).__name__}: {e}', flush=True)
    finally: os._exit(code)

def in_call(n, do):
    "Do something within the n-th training step."
    def how():
        old,calls = LensStep.__call__,[]
        def call(self, model, batch, train, autocast):
            r = old(self, model, batch, train, autocast); calls.extend([1]*train)
            if train and len(calls)==n: do()
            return r
        LensStep.__call__ = call
    return how
def in_write(n, share, do):
    "Do something in the n-th checkpoint, when a share of its bytes is in the file."
    def how():
        old,calls = torch.save,[]
        def save(state, f):
            old(state, f); calls.append(1)
            if len(calls)==n: f.flush(); f.truncate(int(share*f.tell())); do()
        torch.save = save
    return how
def in_line(n, share=.5):
    "Killed when a share of the n-th line of samples.jsonl is in the file."
    def how():
        old,calls = Journal.add,[]
        def add(self, text):
            calls.extend([1]*(self.path.name=='samples.jsonl'))
            if self.path.name=='samples.jsonl' and len(calls)==n:
                with open(self.path, 'ab') as f: f.write(f'{text}\n'.encode()[:int(share*(len(text)+1))])
                kill()
            old(self, text)
        Journal.add = add
    return how
def in_album(n):
    "Killed before the n-th residual flow is written: the best one and the last one are of different epochs."
    def how():
        old,calls = album.write_flow,[]
        def write(*a): calls.append(1); kill() if len(calls)==n else old(*a)
        album.write_flow = write
    return how
def slowly():
    "Take a second to write a last.pt over another."
    old = torch.save
    def save(state, f):
        old(state, f); path = Path(f.name)
        if path.name.startswith('.last.pt') and path.with_name('last.pt').exists(): f.flush(); time.sleep(1)
    torch.save = save
nothing = lambda: None
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
def crash(): raise OSError('the shelf fell down')
send = lambda number, group=False: (lambda: os.killpg(os.getpid(), number) if group else os.kill(os.getpid(), number))
def full(size=20_000): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def ended(pid): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def until_done(folder, hows, name='stage1', **kw):
    "Attempts, each with its accident, the last without; their exit codes."
    return [ended(attempt(name, folder, how, **kw)) for how in (*hows, nothing)]
def at_any_time(folder, dice, **kw):
    "Killed from outside after some time, again and again, each time a little later."
    codes = []
    for i in range(60):
        pid = attempt('stage1', folder, nothing, **kw); time.sleep(dice.uniform(.02, .15)+.03*i)
        os.kill(pid, signal.SIGKILL); codes.append(ended(pid))
        if codes[-1]==0: return codes
def in_the_file(folder, times):
    "Killed from outside as soon as half a checkpoint lies in the folder."
    codes = []
    for i in range(times):
        pid = attempt('stage1', folder, slowly); end = time.time()+20
        while not ((home/folder/'last.pt').exists() and (home/folder/f'.last.pt.{pid}.tmp').exists()) and time.time()<end: time.sleep(.005)
        time.sleep(.02*i); os.kill(pid, signal.SIGKILL); codes.append(ended(pid))
    return codes+[len(list((home/folder).glob('.*.tmp')))]+until_done(folder, [])

def scenarios():
    dice = random.Random(7); some = lambda n, most: [in_call(dice.randint(1, most), kill) for _ in range(n)]
    yield 'whole', lambda: until_done('whole', [])
    yield 'whole_2_workers', lambda: until_done('whole_2_workers', [], workers=2)
    yield 'whole_hybrid', lambda: until_done('whole_hybrid', [], 'stage2', images=True)
    yield 'steps', lambda: until_done('steps', some(7, 5))
    yield 'steps_2_workers', lambda: until_done('steps_2_workers', some(4, 6), workers=2)
    yield 'steps_hybrid', lambda: until_done('steps_hybrid', some(2, 5), 'stage2', images=True, workers=1)
    yield 'write', lambda: until_done('write', [in_write(n, dice.random(), kill) for n in (1,2,3,4)])
    yield 'file', lambda: in_the_file('file', 3)
    yield 'any_time', lambda: at_any_time('any_time', dice)
    yield 'line', lambda: until_done('line', [in_line(1), in_line(2), in_line(1, 1), in_line(2, 1)])
    yield 'album', lambda: until_done('album', [in_album(n) for n in (3,2,1,4)], 'stage2', images=True)
    yield 'sigterm', lambda: until_done('sigterm', [in_call(3, send(signal.SIGTERM)), in_call(2, send(signal.SIGTERM))])
    yield 'ctrl_c_2_workers', lambda: until_done('ctrl_c_2_workers', [in_call(4, send(signal.SIGINT, True))], workers=2)
    yield 'crash', lambda: until_done('crash', [in_call(6, crash)])
    def disk():
        first = [ended(attempt('stage1', 'disk', in_call(4, full)))]; kept = (home/'disk/last.pt').read_bytes(); torch.load(home/'disk/last.pt', weights_only=True)
        return first+[(home/'disk/last.pt').read_bytes()==kept, sorted(p.name for p in (home/'disk').glob('.*'))]+until_done('disk', [])
    yield 'disk', disk
    def diary():
        limit = lambda: full((home/'diary/history.jsonl').stat().st_size+30)
        first = [ended(attempt('stage1', 'diary', in_call(5, limit)))]
        return first+[(home/'diary/history.jsonl').read_bytes().endswith(b'\n')]+until_done('diary', [])
    yield 'diary', diary

if __name__=='__main__':
    sys.path.insert(0, str(Path(__file__).parent)); sys.modules['child'] = sys.modules['__main__']
    for name,play in scenarios():
        start = time.time(); codes = play()
        print(json.dumps([name, codes, round(time.time()-start, 2)]), flush=True)
'''

@pytest.fixture(scope='module')
def played(tmp_path_factory):
    "All accidents, played once; the folder of the runs and the exit codes."
    home = tmp_path_factory.mktemp('killed')
    (home/'child.py').write_text(CHILD)
    (home/'curves.yaml').write_text('backbone_name: curves\ncurve_hidden_dim: 8\n')
    (home/'hybrid.yaml').write_text('backbone_name: curves+tiny\ncurve_hidden_dim: 8\nresidual_hidden_dim: 8\nresidual_max_disp: 1.0\n')
    env = {k: v for k,v in os.environ.items() if k not in ('WORLD_SIZE','RANK')} | dict(OMP_NUM_THREADS='1', DISTORTKIT_RUNS=str(home/'runs'))
    done = subprocess.run([sys.executable, home/'child.py', home], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode==0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('[')]
    print('\n'.join(f'{name}: {codes}, {seconds} s' for name,codes,seconds in rows))
    return home,{name: codes for name,codes,_ in rows}

def differences(a, b):
    "What is not the same in two runs."
    from distortkit.core.checkpoint import load_checkpoint
    found = [f'{file}: {k}' for file in ('last.pt','best.pt') for x,y in [[load_checkpoint(f/file) for f in (a,b)]] for k in {**x,**y} if not equal(x.get(k), y.get(k))]
    held = lambda folder: {p.relative_to(folder).as_posix(): p.read_bytes() for p in [folder/'samples.jsonl', *(folder/'album').glob('*')] if p.is_file()}
    x,y = held(a),held(b)
    return found+['diary']*(diary(a)!=diary(b))+[k for k in {**x,**y} if x.get(k)!=y.get(k)]

def test_the_yardstick(played):
    "Runs that nothing happened to are done, learn something, and differ where they should."
    home,codes = played
    for name in ('whole','whole_2_workers','whole_hybrid'): assert codes[name]==[0]
    assert {'last.pt: model','last.pt: optimizer','diary'}<=set(differences(home/'whole', home/'whole_2_workers'))
    train = [l for l in diary(home/'whole') if l['kind']=='train']; assert [l['step'] for l in train]==[5,10,15] and len({l['loss'] for l in train})==3
    seen = read_samples(home/'whole'); assert [s.epoch for s in seen]==[0,1,2,3] and {len(s) for s in seen}=={6} and len({s.columns['k1'].tobytes() for s in seen})==4
    album = read_album(home/'whole_hybrid'); assert len(album)==6 and album.flow_step('last')==read_samples(home/'whole_hybrid')[-1].step and not (home/'whole'/'album').exists()

@pytest.mark.parametrize('name,like', [('steps','whole'), ('steps_2_workers','whole_2_workers'), ('steps_hybrid','whole_hybrid'), ('write','whole'), ('file','whole'), ('any_time','whole'), ('line','whole'), ('album','whole_hybrid')])
def test_kill_9_at_any_moment(played, name, like):
    "Within steps, with processes that load, with pictures and batch norm; within a checkpoint; at times nobody chose."
    home,codes = played
    killed = [c for c in codes[name] if c==-9]; assert codes[name][-1]==0 and len(killed)>=2 and set(codes[name][len(killed):])<={0,1}
    assert differences(home/like, home/name)==[]
    assert not list((home/name).glob('.*.tmp'))

def test_a_killed_write_leaves_half_a_file_and_the_old_one(played):
    home,codes = played
    assert codes['file']==[-9,-9,-9,1,0]  # 1: half a file lay there when the run was resumed
    assert 'resumed from last.pt' in (home/'write.log').read_text()

@pytest.mark.parametrize('name,like,number', [('sigterm','whole','SIGTERM'), ('ctrl_c_2_workers','whole_2_workers','SIGINT')])
def test_a_signal_leaves_interrupted_pt(played, name, like, number):
    home,codes = played
    assert codes[name][-1]==0 and set(codes[name][:-1])=={130} and differences(home/like, home/name)==[]
    said = (home/f'{name}.log').read_text()
    assert f'stopped by {number}: interrupted.pt goes on from epoch 1' in said and 'resumed from interrupted.pt' in said

def test_a_crash(played):
    home,codes = played
    assert codes['crash']==[1,0] and 'the shelf fell down' in (home/'crash.log').read_text() and differences(home/'whole', home/'crash')==[]

def test_a_full_disk_keeps_the_last_checkpoint_and_names_the_file(played):
    home,codes = played
    assert codes['disk']==[1,True,[],0] and differences(home/'whole', home/'disk')==[]
    said = [l for l in (home/'disk.log').read_text().splitlines() if 'Error' in l]
    assert said==[f"CheckpointError: cannot write {home/'disk/last.pt'} ({said[0].split('(')[1].split(')')[0]}); the file that was there is untouched. Is the disk full or read-only?"]

def test_a_full_disk_tears_the_diary_and_it_heals(played):
    home,codes = played
    assert codes['diary']==[1,False,0] and differences(home/'whole', home/'diary')==[]
    assert f"OSError: cannot write {home/'diary/history.jsonl'} (File too large)" in (home/'diary.log').read_text()
