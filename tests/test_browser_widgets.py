"The widgets every explorer is made of, in JupyterLab: mouse, keyboard, files, errors, slow answers, two views of one model."
import pytest
from browser import shoot

pytestmark = pytest.mark.browser

FORM = ['''import time
from distortkit.core.widgets import Field, Form
form = Form([Field('k1', 'number', value=0., low=-.5, high=.5, unit='px/px'), Field('k2', 'number', value=0., low=-.5, high=.5),
    Field('size', 'number', value=512, low=64, high=2048, step=64, unit='px', help='long side while training'), Field('gain', 'number', 'gain, no bounds', value=1.),
    Field('lens', 'choice', options=('wide', ('tele', 'Tele 200 mm'))), Field('note', 'text'), Field('grid', 'check', 'show the grid', value=True),
    Field('photo', 'file', accept='.jpg,.bin'), Field('go', 'button', 'Set k2'), Field('count', 'button', 'Count')], 'Lens', columns=2)
seen, pressed = [], []
@form.on_change
def slow(values, name):
    time.sleep(.25); seen.append(name)
    if values['note']=='bad': raise ValueError('checkpoint bad.pt is missing: choose another')
    form.say(f"{len(seen)} {name} {values['k1']:g} {values['lens']} {values['grid']}")
@form.on_press('go')
def go(): form.set(k2=.25); form.say('pressed')
@form.on_press('count')
def count(): time.sleep(.25); pressed.append(1); form.say(f'{len(pressed)} presses')
@form.on_file('photo')
def got(name, data): form.say(f"{name} {len(data)} {sum(data[::1000])}")
form''', 'form']

COMPARE = ['''import numpy as np
from distortkit.core.widgets import Column, Compare, Field, Form, Picture, TableView
y,x = np.mgrid[:200,:400]
flat = lambda v: np.full((200,400,3), v, np.uint8)
c = Compare(); c.show(flat(100), flat(110), ('input','corrected')); c''', '''p = Picture(); f = Form([Field('v', 'number', value=0, low=0, high=255, step=5)])
@f.on_change
def draw(values, name): p.show(flat(values['v']), f"grey {values['v']}")
f''', 'p', '''rows = [dict(image_id=f'photo_{i}', epe=(i*37%250)/10 if i%7 else None, n=i) for i in range(250)]
columns = [Column('image_id','image'), Column('epe','error','px',2), Column('n','row',digits=0)]
t = TableView(columns, rows, 'validation')
@t.on_select
def pick(i):
    if i==3: raise FileNotFoundError('album of photo_3 is gone: train again')
    p.alt = f'picked {i}'
    if i==20: t.set([r|dict(epe=1., worse=.1) for r in rows], columns+[Column('worse')])
t''']

def opened(lab, cells, what, n):
    p = lab.open(cells)
    p.wait_until(lambda: p.locator(what).count()==n, f'{n} of {what}')
    return p

@pytest.fixture(scope='module')
def page(lab): p = opened(lab, FORM, '.dk-form', 2); yield p; lab.close(p)
@pytest.fixture(scope='module')
def other(lab): p = opened(lab, COMPARE, '.dk', 4); yield p; lab.close(p)

def one(page, n=0): return page.locator('.dk-form').nth(n)
def status(page, n=0): return one(page, n).locator('[role=status]').inner_text()
def alert(page, n=0): return one(page, n).locator('[role=alert]').inner_text()
def answers(page): return int((status(page).split() or [0])[0])
def calm(page): page.wait_until(lambda: one(page).get_attribute('data-busy') is None, 'an answer of the kernel'); page.wait_for_timeout(60)
def number(page, name, n=0): return float(one(page, n).locator(f'[data-field={name}] input[type=number]').input_value())
def slider_value(page, name, n=0): return float(one(page, n).locator(f'[data-field={name}] input[type=range]').input_value())

# --- form

def test_form_looks(page):
    shoot(page, 'form')
    assert one(page).get_by_label('k1', exact=True).get_attribute('type')=='range' and one(page).get_by_label('lens').count()==1
    page.check()

def test_keys_move_a_slider_and_both_views(page):
    page.press(page.slider('k1'), 'ArrowRight'); calm(page)
    assert status(page).split()[1:]==['k1','0.01','wide','True'] and number(page, 'k1')==.01
    for key,at in (('End',.5), ('Home',-.5), ('PageUp',-.4)):
        page.press(page.slider('k1'), key); calm(page)
        assert number(page, 'k1')==number(page, 'k1', 1)==slider_value(page, 'k1', 1)==at and status(page, 1).split()[2]==f'{at:g}'

def test_the_newest_wins(page):
    calm(page); before = answers(page)
    page.press(page.slider('k1'), 'Home', *['ArrowRight']*12)
    assert slider_value(page, 'k1')==-.38 and one(page).get_attribute('data-busy') is not None
    calm(page); n = answers(page)-before
    assert status(page).split()[1:3]==['k1','-0.38'] and n<=4, f'{n} answers for 13 moves'

def test_dragging_sends_on_the_way(page):
    calm(page); before = answers(page)
    b = page.slider('k1').bounding_box(); page.mouse.move(b['x']+b['width']*.2, b['y']+b['height']/2); page.mouse.down()
    for i in range(40): page.mouse.move(b['x']+b['width']*(.2+i/80), b['y']+b['height']/2); page.wait_for_timeout(20)
    during = answers(page)-before
    page.mouse.up(); calm(page); after = answers(page)-before
    assert 1<=during<=after<=during+2 and float(status(page).split()[2])==number(page, 'k1')==slider_value(page, 'k1')

def test_changes_of_two_fields_go_together(page):
    page.press(page.slider('k2'), 'Home'); page.press(page.slider('k1'), 'End'); page.press(page.slider('size'), 'Home'); calm(page)
    assert status(page).split()[1:3]==['None','0.5'] and (number(page, 'k2', 1), number(page, 'size', 1))==(-.5,64)

def test_typed_beyond_its_bounds(page):
    page.put('k1', 7); assert alert(page)=='k1: 7 is outside -0.5 to 0.5, taken as 0.5' and number(page, 'k1')==.5
    page.put('k1', .1234); calm(page); assert alert(page)=='' and status(page).split()[2]=='0.1234'
    page.field('k1').fill(''); page.field('k1').press('Enter'); assert 'not a number' in alert(page) and number(page, 'k1')==.1234
    page.put('gain', 1000); calm(page); assert alert(page)=='' and number(page, 'gain', 1)==1000

def test_reset(page):
    page.put('k1', .2); page.put('lens', 'tele'); calm(page)
    one(page).get_by_role('button', name='reset k1 to 0').press('Enter'); calm(page)
    assert number(page, 'k1')==0 and status(page).split()[2:4]==['0','tele']
    assert not one(page).locator('[data-field=k1] .reset').is_visible()
    page.put('k1', .3); one(page).locator('[data-reset=all]').click(); calm(page)
    assert status(page).split()[1:]==['None','0','wide','True'] and number(page, 'gain')==1

def test_choice_text_and_check(page):
    page.put('lens', 'tele'); page.put('grid', False); page.field('note').fill('a note'); calm(page)
    assert status(page).split()[2:]==['0','tele','False'] and one(page, 1).locator('[data-field=note] input').input_value()=='a note'

def test_program_sets_and_nobody_is_called(page):
    calm(page); page.press(page.field('go'), 'Enter'); calm(page)
    assert status(page)=='pressed' and slider_value(page, 'k2')==number(page, 'k2', 1)==.25

def test_an_impatient_press_counts_once(page):
    page.press(page.field('count'), 'Enter', 'Enter', 'Enter')
    assert page.field('count').get_attribute('aria-disabled')=='true'
    calm(page); assert status(page)=='1 presses' and page.field('count').get_attribute('aria-disabled')=='false'
    page.press(page.field('count'), 'Space'); calm(page); assert status(page)=='2 presses'

def test_an_error_is_a_sentence_and_goes(page):
    page.put('note', 'bad'); calm(page)
    assert alert(page)==alert(page, 1)=='checkpoint bad.pt is missing: choose another'
    page.put('note', 'good'); calm(page); assert alert(page)=='' and status(page)
    page.check()

def test_files(page, tmp_path):
    big = tmp_path/'big.bin'; big.write_bytes(bytes(i%251 for i in range(1000))*12_000); data = big.read_bytes()
    for name in ('big.bin','none.bin'):
        if name=='none.bin': (tmp_path/name).write_bytes(b'')
        size = (tmp_path/name).stat().st_size
        page.put('photo', str(tmp_path/name)); page.wait_until(lambda: status(page)==f"{name} {size} {sum(data[:size:1000])}", 'the file')
    page.put('photo', str(big)); page.wait_until(lambda: status(page).startswith('big.bin 12000000'), 'the file')
    page.put('note', 'between'); calm(page)
    page.put('photo', str(big)); page.wait_until(lambda: status(page).startswith('big.bin 12000000'), 'the same file again')
    with open(tmp_path/'huge.bin', 'wb') as f: f.truncate(201*10**6)
    page.put('photo', str(tmp_path/'huge.bin')); assert alert(page)=='huge.bin has 201 MB: a file may have 200 MB, choose a smaller one'
    page.put('note', 'after'); calm(page); assert alert(page)==''
    page.check()

def test_browser_events(page):
    page.evaluate("window.told = []; window.addEventListener('distortkit-form', e => told.push([e.detail.name, e.detail.values.k1, e.detail.uid]))")
    page.press(page.slider('k1'), 'End', 'Home'); assert [t[:2] for t in page.evaluate('told')]==[['k1',.5],['k1',-.5]] and page.evaluate('told')[0][2]
    calm(page); assert len(page.evaluate('told'))==2

def test_a_view_drawn_again(page):
    page.put('k1', .05); calm(page)
    page.evaluate("() => { const nb = jupyterapp.shell.currentWidget.content; nb.activeCellIndex = 1; return jupyterapp.commands.execute('notebook:run-cell') }")
    page.wait_until(lambda: page.locator('.dk-form').count()==2, 'the view to return'); page.wait_for_timeout(300)
    assert number(page, 'k1', 1)==.05
    page.press(one(page, 1).locator('[data-field=k1] input[type=range]'), 'End'); calm(page); assert number(page, 'k1')==.5
    page.check()

def test_dark(page):
    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_until(lambda: page.evaluate("document.body.dataset.jpThemeLight")=='false', 'the dark theme'); page.wait_for_timeout(300)
    page.put('k1', 9); shoot(page, 'form_dark')
    dark = page.evaluate("e => getComputedStyle(e).backgroundColor.match(/\\d+/g).slice(0,3).every(v => v < 100)", page.field('k1').element_handle())
    assert dark, 'a number box is bright in the dark theme'
    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")

# --- compare

def line(other): return other.locator('.dk-compare [role=slider]')
def mode(other, m): other.locator(f'.dk-compare input[value={m}]').check(); other.wait_for_timeout(50)
def shown_at(other, share): # grey level on the screen at a share of the width
    other.wait_for_timeout(50); import io; from PIL import Image
    img = Image.open(io.BytesIO(other.locator('.dk-compare .frame').screenshot())).convert('L')
    return img.getpixel((int(img.width*share), img.height*4//5))

def test_divider_by_key_and_mouse(other):
    shoot(other, 'compare')
    assert line(other).get_attribute('aria-label')=='divider between input and corrected' and line(other).get_attribute('aria-valuenow')=='50'
    assert (shown_at(other, .25), shown_at(other, .75))==(100,110)
    for key,now in (('ArrowLeft',49), ('PageDown',39), ('End',100), ('Home',0)):
        other.press(line(other), key); assert line(other).get_attribute('aria-valuenow')==str(now)
    assert shown_at(other, .25)==110
    other.drag('.dk-compare .frame', (.3,.8), (.9,.8)); assert abs(int(line(other).get_attribute('aria-valuenow'))-90)<=1 and shown_at(other, .75)==100

def test_modes_of_comparing(other):
    for m,grey in (('a',100), ('b',110)): mode(other, m); assert shown_at(other, .5)==grey
    mode(other, 'side'); assert (shown_at(other, .25), shown_at(other, .75))==(100,110)
    mode(other, 'difference'); assert shown_at(other, .5)==40
    other.press(other.get_by_label('gain of the difference'), 'End'); assert shown_at(other, .5)==200
    other.press(other.locator('.dk-compare input[value=difference]'), 'ArrowRight'); assert other.locator('.dk-compare').get_attribute('data-mode')=='side'
    mode(other, 'a'); other.locator('.dk-compare').get_by_role('button', name='1:1').press('Enter')
    assert other.evaluate("document.querySelector('.dk-compare .a').getBoundingClientRect().width")==400
    other.locator('.dk-compare').get_by_role('button', name='1:1').press('Enter'); other.check()

def test_flicker_and_reduced_motion(other):
    shows = lambda: other.locator('.dk-compare .frame').get_attribute('data-shows')
    mode(other, 'flicker'); seen = []
    for _ in range(24): seen.append(shows()); other.wait_for_timeout(100)
    assert 2<=sum(p!=q for p,q in zip(seen, seen[1:]))<=6, seen
    mode(other, 'a'); other.emulate_media(reduced_motion='reduce'); mode(other, 'flicker')
    still = shows(); other.wait_for_timeout(1200); assert shows()==still=='a'
    other.locator('.dk-compare').get_by_role('button', name='Swap').press('Enter'); assert shows()=='b'
    other.locator('.dk-compare').get_by_role('button', name='Play').click(); other.wait_until(lambda: shows()=='a', 'a swap after Play', 2)
    mode(other, 'divide'); other.emulate_media(reduced_motion='no-preference')

# --- picture and table

def test_picture_follows_the_form(other, figures):
    img = other.locator('.dk-picture img'); slider = other.slider('v')
    other.press(slider, 'End', 'Home', *['ArrowRight']*9)
    other.wait_until(lambda: img.get_attribute('alt')=='grey 45' and img.get_attribute('data-picture'), 'the last picture')
    other.wait_until(lambda: other.locator('.dk-form').get_attribute('data-busy') is None, 'rest')
    grey = other.evaluate("e => { const c = document.createElement('canvas'), d = c.getContext('2d'); d.drawImage(e, 0, 0); return d.getImageData(9, 9, 1, 1).data[0] }", img.element_handle())
    assert abs(grey-45)<=1 and img.get_attribute('alt')=='grey 45'
    figures('form to picture and back, 400 px, through the kernel', sorted(other.latency(slider, range(50, 105, 5), "document.querySelector('.dk-picture img').dataset.picture"))[5], 150)

def column(other, name): return [r.locator('td').nth(['image_id','epe','n'].index(name)).inner_text() for r in other.locator('.dk-table tbody tr').all()[:100]]
def chosen(other): return other.locator('.dk-table [aria-selected=true]').evaluate_all('rows => rows.map(r => +r.dataset.row)')

def test_table_sorts_with_missing_last(other):
    head = other.locator('.dk-table th[data-column=epe]'); press = lambda key='Enter': (head.locator('button').press(key), other.wait_for_timeout(50))
    assert head.get_attribute('aria-sort')=='none' and column(other, 'n')[:3]==['0','1','2']
    press(); up = column(other, 'epe'); assert head.get_attribute('aria-sort')=='ascending' and list(map(float, up))==sorted(map(float, up)) and float(up[0])<.2
    press('Space'); down = column(other, 'epe'); assert head.get_attribute('aria-sort')=='descending' and list(map(float, down))==sorted(map(float, down), reverse=True)
    for _ in range(2): other.get_by_role('button', name='next rows').click()
    assert column(other, 'epe')[-36:]==['–']*36 and other.locator('.dk-table [role=status]').inner_text()=='rows 201 to 250 of 250'
    assert other.evaluate("document.activeElement.getAttribute('aria-label')")=='next rows' or other.get_by_role('button', name='next rows').is_disabled()
    other.get_by_role('button', name='previous rows').click(); shoot(other, 'table')

def test_table_is_picked_from_by_mouse_and_keys(other):
    alt = lambda: other.locator('.dk-picture img').get_attribute('alt')
    other.locator('.dk-table th[data-column=n] button').click()
    other.locator('.dk-table tr[data-row="5"]').click(); other.wait_until(lambda: alt()=='picked 5', 'the pick')
    for _ in range(3): other.keyboard.press('ArrowDown')
    other.wait_until(lambda: alt()=='picked 8', 'the key'); assert chosen(other)==[8]
    other.keyboard.press('End'); other.wait_until(lambda: alt()=='picked 249', 'the last row'); assert chosen(other)==[249] and 'of 250' in other.locator('.dk-table [role=status]').inner_text()
    other.locator('.dk-table th[data-column=n] button').click(); other.wait_for_timeout(50); assert chosen(other)==[249] and column(other, 'n')[0]=='249'
    other.keyboard.press('Tab'); other.wait_for_timeout(50); assert other.evaluate("document.activeElement.dataset.row")=='249'

def test_table_says_what_failed(other):
    other.locator('.dk-table th[data-column=n] button').click(); other.locator('.dk-table tr[data-row="3"]').click()
    say = lambda: other.locator('.dk-table [role=alert]').inner_text()
    other.wait_until(lambda: say()=='album of photo_3 is gone: train again', 'the sentence')
    other.keyboard.press('ArrowDown'); other.wait_until(lambda: say()=='', 'the sentence to go')
    other.check()

def test_new_rows_keep_the_focus(other):
    row = other.locator('.dk-table tr[data-row="19"]'); row.click(); other.keyboard.press('ArrowDown')
    other.wait_until(lambda: other.locator('.dk-table th[data-column=worse]').count()==1, 'another column')
    assert chosen(other)==[20] and column(other, 'epe')[20]=='1.00'
    assert other.evaluate('document.activeElement.dataset.row')=='20'
    other.keyboard.press('ArrowDown'); other.wait_until(lambda: other.locator('.dk-picture img').get_attribute('alt')=='picked 21', 'the next row')

# --- nothing is left behind

LIVES = '''async ([esm, state]) => {
  const live = new Map(), timers = new Set(), urls = new Set(), events = [0]
  const model = {get: k => state[k], set: (k, v) => { state[k] = v }, save_changes() {}, send() {},
    on: (k, f) => live.set(f, k), off: (k, f) => live.delete(f)}
  const keep = [window.setInterval, window.clearInterval, URL.createObjectURL, URL.revokeObjectURL, window.addEventListener, document.addEventListener]
  window.setInterval = (...a) => { const t = keep[0].apply(window, a); timers.add(t); return t }; window.clearInterval = t => { timers.delete(t); keep[1].call(window, t) }
  const url = keep[2].call(URL, new Blob([esm], {type: 'text/javascript'})), mod = (await import(url)).default
  URL.createObjectURL = b => { const u = keep[2].call(URL, b); urls.add(u); return u }; URL.revokeObjectURL = u => { urls.delete(u); keep[3].call(URL, u) }
  for (const t of [window, document]) t.addEventListener = () => events[0]++
  const count = () => [live.size, timers.size, urls.size, events[0]]
  try { const w = typeof mod == 'function' ? await mod() : mod; await w.initialize?.({model}); const start = count(), el = document.createElement('div'), during = []
    for (let i = 0; i < 3; i++) { const gone = await w.render({model, el}); during.push(count()); await gone() }
    return {start, during, end: count(), left: el.childNodes.length} }
  finally { [window.setInterval, window.clearInterval, URL.createObjectURL, URL.revokeObjectURL] = keep; delete window.addEventListener; delete document.addEventListener; URL.revokeObjectURL(url) } }'''

@pytest.mark.parametrize('name', ['Form','Picture','Compare','TableView'])
def test_a_removed_view_leaves_nothing(other, name):
    import distortkit.core.widgets as widgets
    made = dict(Form=lambda c: c([widgets.Field('k1', 'number', low=0, high=1)]), TableView=lambda c: c([widgets.Column('a')], [dict(a=1)]))
    w = made.get(name, lambda c: c())(getattr(widgets, name))
    state = {k: v for k,v in w.get_state().items() if k not in ('layout','tabbable','tooltip') and not k.startswith('_') and not isinstance(v, (bytes,memoryview))}
    if name in ('Picture','Compare'): state |= dict(shown=1, mode='flicker', data=[1], a=[1], b=[1])
    got = other.evaluate(LIVES, [w.get_state()['_esm'], state])
    assert got['start']==got['end'] and got['left']==0, got
    assert name=='Form' or got['during'][0]!=got['start'], f'the test saw nothing: {got}'
