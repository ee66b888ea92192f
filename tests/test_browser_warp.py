"The warp explorer in JupyterLab: right pixels, quick ones, the newest ones, and all of it by keyboard."
import base64, io, os, statistics
import cv2, numpy as np, pytest, torch
from PIL import Image
from browser import shoot
from distortkit.geometry.grid import grid_to_pixels
from distortkit.lens.distort import build_parametric_grid
from distortkit.lens.inverse import inverse_grid
from distortkit.lens.params import NEUTRAL, PARAM_NAMES
from distortkit.lens.presets import sample_picture
pytestmark = pytest.mark.browser

VIEW, FORM, PICTURE = '.dk-warp', '.dk-form', '.dk-warp canvas.picture'
EIGHT = [-.12,.05,-.02,.01,-.015,.03,-.05,1.08]
READ = '''e => { const d = e.getContext('2d').getImageData(0, 0, e.width, e.height).data; let s = ''; for (let i = 0; i < d.length; i += 30000) s += String.fromCharCode(...d.subarray(i, i+30000)); return [e.height, e.width, btoa(s)]; }'''
MOVE = '''([name, values]) => { const r = document.querySelector(`.dk-warp [data-field="${name}"] input[type=range]`); for (const v of values) { r.value = v; r.dispatchEvent(new Event('input', {bubbles: true})); } }'''

def quiet():
    "Does the load let a time say something about the widget? Otherwise it only stands in the table."
    return os.getloadavg()[0]<1.5*os.cpu_count()

def pixels(page):
    h,w,data = page.locator(PICTURE).first.evaluate(READ)
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(h, w, 4)[...,:3].astype(float)
def root(page, what): return page.locator(VIEW).first.evaluate(f'e => e.dataset.{what} ?? "0"')
def settled(page):
    "Wait until the picture rests and the kernel has said the last word."
    page.wait_rest(PICTURE); told = None
    while told!=(told := root(page, 'told')): page.wait_for_timeout(300)
def put_all(page, params):
    for n,v in zip(PARAM_NAMES, params): page.put(n, v, VIEW)
    settled(page)
def reset(page): page.locator(f'{VIEW} [data-reset=all]').click(); settled(page)

def bilinear(rgb, at):
    "The picture at places (h,w,2) px in double precision; NaN outside."
    h,w = rgb.shape[:2]; x,y = at.numpy().transpose(2, 0, 1); inside = (x>=-2e-3)&(x<=w-1+2e-3)&(y>=-2e-3)&(y<=h-1+2e-3)
    x,y = np.nan_to_num(x, nan=0.).clip(0, w-1),np.nan_to_num(y, nan=0.).clip(0, h-1); i,j = np.minimum(x.astype(int), w-2),np.minimum(y.astype(int), h-2); a,b,v = (x-i)[...,None],(y-j)[...,None],rgb.astype(float)
    mixed = (1-b)*((1-a)*v[j,i]+a*v[j,i+1])+b*((1-a)*v[j+1,i]+a*v[j+1,i+1])
    return np.where(inside[...,None], mixed, np.nan)
def png(rgb): out = io.BytesIO(); Image.fromarray(rgb).save(out, 'PNG'); return out.getvalue()
def ramps(h, w):
    "Red says x and green says y, 32 levels a pixel, up and down; blue says roughly where."
    y,x = np.mgrid[:h,:w]; wave = lambda v: np.minimum(np.abs((32*v)%512-256), 255)
    return np.stack([wave(x), wave(y), (x+y)*255//(h+w-2)], -1).astype(np.uint8)

@pytest.fixture(scope='module')
def page(lab): p = lab.open('warp.ipynb', width=1280, height=1000); settled(p); yield p; lab.close(p)

def opened(lab, rgb):
    (lab.work/'given.png').write_bytes(png(rgb))
    p = lab.open(["import torch; torch.set_num_threads(1)\nfrom pathlib import Path\nfrom distortkit.lens.warp_explorer import WarpExplorer\n"
                  "e = WarpExplorer('checkerboard'); e.warp.show(Path('given.png').read_bytes(), 'given'); e"]); settled(p)
    return p

def test_nothing_changes_without_a_move(page):
    before,drawn,told = page.wait_rest(PICTURE),root(page, 'drawn'),root(page, 'told')
    page.wait_for_timeout(800)
    assert (page.picture_hash(PICTURE), root(page, 'drawn'), root(page, 'told'))==(before, drawn, told)
    assert 'Certified' in page.locator(f'{VIEW} .verdict').inner_text(); page.check(); shoot(page, 'warp')

def test_a_key_changes_the_picture_and_reset_brings_it_back(page):
    reset(page); before = page.wait_rest(PICTURE)
    page.press(page.slider('k1', VIEW), 'ArrowRight', 'ArrowRight'); after = page.wait_change(PICTURE, before)
    assert float(page.field('k1', VIEW).input_value())>0
    page.press(page.slider('k1', VIEW), 'Home'); page.wait_change(PICTURE, after); assert float(page.field('k1', VIEW).input_value())==-.6
    page.press(page.locator(f'{VIEW} [data-field=k1] .reset'), 'Enter'); settled(page)
    assert page.picture_hash(PICTURE)==before and page.field('k1', VIEW).input_value()=='0'

@pytest.mark.parametrize('size', [(512,768),(420,300)], ids=['wide','tall'])
def test_sampled_places(lab, figures, size):
    "The picture says where each pixel was read: right to half a pixel, and in truth far better."
    rgb = ramps(*size); page = opened(lab, rgb); worst = {'straighten': 0., 'bend': 0.}
    assert np.array_equal(pixels(page), rgb)                          # neutral: every byte
    for direction in worst:
        page.put('direction', direction, VIEW)
        for params in (EIGHT, [.25,-.05,.01,-.02,0,0,.06,.93], [-.3,.12,-.03,.03,-.03,.08,.08,1.2]):
            put_all(page, params); p = torch.tensor([params], dtype=torch.float64)
            grid = build_parametric_grid(p, *size) if direction=='straighten' else inverse_grid(p, *size, outside='nan')
            drawn,true = pixels(page),bilinear(rgb, grid_to_pixels(grid)[0]); inside = ~np.isnan(true[...,0])
            off = np.abs(drawn-true)[inside]; assert inside.mean()>.2 and off[:,2].max()<2.5, (direction, params, off[:,2].max())
            worst[direction] = max(worst[direction], off[:,:2].max()/32)
            assert worst[direction]<.1, (direction, params, worst)
    for direction,px in worst.items(): figures(f'warp: sampled place, {direction} {size[1]}×{size[0]}', px, .5, 'px')
    page.check(); lab.close(page)

def test_photograph(lab, figures):
    "A photograph as a bilinear reference in double precision gives it."
    rgb = cv2.GaussianBlur(sample_picture('china'), (0,0), 2); page = opened(lab, rgb); size = rgb.shape[:2]; most,mean = [],[]
    for params in (EIGHT, [-.3,.1,-.03,0,0,0,0,1.], [.2,0,0,.02,0,-.06,0,.9]):
        put_all(page, params); true = bilinear(rgb, grid_to_pixels(build_parametric_grid(torch.tensor([params], dtype=torch.float64), *size))[0])
        inside = ~np.isnan(true[...,0]); off = np.abs(pixels(page)-true)[inside]; most.append(off.max()); mean.append(off.mean())
    assert max(most)<=2 and max(mean)<.4, (most, mean)
    figures('warp: photograph, worst error', max(most), 2, 'grey'); figures('warp: photograph, mean error', max(mean), .4, 'grey')
    page.check(); lab.close(page)

def test_the_last_of_two_quick_moves_stays(page):
    reset(page); page.evaluate(MOVE, ['k1', [.2]]); settled(page); alone = pixels(page)
    reset(page); page.evaluate(MOVE, ['k1', [-.5,-.4,.1,-.3,.2]]); settled(page)
    assert np.array_equal(pixels(page), alone) and not np.array_equal(alone, alone[::-1])
    assert page.locator(f'{VIEW} [data-field=vector] textarea').input_value()=='[0.2, 0, 0, 0, 0, 0, 0, 1]'
    asked = int(root(page, 'told')); page.evaluate(MOVE, ['k2', list(np.linspace(-.2, .2, 40))]); settled(page)
    assert int(root(page, 'told'))-asked<=3                           # forty moves, not forty questions
    assert 'k2: 0.2\n' in page.locator(f'{VIEW} [data-field=yaml] textarea').input_value(); page.check()

DRAG = '''async ([n]) => {
  const root = document.querySelector('.dk-warp'), r = root.querySelector('[data-field=k1] input[type=range]'), painted = () => new Promise(d => { const c = new MessageChannel(); c.port1.onmessage = d; c.port2.postMessage(0); }), ms = [], work = [];
  root.addEventListener('drawn', e => work.push(e.detail.ms));
  for (let i = 0; i < n; i++) {
    await new Promise(d => setTimeout(d, 20+7.3*(i%5)));                // an event comes at any time within a frame
    const drawn = new Promise(d => root.addEventListener('drawn', d, {once: true})), t = performance.now();
    r.value = -.3+.5*i/n; r.dispatchEvent(new Event('input', {bubbles: true})); await drawn; await painted(); ms.push(performance.now()-t);
  }
  return [ms, work]; }'''

@pytest.mark.parametrize('direction,goal', [('straighten',30),('bend',50)])
def test_slider_to_pixels(page, figures, direction, goal):
    reset(page); page.put('direction', direction, VIEW); settled(page)
    ms,work = page.evaluate(DRAG, [60]); settled(page)
    figures(f'warp: slider to painted frame, {direction} (median of 60)', statistics.median(ms), goal); figures(f'warp: drawing alone, {direction} (median)', statistics.median(work))
    page.put('direction', 'straighten', VIEW); reset(page); page.check()
    assert len(ms)==60 and (not quiet() or np.quantile(ms, .25)<=goal), f'{min(ms):.0f} to {max(ms):.0f} ms from slider to pixels'

def test_a_dragged_handle_draws_all_the_way(page, figures):
    reset(page); page.evaluate("() => { window.frames_ = []; document.querySelector('.dk-warp').addEventListener('drawn', () => window.frames_.push(performance.now())); }")
    b = page.slider('k1', VIEW).bounding_box(); y = b['y']+b['height']/2
    page.mouse.move(b['x']+b['width']*.5, y); page.mouse.down()
    for i in range(60): page.mouse.move(b['x']+b['width']*(.5+.35*np.sin(i/6)), y)
    page.mouse.up(); assert len(page.evaluate('() => window.frames_'))>15; settled(page); reset(page); page.check()

# Playwright waits for each of its mouse moves to be answered, which is slower than a hand; so the handle's own events come from the page, 200 a second.
PULL = """async slider => { const root = document.querySelector('.dk-warp'), at = []; root.addEventListener('drawn', () => at.push(performance.now()));
  const end = performance.now()+2500; let i = 0;
  await new Promise(done => { const t = setInterval(() => { if (performance.now() > end) { clearInterval(t); return done(); }
    slider.value = .2*Math.sin(i++/20); slider.dispatchEvent(new Event('input', {bubbles: true})); }, 5); });
  return at; }"""

def test_frames_while_dragging(page, figures):
    reset(page); t = np.array(page.slider('k1', VIEW).evaluate(PULL)); settled(page); rate = 1000*(len(t)-1)/(t[-1]-t[0])
    figures('warp: frames while dragging', rate, 30, '/s')
    assert len(t)>20 and (not quiet() or rate>=30), f'{rate:.0f} frames/s over {len(t)} frames'; reset(page); page.check()

def test_kernel_answer(page, figures):
    reset(page); waits = []
    for v in np.linspace(-.2, .2, 15): page.evaluate(MOVE, ['k1', [float(v)]]); settled(page); waits.append(float(root(page, 'wait')))
    figures('warp: slider to exact |J| and verdict (median)', statistics.median(waits), 150); reset(page); page.check()
    assert len(waits)==15 and (not quiet() or min(waits)<=150), waits

def test_a_fold_is_shown_and_said(page):
    put_all(page, [-.6,-.2,0,0,0,0,0,1]); verdict = page.locator(f'{VIEW} .verdict')
    assert verdict.get_attribute('data-verdict')=='folds' and 'folds' in verdict.inner_text()
    assert 'folded' in page.locator(f'{VIEW} .side ul').inner_text() and page.locator(f'{VIEW} .side tbody tr').count()==4
    area = page.locator(f'{VIEW} .area canvas').first; data = np.frombuffer(base64.b64decode(area.evaluate(READ)[2]), np.uint8).reshape(-1, 4)
    assert (data[:,2].astype(int)-data[:,0]>8).mean()>.2 and (data[:,:3].max(1)==0).mean()>.03   # blue, and black stripes over it
    assert '% folded' in area.get_attribute('aria-label'); page.check(); shoot(page, 'warp_fold'); reset(page)

def test_find_a_lens(page):
    reset(page); before = page.picture_hash(PICTURE); options = page.locator(f'{FORM} [data-field=lens] option')
    page.put('search', 'Canon 24-105 24mm', FORM)
    page.wait_until(lambda: options.count()>3 and '24-105' in options.nth(1).inner_text(), 'lenses', 30)
    page.put('lens', '0', FORM); page.wait_change(PICTURE, before); settled(page)
    assert float(page.field('k1', VIEW).input_value())!=0 and float(page.field('s', VIEW).input_value())==1
    assert '24 mm' in page.locator(f'{FORM} [role=status]').inner_text()
    page.put('search', 'zzzz', FORM); page.wait_until(lambda: 'no lens' in options.first.inner_text(), 'no lens'); page.check(); reset(page)

def test_typed_values(page):
    reset(page); note = page.locator(f'{VIEW} .note')
    page.put('k1', 5, VIEW); assert page.field('k1', VIEW).input_value()=='0.6' and 'k1: 5 is outside -0.6 to 0.6, taken as 0.6'==note.inner_text()
    page.put('s', '', VIEW); assert 'not a number' in note.inner_text() and page.field('s', VIEW).input_value()=='1'
    page.put('dcx', .05, VIEW); settled(page); assert note.inner_text()=='' and 'dcx: 0.05' in page.locator(f'{VIEW} [data-field=yaml] textarea').input_value()
    page.check(); reset(page)

def test_uploads(page, tmp_path):
    reset(page); before = page.picture_hash(PICTURE); alert = page.locator(f'{FORM} [role=alert]')
    bad = tmp_path/'notes.jpg'; bad.write_text('no picture'); page.put('upload', str(bad), FORM)
    page.wait_until(lambda: 'notes.jpg' in alert.inner_text(), 'a sentence about the upload'); assert 'Traceback' not in alert.inner_text() and page.picture_hash(PICTURE)==before
    good = tmp_path/'mine.png'; good.write_bytes(png(sample_picture('drawn grid', 600))); page.put('upload', str(good), FORM)
    page.wait_change(PICTURE, before); assert pixels(page).shape==(400,600,3) and page.field('picture', FORM).input_value()=='mine.png'
    page.put('picture', 'china', FORM); page.wait_until(lambda: page.picture_hash(PICTURE)==before, 'the first picture'); page.check()

def test_a_missing_photograph_is_a_sentence(lab):
    p = lab.open(["from distortkit.lens.warp_explorer import WarpExplorer\nWarpExplorer('nowhere.jpg')"]); settled(p)
    assert 'nowhere.jpg' in p.locator(f'{FORM} [role=alert]').inner_text(); p.check(); lab.close(p)

def test_hold_to_see_the_original(page):
    reset(page); original = page.picture_hash(PICTURE); put_all(page, EIGHT); bent = page.picture_hash(PICTURE)
    page.locator(f'{VIEW} [data-field=before]').focus(); page.keyboard.down(' '); assert page.wait_change(PICTURE, bent)==original
    page.keyboard.up(' '); assert page.wait_change(PICTURE, original)==bent; page.check(); reset(page)

def test_everything_has_a_name_and_a_place_in_the_row(page):
    nameless = page.evaluate('''() => Array.from(document.querySelectorAll('.dk-warp input, .dk-warp select, .dk-warp button, .dk-warp textarea, .dk-warp [role=img], .dk-form input, .dk-form select, .dk-form button'))
        .filter(e => !(e.getAttribute('aria-label') || Array.from(e.labels ?? []).some(l => l.textContent.trim()) || (e.tagName === 'BUTTON' && e.textContent.trim()))).map(e => e.outerHTML)''')
    assert not nameless
    page.slider('k1', VIEW).focus(); seen = []
    for _ in range(40):
        seen.append(page.evaluate("() => document.activeElement.closest('[data-field]')?.dataset.field")); page.keyboard.press('Tab')
    assert [n for i,n in enumerate(seen) if n and n not in seen[:i]][:12]==[*PARAM_NAMES,'direction','before','rulers','vector']

@pytest.mark.parametrize('width', [1600,1280,900])
def test_nothing_sticks_out(page, width):
    page.page.set_viewport_size(dict(width=width, height=1000)); page.wait_for_timeout(400)
    out = page.evaluate('''() => { const r = document.querySelector('.dk-warp'), b = r.getBoundingClientRect(); return Array.from(r.querySelectorAll('*')).filter(e => { const c = e.getBoundingClientRect(); return c.width > 2 && c.right > b.right+1; }).map(e => e.outerHTML.slice(0, 90)); }''')
    shoot(page, f'warp_{width}'); assert not out; assert page.locator(PICTURE).first.bounding_box()['width']>=(400 if width>=1280 else 280)
