"The selective explorer in a real browser: limits and thresholds move the numbers, no evidence is said, and a folder that is no run leaves a sentence."
import json
import numpy as np, pytest
from browser import shoot

pytestmark = pytest.mark.browser

@pytest.fixture(scope='module')
def page(lab):
    p = lab.open('selective.ipynb', width=1400, height=1900); yield p; lab.close(p)

@pytest.fixture(scope='module')
def run(lab):
    "A run folder as training leaves it, with pictures that are there."
    import torch
    from distortkit.selective.offline import offline_folder
    from distortkit.selective.labels import read_labels
    from distortkit.selective.settings import SelectiveSettings, save_config
    folder = lab.runs/'scored'; folder.mkdir(); place = offline_folder('digits', lab.home/'digits')/'val'; rows = read_labels(place)[:700]; y = np.array([r.label for r in rows])
    q = 1/(1+np.exp(-np.random.default_rng(0).normal(5*y-2.5, 2))); p = np.stack([1-q, q], 1)
    for part,at in dict(val=slice(None, 400), test=slice(400, None)).items():
        torch.save(torch.tensor(p[at]), folder/f'{part}_probs.pt'); torch.save(torch.tensor(y[at]), folder/f'{part}_labels.pt'); (folder/f'{part}_keys.json').write_text(json.dumps([r.key for r in rows[at]]))
    save_config(folder/'config.json', SelectiveSettings(val_image_dir=str(place), val_labels_file='labels.csv')); return folder

def numbers(page): return page.locator('.sel-numbers').inner_text()
def words(page): return page.locator('.sel-words').inner_text()
def source(page): return page.locator('.dk-form:has([data-field=run])').locator('[role=status],[role=alert]').all_inner_texts()
def cell(page, row, column=0): return page.locator('.sel-numbers tr', has_text=row).locator('td').nth(column).inner_text()
def counts(page): return [int(t.split()[0]) for t in page.locator('.sel-confusion td').all_inner_texts()]
def idle(page): page.wait_until(lambda: not page.locator('[data-busy]').count(), 'an answer')
def start(page): page.put('policy', 'asym'); page.put('target', 2); page.put('delta', 10); page.put('ones', .5); page.wait_until(lambda: 'with probability 90 %' in words(page), 'the rule of the start'); idle(page)

def test_it_says_what_it_shows(page):
    start(page); assert 'example' in ' '.join(source(page)) and '719 pictures' in ' '.join(source(page))
    assert page.locator('.sel-examples').count()==3 and page.locator('.sel-examples img').count()>12
    assert all(page.locator('.sel-examples img').evaluate_all('l => l.map(e => e.complete && e.naturalWidth > 20 && e.alt.length > 10)'))
    page.wait_until(lambda: page.locator('.dk-picture img[data-picture]').count()==4, 'four figures'); shoot(page, 'selective'); page.check()

def test_a_limit_moves_numbers_and_figures(page):
    start(page); before,seen = numbers(page),page.wait_rest('.dk-picture img'); page.press(page.slider('target'), *['ArrowRight']*4)
    page.wait_until(lambda: numbers(page)!=before and 'at most 4.0 %' in words(page), 'other numbers'); page.wait_change('.dk-picture img', seen)
    assert float(cell(page, 'its bound').split()[0])<=4.0 and sum(counts(page))==718; page.check()

def test_a_threshold_by_hand(page, figures):
    start(page); coverage = lambda: float(cell(page, 'coverage').split()[0])
    page.put('t0', .99); page.wait_until(lambda: page.field('policy').input_value()=='by hand' and 'promise nothing' in words(page), 'a rule by hand'); strict = coverage()
    page.press(page.slider('t0'), 'Home'); page.wait_until(lambda: coverage()>strict+10, 'more answers'); loose = coverage(); fpr = cell(page, 'FPR on exits')
    page.press(page.slider('t1'), 'End'); page.wait_until(lambda: coverage()<loose-5 and cell(page, 'FPR on exits')!=fpr, 'fewer of them'); idle(page)
    ms = page.latency(page.slider('t0'), [.6,.7,.8,.9,.95,.97,.98], "document.querySelector('.sel-numbers').innerText"); figures('selective explorer: slider to numbers', sorted(ms)[3], 150)
    page.check(); start(page)

def test_no_evidence_is_said(page):
    start(page); page.put('policy', 'ltt'); page.put('target', .5); page.wait_until(lambda: 'Infeasible' in words(page) and 'At least 460 ' in words(page), 'the word infeasible')
    assert cell(page, 'coverage')=='0.0 %' and cell(page, 'FNR on exits').startswith('–') and counts(page)[0]==counts(page)[2]==0
    page.wait_until(lambda: page.locator('.sel-examples[data-kind="exits rightly"]').inner_text().endswith('none'), 'no pictures that exit'); page.page.wait_for_timeout(1500); shoot(page, 'selective_infeasible'); start(page); page.check()

def test_a_folder_that_is_no_run_leaves_a_sentence(page, lab):
    start(page); before = numbers(page); page.put('path', str(lab.runs/'gone')); page.field('open').click()
    page.wait_until(lambda: 'there is no run folder' in ' '.join(source(page)), 'a sentence'); assert numbers(page)==before
    (lab.runs/'empty').mkdir(); page.put('path', str(lab.runs/'empty')); page.field('open').click(); page.wait_until(lambda: 'val_probs.pt' in ' '.join(source(page)), 'another sentence'); assert numbers(page)==before; page.check()

def test_a_run_with_its_pictures(page, run):
    start(page); page.put('path', str(run)); page.field('open').click(); page.wait_until(lambda: 'run scored: 400 pictures' in ' '.join(source(page)), 'the run'); idle(page)
    page.wait_until(lambda: sum(counts(page))==300, 'the fresh sample'); page.put('part', 'scores'); page.wait_until(lambda: sum(counts(page))==400, 'the sample'); assert page.locator('.sel-examples img').count()>5
    assert page.field('run').evaluate('e => e.selectedOptions[0].textContent')=='scored'; page.page.wait_for_timeout(2000); shoot(page, 'selective_run'); (run/'val_probs.pt').write_bytes(b'\x80broken'); before = numbers(page); page.field('open').click()
    page.wait_until(lambda: 'cannot be read' in ' '.join(source(page)), 'a word about the damage'); assert numbers(page)==before; page.check()
