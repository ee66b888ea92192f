"The main job on smoke settings: three stages chained through papermill, judged, corrected, reported; finished stages are kept."
import json

import pytest

from distortkit.core.runs import History
from distortkit.lens.demo import run_demo, train_stages

SCORES = {'epe_px_median','epe_px_mean','epe_px_p95','improved_frac','harm_frac','proxy_total_score'}

@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    "A folder in which the whole job has run once, and what it returned."
    folder = tmp_path_factory.mktemp('runs')/'demo'
    with pytest.MonkeyPatch.context() as env:
        env.setenv('DISTORTKIT_RUNS', str(folder.parent)); env.setenv('IN_TEST', '1')
        yield folder, run_demo(folder, 'debug_smoke', each=1, size=(64,96), scenes=3)

def test_report(demo):
    folder,_ = demo; saved = json.loads((folder/'report.json').read_text())
    assert {'model','identity','constant','n','seed','seconds'}<=set(saved)
    for who in ('model','identity','constant'): assert set(saved[who])==SCORES
    assert saved['identity']['improved_frac']==saved['identity']['harm_frac']==0 and saved['identity']['epe_px_mean']>0
    page = (folder/'report.html').read_text()
    assert page.count('<img')>5 and 'http://' not in page.replace('http://www.w3.org', '') and str(folder.parent.parent) not in page

def test_stages_are_chained(demo):
    folder,_ = demo
    for stage,before in (('stage1',''),('stage2','stage1'),('stage3','stage2')):
        runtime = json.loads((folder/stage/'resolved_config.json').read_text())['settings']['runtime']
        assert runtime['init_from']==(str(folder/before/'best.pt') if before else '')
        assert (folder/stage/f'{stage}.ipynb').is_file() and History.read(folder/stage).all_finite()
    first = History.read(folder/'stage2').lines[0]; assert first['kind']=='val' and first['step']==0

def test_photographs_are_corrected_or_left_alone(demo):
    folder,_ = demo; before,after = (sorted(p.name for p in (folder/d).glob('*.jpg')) for d in ('photographs','corrected'))
    assert before==after and len(before)>=4
    for name in before:
        facts = json.loads((folder/'corrected'/name).with_suffix('.metadata.json').read_text())
        same = (folder/'corrected'/name).read_bytes()==(folder/'photographs'/name).read_bytes()
        assert same==(facts['mode_used']=='declined')

def test_finished_stages_are_kept(demo, monkeypatch):
    folder,_ = demo; monkeypatch.setenv('DISTORTKIT_RUNS', str(folder.parent)); monkeypatch.setenv('IN_TEST', '1')
    times = {p: p.stat().st_mtime_ns for p in folder.glob('stage*/best.pt')}
    train_stages(folder, 'debug_smoke')
    assert len(times)==3 and times=={p: p.stat().st_mtime_ns for p in folder.glob('stage*/best.pt')}
