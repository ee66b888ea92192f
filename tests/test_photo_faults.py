"What `distortkit correct` does when files, disks and processes fail: nothing is lost, and each time one clear sentence."
import errno, json, os, resource, signal, struct, subprocess, sys, time, zlib
from pathlib import Path
import cv2, numpy as np, pytest, torch
from PIL import Image, ImageCms
from distortkit.cli import app
from distortkit.commands.correct import Progress
from distortkit.core.data import embedded_photos
from distortkit.lens.batch import Crew, Order, correct_jobs
from distortkit.lens.folder import Ledger, open_folder, plan_jobs
from house import ask, small_checkpoint

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'
SOURCE = embedded_photos()['coffee']()[:240,:360]

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A small untrained model, and a folder with six photographs of no special kind."
    home = tmp_path_factory.mktemp('home'); small_checkpoint(home/'small.pt')
    (home/'six').mkdir(); rolls = [np.roll(SOURCE, 40*i, 1) for i in range(6)]
    for i,a in enumerate(rolls): Image.fromarray(a).save(home/f'six/{i}.jpg', quality=92)
    return home

def words(home, *typed): return ['correct', '--workers', '1', *map(str, typed), '--checkpoint', str(home/'small.pt'), '--device', 'cpu']

def call(home, *typed): return ask(app, *words(home, *typed))

def tree(folder):
    "Every file but the ledger, whose seconds differ; and the lines of the ledger without them."
    lines = [{**json.loads(l),'seconds':0} for l in (folder/'metadata.jsonl').read_text().splitlines()] if (folder/'metadata.jsonl').exists() else []
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file() and p.name!='metadata.jsonl'},lines

@pytest.fixture(scope='module')
def whole(home):
    "What an undisturbed call makes of the six."
    assert call(home, home/'six', '-o', home/'whole/out')[0]==0
    return tree(home/'whole/out')

def start(home, *typed):
    return subprocess.Popen([sys.executable, '-m', 'distortkit.cli', *words(home, *typed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ|dict(PYTHONUNBUFFERED='1'), cwd=Path(__file__).parent.parent, start_new_session=True)

def children(pid): return [int(p) for p in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()] if Path('/proc/self/task').exists() else []
def alive(pid): return Path(f'/proc/{pid}').exists() and ') Z ' not in Path(f'/proc/{pid}/stat').read_text()

# processes
def test_killed_and_resumed(home, whole):
    "kill -9 with two workers: no half file under its final name, no worker left behind, and in the end the same bytes."
    out = home/'killed/out'; six = {p.name: p.read_bytes() for p in (home/'six').iterdir()}
    cli = start(home, home/'six', '-o', out, '--workers', 2); seen = cli.stdout.readline(); assert '->' in seen, seen+cli.stderr.read()
    left = children(cli.pid); os.kill(cli.pid, signal.SIGKILL); cli.wait(20); assert len(left)>=2 or not left
    for name,data in tree(out)[0].items():
        if name[0]!='.': assert data==whole[0][name], name
    end = time.time()+20
    while any(map(alive, left)): assert time.time()<end, 'a worker outlived its call'; time.sleep(.05)
    code,said = call(home, home/'six', '-o', out); assert code==0 and 'done before' in said, said
    assert tree(out)==whole and six=={p.name: p.read_bytes() for p in (home/'six').iterdir()}

def test_a_worker_that_is_killed(home, whole):
    "Its photograph is done by another; and whether one worker or two, the bytes are the same."
    with Crew(2) as crew, open_folder(home/'crew/out') as ledger:
        order = crew.check(Order(str(home/'small.pt'), device='cpu')); jobs,came = plan_jobs([(home/f'six/{i}.jpg', f'{i}.jpg') for i in range(6)], ledger, order.key),[]
        for job,line in correct_jobs(jobs, ledger, order, crew):
            came.append(line)
            if len(came)==1: os.kill(next(iter(crew.pool._processes)), signal.SIGKILL)
        ledger.settle([j.file for j in jobs])
    assert len(came)==6 and not any(l['error'] for l in came)
    assert tree(home/'crew/out')==({k: v for k,v in whole[0].items() if k!='index.html'}, whole[1])

@pytest.mark.parametrize('number,code', [(signal.SIGINT,130), (signal.SIGTERM,143)])
def test_stopped(home, whole, monkeypatch, number, code):
    "What was begun is finished, and the same call goes on."
    one = Progress.one
    monkeypatch.setattr(Progress, 'one', lambda self,*a: (one(self, *a), os.kill(os.getpid(), number) if self.done==1 else None))
    out = home/number.name/'out'; got,said = call(home, home/'six', '-o', out)
    assert got==code and f'stopped by {number.name}' in said and 1<=len(tree(out)[1])<6 and (out/'index.html').exists() and not list(out.glob('.*')), said
    monkeypatch.undo(); assert call(home, home/'six', '-o', out)[0]==0 and tree(out)==whole

def test_two_calls_on_one_folder(home):
    with open_folder(home/'both'): code,said = call(home, home/'six', '-o', home/'both')
    assert code==1 and 'another call is writing into' in said and not list((home/'both').iterdir())

# disks
@pytest.mark.parametrize('n', [0,1,2,3,5,7,8])
def test_a_full_disk(home, whole, monkeypatch, n):
    "At whatever point it is full: one sentence, old or new files but never half ones, and afterwards the same call goes on."
    out = home/f'full{n}/out'; pair = [home/'six/0.jpg', home/'six/1.jpg', '-o', out]; assert call(home, *pair, '--quality', '60')[0]==0
    old,fsync,left = tree(out)[0],os.fsync,iter(range(n))
    def full(fd):
        if next(left, None) is None: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(fd)
    monkeypatch.setattr(os, 'fsync', full); code,said = call(home, *pair); monkeypatch.undo()
    assert code!=0 and [l for l in said.splitlines() if l.startswith('distortkit: ')]==[said.splitlines()[-1]] and 'No space left' in said, said
    for name,data in tree(out)[0].items(): assert name=='index.html' or data in (old[name], whole[0][name]), name
    assert call(home, *pair)[0]==0 and {k: v for k,v in tree(out)[0].items() if k in old and k!='index.html'}=={k: whole[0][k] for k in old if k!='index.html'}

def test_a_file_that_grows_too_large(home):
    "A limit of 100 kB a file: the small photograph is done, the large one is named."
    (home/'sizes').mkdir(); Image.fromarray(SOURCE).save(home/'sizes/large.png'); Image.fromarray(SOURCE).save(home/'sizes/small.jpg')
    soft,hard = resource.getrlimit(resource.RLIMIT_FSIZE); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,hard))
    try: code,said = call(home, home/'sizes', '-o', home/'sizes out')
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft,hard))
    assert code==2 and 'large.png: skipped' in said and 'was not written' in said and '1 corrected, 1 skipped' in said, said
    assert not (home/'sizes out/large.png').exists() and (home/'sizes out/small.jpg').exists() and not list((home/'sizes out').glob('.*'))
    assert call(home, home/'sizes', '-o', home/'sizes out')[0]==0

@pytest.mark.parametrize('place', ['/proc/self/task', 'six/0.jpg/out', 'locked/out'])
def test_a_folder_that_takes_nothing(home, place):
    if place=='/proc/self/task' and not Path(place).exists() or place=='locked/out' and os.geteuid()==0: pytest.skip('not on this system, or not as this user')
    (home/'locked').mkdir(mode=0o500, exist_ok=True); code,said = call(home, home/'six', '-o', home/place)
    assert code==1 and len(said.splitlines())==1 and said.startswith('distortkit: ') and Path(place).name in said, said

# photographs
def png_that_claims(w, h):
    "A PNG of a few bytes."
    chunk = lambda kind,body: struct.pack('>I', len(body))+kind+body+struct.pack('>I', zlib.crc32(kind+body))
    return b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 0, 0, 0, 0))+chunk(b'IDAT', zlib.compress(b'\0'))+chunk(b'IEND', b'')

def test_every_kind_of_photograph(home):
    kinds,out = home/'kinds',home/'kinds out'; kinds.mkdir(); im = Image.fromarray(SOURCE); deep = SOURCE.astype(np.uint16)*257
    exif = Image.Exif(); exif[274] = 6; exif[271] = 'Maker'
    im.save(kinds/'turned é ü 日本.jpg', exif=exif, icc_profile=ICC, xmp=XMP); im.convert('CMYK').save(kinds/'cmyk.jpg'); im.convert('L').save(kinds/'grey.jpg'); im.convert('LA').save(kinds/'la.png')
    Image.fromarray(np.dstack([SOURCE, SOURCE[...,:1]])).save(kinds/'alpha.png'); im.quantize(64).save(kinds/'palette.png', transparency=3)
    cv2.imwrite(str(kinds/'deep.png'), deep[...,::-1]); cv2.imwrite(str(kinds/'deep.tif'), deep[...,::-1]); cv2.imwrite(str(kinds/'deep grey.png'), deep[...,1]); im.save(kinds/'flat.webp', quality=90)
    odd = Path(os.fsdecode(os.fsencode(kinds)+b'/caf\xe9 #1 100%.jpg')); im.save(odd, format='JPEG'); im.save(kinds/'before.webp')
    names = {p.name for p in kinds.iterdir()}; code,said = call(home, kinds, '-o', out); assert code==0, said
    assert {p.name for p in out.iterdir() if p.suffix in ('.jpg','.png','.tif','.webp')}==names and f'{len(names)} corrected, 0 skipped' in said
    with Image.open(out/'turned é ü 日本.jpg') as t: assert (t.size, t.info['icc_profile'], t.getexif()[274], t.getexif()[271])==((240,360), ICC, 1, 'Maker') and XMP in t.info['xmp']
    for name in ('deep.png','deep.tif','deep grey.png'):
        a = cv2.imread(str(out/name), cv2.IMREAD_UNCHANGED); assert a.dtype==np.uint16 and a.shape[:2]==(240,360)
        assert len(np.unique(a%257))>100                                                   # not 8 bits stretched to 16
    for name,bands in [('la.png',4), ('alpha.png',4), ('palette.png',4), ('cmyk.jpg',3), ('grey.jpg',3)]:
        with Image.open(out/name) as t: assert (len(t.getbands()), t.size)==(bands,(360,240)), name
    assert 'caf%E9%20%231%20100%25.jpg' in (out/'index.html').read_text() and call(home, kinds, '-o', out)[0]==0

def test_what_cannot_be_corrected(home, monkeypatch):
    "One sentence each, the others are done."
    bad,out = home/'bad',home/'bad out'; bad.mkdir(); Image.fromarray(SOURCE).save(bad/'good.jpg'); good = (bad/'good.jpg').read_bytes()
    (bad/'zero.jpg').touch(); (bad/'torn.jpg').write_bytes(good[:len(good)//2]); (bad/'words.jpg').write_text('not a photograph'); Image.new('RGB', (1,1)).save(bad/'one.png')
    (bad/'claims.png').write_bytes(png_that_claims(30_000, 30_000)); (bad/'folder.jpg').mkdir(); (bad/'lost.jpg').symlink_to('nowhere.jpg')
    if Path('/proc/self/mem').exists(): (bad/'unreadable.jpg').symlink_to('/proc/self/mem')
    else: (bad/'unreadable.jpg').write_bytes(good); (bad/'unreadable.jpg').chmod(0)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10_000)                                    # a photograph of 86,400 would be a bomb to Pillow
    code,said = call(home, bad, '-o', out); skipped = {n: [l for l in said.splitlines() if f'/{n}: skipped: ' in l] for n in ('zero.jpg','torn.jpg','words.jpg','claims.png','lost.jpg','unreadable.jpg')}
    assert code==2 and '1 corrected, 1 left alone, 6 skipped' in said and all(len(l)==1 for l in skipped.values()), said
    for name,word in {'zero.jpg':'is empty', 'torn.jpg':'damaged', 'words.jpg':'not a photograph', 'claims.png':'900 million pixels', 'lost.jpg':'no such file', 'unreadable.jpg':'cannot read'}.items(): assert word in skipped[name][0]
    assert {p.name for p in out.iterdir() if p.suffix in ('.jpg','.png')}=={'good.jpg','one.png'} and (out/'one.png').read_bytes()==(bad/'one.png').read_bytes()
    assert {l['file'] for l in tree(out)[1] if l['error']}==set(skipped) and call(home, bad/'zero.jpg', '-o', home/'none')[0]==1

def test_three_of_one_stem(home):
    "Each keeps its own metadata file, whatever the order and the number of workers."
    stems,out = home/'stems',home/'stems out'; stems.mkdir()
    for end in ('jpg','png','tif'): Image.fromarray(SOURCE).save(stems/f'a.{end}')
    for _ in range(2):
        assert call(home, stems, '-o', out, '--overwrite')[0]==0
        assert {n: json.loads((out/n).read_text())['file'] for n in ('a.metadata.json','a.png.metadata.json','a.tif.metadata.json')}=={'a.metadata.json':'a.jpg', 'a.png.metadata.json':'a.png', 'a.tif.metadata.json':'a.tif'}
    code,said = call(home, stems/'a.jpg', home/'six/0.jpg', home/'stems/../stems/a.png', '-o', home/'more out'); assert code==0 and '3 corrected' in said
    (stems/'b').mkdir(); Image.fromarray(SOURCE).save(stems/'b/a.jpg'); code,said = call(home, stems/'a.jpg', stems/'b/a.jpg', '-o', home/'clash'); assert code==2 and 'another photograph of this call is called a.jpg too' in said

# folders
def test_the_output_inside_the_input(home, monkeypatch):
    "Results are not corrected again, circles of links are not followed, and nothing leaves the output folder."
    trip = home/'trip'; (trip/'day 1').mkdir(parents=True); (trip/'empty').mkdir()
    Image.fromarray(SOURCE).save(trip/'a.jpg'); Image.fromarray(SOURCE).save(trip/'day 1/b.jpg'); (trip/'day 1/up').symlink_to(trip, target_is_directory=True)
    monkeypatch.chdir(trip/'empty'); code,said = call(home, '..', '-o', '../straight', '-r'); assert code==0 and '2 corrected' in said, said
    assert {n for n in tree(trip/'straight')[0] if n.endswith('.jpg')}=={'a.jpg','day 1/b.jpg'} and not list((trip/'empty').iterdir())
    code,said = call(home, '..', '-o', '../straight', '-r'); assert code==0 and '0 corrected, 2 done before, 0 skipped' in said, said
    code,said = call(home, '..', '-o', '../again', '-r'); assert code==0 and '2 corrected, 0 skipped' in said, said            # nor those of another call
    code,said = call(home, '../straight', '-o', '../straight'); assert code==1 and 'as earlier calls wrote them: 1' in said, said
    code,said = call(home, '../*/*.jpg', '../a.jpg', '-o', '../flat'); assert code==0 and {n for n in tree(trip/'flat')[0] if n.endswith('.jpg')}=={'a.jpg','day 1/b.jpg','straight/a.jpg','again/a.jpg'}, said
    monkeypatch.chdir(trip); code,said = call(home, 'empty', '-o', 'x'); assert code==1 and 'no photograph was found' in said
    code,said = call(home, home/'whole', '-o', 'x'); assert code==1 and 'there is no such photograph' in said

def test_a_foreign_ledger(home):
    (home/'foreign').mkdir(); (home/'foreign/metadata.jsonl').write_text('{"file_name": "1.png"}\n'); code,said = call(home, home/'six', '-o', home/'foreign')
    assert code==1 and 'choose another folder' in said and [p.name for p in (home/'foreign').iterdir()]==['metadata.jsonl']
    assert not Ledger(home/'six').lines
