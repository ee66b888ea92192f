"The segment tower from outside: each word of its group as a person types it, and what is refused."
import json, subprocess, sys
from functools import partial
from pathlib import Path
import numpy as np, pytest, rasterio
from PIL import Image
import house
from distortkit.commands.segment import FLAGS, app
from distortkit.segment.scenes import draw_scene

TINY = ['--patch-sizes','32','48','--student-dims','8','8','8','--student-depths','1','1','1','--batch-size','1','--device','cpu','--set','student.groups=2','--set','data.patch_size=32','--set','train.val_samples=1']

call,refused = (partial(f, app, prog_name='distortkit segment') for f in (house.call, house.refused))
tif = partial(house.tif, crs='EPSG:32633', transform=rasterio.Affine(.5, 0, 5e5, 0, -.5, 52e5))

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with a raster, its truth, a header, and the smoke run."
    home = tmp_path_factory.mktemp('segment')
    for i in range(2): s = draw_scene((64,136), np.random.default_rng(i)); tif(home/f'raw/images/r{i}.tif', s.rgb.transpose(2, 0, 1)); tif(home/f'raw/masks/r{i}.tif', (s.parts[None]+1).astype(np.int16))
    tif(home/'four.tif', np.zeros((4,64,64), np.uint8)); Image.fromarray(s.rgb).save(home/'land.png'); Image.fromarray(s.rgb[:3,:3]).save(home/'three.png')
    (home/'data.yaml').write_text("dataset_id: land\nsource_root: raw\nmodalities:\n  - {name: rgb, role: input, pattern: images/*.tif}\n  - {name: parts, role: target, pattern: masks/*.tif}\nsharding: {tile: 64}\n")
    (home/'mine.py').write_text("from distortkit.segment.settings import SegmentSettings\ndef get_config(): return SegmentSettings(train=dict(steps=1, lr=.25))\n"); (home/'odd.py').write_text('CONFIG = 3\n')
    with pytest.MonkeyPatch.context() as m:
        m.setenv('DISTORTKIT_RUNS', str(home/'runs')); m.chdir(home)
        call('train', '--synthetic', '--steps', 3, '--amp', 0, '--seed', 123, '--checkpoint_dir', 'RUN', '--grad-accum', 2, *TINY)
    return home

@pytest.fixture(autouse=True)
def there(home, monkeypatch): monkeypatch.setenv('DISTORTKIT_RUNS', str(home/'runs')); monkeypatch.chdir(home)

def test_the_smoke_run_leaves_what_was_asked_for(home):
    run = home/'runs/RUN'; s = json.loads((run/'config_resolved.json').read_text())
    assert (s['train']['steps'],s['train']['seed'],s['train']['grad_accum'],s['train']['amp'],s['data']['source'],s['data']['patch_sizes'])==(3,123,2,False,'synthetic',[32,48])
    assert all((run/n).exists() for n in ('run_meta.json','history.jsonl','tb','best.pt','last.pt','artifacts/student.pt','artifacts/decoder_training_only.pt')) and json.loads((run/'run_meta.json').read_text())['steps']==3

def test_the_same_words_give_the_same_run(home):
    import torch
    call('train', '--synthetic', '--steps=3', '--amp=0', '--seed', 123, '--checkpoint-dir', home/'again', '--grad_accum', 2, *TINY)
    a,b = (torch.load(f/'artifacts/student.pt', weights_only=True)['student'] for f in (home/'runs/RUN',home/'again')); assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.fixture
def asked(monkeypatch):
    "Settings that a call of train would train with."
    import distortkit.segment.train as t
    got = []; monkeypatch.setattr(t, 'train_segment', lambda s: got.append(s) or Path('x'))
    def ask(*words): call('train', *words); return got[-1]
    return ask

def test_files_are_weaker_than_words(asked):
    a = asked('--config', 'mine.py'); b = asked('--config', 'mine.py', '--steps', 7, '--set', 'train.lr=.5'); assert [(s.train.steps,s.train.lr) for s in (a,b)]==[(1,.25),(7,.5)]
    run = asked('--config', 'RUN', '--patch-sizes', 64, '--amp'); assert (run.data.patch_sizes,run.train.amp,run.train.seed)==((64,),True,123)
    demo = asked('--config', 'demo', '--disable-multires', '--student-dims=24'); assert (demo.student.multires,demo.student.embed_dim,demo.distill.use_teacher)==(False,24,True)
    assert asked('--synthetic').data.patch_sizes==(128,256) and asked().data.patch_sizes==(256,512,1024)

WORDS = [('--student-dims 12 8 6','student.dims',(12,8,6)), ('--student-depths 1 2 1','student.depths',(1,2,1)), ('--student-norm batch','student.norm','batch'), ('--disable-multires','student.multires',False), ('--consistency-weight .5','distill.consistency_weight',.5),
    ('--ema-decay .5','distill.ema_decay',.5), ('--cluster-iters 5','distill.cluster_iters',5), ('--disable-autoencoder','autoencoder.enabled',False), ('--ae-lambda .5','autoencoder.lambda_recon',.5), ('--ae-ema-decay .5','autoencoder.ema_decay',.5),
    ('--ae-blur-sigma .5','autoencoder.blur_sigma',.5), ('--ae-grad-weight .5','autoencoder.grad_weight',.5), ('--ae-detach-backbone','autoencoder.detach_backbone',True), ('--lambda-boundary .5','losses.lambda_boundary',.5), ('--lambda-antimerge .5','losses.lambda_antimerge',.5),
    ('--lambda-within .5','losses.lambda_within',.5), ('--use-teacher','distill.use_teacher',True), ('--teacher fake','distill.teacher','fake'), ('--teacher fake','distill.use_teacher',True), ('--device cpu','train.device','cpu'), ('--data-source photos','data.source','photos'),
    ('--dataset-id fields','data.dataset_id','fields'), ('--patch-sizes 256 512','data.patch_sizes',(256,512)), ('--patch_sizes=256','data.patch_sizes',(256,)), ('--batch-size 3','train.batch_size',3), ('--grad-accum 3','train.grad_accum',3), ('--steps 3','train.steps',3), ('--seed 3','train.seed',3),
    ('--amp 0','train.amp',False), ('--amp','train.amp',True), ('--amp --steps 3','train.amp',True), ('--checkpoint_dir a','train.checkpoint_dir','a'), ('--synthetic','data.source','synthetic'), ('--disable-student','student.enabled',False)]

@pytest.mark.parametrize('words,name,value', WORDS, ids=[w for w,*_ in WORDS])
def test_a_word_changes_its_setting(asked, words, name, value):
    from distortkit.segment.settings import load_config
    get = lambda s: getattr(getattr(s, name.split('.')[0]), name.split('.')[1]); got = asked(*words.split()); assert get(got)==value
    if not words.startswith(('--amp 0','--synthetic')): assert get(load_config())!=value

def test_a_stopped_training_says_how_to_go_on(monkeypatch):
    import distortkit.segment.train as t
    def stopped(s): raise KeyboardInterrupt
    monkeypatch.setattr(t, 'train_segment', stopped); assert '--resume auto' in call('train', '--synthetic', code=130)

def test_one_model_for_all_numbers_of_classes(home):
    call('train', '--synthetic', '--disable-student', '--steps', 1, '--checkpoint_dir', home/'mono', *TINY, '--set', 'model.embed_dim=8'); assert not (home/'mono/artifacts/decoder_training_only.pt').exists()
    call('export', home/'mono'); assert len(np.load(home/'mono/export/model.npz').files)==38

def test_shards_are_built_and_learned_from(home):
    said = call('build-shards', '--header', 'data.yaml', '--out', 'processed'); assert 'tiles' in said and said.strip().endswith('land')
    stamp = {p: p.stat().st_mtime_ns for p in (home/'processed').rglob('*.tif')}; call('build-shards', '--header', 'data.yaml', '-o', 'processed'); assert stamp=={p: p.stat().st_mtime_ns for p in stamp}
    splits = {json.loads(l)['split'] for p in (home/'processed').rglob('index.jsonl') for l in p.read_text().splitlines()}
    call('train', '--data-source', 'shards', '--processed-root', 'processed', '--dataset-id', 'land', '--steps', 1, '--checkpoint_dir', home/'tiles', '--lambda-boundary', 1, *TINY, '--set', f'data.train_split={sorted(splits)[0]}'); assert (home/'tiles/artifacts/student.pt').is_file()
    assert "'river'" in refused('train', '--data-source', 'shards', '--processed-root', 'processed', '--dataset-id', 'river', '--steps', 1, '--checkpoint_dir', home/'no', *TINY)

def test_rasters_are_learned_from_and_labelled(home):
    call('train', '--data-source', 'geotiff', '--raster-paths', 'raw/images/r0.tif', 'raw/images/r1.tif', '--target-paths', 'raw/masks/r0.tif', 'raw/masks/r1.tif', '--steps', 1, '--checkpoint_dir', home/'geo', *TINY)
    call('export', home/'geo', '-o', home/'out'); call('label', 'raw/images/r0.tif', '--run', home/'geo', '--k', 4, '-o', 'a.tif', '--side', 64); call('label', 'raw/images/r0.tif', '--run', home/'out', '--k', 4, '-o', 'b.tif', '--side', 64)
    with rasterio.open('a.tif') as a, rasterio.open('b.tif') as b, rasterio.open('raw/images/r0.tif') as r:
        assert (a.shape,a.crs,a.transform)==(r.shape,r.crs,r.transform) and a.read(1).max()<4 and (a.read(1)!=b.read(1)).mean()<.01
    assert 'is there already' in refused('label', 'raw/images/r0.tif', '--k', 4, '-o', 'a.tif'); call('label', 'raw/images/r0.tif', '--k', 4, '-o', 'a.tif', '--overwrite')

def test_runs_are_judged_beside_what_needs_no_learning(home):
    said = call('eval', 'RUN', '--synthetic', '--seed', 123, '--n', 2, '--long-side', 64, '--draws', 20, '-o', 'run.json'); r = json.loads((home/'run.json').read_text())
    assert list(r['ways'])[-2:]==['ours, no learning','RUN'] and {'Felzenszwalb','SLIC + merge','k-means'}<=set(r['ways']) and all(n in said for n in r['ways']) and 'one scale for all' in said and 'best scale of each' in said

def test_an_evaluation_is_written_where_asked_and_nowhere_else(home):
    quick = ('--n', 1, '--long-side', 64, '--no-peers', '--no-lines', '--draws', 0); there = sorted(home.rglob('*'))
    for runs in ((), ('default',), ('RUN',)): assert all(r in call('eval', *runs, '--synthetic', *quick) for r in runs)
    assert sorted(home.rglob('*'))==there
    call('eval', '--synthetic', *quick, '-o', 'sub/e.json'); before = (home/'sub/e.json').read_bytes()
    assert 'is there already' in refused('eval', '--data', 'land', *quick, '-o', 'sub/e.json') and (home/'sub/e.json').read_bytes()==before
    call('eval', '--data', 'land', *quick, '-o', 'sub/e.json', '--overwrite')

def test_a_term_is_taken_away(home):
    said = call('ablate', '-o', 'ablation', '--terms', 'clusters', '--synthetic', '--steps', 1, *TINY, '--data', 'land', '--n', 1, '--long-side', 64, '--draws', 0)
    assert 'without clusters' in said and json.loads((home/'ablation/ablation.json').read_text())['against']=='as it is' and (home/'ablation/without_clusters/artifacts/student.pt').is_file()

@pytest.mark.parametrize('words,said', [(['train','--patch-sizes','30'], 'multiples of 4'), (['train','--student-dims','8','8'], 'student.dims'), (['train','--amp','maybe'], '0 or 1'), (['train','--config','nosuch'], "'nosuch'"),
    (['train','--config','odd.py'], 'must be SegmentSettings'), (['train','--config','no.py'], 'no settings file'), (['train','--set','steps'], 'section.field=value'), (['train','--set','train.stepz=3'], 'did you mean steps'), (['train','--set','data.manifest_path=a.csv'], 'disabled'),
    (['train','--set','knobs.k_choices=[1]'], 'between 2 and'), (['train','--data-source','geotiff','--raster-paths','four.tif','--steps','1',*TINY], '4 bands'), (['train','--data-source','photos','--photos','nosuch','--steps','1',*TINY], 'no folder nosuch'), (['train','--data-source','video'], 'data.source'),
    (['train','--student-norm','layer'], 'student.norm'), (['build-shards','--header','no.yaml','-o','p'], 'no.yaml'), (['export','nosuch'], "no run 'nosuch'"), (['label','land.png','--k','1','-o','x.png'], '1'), (['label','land.png','--k','17','-o','x.png'], '17'),
    (['label','four.tif','-o','x.tif'], '4 bands'), (['label','nosuch.tif','-o','x.tif'], 'nosuch.tif: there is no such file'), (['label','nosuch.tif','-o','x.png'], 'nosuch.tif: there is no such file'), (['label','three.png','--k','2','-o','x.png'], 'too few for 2 classes'), (['label','land.png','-o','x.gif'], 'x.gif'), (['label','land.png','--run','nosuch','-o','x.png'], "no run 'nosuch'"), (['label','land.png','--run','raw','-o','x.png'], 'raw'),
    (['eval','--data','nosuch'], 'neither photos nor land'), (['eval','nosuch'], "no run 'nosuch'"), (['ablate','-o','a','--terms','colour'], "no term 'colour'"), (['ablate','-o','a','--resume','auto'], 'leave --checkpoint_dir')])
def test_a_mistake_is_one_sentence(home, words, said):
    before = {p: p.stat().st_mtime_ns for p in home.rglob('*') if p.is_file() and not p.is_relative_to(home/'bad')}; told = refused(*words, *(['--checkpoint_dir',str(home/'bad'/'-'.join(words[1:3]))] if words[0]=='train' else [])); assert said in told, told
    assert all(p.stat().st_mtime_ns==t for p,t in before.items()) and not list(home.glob('x.*'))

def test_a_word_that_is_no_number_is_named(): assert "'--patch-sizes'" in call('train', '--patch-sizes', 64, 'many', code=2)

def test_help_needs_nothing_heavy_and_shows_every_option():
    seen = subprocess.run([sys.executable, '-c', 'import sys, distortkit.commands.segment; print(*sys.modules)'], capture_output=True, text=True, check=True).stdout.split()
    assert not {'torch','numpy','rasterio','skimage','matplotlib'} & set(seen)
    told = call('train', '--help'); assert all(f"--{n.replace('_','-')}" in told for n in FLAGS) and 'distortkit segment train --synthetic' in told
