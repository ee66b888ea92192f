"The photograph explorer in JupyterLab: correct, nudge by keyboard, be told what is wrong, save with metadata."
import json, statistics
import numpy as np, pytest
from PIL import Image, ImageCms
from browser import SHOWN, after, settle, shoot, shown
from house import small_checkpoint
from distortkit.core.data import embedded_photos
from distortkit.lens.shipped import FACTS, SHIPPED
pytestmark = pytest.mark.browser

PHOTO, MODEL, NUDGE, SAVE = (f'.dk-form:has-text("{text}")' for text in ('Open this path','Load this checkpoint','Nudge the eight numbers','Save at full resolution'))
QUICK = '''values => { const r = document.querySelector('[data-field=k1] input[type=range]'); for (const v of values) { r.value = v; r.dispatchEvent(new Event('input', {bubbles: true})); } }'''
WARM = 'import torch; torch.set_num_threads(1)\nfrom distortkit.lens.photo_explorer import PhotoExplorer\n'

def straight(page): return page.locator('[data-straight]').first.inner_text()
def verdict(page): return page.locator('[data-verdict]').first.inner_text()
def alert(page, form): return page.locator(f'{form} [role=alert]').first.inner_text()
def rest(page): settle(page, verdict)
def back(page): page.locator('[data-field=back] button').click(); rest(page)

@pytest.fixture(scope='module')
def model(lab): small_checkpoint(lab.runs/'small/best.pt'); return lab.runs/'small/best.pt'

@pytest.fixture(scope='module')
def page(lab, model):
    p = lab.open([WARM+"PhotoExplorer('brick', 'small')"]); rest(p); yield p; lab.close(p)

def test_a_fresh_clone(lab):
    "The weights of the package are in use; without them a sentence says how to get a checkpoint, and the rest works."
    p = lab.open('photo.ipynb'); rest(p)
    if (SHIPPED/FACTS).is_file(): assert 'In use: default' in p.locator(f'{MODEL} [role=status]').first.inner_text()
    else: assert 'no checkpoint demo' in alert(p, MODEL) and 'make demo' in alert(p, MODEL) and 'No checkpoint is in use' in verdict(p)
    before = after(p); p.press(p.slider('k1'), *['ArrowLeft']*40); rest(p)
    assert after(p)!=before and 'Set by hand. It is safe.' in verdict(p) and '→' in straight(p); p.check(); shoot(p, 'photo_fresh'); lab.close(p)

def test_it_corrects_and_nothing_changes_without_a_move(page):
    assert 'Corrected with' in verdict(page) and 'Certificate: the map folds nowhere' in verdict(page) and page.locator('.dk-picture img').first.get_attribute('alt').startswith('The photograph and the candidates')
    seen = shown(page),after(page),straight(page),verdict(page); page.wait_for_timeout(800); assert seen==(shown(page), after(page), straight(page), verdict(page)); page.check()

def test_keys_change_picture_and_straightness(page, figures):
    before,told = after(page),straight(page)
    page.press(page.slider('k1'), *['ArrowLeft']*60); rest(page); nudged = after(page)
    assert nudged!=before and straight(page)!=told and 'Against the proposal: k1 -0.0' in verdict(page) and float(page.field('s').input_value())!=1; shoot(page, 'photo_nudged')
    page.put('lines', True); rest(page); assert after(page)!=nudged and 'of its length and more' in straight(page); page.locator('.dk-compare').first.scroll_into_view_if_needed(); shoot(page, 'photo_lines')
    page.put('lines', False); rest(page); assert after(page)==nudged
    page.press(page.field('undo'), 'Enter'); rest(page); page.press(page.field('undo'), 'Space'); rest(page); back(page); assert after(page)==before and straight(page)==told
    figures('photo: slider to picture, lines and verdict', statistics.median(page.latency(page.slider('k1'), [-.01*i for i in range(1, 12)], SHOWN)), 150); rest(page); back(page); page.check()

def test_two_quick_nudges_end_in_the_last(page):
    page.put('k1', -.06); rest(page); wanted,told = after(page),straight(page); back(page); assert after(page)!=wanted
    count = shown(page); page.evaluate(QUICK, [-.3+.01*i for i in range(30)]+[.1,-.06]); rest(page)
    assert after(page)==wanted and straight(page)==told and shown(page)-count<12; back(page)                # thirty-two requests did not pile up

def test_a_fold_is_told_and_not_saved(page, lab):
    page.put('k1', -.5); rest(page); assert 'The map folds' in alert(page, NUDGE) and 'cannot be saved' in verdict(page) and 'cannot be followed' in straight(page)
    page.put('folder', lab.work/'folded', SAVE); page.locator('[data-field=save] button').click(); rest(page)
    assert 'is not saved: the map folds' in alert(page, SAVE) and not (lab.work/'folded').exists(); back(page); assert not alert(page, NUDGE); page.check()

def test_wrong_files_are_sentences(page, lab):
    (lab.work/'words.jpg').write_text('no photograph'); (lab.work/'words.pt').write_text('no checkpoint'); before = after(page)
    page.put('upload', str(lab.work/'words.jpg')); rest(page); said = alert(page, PHOTO); assert said.startswith('cannot read words.jpg: not a photograph') and '\n' not in said
    for form,button,path,word in ((PHOTO,'open',lab.work/'nosuch.jpg','no such file'), (MODEL,'load','nosuch','no checkpoint nosuch'), (MODEL,'load',lab.work/'words.pt','not a checkpoint')):
        page.put('path', path, form); page.press(page.field(button), 'Enter'); rest(page); assert word in alert(page, form), alert(page, form)
    assert after(page)==before; shoot(page, 'photo_wrong'); page.check()

def test_upload_nudge_and_save(page, lab):
    exif = Image.Exif(); exif[0x0112] = 6; exif[0x010f] = 'Maker'; icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes(); source = lab.work/'my wall ß.jpg'
    Image.fromarray(np.tile(embedded_photos()['brick'](), (3,4,1))).save(source, quality=90, exif=exif, icc_profile=icc); data = source.read_bytes()
    page.put('upload', str(source)); rest(page); assert '1536×2048 px' in page.locator(f'{PHOTO} [role=status]').inner_text() and page.field('name', SAVE).input_value()==source.name      # upright
    assert page.locator('.dk-compare img.b').first.evaluate('e => [e.naturalWidth, e.naturalHeight]')==[768,1024]
    page.put('k1', -.02); rest(page); page.put('folder', lab.work/'saved', SAVE); page.locator('[data-field=save] button').click(); rest(page)
    page.wait_until(lambda: 'Saved' in page.locator(f'{SAVE} [role=status]').inner_text(), 'the file', 30)
    with Image.open(lab.work/'saved'/source.name) as im: assert (im.size, im.getexif()[0x010f], im.getexif()[0x0112], im.info['icc_profile'])==((1536,2048), 'Maker', 1, icc)
    facts = json.loads((lab.work/'saved/my wall ß.metadata.json').read_text()); assert facts['mode_used']=='by_hand' and facts['params']['k1']==-.02 and abs(facts['by_hand']['from_params']['k1']+facts['by_hand']['change']['k1']+.02)<1e-6 and facts['checkpoint']=='small/best.pt'
    page.locator('[data-field=save] button').click(); rest(page); assert 'is there already: choose another name' in alert(page, SAVE) and source.read_bytes()==data
    page.locator('[data-field=save]').first.scroll_into_view_if_needed(); shoot(page, 'photo_saved'); page.check()

def test_another_photograph_and_no_model(page):
    page.field('photo').select_option(label='china'); rest(page); assert '640×427 px' in page.locator(f'{PHOTO} [role=status]').inner_text() and 'Corrected' in verdict(page)
    page.field('checkpoint').select_option(index=0); rest(page); assert 'No checkpoint is in use' in verdict(page); page.check()
