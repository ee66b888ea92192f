"What the segment tower as a whole promises: what it imports, what each knob does, what is the same twice, and that the README says nothing else."
import json, re, socket, subprocess, sys, warnings
from contextlib import nullcontext
from functools import cache
import pytest, torch
from distortkit.core.config import CONFIGS, load_settings
from distortkit.core.data import embedded_photos
from distortkit.core.files import DataError
from distortkit.segment.make import make_network
from distortkit.segment.settings import SegmentSettings, load_config
from house import ROOT, imports, modules
from test_features import TESTS, shown

README = (ROOT/'README.md').read_text(encoding='utf-8')
def part(heading, level='##'): return re.search(rf'^{level} {re.escape(heading)}\n(.*?)(?=^{level[:2]} |^{level} |\Z)', README, re.M|re.S)[1]
def count(net): return sum(p.numel() for p in net.parameters())
def process(code): return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout

def test_what_is_imported():
    "All of the tower and its commands without a user interface, GDAL's own bindings or TorchScript; what labels pictures from an export without torch."
    mine = [m for m in modules() if m.room=='segment' or m.name[1:]==('commands','segment')]; foreign = {'qgis','osgeo','gdal','PyQt5','PyQt6','PySide2','PySide6','tkinter','wx'}; assert len(mine)>30
    for m in mine:
        assert not {t[0] for t in imports(m.path)}&foreign and 'torch.jit' not in m.path.read_text(encoding='utf-8') and not [t for t in imports(m.path) if t[:2]==('torch','jit')], m.name
    train,bare = (process(f'import sys\n{line}\nprint(*sys.modules)').split() for line in ('import distortkit.segment.train', 'from distortkit.segment import runtime, label, pieces, gradients, merge'))
    assert not foreign & set(train) and not {'torch','transformers','matplotlib'} & set(bare) and {'distortkit.segment.runtime','distortkit.segment.label'}<=set(bare)

def test_soft_kmeans_is_small_and_the_same_each_time():
    "Two pictures of 1024², K = 16, from embeddings to shares: 64 MB; names carried from a coarser grid, too."
    from distortkit.segment.kmeans import batched_kmeans
    torch.manual_seed(0); f,rough = torch.randn(2, 96, 256, 256),torch.randn(2, 16, 64, 64).softmax(1)
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof: p,mu = batched_kmeans(f, 16, 1, like=rough)
    live = top = 0
    for e in sorted((e for e in prof.profiler.kineto_results.events() if e.name()=='[memory]'), key=lambda e: e.start_ns()): live += e.nbytes(); top = max(top, live)
    assert 8<top/2**20<=64, f'{top/2**20:.0f} MB'
    with torch.no_grad(): q,nu = batched_kmeans(f, 16, 1, like=rough); assert torch.equal(p, q) and torch.equal(mu, nu)

def test_the_same_seed_gives_the_same_maps():
    "To the bit, with a network and without one; another seed, another network."
    from distortkit.segment.embed import TorchModel
    from distortkit.segment.label import segment_image, segment_pieces
    torch.set_num_threads(1); rgb = embedded_photos()['coffee']()[::4,::4].copy(); embedded = []
    for seed in (3,3,4): torch.rand(5); embedded.append(TorchModel(make_network(load_config(None, ['student.multires=false','student.embed_dim=16','student.depth=1',f'train.seed={seed}']))))
    e = [m.embed(rgb) for m in embedded]; assert (e[0]==e[1]).all() and (e[0]!=e[2]).any()
    for models in ((None,None), embedded[:2]):
        a,b = ([segment_image(rgb, 6, m),*segment_pieces(rgb, 4, m)] for m in models); assert all((x==y).all() for x,y in zip(a, b, strict=True))

TINY = dict(data=dict(patch_sizes=(32,)), student=dict(dims=(24,16,16), depths=(1,1,1), embed_dim=16, depth=1), model=dict(embed_dim=16), knobs=dict(k_choices=(4,)), autoencoder=dict(hidden_channels=8))
KNOBS = { # section -> changes of one field each; `also` names what the field needs to be heard
    'student': [dict(enabled=False), dict(multires=False), dict(dims=(24,16,8)), dict(depths=(1,1,2)), dict(norm='batch'), dict(groups=4), dict(dropout=.3), dict(embed_dim=24, also='multires'), dict(depth=2, also='multires')],
    'distill': [dict(use_teacher=True), dict(teacher='fake', also='use_teacher'), dict(scales=2, also='use_teacher'), dict(members=2, also='use_teacher'), dict(slices='fine', also='use_teacher'), dict(near=.5, also='use_teacher'), dict(feature_weight=.5, also='fake'), dict(affinity_weight=.5, also='use_teacher'), dict(affinity_sample=9, also='use_teacher'),
        *(dict([pair]) for pair in dict(clustering_weight=.5, cluster_iters=1, temperature=.5, tv_weight=.2, consistency_weight=.1, view_weight=.3, ema_decay=.5, merge_eps=.01, consistency_ema_decay=.5, consistency_eps=1e-2, boundary_weight=.5, antimerge_weight=.5, within_weight=.1).items())],
    'autoencoder': [dict(enabled=False), *(dict([pair]) for pair in dict(lambda_recon=.1, ema_decay=.5, blur_sigma=2., blur_kernel=3, grad_weight=.5, detach_backbone=True, hidden_channels=16, num_blocks=1).items())],
    'losses': [dict([pair]) for pair in dict(lambda_boundary=.5, lambda_antimerge=.5, lambda_within=.5).items()]
        +[dict(also='monolithic', **dict([pair])) for pair in dict(consistency=.5, entropy_min=.5, entropy_marginal=.2, smoothness=.5, edge=1., slic_boundary=.5, slic_antimerge=.5, slic_within=.5).items()],
    'model': [dict(also='monolithic', **c) for c in (dict(embed_dim=24), dict(temperature=.5), dict(stop_grad_prototypes=True))]}
ALSO = {'': {}, 'multires': dict(student=dict(multires=False)), 'monolithic': dict(student=dict(enabled=False)), 'use_teacher': dict(distill=dict(use_teacher=True)), 'fake': dict(distill=dict(use_teacher=True, teacher='fake'))}

def settings(*changes):
    "Small settings with changes, section by section."
    out = {k: dict(v) for k,v in TINY.items()}
    for c in changes:
        for section,fields in c.items(): out.setdefault(section, {}).update(fields)
    return load_settings(SegmentSettings, out)

def batch():
    "Two drawn places, superpixels and pieces with them."
    from torch.utils.data import default_collate
    from distortkit.segment.scenes import DrawnViews
    data = DrawnViews(2, (32,32), 3, turn=20.); items = [data[i] for i in range(2)]
    return default_collate([{**it, 'key': str(i), 'slic1': it['kinds1']+1, 'pieces1': torch.stack([it['parts1'][2::4,2::4]//2**s for s in range(16)])} for i,it in enumerate(items)])

def taught(s, b):
    "What two steps of plain gradient descent with these settings leave behind."
    from distortkit.segment.make import run_teacher
    from distortkit.segment.step import Learner, SegmentStep
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); teacher = run_teacher(s)
    if teacher is not None and not teacher.aligned: b = b|dict(pieces1=b['pieces1'][:,:teacher.scales])
    learner = Learner(s, teacher.channels if teacher is not None and teacher.aligned else 0).train(); step = SegmentStep(s, teacher); torch.manual_seed(0)
    for i in range(2):
        r = step(learner, b|dict(step=torch.tensor([i,i])), True, nullcontext); learner.zero_grad(); r.loss.backward()
        with torch.no_grad(): [p.sub_(.05*p.grad) for p in learner.parameters() if p.grad is not None]
    return torch.cat([p.detach().flatten() for p in learner.net.parameters()])

SAME = dict(distill={'download'}, model={'max_k','cluster_iters','smoothing_iters','smoothing_lanes','downsample_choices'}) # whether the hub may be asked; limits that 19_settings holds the knobs to
cached = cache(lambda also: taught(settings(ALSO[also]), batch()))

@pytest.mark.parametrize('section', ['student','distill','autoencoder','losses','model'])
def test_every_knob_turns_something(section):
    "Each field of a section, changed alone, leaves another network; the same settings leave the same; none is forgotten here."
    torch.set_num_threads(1); b,idle = batch(),[]; named = lambda c: {k: v for k,v in c.items() if k!='also'}
    listed = {n for c in KNOBS[section] for n in named(c)}; assert {n for n in type(getattr(SegmentSettings(), section)).model_fields if n not in listed}==SAME.get(section, set())
    if section=='student': assert torch.equal(cached(''), taught(settings(), b))
    for c in KNOBS[section]:
        new,plain = taught(settings(ALSO[c.get('also', '')], {section: named(c)}), b),cached(c.get('also', '')); assert new.isfinite().all()
        if new.shape==plain.shape and torch.equal(new, plain): idle += named(c)
    assert not idle, f"{section}.{', '.join(idle)} changed nothing"

def test_the_decoder_draws_what_the_student_saw():
    "The target is view 1 as it was turned and recoloured; the term is a hundredth of the loss, whatever its unit, and added after the merge."
    from distortkit.segment.losses_recon import blurred_target, recon_losses
    from distortkit.segment.step import Learner, SegmentStep, StudentLosses
    torch.set_num_threads(1); b = batch()|dict(step=torch.tensor([0,0])); s = settings(); learner = Learner(s); seen = learner(b['view1'], b['view2']); told = StudentLosses(s)(seen, b, 4)[1]['recon']
    want = lambda view: recon_losses(seen.drawn, blurred_target(b[view]), .2)['total']; assert torch.equal(told, want('view1')) and not torch.isclose(told, want('view2'), rtol=1e-3)
    loss = {l: SegmentStep(n := settings(dict(autoencoder=dict(lambda_recon=l))))(Learner(n), b, True, nullcontext).loss.item() for l in (0.,.01,.02)}
    assert abs(loss[.01]-loss[0.]-.01)<1e-4 and abs(loss[.02]-loss[0.]-.02)<1e-4 and .01/loss[.01]<.02

PROMISED = """--synthetic --steps --amp --seed --checkpoint_dir --checkpoint-dir --grad-accum --config --device --data-source --dataset-id --patch-sizes --batch-size --use-teacher --teacher --disable-multires --student-dims --student-depths
    --student-norm --consistency-weight --ema-decay --cluster-iters --disable-autoencoder --ae-lambda --ae-ema-decay --ae-blur-sigma --ae-grad-weight --ae-detach-backbone --lambda-boundary --lambda-antimerge --lambda-within"""
def test_every_promised_option_is_there():
    import typer
    from distortkit.commands.segment import app
    commands = typer.main.get_command(app).commands; has = lambda c: {o for p in commands[c].params for o in p.opts}
    assert set(PROMISED.split())<=has('train')&(has('ablate')|{'--checkpoint_dir','--checkpoint-dir'}) and {'--synthetic','--seed','--data'}<=has('eval') and {'--run','--k','--output','-o'}<=has('label') and {'--header','--out'}<=has('build-shards')

def test_each_size_has_its_own_averages():
    "A step of one size of patch moves the averages of that size and no others; of agreement and reconstruction, too."
    from torch.nn.functional import interpolate
    from distortkit.segment.step import Learner, SegmentStep
    torch.set_num_threads(1); s = settings(dict(data=dict(patch_sizes=(32,48)))); learner,step,b = Learner(s),SegmentStep(s),batch(); names = [*learner.averages.at]
    assert names==[f'{k}@{n}x{n}' for n in (32,48) for k in ('coarse','mid','fine','agreement','recon')]
    step(learner, b|dict(step=torch.tensor([0,0])), True, nullcontext); seen = learner.averages.sizes.clone(); assert (seen[:5]>0).all() and (seen[5:]==-1).all()
    big = {k: interpolate(b[k], (48,48)) for k in ('view1','view2')}|dict(warp_grid=interpolate(b['warp_grid'].permute(0, 3, 1, 2), (48,48), mode='bilinear', align_corners=True).permute(0, 2, 3, 1), inside=interpolate(b['inside'].float(), (48,48))>.5)
    step(learner, big|dict(step=torch.tensor([1,1])), True, nullcontext); assert torch.equal(learner.averages.sizes[:5], seen[:5]) and (learner.averages.sizes[5:]>0).all()

def test_the_stage_is_the_command(monkeypatch, tmp_path):
    "The cells of the stage notebook give `train_segment` the settings that the command gives it."
    import distortkit.segment.train as t
    from typer.testing import CliRunner
    from distortkit.commands.segment import app
    from house import cells, source, tags
    got = []; monkeypatch.setattr(t, 'train_segment', lambda s: got.append(s) or tmp_path); monkeypatch.setenv('DISTORTKIT_RUNS', str(tmp_path))
    stage = [c for c in cells(ROOT/'nbs/stages/segment.ipynb', 'code')]; given = next(source(c) for c in stage if 'parameters' in tags(c)); train = next(source(c) for c in stage if 'train_segment(' in source(c))
    space = dict(json=json, load_config=load_config, train_segment=t.train_segment); exec(given, space); space |= dict(config='demo', run_name='mine', steps=7, seed=5, overrides=['distill.tv_weight=.2']); exec(train, space)
    done = CliRunner().invoke(app, ['train','--config','demo','--checkpoint_dir','mine','--steps','7','--seed','5','--device','auto','--set','distill.tv_weight=.2','--set','train.eval_interval=3']); assert done.exit_code==0, done.output
    a,b = got; assert a==b and (a.train.steps,a.train.seed,a.train.checkpoint_dir,a.distill.tv_weight)==(7,5,'mine',.2)

def test_nothing_asks_the_network(monkeypatch, tmp_path):
    "With every door out of the machine shut: sources, teachers and backbones by name, labels; nobody knocks, nor the libraries below."
    asked = []
    def shut(*a, **kw): asked.append(a); raise OSError('no network')
    for name in ('connect','connect_ex'): monkeypatch.setattr(socket.socket, name, shut)
    monkeypatch.setattr(socket, 'getaddrinfo', shut)
    monkeypatch.setattr('huggingface_hub.utils._detect_agent._registry', None); monkeypatch.setattr('huggingface_hub.constants.AGENT_HARNESSES_PATH', str(tmp_path/'none.json'))  # as if the library had not asked yet about the program it runs in
    from distortkit.segment.label import segment_image
    from distortkit.segment.sources import make_source
    from distortkit.segment.teachers import FakeTeacher, make_teacher
    from distortkit.selective.backbones import make_backbone
    for kind in ('synthetic','photos'): assert make_source(kind, 32, 2, 1)[0]['view1'].shape==(3,32,32)
    for name in ('dinov2','dinov3'):
        with pytest.warns(UserWarning, match='MEAN NOTHING'): assert isinstance(make_teacher(name), FakeTeacher)
        with pytest.raises(DataError, match='allow the download'): make_backbone(name)
    assert segment_image(embedded_photos()['coffee']()[::9,::9].copy(), 3).max()==2 and not asked

TOPICS = dict( # topic -> where it is tested
    augmentation=('11_augment › Poses','11_augment › Colours','11_augment › Dice'), autoencoder=('34_recon › What is to be drawn','34_recon › How far the drawing is off','34_recon › Its place in the sum','43_decoder › The decoder of training','45_make › Files'),
    boundary_priors=('33_priors › Priors from superpixels',), previews=('75_train › Both kinds',), distillation=('50_step › What a student is taught','50_step › The step'), geo_patches=('12_rasters › Random patches','12_rasters › Opening'),
    knobs=('19_settings › The knobs of a step',), slic_priors=('33_priors › Priors from superpixels','50_step › What a student is taught'), losses=('31_views › All together','31_views › Consistency'), metric_bounds=('61_metrics › Without a truth',), iou=('61_metrics › With a truth',),
    forward_contract=('41_model › The network',), shapes=('41_model › Any size','42_student › Three resolutions','42_student › One resolution'), multires_losses=('30_distill › Agreement of resolutions','32_merge_ema › Both together'),
    shard_loader=('14_shards › A line','14_shards › Finding items','14_shards › Tiles','14_shards › Dealing out'), partition=('15_header › Splits','tests/test_segment_data.py › test_splits_share_no_raster'), seeds=('tests/test_segment_commands.py › test_the_same_words_give_the_same_run','tests/test_segment.py › test_workers_change_nothing'),
    smoke=('tests/test_segment_commands.py › test_the_smoke_run_leaves_what_was_asked_for',), student=('42_student › One resolution','42_student › Blocks'), synthetic=('24_sources › One door','10_scenes › For learning'), teacher_fallback=('44_teachers › By name','44_teachers › A network that knows nothing'))

def test_topics_of_an_offline_suite():
    "Each topic that such a kit is usually tested for has tests of its own."
    assert len(TOPICS)==21
    for topic,places in TOPICS.items():
        for place in places: text = shown(place, '30_segment'); assert text is not None and len(TESTS.findall(text))>=2, f'{topic}: {place}'

# What the README says

def test_the_readme_counts_right():
    "Parameters, channels and tensors in the model notes are those of the networks; every size in px is one that was made."
    from distortkit.segment.decoder import TinyReconDecoder
    from distortkit.segment.embed import describe
    from distortkit.segment.runtime import tensor_shapes
    notes = part('Model notes', '###'); rows = {m[1].strip(): [c.strip() for c in m[2].split('|')] for m in re.finditer(r'^\|([^|]+)\|(.+)\|$', notes, re.M)}
    nets = [make_network(load_config(None, o)).eval() for o in (['student.enabled=false'],[],['student.multires=false'])]
    assert rows['parameters']==[f'{count(n):,}' for n in nets]; assert rows['tensors of its export']==[str(len(tensor_shapes(describe(n)))) for n in nets]
    assert f'{count(TinyReconDecoder()):,}' in notes and all(count(n)<10e6 for n in nets)
    with torch.no_grad(): x = torch.rand(1, 3, 61, 83); parts,slices,single = nets[0](x, 5),nets[1](x),nets[2](x)
    assert parts.probs.shape==(1,5,61,83) and re.search('2 to 16', rows['classes'][0]); shapes = lambda fs: [(f.shape[1],-(-61//f.shape[2])) for f in fs]
    for cell,fs in zip(rows['embeddings: channels at stride'], ([parts.embeddings],slices,[single])): assert [tuple(map(int, m)) for m in re.findall(r'(\d+) at (\d+)', cell)]==[(c,{4:4,8:8,16:16}[min((4,8,16), key=lambda s: abs(s-n))]) for c,n in shapes(fs)]

def test_defaults_in_the_readme_are_the_defaults():
    "Setting a field to the value that is named changes nothing."
    said = [s for s in re.findall(r'`([a-z]+\.[a-z_]+=[^`]+)`', part('Parts without labels'))]; assert len(said)>=15
    for s in said: assert load_config(None, [s])==load_config(), f'README: the default is not {s}'
    for s in ('train.lr=1e-3','student.multires=false'): assert load_config(None, [s])!=load_config()

def test_the_history_is_that_of_the_shipped_settings():
    "Each shipped file stands in the history with its steps and the size of its network."
    rows = {m[1]: (int(m[2]),int(m[3].replace(',', ''))) for m in re.finditer(r'^\| `(\w+)` \|[^|]*\| (\d+) \| ([\d,]+) \|', part('Model history', '###'), re.M)}
    shipped = {p.stem: (load_config(p).train.steps,count(make_network(load_config(p)))) for p in sorted((CONFIGS/'segment').glob('*.yaml'))}; assert rows==shipped

def test_the_pipeline_leads_somewhere():
    "Every station of the pipeline and every source is linked, the link resolves, and the notebooks make the modules that are named."
    text = part('Training pipeline', '###'); links = re.findall(r'\]\(([^)]+)\)', text); assert len(links)>=10
    for l in links: assert l.startswith('https://') or (ROOT/l).is_file(), f'README: {l} does not resolve'
    made = {m.name[-1]: m.notebook.name for m in modules() if m.room=='segment'}
    for name,target in re.findall(r'\[`segment\.(\w+)`\]\(([^)]+)\)', text): assert made.get(name)==target.rsplit('/', 1)[-1], f'README: segment.{name} is not made by {target}'

def test_the_lines_of_python_in_the_readme_run():
    "On a photograph, as they stand there."
    block = re.findall(r'```python\n(.*?)```', part('Parts without labels'), re.S); assert len(block)==1
    rgb = embedded_photos()['coffee']()[::5,::5].copy(); space = dict(rgb=rgb); exec(block[0], space)
    assert space['classes'].shape==rgb.shape[:2] and space['classes'].max()==7 and len(space['pieces'])==10
