"One explorer in a real browser; this case is part of `make test` and skips with a sentence where there is no Chromium."
from browser import missing, shoot

def test_the_warp_explorer_follows_a_key(lab):
    p = lab.open('warp.ipynb')
    before = p.wait_rest('canvas'); p.page.wait_for_timeout(300)
    assert p.picture_hash('canvas')==before, "the picture changed without a move"
    p.press(p.slider('k1'), 'PageUp'); p.wait_change('canvas', before)
    p.page.wait_for_timeout(300); p.check(); shoot(p, 'warp_smoke')
    lab.close(p)

def test_where_there_is_no_browser_a_sentence_says_so(monkeypatch):
    monkeypatch.setenv('CHROMIUM', ''); monkeypatch.setenv('PATH', ''); assert 'make test-browser' in missing()
