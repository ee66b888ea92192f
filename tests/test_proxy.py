"Proxy scores: the contract's traps, a ranking that survives grain and exposure, folders scored from the command line, and runs no scorer can stop."
import csv, json, warnings

import cv2, numpy as np, pytest, torch
from PIL import Image
from scipy.stats import spearmanr
from typer.testing import CliRunner

from distortkit.commands.proxy import app
from distortkit.core.data import embedded_photos, to_tensor
from distortkit.geometry.flow import flow_to_grid, grid_to_flow
from distortkit.geometry.warp import warp_image
from distortkit.lens.distort import build_parametric_grid
from distortkit.lens.params import as_params
from distortkit.lens.proxy import ProxySettings, compute_proxy_score, make_scorer

def photo(name, size=(192,128)): return cv2.resize(embedded_photos()[name](), size, interpolation=cv2.INTER_AREA)
def bent(image, **lens): return warp_image(image, build_parametric_grid(as_params(**lens), *image.shape[-2:]))
def judged(pred, gt, **config): return compute_proxy_score(pred, gt, config)
def reasons(pred, gt, **config): return judged(pred, gt, **config)['flags']['reasons']

@pytest.fixture(scope='module')
def truth(): return to_tensor(photo('china'))[None]

def test_the_total_is_the_weighed_mean_of_the_enabled_parts(truth):
    pred = bent(truth, k1=.05); s = judged(pred, truth); parts = s['sub_scores']
    weight = dict(edge=.40, line=.22, grad=.18, ssim=.15, mae=.05)
    assert list(parts)==list(weight) and all(0<=v<=1 for v in parts.values()) and s['flags']==dict(hard_fail=False, reasons=[])
    assert s['total_score']==pytest.approx(sum(weight[k]*parts[k] for k in parts))
    two = judged(pred, truth, enabled=('grad','ssim'))
    assert list(two['sub_scores'])==['grad','ssim'] and two['total_score']==pytest.approx((.18*parts['grad']+.15*parts['ssim'])/.33)

@pytest.mark.parametrize('value', [float('inf'), -float('inf'), float('nan')])
def test_what_is_not_finite_is_found_before_values_are_cut(truth, value):
    bad = truth.clone(); bad[0,2,9,9] = value
    for pair in ((bad,truth), (truth,bad)): assert reasons(*pair)==['NON_FINITE'] and judged(*pair)['total_score']==0

def test_the_range_is_told_not_guessed(truth):
    over = truth.clone(); over[0,0,0,0] = 1.0001
    assert judged(over, truth)['total_score']>.99 # not divided by 255
    assert reasons(255*truth, truth)==['VALUE_RANGE'] and judged(255*truth, 255*truth, value_range=255)['total_score']>.999
    with pytest.raises(ValueError, match='8 or 16 bits'): judged(photo('china').astype(np.int64), photo('china').astype(np.int64))

def test_a_failure_clamps_from_above_only(truth):
    torn = truth.clone(); torn[...,20:90,40:110] = 1-torn[...,20:90,40:110].round(); whole = judged(torn, truth, window_max=None)['total_score']
    assert reasons(torn, truth)==['WINDOW_DIFF_EXCEEDED'] and judged(torn, truth)['total_score']==.05
    assert judged(torn, truth, penalty_value=.99)['total_score']==whole<.99 # min, not the value itself
    assert judged(torn, truth, penalty='zero')['total_score']==0 and judged(torn, truth, penalty='neg_inf')['total_score']==-np.inf
    assert np.isnan(judged(torn, truth, penalty='exclude')['total_score'])

def test_limits_are_looser_in_training_and_hold_without_a_weight(truth):
    strict,loose = make_scorer().settings, make_scorer(training=True).settings
    assert (strict.window_max, strict.edge_min, loose.window_max, loose.edge_min)==(.30,.05,.45,.03) and strict==ProxySettings()
    blank = torch.full_like(truth, .5); off = dict(window_max=None, edge_min=None)
    assert reasons(blank, truth, window_max=None)==reasons(blank, truth, window_max=None, enabled=('mae',))==['EDGE_TOO_LOW']
    for more,why in ((dict(grad_min=.2),'GRAD_TOO_LOW'), (dict(mae_max=.1),'MAE_TOO_HIGH'), (dict(collapse_std=.01),'COLLAPSED')): assert reasons(blank, truth, **off, **more)==reasons(blank, truth, **off, **more, enabled=('ssim',))==[why]
    assert reasons(blank, truth, **off)==[] and judged(blank, blank)['total_score']==pytest.approx(1) # without edges both agree

def test_what_cannot_be_compared_is_named(truth):
    assert [reasons(x, truth) for x in (None, truth[...,1:], truth[...,:0])]==[['DECODE_FAILED'],['SHAPE_MISMATCH'],['EMPTY_IMAGE']]
    for h,w in ((1,1),(1,9),(9,2)):
        for k in ('contract','audited'): assert make_scorer(k)(truth[...,:h,:w], truth[...,:h,:w])['total_score']==pytest.approx(1, abs=1e-3)

def test_audited_ranks_by_displacement_where_the_contract_answers_to_grain():
    rng = np.random.default_rng(0); found = {'contract': [], 'audited': []}
    for name in ('coffee','rocket','china'):
        img = to_tensor(photo(name, (256,170)))[None]; errors,scores = [],{k: [] for k in found}
        for i,k1 in enumerate((.002,-.005,.01,-.02,.04,-.06,.1,-.15)):
            grid = build_parametric_grid(as_params(k1=k1), *img.shape[-2:]); pred = warp_image(img, grid); errors.append(grid_to_flow(grid).norm(dim=1).mean().item())
            if i%2==0: pred = (.8*pred+.04*torch.from_numpy(rng.normal(size=pred.shape)).float()).clamp(0,1)
            for k in found: scores[k].append(make_scorer(k)(pred, img)['total_score'])
        for k in found: found[k].append(-spearmanr(errors, scores[k])[0])
    assert min(found['audited'])>.9>np.median(found['contract'])

def test_neither_proxy_rewards_the_wrong_direction(truth):
    for k in ('contract','audited'):
        y = [make_scorer(k)(bent(truth, k1=s*.04), truth)['total_score'] for s in (-2,-1,-.5,0,.5,1,2)]
        assert y[:4]==sorted(y[:4]) and y[3:]==sorted(y[3:])[::-1] and y[3]==pytest.approx(1, abs=1e-3), k

@pytest.fixture
def folders(tmp_path):
    "Predictions of every kind of file beside their truths, under a name with spaces and accents."
    home = tmp_path/'Fotos für später'; pred,gt = home/'pred',home/'gt'; pred.mkdir(parents=True); gt.mkdir()
    rgb = Image.fromarray(photo('coffee')); grey = np.asarray(rgb.convert('L'))
    files = {'plain.png': rgb, 'cmyk.jpg': rgb.convert('CMYK'), 'grey.png': rgb.convert('L'), 'alpha.png': rgb.convert('RGBA'), 'deep.png': Image.fromarray(grey.astype(np.uint16)*257),
             'über.png': rgb, 'dot.png': rgb.crop((0,0,1,1)), 'wide.png': rgb.resize((200,128))}
    for name,im in files.items(): im.save(pred/name); (rgb.crop((0,0,1,1)) if name=='dot.png' else rgb).save(gt/f'{name[:-4]}.png')
    rgb.save(gt/'zero.png'); (pred/'zero.png').write_bytes(b''); rgb.save(gt/'cut.png'); (pred/'cut.png').write_bytes((gt/'cut.png').read_bytes()[:2000]); rgb.save(gt/'gone.png')
    return home

def test_a_folder_is_scored_to_the_last_picture(folders):
    out = folders/'scores'; word = ['validate', str(folders/'pred'), str(folders/'gt'), '-o', str(out), '--quiet']
    for proxy in ('contract','audited'):
        r = CliRunner().invoke(app, [*word, '--proxy', proxy]); assert r.exit_code==2 and 'missing predictions: gone' in r.output, r.output
        rows = {x['image_id']: x for x in csv.DictReader((out/'scores.csv').read_text(encoding='utf-8').splitlines())}; s = json.loads((out/'summary.json').read_text(encoding='utf-8'))
        assert list(rows)==sorted(rows) and len(rows)==11==s['count'] and s['proxy']==proxy and len(s['config_sha256'])==64
        bad = {k: x['reasons'] for k,x in rows.items() if x['hard_fail']=='True'}
        assert bad==dict(gone='MISSING_PREDICTION', zero='DECODE_FAILED', cut='DECODE_FAILED', wide='SHAPE_MISMATCH') and s['fail_count']==4 and s['fail_rate']==pytest.approx(4/11, abs=1e-6)
        assert all(float(rows[k]['total'])>.99 for k in ('plain','alpha','über','dot')) and '200×128' in rows['wide']['detail']
        before = [(out/n).read_bytes() for n in ('scores.csv','summary.json')]; CliRunner().invoke(app, [*word, '--proxy', proxy, '--workers', '3'])
        assert before==[(out/n).read_bytes() for n in ('scores.csv','summary.json')] and len(list(out.iterdir()))==2
    assert CliRunner().invoke(app, [*word, '--max-fail-rate', '.4']).exit_code==0

def test_results_that_cannot_be_written_leave_the_old_ones(folders, monkeypatch):
    out = folders/'scores'; word = ['validate', str(folders/'pred'), str(folders/'gt'), '-o', str(out), '--quiet']
    CliRunner().invoke(app, word); before = (out/'scores.csv').read_bytes()
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('distortkit.lens.validate.os.replace', full)
    r = CliRunner().invoke(app, [*word, '--proxy', 'audited']); assert r.exit_code==1 and 'No space left' in r.output and r.output.count('\n')==1
    assert (out/'scores.csv').read_bytes()==before and len(list(out.iterdir()))==2

SMALL = ['scenes=1','photo_share=0','synthetic_height=48','synthetic_width=64','synthetic_train_steps=1','synthetic_val_steps=1','max_steps_per_epoch=1']

@pytest.mark.parametrize('proxy', ['audited','broken'])
def test_a_run_is_scored_by_the_chosen_proxy_and_stopped_by_none(tmp_path, proxy, monkeypatch):
    from distortkit.core.runs import History
    from distortkit.lens.train import run_stage
    monkeypatch.setenv('IN_TEST', '1'); mine = tmp_path/'mine.py'; mine.write_text('def score(pred, gt, config=None): raise RuntimeError("out of order")\n')
    choice = ['proxy=audited'] if proxy=='audited' else [f'proxy_module_path={mine}', 'proxy_function_name=score']
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        run_stage('stage1', 'debug_smoke', 'debug_smoke', 'debug_smoke', str(tmp_path/'run'), overrides=['proxy_enabled=true', *choice, *SMALL])
    last = [l for l in History.read(tmp_path/'run').lines if l['kind']=='val'][-1]
    assert last['proxy_error']==(0 if proxy=='audited' else 1) and ('proxy_flow' in last)==(proxy=='audited')
    assert sum('out of order' in str(w.message) for w in said)==(0 if proxy=='audited' else 1)
