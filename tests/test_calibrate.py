"Guesses, their gate, their fusion and `distortkit calibrate`, from files to a profile that other programs read."
import json
from functools import partial
import cv2, numpy as np, pytest, torch
from PIL import Image
from distortkit.cli import app
from distortkit.lens import calibrate as calibration
from distortkit.lens.adequate import smallest_adequate
from distortkit.lens.evidence import lens_prior
from distortkit.lens.fuse import fuse, on_sensor
from distortkit.lens.gate import Gate, choose_limit, coverage, fit_scale_of, harm_bound, risk
from distortkit.lens.guess import Guess, combine, displacement, frame_gap, guess_draws
from distortkit.lens.judge import CorrectSettings, Estimate, bending_of, judge
from distortkit.lens.scenes import draw_scene
from distortkit.lens.scores import sample_errors
from distortkit.lens.distort import build_parametric_grid
from distortkit.lens.views import draw_views, render
from distortkit.lens.warps import Lenses, frame_halves
from house import ask

PRIOR = lens_prior().double().numpy()

def seen(lens, sharp, rng, prior=PRIOR):
    "The posterior after evidence of `sharp` times the prior's covariance."
    cov = prior*sharp; post = np.linalg.inv(np.linalg.inv(prior)+np.linalg.inv(cov))
    return Guess(post@np.linalg.solve(cov, lens+rng.multivariate_normal(np.zeros(7), cov)), post)

call = partial(ask, app)

@pytest.mark.parametrize('size', [(342,512),(512,342),(300,300)])
def test_the_lattice_counts_as_scores_do(size):
    rng = np.random.default_rng(0); a,b = rng.multivariate_normal(np.zeros(7), PRIOR, 2)
    grid = lambda p: build_parametric_grid(torch.tensor([[*p,1.]], dtype=torch.float64), *size)
    exact = sample_errors(grid(a), grid(b)).item()*(max(size)-1)/511
    assert abs(frame_gap(a, b, size)/exact-1)<.02

def test_a_guess_is_what_it_was_made_of():
    g = seen(np.zeros(7), .3, np.random.default_rng(1)); d = guess_draws(g, 20000)
    unit = np.sqrt(np.diag(PRIOR)); assert np.abs((np.cov(d.T)-g.covariance)/unit/unit[:,None]).max()<.03 and np.abs((d.mean(0)-g.params)/unit).max()<1e-6
    assert displacement(g)[1:]==displacement(g)[1:], 'the same guess has the same interval each time'

def test_precision_adds_and_the_prior_counts_once():
    rng = np.random.default_rng(2); parts = [seen(np.zeros(7), s, rng) for s in (.5,2.,1.)]; P0 = np.linalg.inv(PRIOR); P = [np.linalg.inv(g.covariance) for g in parts]
    whole = sum(P)-2*P0; mean = np.linalg.solve(whole, sum(p@g.params for p,g in zip(P, parts))); got = combine(parts, PRIOR); unit = np.sqrt(np.diag(PRIOR))
    assert np.abs((got.params-mean)/unit).max()<1e-6 and np.abs((got.covariance-np.linalg.inv(whole))/unit/unit[:,None]).max()<1e-6
    assert np.abs((fuse(parts, PRIOR, 1e-12).guess.params-mean)/unit).max()<.2

def test_intervals_hold_on_data_apart():
    made = lambda seed, boast: zip(*[(Guess((g := seen(t, 10**rng.uniform(-2, .5), rng)).params, g.covariance/boast),t) for rng in [np.random.default_rng(seed)] for t in rng.multivariate_normal(np.zeros(7), PRIOR, 80)])
    for boast in (4.,):
        guesses,true = made(3, boast); scale = fit_scale_of(guesses, frame_gap(np.zeros(7), np.array(true)), steps=6)
        others,there = made(4, boast); held = coverage(others, frame_gap(np.zeros(7), np.array(there)), scale=scale).mean(); assert .8<held<.98, (boast, held)
        assert .5*boast<scale<2*boast

def test_the_bound_and_the_sequence():
    assert harm_bound(np.zeros(299, bool))<=.01<harm_bound(np.zeros(298, bool))
    risks = np.arange(1000.); harmed = risks>=700
    for among,most in (('all',720),('answered',720)):
        t = choose_limit(risks, harmed, among=among); on = risks<=t; of = on if among=='answered' else np.ones(1000, bool)
        assert t<most and harm_bound((harmed&on)[of])<=.01
    assert choose_limit(risks, harmed, target=.001) is None and choose_limit(risks, np.ones(1000, bool), among='answered') is None
    assert choose_limit(np.arange(4000.), np.arange(4000)<5, among='answered') is None, 'a sequence that failed at the start may not go on'

def test_the_gate_speaks_in_photographs_of_any_size():
    g = seen(np.array([-.1,.03,0,0,0,0,0]), .01, np.random.default_rng(5)); gate = Gate(risk_px=0.)
    assert gate.decline(g)==(None,None)==gate.decline(g, (3648,5472)) and abs(risk(g)-risk(g, (3648,5472)))<.05
    est = Estimate(torch.tensor([*g.params,1.]), torch.from_numpy(np.pad(g.covariance, (0,1))), None, 9, *bending_of(torch.tensor([*g.params,1.])))
    small,large = (judge(est, CorrectSettings(), (9,)*7, gate, s) for s in ((342,512),(3420,5120)))
    assert small.code is None and abs(large.displacement_px/small.displacement_px-10)<.2
    assert judge(est, CorrectSettings(), (9,)*7, Gate(risk_px=0., scale=400.)).code=='DOUBT'

def test_fusion_leaves_strangers_out_and_keeps_the_honest():
    alone,together,kept = [],[],0
    for seed in range(6):
        rng = np.random.default_rng(seed); lens = rng.multivariate_normal(np.zeros(7), PRIOR); some = [seen(lens, 10**rng.uniform(-1, .5), rng) for _ in range(11)]
        strange = [seen(lens+4*np.sqrt(np.diag(PRIOR))*rng.choice([-1,1], 7), .02, rng) for _ in range(2)]; got = fuse([*some, *strange], PRIOR)
        assert {11,12}<=set(got.rejected); kept += 13-len(got.rejected); alone.append(np.median([frame_gap(g.params, lens) for g in some])); together.append(frame_gap(got.guess.params, lens))
    assert kept>=6*10.5 and np.median(together)<.7*np.median(alone)

@pytest.mark.parametrize('orientation', [1,3,6,8])
def test_orientation_turns_the_centre(orientation):
    "A place of the picture as the sensor stored it sees the same, whichever way it was turned."
    stored = np.array([.03,-.01,0,4e-4,-2e-4,.03,-.02]); turn = {1:0, 6:3, 3:2, 8:1}[orientation]   # quarter turns counter-clockwise that make it upright
    grid = build_parametric_grid(torch.tensor([[*stored,1.]], dtype=torch.float64), 41, 41)[0].numpy(); upright = np.rot90(grid, turn)
    for _ in range(turn): upright = np.stack([upright[...,1], -upright[...,0]], -1)
    whole = {o: build_parametric_grid(torch.tensor([[*on_sensor(Guess(stored, np.eye(7)*1e-6), o).params,1.]], dtype=torch.float64), 41, 41)[0].numpy() for o in (1,3,6,8)}
    back = {1:1, 3:3, 6:8, 8:6}[orientation]; assert np.abs(whole[back]-upright).max()<1e-9

def test_fewer_numbers_where_fewer_do():
    rng = np.random.default_rng(7); assert smallest_adequate(seen(np.array([.1,0,0,0,0,0,0]), .01, rng), np.diag(np.diag(PRIOR)))[0]!='identity'
    assert smallest_adequate(Guess(np.zeros(7), PRIOR*.5), PRIOR)[0]=='identity'

@pytest.fixture(scope='module')
def shots(tmp_path_factory):
    "Drawn scenes through one barrel lens: lying, standing with a tag, standing without one, reduced; and a lens that is another."
    folder = tmp_path_factory.mktemp('shots')
    def through(k, seed, kind):
        lens = Lenses(np.array([[1,0,k[0],0,k[1],0,0]]), np.zeros((1,2)), np.zeros((1,2))); src = draw_scene(seed, 480, 720, kind)
        return render(src, draw_views(np.zeros((1,6)), frame_halves(480, 720)[None], frame_halves(480, 720), lens, varied=False), lens, 480, 720)
    for i,(seed,kind) in enumerate((s,k) for s,k in ((0,'facade'),(2,'street'),(2,'grid'),(0,'room'))):
        im = Image.fromarray(through((-.08,.015), seed, kind)); exif = Image.Exif()
        if i==1: exif[274] = 6
        if i==2: im = im.transpose(Image.Transpose.ROTATE_90)
        if i==3: im = im.resize((600,400), Image.Resampling.LANCZOS)
        im.save(folder/f'{i}.jpg', quality=95, exif=exif)
    return folder

def test_calibrate_from_files(shots, tmp_path):
    out = tmp_path/'own.xml'; code,said = call('calibrate', shots, '-o', out, '--checkpoint', 'particles', '--focal-length-mm', 24, '--crop', 1.5, '--lens-model', 'Own 24mm', '--json')
    assert code==0, said
    facts = json.loads(said.splitlines()[-1]); low,high = facts['interval_px']
    assert facts['photographs']==4 and facts['rejected']==[] and facts['params']['k1']<-.03 and low<facts['displacement_px']<high and '<lensdatabase' in out.read_text() and (facts['width'],facts['height'])==(720,480)
    assert frame_gap(np.array([facts['params'][n] for n in ('k1','k2','k3','p1','p2','dcx','dcy')]), np.array([-.08,.015,0,0,0,0,0]))<.6*frame_gap(np.zeros(7), np.array([-.08,.015,0,0,0,0,0]))
    code,said = call('calibrate', shots, '-o', out, '--checkpoint', 'particles'); assert code==1 and 'there already' in said and said.count('\n')==1

def test_calibrate_says_what_it_left_out(shots, tmp_path):
    (tmp_path/'note.jpg').write_text('no photograph'); Image.new('RGB', (720,480), 'grey').save(tmp_path/'grey.jpg'); out = tmp_path/'own.yml'
    code,said = call('calibrate', shots/'0.jpg', tmp_path/'note.jpg', tmp_path/'grey.jpg', tmp_path/'gone.jpg', '-o', out, '--checkpoint', 'particles')
    assert code==2 and all(f'{n}.jpg: skipped' in said for n in ('note','grey','gone')) and '1 photographs used, 0 rejected, 3 skipped' in said
    store = cv2.FileStorage(str(out), cv2.FILE_STORAGE_READ); assert store.getNode('image_width').real()==720; store.release()
    code,said = call('calibrate', tmp_path/'grey.jpg', '--checkpoint', 'particles'); assert code==1 and 'none of the photographs can be used' in said
    code,said = call('calibrate', shots, '--checkpoint', 'no_such_run'); assert code==1 and 'no_such_run' in said

def test_a_stranger_among_files_is_named(shots, monkeypatch):
    rng = np.random.default_rng(9); lens = np.array([-.08,.015,0,0,0,0,0]); told = [*(seen(lens, .1, rng) for _ in range(3)), seen(-3*lens, .02, rng)]
    monkeypatch.setattr('distortkit.commands.calibrate._method', lambda *_: type('Told', (), dict(guess=lambda self, rgb: told.pop(0)))())
    code,said = call('calibrate', shots); assert code==0 and '3.jpg: rejected' in said and '3 photographs used, 1 rejected' in said

def test_a_standing_frame_without_a_tag_is_turned(shots):
    known = Guess([-.08,.015,0,0,0,.02,-.01], np.diag([1e-5,1e-5,1e-6,1e-8,1e-8,1e-5,1e-5])); told = [known, on_sensor(known, 8), on_sensor(known, 6), known]
    got = calibration.calibrate_photos(type('Told', (), dict(guess=lambda self, rgb: told.pop(0)))(), sorted(shots.glob('*.jpg')))
    assert got.fused.rejected==[] and np.abs(got.profile.row[5:7]-known.params[5:]).max()<2e-3 and (got.profile.width, got.profile.height)==(720,480)
