"The residual flow explorer in a real browser: brush and keys change arrows and picture, clear brings the picture back, a fold is named."
import json
import numpy as np, pytest
from browser import shoot
from distortkit.core.samples import sample_line
from distortkit.lens.params import NEUTRAL, PARAM_NAMES

pytestmark = pytest.mark.browser
CANVAS,ROOT,AFTER,BEFORE = '.dk-flow canvas[tabindex]','.dk-flow','.dk-compare img.b','.dk-compare img.a'
PIXELS = "e => { const c = document.createElement('canvas'); c.width = e.naturalWidth; c.height = e.naturalHeight; const d = c.getContext('2d'); d.drawImage(e, 0, 0); return %s; }"
CODE = PIXELS % 'c.toDataURL()'
COLOURS = PIXELS % '(() => { const a = new Uint32Array(d.getImageData(0, 0, c.width, c.height).data.buffer); return [...new Set(a)].length; })()'
AREA = '.dk-picture img[alt^="Map of the area"]'

def small_run(root):
    "A run of stage 2 as its album and its numbers leave it."
    import torch
    from distortkit.core.data import to_tensor
    from distortkit.lens.album import write_album, write_flow
    from distortkit.lens.flows import ready_flow
    from distortkit.lens.presets import sample_picture
    run = root/'stage2_small'; picture = to_tensor(sample_picture('coffee', 192)); run.mkdir()
    write_album(run/'album', [dict(image_id=n, input_image=picture) for n in ('a','b')], 'stage2_hybrid', 192)
    write_flow(run/'album'/'flow_last.npz', torch.cat([ready_flow('swirl', 16, 24, .5), ready_flow('zero', 16, 24)]), 300)
    (run/'samples.jsonl').write_text(sample_line(300, 1, ['a','b'], {n: [v,v] for n,v in zip(PARAM_NAMES, (-.1,*NEUTRAL[1:]))})+'\n')
    (run/'resolved_config.json').write_text(json.dumps(dict(settings=dict(model=dict(residual_max_disp=2.), train=dict(stage='stage2_hybrid', epochs=1)))))
    (run/'history.jsonl').write_text('{"kind": "val", "step": 300, "epoch": 1, "loss": 1.0, "is_best": true}\n')
    return run

@pytest.fixture(scope='module')
def page(lab):
    small_run(lab.runs); p = lab.open('residual_flow.ipynb', width=1500, height=1300)
    yield p
    lab.close(p)

@pytest.fixture(autouse=True)
def fresh(page):
    "Each test begins with an empty canvas, a push of radius 3 and a bound of 1 px."
    choose(page, brush='push', radius=3, strength=1, bound=1)
    click(page, 'clear'); rest(page); yield
    page.check()

def choose(page, brush=None, **ranges):
    if brush: page.locator(f'{ROOT} [data-field=brush] select').select_option(brush)
    for k,v in ranges.items(): page.slider(k, ROOT).evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})) }", str(v))
def click(page, what): page.locator(f'{ROOT} [data-do={what}]').click()
def rest(page):
    "Wait until the kernel has answered and all pictures stand."
    page.wait_until(lambda: not page.locator(f'{ROOT}[data-busy], .dk-form[data-busy]').count(), 'an answer'); last = None
    for _ in range(100):
        now = said(page), after(page)
        if now==last: return now
        last = now; page.wait_for_timeout(120)
def after(page): return page.locator(AFTER).first.evaluate(CODE)
def said(page): return page.locator('.flow-said').inner_text()
def cursor(page): return page.locator(f'{ROOT} [role=status]').inner_text()
def form(page, title): return page.locator('.dk-form').filter(has=page.locator(f'.title:text-is("{title}")'))

def test_nothing_happens_without_a_hand(page):
    arrows,picture,words = page.wait_rest(CANVAS),after(page),said(page)
    page.wait_for_timeout(600)
    assert (page.picture_hash(CANVAS),after(page),said(page))==(arrows,picture,words)

def test_a_stroke_changes_arrows_and_picture(page):
    arrows,picture = page.wait_rest(CANVAS),after(page)
    page.drag(CANVAS, (.4,.5), (.5,.4)); page.wait_change(CANVAS, arrows); rest(page)
    assert after(page)!=picture and 'mean 0.00 px' not in said(page)
    assert 'px right, −' in cursor(page) and 'looks −' not in cursor(page), 'the arrow goes the way of the hand'
    shoot(page, 'flow_stroke')

def test_clear_gives_the_photograph_back(page):
    page.drag(CANVAS, (.3,.5), (.6,.6)); rest(page)
    assert after(page)!=page.locator(BEFORE).first.evaluate(CODE)
    click(page, 'clear'); rest(page)
    assert after(page)==page.locator(BEFORE).first.evaluate(CODE), 'zero flow is the identity'
    assert 'least area |J| 1.000' in said(page) and 'mean 0.00 px, largest 0.00 px' in said(page) and 'certified' in said(page)
    assert page.locator(AREA).evaluate(COLOURS)==1, '|J| is 1 everywhere'

def test_keys_alone_paint(page):
    page.locator(f'{ROOT} [data-do=undo]').focus(); page.keyboard.press('Tab')
    for _ in range(5):
        if page.evaluate('document.activeElement.getAttribute("role")')=='application': break
        page.keyboard.press('Tab')
    else: raise AssertionError('Tab does not reach the canvas')
    before = cursor(page); page.keyboard.press('ArrowLeft'); page.keyboard.press('ArrowUp'); page.wait_until(lambda: cursor(page)!=before, 'the cursor to move')
    picture = after(page); page.keyboard.press('Shift+ArrowDown'); rest(page)
    assert after(page)!=picture and cursor(page).endswith('looks 0.00 px right, 1.00 px down')
    picture = after(page); page.keyboard.press('ArrowRight'); page.keyboard.press('ArrowRight'); page.keyboard.press(' '); rest(page)
    assert after(page)!=picture
    cells = page.locator('.jp-Notebook .jp-Cell').count(); page.keyboard.press('a'); page.keyboard.press('b'); page.wait_for_timeout(300)
    assert page.locator('.jp-Notebook .jp-Cell').count()==cells, 'keys stay on the canvas'

def test_undo_and_redo(page):
    page.drag(CANVAS, (.4,.5), (.5,.5)); rest(page); one = after(page)
    page.drag(CANVAS, (.6,.3), (.6,.5)); rest(page); two = after(page)
    click(page, 'undo'); rest(page); assert after(page)==one!=two
    page.press(CANVAS, 'Control+y'); rest(page); assert after(page)==two
    page.press(CANVAS, 'Control+z', 'Control+z'); rest(page); assert after(page)==page.locator(BEFORE).first.evaluate(CODE)

def test_the_bound_clips(page):
    page.drag(CANVAS, (.3,.5), (.6,.5)); rest(page)
    assert '% of the places are clipped' in said(page) and float(page.locator(ROOT).get_attribute('data-clipped'))>0
    picture = after(page); choose(page, bound=8); page.wait_until(lambda: 'no place is clipped' in said(page), 'the wider bound')
    rest(page); assert after(page)!=picture and page.locator(ROOT).get_attribute('data-clipped')=='0.00'

def test_a_strong_push_folds_and_is_named(page):
    assert 'FOLDED' not in said(page)
    choose(page, bound=4, radius=2); page.drag(CANVAS, (.4,.5), (.55,.5)); page.drag(CANVAS, (.7,.5), (.55,.5)); rest(page)
    words = said(page); assert 'FOLDED' in words and 'JACOBIAN_FOLDOVER_PCT_EXCEEDED' in words and 'folds: the map folds' in words
    assert page.locator(AREA).evaluate(COLOURS)>50 and 'FOLDED' in page.locator(AREA).get_attribute('alt')
    assert float(page.locator('.flow-costs tr', has_text='jacobian').locator('td').first.inner_text())>0
    shoot(page, 'flow_folds')

def test_two_quick_strokes_end_in_the_last_state(page):
    box = lambda x,y: page.locator(CANVAS).click(position=dict(x=x, y=y), no_wait_after=True)
    choose(page, brush='swirl right'); box(150, 150); box(300, 200); rest(page); quick = after(page)
    click(page, 'clear'); rest(page); box(150, 150); rest(page); one = after(page); box(300, 200); rest(page)
    assert after(page)==quick!=one

def test_a_bad_file_is_a_sentence(page, tmp_path):
    bad = tmp_path/'notes.npy'; bad.write_text('no flow'); flow = form(page, 'Flow'); before = rest(page)
    flow.locator('[data-field=file] input').set_input_files(bad); page.wait_until(lambda: 'notes.npy: is not a .npy' in flow.inner_text(), 'a sentence')
    np.save(tmp_path/'two.npy', np.zeros((2,9,2), np.float32)); flow.locator('[data-field=file] input').set_input_files(tmp_path/'two.npy')
    page.wait_until(lambda: 'choose the layout' in flow.inner_text(), 'the question'); assert rest(page)==before
    np.save(tmp_path/'good.npy', np.full((9,14,2), .4, np.float32)); flow.locator('[data-field=file] input').set_input_files(tmp_path/'good.npy')
    page.wait_until(lambda: 'a flow of 9×14 places' in flow.inner_text(), 'the flow'); rest(page); assert 'of 14×9' in cursor(page)
    picture = form(page, 'Picture'); picture.locator('[data-field=upload] input').set_input_files(bad)
    page.wait_until(lambda: 'notes.npy' in picture.locator('[role=alert]').inner_text(), 'a sentence about the picture')
    flow.locator('[data-field=places] select').select_option('24'); page.wait_until(lambda: 'of 24×16' in cursor(page), 'the old resolution')

def test_save_and_load_again(page, tmp_path):
    page.drag(CANVAS, (.4,.5), (.5,.6)); rest(page); picture = after(page)
    with page.expect_download() as d: form(page, 'Flow').locator('[data-field=download] button').click()
    d.value.save_as(tmp_path/'flow.npz')
    with np.load(tmp_path/'flow.npz') as z: assert z['flow'].shape==(2,16,24) and 0<np.abs(z['flow']).max()<=1
    click(page, 'clear'); rest(page); assert after(page)!=picture
    form(page, 'Flow').locator('[data-field=file] input').set_input_files(tmp_path/'flow.npz'); page.wait_until(lambda: '16×24 places' in form(page, 'Flow').inner_text(), 'the flow'); rest(page)
    assert after(page)==picture
    form(page, 'Flow').locator('[data-field=places] select').select_option('24'); rest(page)

def test_ready_flows_lens_and_run(page):
    flow,picture = form(page, 'Flow'),form(page, 'Picture'); flow.locator('[data-field=ready] select').select_option('bump')
    page.wait_until(lambda: 'FOLDED' in said(page), 'a fold'); assert 'does not fold' in flow.inner_text()
    flow.locator('[data-field=ready] select').select_option('lens remainder'); page.wait_until(lambda: 'FOLDED' not in said(page), 'another flow', 60); rest(page)   # the lens database is read first
    assert float(page.slider('gain', ROOT).input_value())>10
    before = after(page); page.press(form(page, 'Lens under the flow, and weights').locator('[data-field=k1] input[type=range]'), 'ArrowLeft'); rest(page); assert after(page)!=before
    picture.locator('[data-field=run] select').select_option(label='stage2_small'); page.wait_until(lambda: '192×' in said(page), 'the picture of the run'); rest(page)
    assert page.slider('bound', ROOT).input_value()=='2' and form(page, 'Lens under the flow, and weights').locator('[data-field=k1] input[type=number]').input_value()=='-0.1'
    shoot(page, 'flow_run')
    picture.locator('[data-field=photo] select').select_option('coffee'); form(page, 'Lens under the flow, and weights').locator('[data-reset=all]').click(); rest(page)

def test_how_quick(page, figures):
    "From a key to the arrows, and to the kernel's answer."
    page.locator(CANVAS).focus()
    MS = '''([what]) => new Promise(done => { const c = document.querySelector('.dk-flow canvas[tabindex]'), root = document.querySelector('.dk-flow'), before = c.toDataURL(), start = performance.now();
      c.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowDown', shiftKey: true, bubbles: true}));
      const look = () => (what == 'arrows' ? c.toDataURL() !== before : !root.hasAttribute('data-busy')) ? done(performance.now()-start) : what == 'arrows' ? requestAnimationFrame(look) : setTimeout(look, 2); look() })'''
    for what,goal in (('arrows',30), ('answer',150)):
        ms = []
        for _ in range(7): ms.append(page.evaluate(MS, [what])); rest(page)
        figures(f'residual flow: key to {what}', sorted(ms)[3], goal); assert sorted(ms)[3]<20*goal
