"The run explorer in a real browser: runs that are finished, growing, damaged, gone, and two beside each other."
import json, math, shutil, time
import numpy as np, pytest, torch
from browser import shoot
from distortkit.core.runs import Run

pytestmark = pytest.mark.browser
PHOTOS = ('motorcycle','astronaut','chelsea','china','coffee','rocket')

@pytest.fixture(scope='session')
def pairs():
    "Twelve bent photographs with their truth, not square."
    from distortkit.lens.bank import make_source
    from distortkit.lens.data import FixedPairs
    from distortkit.lens.warps import WarpSettings
    return FixedPairs([make_source(n) for n in PHOTOS], (128,192), each=2, warp=WarpSettings(quantile=.5, varied_share=0., mirrored_share=0.), workers=0).samples

class Training:
    "A run that learns nothing, but writes what a training of the second stage writes."
    def __init__(self, folder, pairs, epochs=200, images=50, seed=0, album=12, better=1.):
        from distortkit.lens.params import BOUNDS
        self.folder,self.pairs,self.images,self.better,self.rng = folder,pairs[:album],images,better,np.random.default_rng(seed)
        self.run = Run.open(str(folder), dict(bounds=BOUNDS, train=dict(epochs=epochs), runtime=dict(stage='stage2_hybrid')), tensorboard=False)
        self.ids = [p['image_id'] for p in pairs]+[f'{PHOTOS[i%6]}#{2+i//6}' for i in range(images)]; self.ids = self.ids[:images]
        r = np.random.default_rng(7); self.nothing = 2+10*r.random(images); self.hard = .05+.3*r.random(images)+1.1*(r.random(images)<.1)
        self.true = np.stack([p['true_params'].numpy() for p in pairs]+[np.r_[r.normal(0, .1, 3), r.normal(0, .004, 2), r.normal(0, .01, 2), 1.02] for _ in range(images)])[:images]
        self.best = math.inf

    def epoch(self, e):
        from distortkit.lens.album import write_album, write_flow
        from distortkit.lens.losses.total import TERMS
        from distortkit.lens.params import BOUNDS, PARAM_NAMES
        r,far = self.rng,math.exp(-e/30); low,high = np.array([BOUNDS[n] for n in PARAM_NAMES]).T; neutral = np.array([0,0,0,0,0,0,0,1.])
        error = self.nothing*(self.hard+(1.1-self.hard)*far)*self.better*(1+.05*r.random(self.images)); params = (neutral+(self.true-neutral)*(1-far)*(1+.1*r.normal(size=self.true.shape))).clip(low, high)
        columns = dict(epe_px=error, identity_epe_px=self.nothing, **dict(zip(PARAM_NAMES, params.T)), residual_max_px=.3*r.random(self.images), residual_mean_px=.1*r.random(self.images),
            det_min=.8-.4*r.random(self.images)*(self.hard>1), det_p01=np.full(self.images, .9), negative_det_pct=3*(self.hard>1)*r.random(self.images), oob_ratio=.02*r.random(self.images), safe=(self.hard<1)*1.,
            **{f'proxy_{k}': 1-far*r.random(self.images) for k in ('total_score','edge','line','grad','ssim','mae','hard_fail','error')})
        parts = {t: (.1+far)*(i+1)/10*(1+.1*r.random()) for i,t in enumerate(TERMS)}; sat = {f'param_sat_frac_{n}': .2*far for n in ('k1','k2','k3','p1','p2','dcx','dcy','scale')}
        if e: self.run.log('train', 30*e, e, parts|{f'{t}_weighted': .1*v for t,v in parts.items()}|sat|dict(loss=.1*sum(parts.values()), lr=3e-4*(1+math.cos(e/70))/2, grad_norm=1+far))
        median = float(np.median(error)); better = median<self.best; self.best = min(self.best, median); harm = error-self.nothing
        self.run.log('val', 30*e, e, parts|sat|dict(loss=.1*sum(parts.values()), epe_px_median=median, epe_px_mean=float(error.mean()), epe_px_p95=float(np.quantile(error, .95)),
            improved_frac=float((harm<-.1).mean()), harm_frac=float((harm>.5).mean()), identity_epe_px_median=float(np.median(self.nothing)), identity_epe_px_mean=float(self.nothing.mean()), warp_det_min=.8, warp_negative_det_pct=.1,
            proxy_total_score=.9-.3*far, proxy_edge=.8-.3*far, proxy_line=.7-.3*far, is_best=better))
        self.run.log_samples(30*e, e, self.ids, columns)
        if not self.pairs: return self
        if e==0: write_album(self.folder/'album', self.pairs, 'stage2_hybrid', 512)
        y,x = torch.meshgrid(torch.linspace(-2,2,16), torch.linspace(-2,2,24), indexing='ij'); flow = .4*torch.stack([torch.sin(2*y), torch.cos(2*x)])*torch.exp(-(x**2+y**2)/2)
        for which in ('best','last') if better else ('last',): write_flow(self.folder/'album'/f'flow_{which}.npz', flow.expand(len(self.pairs),-1,-1,-1), 30*e)
        return self

    def to(self, first, last):
        for e in range(first, last+1): self.epoch(e)
        self.run.close(); return self

@pytest.fixture(scope='module')
def runs(lab, pairs):
    "A long run, a worse one, one that is still written, one without pictures, one that is damaged."
    at = lab.runs; made = dict(long=Training(at/'long', pairs).to(0, 200), rival=Training(at/'rival', pairs, 60, better=1.2, seed=3).to(0, 60), bare=Training(at/'bare', pairs, 5, album=0).to(0, 3))
    made['growing'] = Training(at/'growing', pairs, 40).to(0, 5)
    shutil.copytree(at/'bare', at/'damaged'); (at/'damaged'/'history.jsonl').write_text('{oops\n{"kind":"val","step":0,"epoch":0}\n')
    yield made
    for name in (*made, 'damaged'): shutil.rmtree(at/name, ignore_errors=True)

@pytest.fixture(scope='module')
def page(lab, runs):
    p = lab.open('run.ipynb', width=1400, height=1300); yield p; lab.close(p)

def choose(page, name, value):
    "Choose an option by part of its text."
    select = page.field(name); options = page.wait_until(lambda: [o for o in select.locator('option').all_inner_texts() if value in o], f'{value} among the choices of {name}')
    if select.evaluate('e => e.selectedOptions[0].textContent')!=options[0]: select.select_option(label=options[0])

def rows(page): return page.locator('.dk-table tbody tr')
def column(page, name):
    "What a column shows, as numbers; missing ones are left out."
    k = page.locator('.dk-table th').evaluate_all('(all, n) => all.findIndex(h => h.dataset.column == n)', name)
    texts = rows(page).evaluate_all('(all, k) => all.map(r => r.cells[k].textContent)', k)
    return [float(t) for t in texts if t not in ('–','')]
def status(page): return ' '.join(page.locator('[role=status],[role=alert]').all_inner_texts())
def chosen(page): return page.locator('.dk-table [aria-selected=true] td').first.inner_text()
def pictures(page): return page.evaluate("() => [...document.querySelectorAll('[data-picture]')].map(e => [e.className || e.alt, e.dataset.picture])")
def open_run(page, name): choose(page, 'run', name); page.wait_until(lambda: f'{name}: ' in status(page) and not page.locator('[data-busy]').count(), f'the images of {name}', 30)

def test_a_run_opens_with_everything(page, figures):
    open_run(page, 'bare'); open_run(page, 'long'); page.wait_until(lambda: 'epoch 200 of 200' in status(page), 'the sentence of the run')
    assert rows(page).count()==50 and 'median error' in status(page)
    took = []
    for _ in range(3):
        open_run(page, 'bare'); page.page.wait_for_timeout(800)
        page.evaluate("() => { window.before = document.querySelector('.dk-compare').dataset.picture }"); start = time.perf_counter(); choose(page, 'run', 'long')
        page.wait_until(lambda: page.evaluate("() => document.querySelector('.dk-compare').dataset.picture != window.before && document.querySelector('.dk-table tbody').rows.length == 50 && !document.querySelector('[data-busy]')"), 'everything drawn', 30)
        took.append(1000*(time.perf_counter()-start))
    figures('run explorer: opens 200 epochs × 50 images', sorted(took)[1], 2000); page.check(); shoot(page, 'run')

def test_nothing_changes_without_a_move(page):
    open_run(page, 'long'); page.page.wait_for_timeout(1000); before = (pictures(page), chosen(page), status(page), page.picture_hash('.dk-compare img.b'))
    page.page.wait_for_timeout(7000)                                                   # two looks of the clock
    assert (pictures(page), chosen(page), status(page), page.picture_hash('.dk-compare img.b'))==before

def test_sorting_and_keys_choose_an_image(page):
    open_run(page, 'long'); head = page.locator('th[data-column=harm] button'); head.click()
    page.wait_until(lambda: (h := column(page, 'harm'))==sorted(h), 'rows sorted by harm'); head.press('Enter')
    page.wait_until(lambda: (h := column(page, 'harm'))==sorted(h, reverse=True), 'the most harmed image first'); assert column(page, 'harm')[0]>0
    first = page.locator('.dk-table [aria-selected=true]').first; before = chosen(page); first.focus(); page.page.keyboard.press('Home')
    page.wait_until(lambda: chosen(page)==rows(page).first.locator('td').first.inner_text(), 'the first row'); page.wait_until(lambda: 'no picture of' in status(page), 'a sentence instead of a picture')
    seen = rows(page).filter(has_text='●'); name = seen.nth(1).locator('td').first.inner_text(); steps = rows(page).evaluate_all('(all, n) => all.findIndex(r => r.cells[0].textContent == n)', name)
    for _ in range(steps): page.page.keyboard.press('ArrowDown')
    page.wait_until(lambda: chosen(page)==name and f'{name}, error' in status(page), f'the picture of {name}', 20); page.wait_until(page.locator('.dk-compare').is_visible, 'the picture')
    page.check()

def test_the_divider_moves(page):
    open_run(page, 'long'); line = page.locator('.dk-compare [role=slider]'); before = page.picture_hash('.dk-compare .frame'); was = line.get_attribute('aria-valuenow')
    page.press(line, 'ArrowLeft', 'PageDown'); assert line.get_attribute('aria-valuenow')!=was; page.wait_change('.dk-compare .frame', before)
    now = line.get_attribute('aria-valuenow'); page.drag('.dk-compare .frame', (.5,.5), (.9,.5)); assert line.get_attribute('aria-valuenow')!=now
    page.locator('.dk-compare input[value=difference]').check(); page.wait_until(lambda: page.locator('.dk-compare canvas').is_visible(), 'the difference'); page.locator('.dk-compare input[value=divide]').check(); page.check()

def test_another_validation_is_another_picture(page):
    open_run(page, 'long'); choose(page, 'epoch', 'best'); page.wait_until(lambda: 'no residual' not in status(page) and 'not kept' not in status(page), 'the best'); before = page.wait_rest('.dk-compare img.b')
    choose(page, 'epoch', 'first'); page.wait_change('.dk-compare img.b', before); page.wait_until(lambda: 'was not kept' in status(page), 'a word about the flow'); assert all(e>1 for e in column(page, 'error')[:1])
    choose(page, 'epoch', 'best'); page.check()

def test_two_runs_on_the_same_images(page):
    open_run(page, 'long'); choose(page, 'other', 'rival'); page.wait_until(lambda: 'A is better' in status(page), 'the verdict', 20)
    assert len(column(page, 'error_b'))==50 and min(column(page, 'change'))>-.5
    before = page.wait_rest('.dk-compare img.b'); choose(page, 'pair', 'run A | run B'); page.wait_change('.dk-compare img.b', before)
    page.wait_until(lambda: page.locator('.dk-compare .name.right').inner_text()=='B: rival', 'the names of the runs'); shoot(page, 'run_two')
    choose(page, 'other', 'no second run'); page.wait_until(lambda: page.locator('th[data-column=error_b]').count()==0, 'the columns of one run'); page.check()

def test_a_growing_run_is_followed(page, runs):
    open_run(page, 'growing'); choose(page, 'epoch', 'last'); page.wait_until(lambda: 'epoch 5 of 40' in status(page), 'epoch 5')
    rows(page).nth(3).click(); mine = chosen(page); page.wait_until(lambda: mine in status(page), mine); focus = lambda: page.evaluate("() => document.activeElement.dataset.row ?? document.activeElement.tagName"); had = focus()
    runs['growing'].to(6, 6); page.wait_until(lambda: 'epoch 6 of 40' in status(page) and 'last · epoch 6' in ' '.join(page.field('epoch').locator('option').all_inner_texts()), 'the new epoch', 20)
    page.page.wait_for_timeout(500); assert chosen(page)==mine and focus()==had
    with open(runs['growing'].folder/'samples.jsonl', 'ab') as f: f.write(b'{"kind":"val","st')
    page.page.wait_for_timeout(4000); assert 'epoch 6 of 40' in status(page) and chosen(page)==mine; page.check()

def test_what_is_missing_damaged_or_gone_is_a_sentence(page, runs):
    open_run(page, 'bare'); page.wait_until(lambda: 'keeps no pictures' in status(page), 'a word about pictures'); assert not page.locator('.dk-compare').is_visible() and rows(page).count()==50
    choose(page, 'run', 'damaged'); page.wait_until(lambda: 'line 1 is damaged' in status(page), 'a word about the damage'); assert not page.locator('.dk-table').is_visible()
    open_run(page, 'rival'); page.wait_until(lambda: page.locator('.dk-table').is_visible(), 'the table again'); shutil.rmtree(runs['rival'].folder)
    page.wait_until(lambda: 'is gone' in status(page), 'a word about the folder', 20); open_run(page, 'long'); page.wait_until(lambda: 'epoch 200 of 200' in status(page), 'another run', 20); page.check()

def test_without_runs_it_says_how_to_get_one(lab, tmp_path):
    p = lab.open(['from distortkit.lens.run_explorer import RunExplorer', f"RunExplorer(root={str(tmp_path)!r})"]); p.wait_until(lambda: 'make demo' in status(p), 'what to do'); p.check(); lab.close(p)
