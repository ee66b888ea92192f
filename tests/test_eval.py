"Judging correctors: what is held out stays out, a fault in a method or in the judging shows in the numbers, and the numbers are written whole."
import json, math

import cv2, numpy as np, pytest, torch
from typer.testing import CliRunner

from distortkit.cli import app
from distortkit.core.splits import split_of
from distortkit.lens.answers import Fixed, Gated, Oracle, answer, guess_map, true_map, usual_ways
from distortkit.lens.bank import photo_names
from distortkit.lens.eval import eval_numbers, evaluate, judge_set, scores
from distortkit.lens.eval_look import eval_table, show_risk
from distortkit.lens.gate import Gate
from distortkit.lens.guess import Guess
from distortkit.lens.plumb import PlumbLine, plumb_curves, solve_plumb
from distortkit.lens.profiles import lens_profiles
from distortkit.lens.scores import sample_errors
from distortkit.lens.series import LensSeries
from distortkit.lens.warps import Lenses, true_grid

def sample(k1, size=(120,200), source='stripes', p1=0.):
    "Stripes through a lens, with its map in px."
    h,w = size; lens = Lenses(np.array([[1,0,k1,0,0,0,0.]]), np.array([[p1,0.]]), np.zeros((1,2))); grid = true_grid(lens, h, w)[0]
    unit = 2/(max(size)-1); y,x = np.mgrid[:h,:w]; at = lens.straighten(np.stack([(x-(w-1)/2)*unit, (y-(h-1)/2)*unit], -1)[None])[0]
    wave = np.sin((at[...,0]*.35+at[...,1])*max(size)/7); rgb = cv2.GaussianBlur(np.where(wave>0, 220, 60).astype(np.uint8), (0,0), .8)
    return dict(rgb=np.ascontiguousarray(rgb[...,None].repeat(3, 2)), grid=((grid+1)/2*[w-1,h-1]).astype(np.float32), lens=f'lens {k1}', source=source, kind='drawn', params=np.array([k1,0,0,p1,0,0,0,1.]))

def off(params, s): return answer(Fixed(params), s, true_map(s))['epe_px']

def test_the_error_is_that_of_the_full_map_whatever_the_size():
    small,large = sample(-.08),sample(-.08, (480,800)); full = torch.from_numpy(small['grid'])[None]*2/torch.tensor([199.,119])-1
    exact = sample_errors(guess_map(Fixed([.03]+[0]*6).guess(None), (120,200)), full).item()
    assert off([.03]+[0]*6, small)==pytest.approx(exact, rel=.01) and off([.03]+[0]*6, large)==pytest.approx(exact, rel=.02)
    assert off([-.08]+[0]*6, small)<.02 and off([.08]+[0]*6, small)>1.9*off([0]*7, small)            # a sign turned round is worse than nothing
    tall = sample(-.05, (200,120)); assert off([-.05]+[0]*6, tall)<.02<.5<off([0]*7, tall)           # and axes are not exchanged
    flat = sample(0., p1=.01); assert off([0,0,0,.01,0,0,0], flat)<.02<off([0,0,0,0,.01,0,0], flat)

def test_a_plumb_line_straightens_stripes_and_survives_nonsense():
    for k1 in (-.1, .06):
        s = sample(k1, (320,512)); assert answer(PlumbLine(), s, true_map(s))['epe_px']<.15*off([0]*7, s)
    rng = np.random.default_rng(0); noise = torch.from_numpy(rng.normal(0, .6, (40,36)).astype(np.float32)); noise[:,32] = 30
    for terms in (1,2):
        k,cov,_ = solve_plumb(noise, terms); assert k.isfinite().all() and cov.isfinite().all() and torch.linalg.eigvalsh(cov).min()>0
    assert len(plumb_curves(noise))<len(noise)
    assert not PlumbLine(2).guess(np.full((60,90,3), 127, np.uint8)).params.any()

def test_harm_is_counted_among_the_answered_and_gain_among_all():
    nothing,epe = np.array([1.,1,1,1]),np.array([2.,0,2,0]); both = np.array([True,True,False,False])
    of = lambda answered: {k: v[0] for k,v in eval_numbers(np.ones((1,4), int), epe, nothing, answered).items()}
    assert of(both)['harm_frac']==.5 and of(both)['improved_frac']==.25 and of(both)['epe_px_mean']==1. and of(~both)['answered_frac']==.5
    assert of(np.ones(4, bool))['harm_frac']==.5 and math.isnan(of(np.zeros(4, bool))['harm_frac'])

def test_views_of_one_photograph_are_one_photographs_worth():
    rng = np.random.default_rng(1); level = rng.normal(1, .5, 8).clip(.1).repeat(25); each = dict(epe_px=level.tolist(), declined=[None]*200); nothing = [2.]*200
    width = lambda sources: np.ptp(scores(each, nothing, sources, draws=300)['epe_px_mean'][1:])
    assert width([str(i//25) for i in range(200)])>3*width([str(i) for i in range(200)])

def test_intervals_that_are_too_narrow_show():
    rng = np.random.default_rng(2); strength = rng.exponential(2, 400)+.5; miss = rng.normal(0, .3, 400); z = np.array([.674,1.282,1.645,1.96])
    def held(factor):
        rows = [dict(epe_px=abs(m), declined=None, ms=0., px=t+m, low=list(t+m-z*.3*factor), high=list(t+m+z*.3*factor), risk=0.) for t,m in zip(strength, miss)]
        about = [dict(lens='l', source=str(i), lines=1., strength_px=float(t)) for i,t in enumerate(strength)]
        return judge_set({'m': rows}, about, 0)['ways']['m']['scores']['interval_frac']
    assert .85<held(1)<.95 and held(.4)<.6 and held(4)>.99

class Knows:
    "A method that answers with the lens of the photograph it is shown; `turn` hands each the answer of the next."
    def __init__(self, samples, turn=0): self.of = {s['rgb'].tobytes(): samples[(i+turn)%len(samples)]['params'] for i,s in enumerate(samples)}
    def guess(self, rgb): return Guess(self.of[rgb.tobytes()][:7], np.eye(7)*1e-10)

def test_answers_of_other_photographs_are_found_out():
    samples = [sample(k, source=f's{i}') for i,k in enumerate((-.1,.06,-.03,.09))]
    result = evaluate({'knows': Knows(samples), 'turned': Knows(samples, 1), 'best': Oracle(1), 'shut': Gated(Knows(samples), Gate())}, {'stripes': samples, 'none': []}, 20)
    ways = result['sets']['stripes']['ways']; ratio = {k: v['scores']['mean_ratio'][0] for k,v in ways.items()}
    assert list(result['sets'])==['stripes'] and ratio['knows']<.01 and ratio['best']<.02 and ratio['turned']>1.2 and ratio['shut, gated']==1 and ratio['shut']<.01
    assert ways['turned']['scores']['interval_frac'][0]<.3 and ways['shut, gated']['scores']['answered_frac'][0]==0 and ways['shut, gated']['scores']['harm_frac'][0] is None
    json.dumps(result, allow_nan=False); assert 'shut, gated' in eval_table(result, 'stripes'); show_risk(result, 'stripes', ['knows','turned'])

def test_a_series_shows_one_held_out_lens_on_held_out_photographs():
    test = {p.model for p in lens_profiles() if p.split=='test'}; series = LensSeries(3, each=6, long_side=64); lines = list(series)
    for line in lines:
        assert len({s['lens'] for s in line})==1 and any(m in line[0]['lens'] for m in test) and len({s['rgb'].tobytes() for s in line})==6
        assert all(s['source'] in photo_names('test') or int(s['source'].split('/')[1])>=1_000_000 for s in line)
    assert len({line[0]['lens'] for line in lines})>1 and not np.array_equal(lines[0][0]['grid'], lines[1][0]['grid'])

def test_the_best_constant_comes_from_training_lenses():
    first,more = (usual_ways(draws=n)['best constant'].params for n in (8,64)); assert first.any() and not np.array_equal(first, more) and np.abs(more[:3]).max()<.1

def test_the_command_judges_and_writes(tmp_path, monkeypatch):
    monkeypatch.setenv('DISTORTKIT_RUNS', str(tmp_path/'runs')); monkeypatch.setenv('IN_TEST', '1')
    call = lambda *words: CliRunner().invoke(app, ['eval','lens','-n','2','--long-side','96','-c','none',*map(str, words)])
    done = call('-o', tmp_path/'a.json', '--page', tmp_path/'a.html'); assert done.exit_code==0, done.output
    found = json.loads((tmp_path/'a.json').read_text()); assert set(found['sets'])=={'photos','drawn','straight'} and str(tmp_path) not in (tmp_path/'a.html').read_text()
    for one in found['sets'].values(): assert all(split_of(s)=='test' or s in photo_names('test') or s.startswith('scene/1000') for s in one['about']['source'])
    assert found['sets']['straight']['ways']['identity']['scores']['added_px'][0]==0 and max(found['sets']['straight']['about']['strength_px'])<.01
    again = call('-o', tmp_path/'a.json'); assert again.exit_code==1 and 'is there already' in again.stderr and again.stderr.count('\n')==1
