"The segment explorer in a real browser: K, height and smoothing move the picture, keys do, a run is opened, and what cannot be opened leaves a sentence."
import statistics
import numpy as np, pytest
from PIL import Image
from browser import SHOWN, after, settle, shoot, shown

pytestmark = pytest.mark.browser
PHOTO, NETWORK, VIEW = (f'.dk-form:has([data-field={n}])' for n in ('upload','load','view'))
QUICK = '''values => { const r = document.querySelector('[data-field=k] input[type=range]'); for (const v of values) { r.value = v; r.dispatchEvent(new Event('input', {bubbles: true})); } }'''

@pytest.fixture(scope='module')
def page(lab):
    p = lab.open('segment.ipynb', width=1400, height=1500); rest(p); yield p; lab.close(p)

@pytest.fixture(scope='module')
def run(lab):
    "A run folder of the one model, which has a learned lane."
    from distortkit.segment.make import make_network, save_networks
    from distortkit.segment.settings import SegmentSettings
    s = SegmentSettings(student=dict(enabled=False), model=dict(embed_dim=16)); folder = lab.runs/'parts'; folder.mkdir(); (folder/'config_resolved.json').write_text(s.model_dump_json()); save_networks(folder, make_network(s)); return folder

def words(page): return page.locator('.seg-words').first.inner_text()
def said(page, form): return ' '.join(page.locator(form).locator('[role=status],[role=alert]').all_inner_texts())
def rest(page): settle(page, words)
def start(page, view='classes'):
    for name,value in dict(view=view, k=6, which=0, height=.3, smooth=2, opacity=65).items(): page.put(name, value, VIEW)
    rest(page)

def test_it_opens_with_classes(page):
    start(page); assert '6 classes' in words(page) and page.locator('.seg-legend > span').count()==6 and 'coffee: 600×400 px' in said(page, PHOTO) and 'No network is in use' in said(page, NETWORK)
    seen = after(page),words(page); page.page.wait_for_timeout(800); assert seen==(after(page),words(page)); shoot(page, 'segment'); page.check()

def test_keys_move_k_and_the_picture(page, figures):
    start(page); before = after(page); page.press(page.slider('k'), 'ArrowRight', 'ArrowRight'); rest(page); assert '8 classes' in words(page) and after(page)!=before
    page.press(page.slider('k'), 'End'); rest(page); assert '16 classes' in words(page); shoot(page, 'segment_16'); page.press(page.slider('k'), 'Home'); rest(page); assert '2 classes' in words(page)
    ms = page.latency(page.slider('k'), [3,5,7,9,11,13,15], SHOWN); figures('segment explorer: K to picture', statistics.median(ms), 150); rest(page); page.check()

def test_every_view_shows_something_else(page):
    start(page); seen = {}
    for view in ('classes','soft','probability','pieces','edges','embeddings','superpixels'): page.put('view', view, VIEW); rest(page); seen[view] = after(page); assert page.locator(f'.seg-words[data-view={view}]').count()==1; shoot(page, f'segment_{view}')
    assert len(set(seen.values()))==7; page.check()

def test_height_and_smoothing(page, figures):
    start(page, 'pieces'); n = lambda: int(words(page).split()[0]); few = n(); page.put('height', .1, VIEW); rest(page); assert n()>3*few
    figures('segment explorer: height to picture', statistics.median(page.latency(page.slider('height'), [.15,.2,.25,.35,.4,.5,.6], SHOWN)), 150); rest(page)
    start(page, 'soft'); before = after(page); page.put('smooth', 12, VIEW); rest(page); assert after(page)!=before and '12 times' in words(page)
    figures('segment explorer: smoothing to picture', statistics.median(page.latency(page.slider('smooth'), [1,3,5,7,9,11,2], SHOWN)), 150); rest(page)
    smooth = after(page); page.put('lane', 'none', VIEW); rest(page); assert after(page)!=smooth and 'not smoothed' in words(page); page.put('lane', 'fast', VIEW); start(page); page.check()

def test_many_moves_end_in_the_last(page):
    start(page); page.put('k', 9, VIEW); rest(page); wanted = after(page); start(page); count = shown(page); page.evaluate(QUICK, [2+i%14 for i in range(40)]+[9]); rest(page)
    assert after(page)==wanted and '9 classes' in words(page) and shown(page)-count<12; page.check()

def test_a_run_and_its_learned_lane(page, run):
    start(page, 'embeddings'); plain = after(page); page.put('path', str(run), NETWORK); page.press(page.field('load'), 'Enter'); rest(page)
    page.wait_until(lambda: '16 numbers per cell' in said(page, NETWORK), 'the network', 30); assert after(page)!=plain and page.field('model').evaluate('e => e.selectedOptions[0].textContent')=='parts'
    start(page, 'soft'); page.put('lane', 'learned', VIEW); rest(page); assert 'learned lane' in words(page); shoot(page, 'segment_run')
    page.field('model').select_option(index=0); rest(page); page.wait_until(lambda: 'No network is in use' in said(page, NETWORK), 'no network', 30); rest(page); start(page, 'embeddings'); assert after(page)==plain and page.field('lane').input_value()=='fast'; page.check()

def test_what_cannot_be_opened_is_a_sentence(page, lab):
    start(page); before = after(page); (lab.work/'words.jpg').write_text('no photograph'); (lab.runs/'empty').mkdir()
    page.put('upload', str(lab.work/'words.jpg'), PHOTO); rest(page); assert 'cannot read words.jpg: not a photograph' in said(page, PHOTO)
    for path,word in ((lab.runs/'gone','is not a folder'), (lab.runs/'empty','neither model.npz')): page.put('path', str(path), NETWORK); page.field('load').click(); rest(page); assert word in said(page, NETWORK), said(page, NETWORK)
    assert after(page)==before; shoot(page, 'segment_wrong'); page.check()

def test_a_photograph_of_ones_own(page, lab):
    start(page); path = lab.work/'mine.png'; a = np.full((90,160,3), 220, np.uint8); a[20:70,30:80] = 30,60,160; a[40:,100:] = 60,120,40; Image.fromarray(a).save(path)
    page.put('upload', str(path), PHOTO); rest(page); page.wait_until(lambda: 'mine.png: 160×90 px' in said(page, PHOTO), 'the photograph', 20); page.put('k', 3, VIEW); rest(page); assert '3 classes' in words(page)
    page.put('photo', 'chelsea', PHOTO); rest(page); page.wait_until(lambda: 'chelsea: 451×300 px' in said(page, PHOTO), 'another', 20); page.check()
