"The page about a run, from the run a person trains: it needs nothing else, and a run that is unfinished, old or missing is told in words."
import base64, io, json, os, re, shutil, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from distortkit.cli import app
from distortkit.lens.run_report import run_sections

HEADINGS = ['At a glance','Learning','Every part','Images','Corrections','Foldover','Residual flow','Lens numbers']
SETTINGS = ['--train-config','debug_smoke','--loss-config','debug_smoke','--use-synthetic','--init-from','']
MORE = [w for o in ('epochs=2','max_val_steps=3','synthetic_val_steps=3','optimizer.lr=2e-3') for w in ('--set',o)]
VOID = {'meta','img','br','link','input'}

class Page(HTMLParser):
    "What a page is made of; fails where a tag is closed that was not opened."
    def __init__(self, path):
        super().__init__(); self.open,self.seen,self.headings,self.words = [],[],[],[]
        self.text = path.read_text(encoding='utf-8'); self.feed(self.text); self.close(); assert not self.open, f"{self.open} never closed"
    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID: self.open.append(tag)
    def handle_endtag(self, tag): assert self.open and self.open.pop()==tag, f"</{tag}> closes nothing"
    def handle_data(self, data):
        if self.open and self.open[-1]=='h2': self.headings.append(data)
        self.words.append(data)
    def all(self, tag): return [a for t,a in self.seen if t==tag]

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "A folder with one small run in it, trained through the command line."
    place = tmp_path_factory.mktemp('runs'); env = {k: v for k,v in os.environ.items() if k!='WORLD_SIZE'}|dict(DISTORTKIT_RUNS=str(place), IN_TEST='1')
    done = subprocess.run([sys.executable,'-m','distortkit.cli','train','stage2','--run-name','small',*SETTINGS,*MORE], env=env, capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    with pytest.MonkeyPatch.context() as patch: patch.setenv('DISTORTKIT_RUNS', str(place)); patch.setenv('IN_TEST', '1'); yield place

@pytest.fixture
def copy(runs):
    "Copies of the run that may be broken."
    made = []
    def again(name): made.append(shutil.copytree(runs/'small', runs/name)); return made[-1]
    yield again
    for folder in made: shutil.rmtree(folder)

def report(*words): return CliRunner().invoke(app, ['report', *map(str, words)])

def page_of(*words):
    done = report(*words); assert done.exit_code==0, done.output
    return Page(Path(done.stdout.rsplit(',', 1)[0]))

@pytest.fixture(scope='module')
def small(runs): return page_of('small')

def sections(folder): return {heading: (text, items) for heading,text,items in run_sections(folder)}
def drawn(found): return [h for h,(_,items) in found.items() if any(isinstance(i, Figure) for i in items)]

def test_the_page_has_every_section_and_needs_nothing_else(runs, small):
    page = small; assert page.headings==[*HEADINGS,'How it was made'] and (runs/'small/report.html').is_file()
    for tag,attrs in page.seen:
        assert tag not in ('script','link','iframe','object','embed','base','form') and not any(k.startswith('on') for k in attrs), tag
        for k in ('src','href','srcset','data','action','poster'): assert attrs.get(k, '#').startswith(('#','data:image/png;base64,')), (tag, attrs[k][:60])
    assert not re.search(r'@import|url\(|https?://', page.text) and "default-src 'none'" in page.text
    assert {a['href'][1:] for a in page.all('a')}=={a['id'] for a in page.all('section')} and str(runs.parent) not in page.text
    assert len(page.all('img'))>=9 and len(page.text)<2_000_000
    for img in page.all('img'):
        assert img['alt'].strip(); png = base64.b64decode(img['src'].split(',')[1]); assert len(png)<=90_000 and min(Image.open(io.BytesIO(png)).size)>100

def test_the_numbers_are_those_of_the_run(runs, small):
    words = ' '.join(small.words); history = [json.loads(l) for l in (runs/'small/history.jsonl').read_text().splitlines()]
    val = [l for l in history if l['kind']=='val']; best = [l for l in val if l.get('is_best')][-1]
    assert f"best, epoch {best['epoch']} {best['epe_px_median']:.2f}" in words and f"{best['identity_epe_px_median']:.2f}" in words
    last = json.loads((runs/'small/samples.jsonl').read_text().splitlines()[-1])
    for name in last['image_id']: assert name in words
    assert 'stage2_hybrid: 2 of 2 epochs' in words and '"max_val_steps": 3' in words and '"torch"' in words

def test_the_executed_notebook_ends_in_the_same_sections(runs, small):
    notebook = runs/'small/stage2.ipynb'; assert notebook.stat().st_size<1_000_000
    outputs = [o for c in json.loads(notebook.read_text())['cells'] for o in c.get('outputs', [])]
    told = '\n'.join(''.join(o['data'].get('text/markdown', '')) for o in outputs if 'data' in o)
    assert re.findall(r'^### (.*)$', told, re.M)==HEADINGS
    pictures = [len(base64.b64decode(o['data']['image/png'])) for o in outputs if 'image/png' in o.get('data', {})]
    assert len(pictures)==len(small.all('img')) and max(pictures)<=40_000

def test_a_run_that_still_writes(copy):
    folder = copy('live')
    for name in ('history.jsonl','samples.jsonl'):
        lines = (folder/name).read_bytes().splitlines(True); cut = b''.join(lines[:-1])+lines[-1][:len(lines[-1])//2]; (folder/name).write_bytes(cut)
    found = sections(folder); assert list(found)==HEADINGS==['At a glance',*drawn(found)] and 'under way' in found['At a glance'][0]

def test_a_run_of_before_the_first_validation(copy, tmp_path):
    folder = copy('early')
    for p in (*folder.glob('*.jsonl'), *folder.glob('*.pt')): p.unlink()
    shutil.rmtree(folder/'album')
    page = page_of('early', '-o', tmp_path/'new/mine.html'); assert page.headings[:-1]==HEADINGS and not page.all('img') and 'No validation has ended yet' in page.text
    (tmp_path/'new/mine.html').write_text('old'); assert page_of(folder, '-o', tmp_path/'new/mine.html').text==page.text and [p.name for p in (tmp_path/'new').iterdir()]==['mine.html']

def test_a_run_without_album_or_samples(copy):
    folder = copy('old'); shutil.rmtree(folder/'album'); (folder/'samples.jsonl').unlink()
    found = sections(folder); assert 'album' in found['Corrections'][0] and 'samples.jsonl' in found['Images'][0] and drawn(found)==['Learning','Every part']

ALBUM,SAMPLES = ['Corrections','Foldover','Residual flow'],['Images','Corrections','Foldover','Residual flow','Lens numbers']

@pytest.mark.parametrize('name,text,loses', [('album/album.json','{"size": [9,9], "long_side": 9, "stage": "x", "items": [{"image_id": "a", "input": "../../x.jpg", "target": null, "orig_size": [9,9]}]}',ALBUM), ('album/album.json','{',ALBUM),
    ('samples.jsonl','[1]\nx\n',SAMPLES), ('resolved_config.json','{',[]), ('resolved_config.json','{"settings": {"bounds": {"k1": 3}, "train": []}}',[]), ('history.jsonl','x\ny\n',['Learning','Every part'])])
def test_a_damaged_file_takes_only_its_own_section(copy, name, text, loses):
    folder = copy('damaged'); (folder/name).write_text(text); found = sections(folder); lost = [h for h in HEADINGS[1:] if h not in drawn(found)]
    assert list(found)==HEADINGS and lost==loses and all(found[h][0].endswith('.') and '\n' not in found[h][0] for h in lost)

def test_stages_on_one_page(runs, copy):
    for s in ('stage1','stage2'): folder = copy(f'all/{s}'); shutil.rmtree(folder/'album'); (folder/'samples.jsonl').unlink()
    page = page_of('all'); assert page.headings==['All stages','stage1','stage2','How it was made'] and len(page.all('h3'))==2*len(HEADINGS)
    assert (runs/'all/stages.html').is_file() and 'do nothing' in page.text

def test_a_mistake_is_one_sentence(runs, tmp_path):
    (tmp_path/'file').touch(); (tmp_path/'folder.html').mkdir()
    for words,said in ((['smll'], 'did you mean small'), ([tmp_path], 'no run'), ([tmp_path/'file'], 'is a file'), (['small','-o',tmp_path/'file/x.html'], 'cannot write'),
                       (['small','-o',tmp_path/'folder.html'], 'is a folder'), (['small','-o','x.png'], 'must end in .html')):
        done = report(*words); assert done.exit_code==1 and said in done.stderr and done.stderr.count('\n')==1 and not done.stdout, (words, done.output)
    assert not (runs/'small/x.png').exists()

def test_help_shows_examples():
    said = report('--help').stdout; assert said.count('distortkit report ')>=3 and '--open' in said
    assert '\n  report ' in CliRunner().invoke(app, ['--help']).stdout
