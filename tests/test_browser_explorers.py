"What every explorer owes: it opens without a fault, nothing moves by itself, each control has a name, is reached with Tab, and keeps its keys."
import time
import pytest
from browser import shoot
from house import notebooks

pytestmark = pytest.mark.browser
EXPLORERS = [p.name for p in notebooks() if p.parent.name=='explore']
NAMED = {'slider','spinbutton','textbox','combobox','button','checkbox','radio','image','Canvas','table','listbox','searchbox'}
STOPS = '''e => Array.from(e.querySelectorAll('input, select, button, textarea, a[href], summary, [tabindex="0"]')).filter(x =>
  !x.disabled && x.tabIndex >= 0 && x.checkVisibility({visibilityProperty: true}) && !(x.type === 'radio' && !x.checked) && !x.closest('[inert]'))'''
TITLE = '''x => [x.tagName.toLowerCase(), x.type || x.getAttribute('role') || '', x.closest('[data-field]')?.dataset.field || x.innerText?.slice(0, 30) || x.className].filter(Boolean).join(' ')'''

@pytest.fixture(scope='module', params=EXPLORERS)
def page(request, lab):
    start = time.monotonic(); p = lab.open(request.param, height=1400); p.seconds = time.monotonic()-start
    p.out = p.locator('.jp-OutputArea:has(.lm-Widget)').first
    yield p
    lab.close(p)

def test_opens_without_a_fault(page, figures):
    figures(f'{page.name[4:]} opened and run in JupyterLab', page.seconds, None, 's')
    shoot(page, f'lab_{page.name[4:-6]}'); page.check()

def test_nothing_moves_by_itself(page):
    look = lambda: [page.out.inner_text(), *(page.picture_hash(e) for e in page.locator('canvas:visible, img:visible').all())]
    before = look(); page.page.wait_for_timeout(1500)
    assert before[0].strip() and look()==before

def test_every_control_has_a_name(page):
    cdp = page.context.new_cdp_session(page.page)
    document = cdp.send('DOM.getDocument'); found = cdp.send('DOM.querySelectorAll', dict(nodeId=document['root']['nodeId'], selector='.jp-OutputArea'))['nodeIds']
    seen,bare = set(),[]
    for node in found:
        for n in cdp.send('Accessibility.queryAXTree', dict(nodeId=node))['nodes']:
            role = n.get('role', {}).get('value')
            if n.get('ignored') or role not in NAMED: continue
            seen.add(role)
            if not n.get('name', {}).get('value', '').strip():
                bare.append(f"{role} {cdp.send('DOM.describeNode', dict(backendNodeId=n['backendDOMNodeId']))['node'].get('attributes')}")
    assert seen, "no control was found"
    assert not bare, f"{page.name}: without a name a screen reader could say: {'; '.join(bare)}"

def stops(page): return page.out.evaluate_handle(STOPS)

def test_tab_reaches_every_control(page):
    all_stops = stops(page); titles = all_stops.evaluate(f'l => l.map({TITLE})'); n = len(titles)
    page.evaluate('l => { window.left = new Set(l.slice(1)); document.addEventListener("focusin", e => window.left.delete(e.target)); l[0].focus(); }', all_stops)
    for _ in range(n+10): page.keyboard.press('Tab')
    left = page.evaluate(f'() => Array.from(window.left).filter(x => x.isConnected).map({TITLE})')
    assert n>=3 and not left, f"{page.name}: Tab does not reach {', '.join(left)}"

def test_no_key_falls_through_to_the_notebook(page):
    cells = page.locator('.jp-Cell').count(); lost = []
    for e in stops(page).evaluate_handle('l => l.filter(x => !/^(text|number|file|search)$/.test(x.type) && x.tagName !== "TEXTAREA")').get_properties().values():
        e = e.as_element()
        if not e or not e.evaluate('e => e.isConnected'): continue
        e.focus(); title = e.evaluate(TITLE)
        for key in 'bx': page.keyboard.press(key)  # in JupyterLab: insert a cell, cut a cell
        if page.locator('.jp-Cell').count()!=cells or not e.evaluate('e => e===document.activeElement'): lost.append(title)
        cells = page.locator('.jp-Cell').count()
    assert not lost, f"{page.name}: JupyterLab takes the keys of {', '.join(lost)}; see CONTRIBUTING.md, Style"
