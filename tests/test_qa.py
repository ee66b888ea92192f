"From test images to a submission: `infer-test`, `qa check`, `qa select`, `qa pack`, and what happens when the disk, the process or a stranger's archive misbehaves."
import json, os, resource, shutil, signal, stat, subprocess, sys, zipfile
from contextlib import contextmanager, nullcontext
import numpy as np, pytest, torch, typer
from jsonschema import Draft202012Validator
from PIL import Image
from distortkit.commands import infer, qa
from distortkit.core.checkpoint import save_checkpoint
from distortkit.core.data import embedded_photos
from distortkit.core.files import DataError
from distortkit.lens.hybrid import HybridModel, ModelSettings
from distortkit.core.files import file_sha256
from distortkit.core.schemas import load_schema, read_json
from house import ask

APP = typer.Typer(rich_markup_mode=None); APP.add_typer(qa.app, name='qa'); APP.command('infer-test')(infer.infer_test)

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "Runs `small` and `flows`, and a folder with a JPEG on its side, PNGs of 8 and 16 bit, a wall without any edge."
    home = tmp_path_factory.mktemp('a home'); settings = ModelSettings(backbone_name='curves+tiny', residual_hidden_dim=8, residual_max_disp=1.)
    for name,stage in (('small','stage1_param_only'), ('flows','stage2_hybrid')):
        torch.manual_seed(0); model = HybridModel(settings); torch.nn.init.normal_(model.residual.last.weight, std=.02)
        save_checkpoint(home/f'runs/{name}/best.pt', dict(model=model.state_dict(), extra=dict(stage=stage, model_settings=settings.model_dump(mode='json'))))
    photos = home/'Ferien ß'; photos.mkdir(); pick = embedded_photos(); exif = Image.Exif(); exif[0x0112] = 6
    Image.fromarray(pick['coffee']()[:240,:360]).save(photos/'cup.jpg', exif=exif)
    Image.fromarray(pick['motorcycle']()[:240,:320]).save(photos/'Rad é.png'); Image.fromarray(pick['china']()[:200,:310]).save(photos/'china.jpg')
    Image.fromarray(pick['camera']()[...,0].astype(np.uint16)[:150,:220]*257).save(photos/'deep.png')
    Image.fromarray(np.full((120,160,3), 128, np.uint8)).save(photos/'wall.jpg')
    return home

def call(home, *words): return ask(APP, *words, env=dict(DISTORTKIT_RUNS=str(home/'runs')))

def process(code, *words, **kw): return subprocess.Popen([sys.executable, '-c', code, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)
def held(folder): return {p.name: p.read_bytes() for p in folder.iterdir() if p.name!='run_metadata.json'}
def valid(path, schema): values = json.loads(path.read_text()); Draft202012Validator(load_schema(schema)).validate(values); return values

@pytest.fixture(scope='module')
def results(home):
    "Results of `small`, `flows` and of no model."
    for name in ('small','flows'):
        code,said = call(home, 'infer-test', home/'Ferien ß', home/name, '--checkpoint-id', name, '--device', 'cpu'); assert code==0 and '5 of 5 done' in said, said
    assert call(home, 'infer-test', home/'Ferien ß', home/'neutral')[0]==0
    return home

def test_from_images_to_a_submission(results):
    home,photos = results,results/'Ferien ß'; run = valid(home/'small/run_metadata.json', 'run_metadata')
    assert run['checkpoint']==dict(id='small', sha256=file_sha256(home/'runs/small/best.pt')) and run['finished_utc'] and run['failed']==[]
    assert {'param_only','declined'}<=set(run['modes']) and sum(run['modes'].values())==5 and run['reasons']['FEW_CURVES']>=1 and run['environment']['packages']['torch']
    for p in photos.iterdir():
        with Image.open(p) as a, Image.open(home/'small'/p.name) as b: assert b.size==(a.size[::-1] if p.name=='cup.jpg' else a.size) and b.getexif().get(0x0112, 1)==1
    with Image.open(home/'neutral/Rad é.png') as a, Image.open(photos/'Rad é.png') as b: assert np.array_equal(a, b)      # nothing is done by no model
    assert call(home, 'qa', 'check', home/'small', '--reference', photos)==(0,'5 images, no problems\n')
    assert call(home, 'qa', 'pack', home/'small', '-o', home/'a.zip', '--reference', photos, '--checkpoint', 'small')[0]==0
    note = valid(home/'a.manifest.json', 'submission_manifest')
    assert note['sha256']==file_sha256(home/'a.zip') and note['checkpoint']['sha256']==run['checkpoint']['sha256']
    with zipfile.ZipFile(home/'a.zip') as z:
        assert z.namelist()==sorted(p.name for p in photos.iterdir()) and all(z.read(n)==(home/'small'/n).read_bytes() for n in z.namelist())
    for words in (('check',home/'a.zip','--reference',photos), ('pack','--verify',home/'a.zip')): assert call(home, 'qa', *words)[0]==0
    code,said = call(home, 'qa', 'pack', home/'small', '-o', home/'b.zip', '--reference', photos, '--checkpoint', 'flows')
    assert code==1 and 'was made with checkpoint small, not with' in said

def test_two_builds_are_equal_to_the_byte(results, tmp_path):
    "From another folder, with other dates and rights, under another umask, language and time zone."
    photos,other = results/'Ferien ß',tmp_path/'Ablage 2'; other.mkdir()
    for i,p in enumerate(sorted((results/'small').iterdir(), reverse=True)): shutil.copyfile(p, other/p.name); os.utime(other/p.name, (1e9+i,1e9+i)); (other/p.name).chmod(0o600)
    for folder,name in ((results/'small',1), (other,2)): assert call(results, 'qa', 'pack', folder, '-o', tmp_path/f'{name}.zip', '--reference', photos)[0]==0
    code = 'import os, sys; os.umask(0o077); from distortkit.lens.pack import list_images, write_archive; write_archive(list_images(sys.argv[1]), sys.argv[2])'
    done = process(code, other, tmp_path/'3.zip', env=os.environ|dict(LC_ALL='C', TZ='Asia/Tokyo', PYTHONHASHSEED='3')); said = done.communicate(timeout=60)
    assert done.returncode==0, said
    assert (tmp_path/'1.zip').read_bytes()==(tmp_path/'2.zip').read_bytes()==(tmp_path/'3.zip').read_bytes()
    notes = [valid(tmp_path/f'{i}.manifest.json', 'submission_manifest') for i in (1,2)]
    assert {k for k in notes[0] if notes[0][k]!=notes[1][k]}<={'archive','utc','git'}

def test_the_best_of_several(results, tmp_path):
    home,photos = results,results/'Ferien ß'
    code,said = call(home, 'qa', 'select', home/'flows', home/'small', home/'neutral', '--reference', photos, '-o', tmp_path/'best'); assert code==0, said
    done = valid(tmp_path/'best/selection.json', 'selection'); rows = {r['file']: r for r in done['files']}
    assert [c['checkpoint'] and c['checkpoint']['id'] for c in done['candidates']]==['flows','small',None]
    modes = {r['file']: r['mode_used'] for r in read_json(home/'flows/run_metadata.json', 'run_metadata')['files']}; assert 'hybrid' in modes.values()
    for name,mode in modes.items(): assert rows[name]['rung']==('hybrid' if mode=='hybrid' else 'least_risky' if mode=='declined' else 'parametric')
    assert rows['wall.jpg']['flagged'] and rows['wall.jpg']['risk']<.1 and (tmp_path/'best/wall.jpg').exists() and 'wall.jpg' in said
    assert call(home, 'qa', 'pack', tmp_path/'best', '-o', tmp_path/'s.zip', '--reference', photos)[0]==0
    assert valid(tmp_path/'s.manifest.json', 'submission_manifest')['selection']['candidates']==done['candidates']
    (tmp_path/'best/wall.jpg').write_bytes((photos/'wall.jpg').read_bytes())
    code,said = call(home, 'qa', 'pack', tmp_path/'best', '-o', tmp_path/'t.zip', '--reference', photos)
    assert code==2 and 'CHANGED  wall.jpg' in said and not (tmp_path/'t.zip').exists()

def test_everything_wrong_with_a_folder_is_named(results, tmp_path):
    photos,out = results/'Ferien ß',tmp_path/'out'; shutil.copytree(results/'neutral', out); (out/'run_metadata.json').unlink()
    (out/'wall.jpg').unlink(); (out/'China.JPG').write_bytes((out/'china.jpg').read_bytes()); (out/'cup.jpg').write_bytes((out/'cup.jpg').read_bytes()[:5000])
    (out/'list.csv').touch()
    Image.open(out/'deep.png').rotate(90, expand=True).save(out/'deep.png'); (out/'Rad é.png').rename(out/'Rad e\u0301.png')
    code,said = call(results, 'qa', 'check', out, '--reference', photos, '--json'); report = json.loads(said); assert code==2 and report['images']==5
    assert sorted((p['code'], p['file']) for p in report['problems'])==sorted([('MISSING','wall.jpg'), ('DUPLICATE','China.JPG'), ('EXTRA','China.JPG'), ('DAMAGED','cup.jpg'),
        ('BAD_ENDING','list.csv'), ('WRONG_SIZE','deep.png'), ('MISSING','Rad é.png'), ('EXTRA','Rad e\u0301.png')])
    code,said = call(results, 'qa', 'pack', out, '-o', tmp_path/'x.zip', '--reference', photos)
    assert code==2 and '8 problems' in said and not list(tmp_path.glob('*.zip'))

NAMES = ['../up.jpg', '/etc/up.jpg', 'a/../../up.jpg', '..\\up.jpg', 'C:\\up.jpg', 'c:up.jpg', '\\\\host\\share\\up.jpg', 'sub/up.jpg', '..', 'up\n.jpg']

@pytest.mark.parametrize('name', NAMES)
def test_a_member_that_would_leave_its_folder_is_refused(results, tmp_path, name):
    "By check and by verify, in the archive and in the manifest; and nothing is unpacked anywhere."
    photos,at = results/'Ferien ß',tmp_path/'deep down'/'here'; at.mkdir(parents=True); shutil.copy(results/'neutral/run_metadata.json', at/'keep')
    assert call(results, 'qa', 'pack', results/'neutral', '-o', at/'s.zip', '--reference', photos)[0]==0
    note = json.loads((at/'s.manifest.json').read_text()); evil = note|dict(files=[*note['files'], note['files'][0]|dict(name=name)])
    (at/'s.manifest.json').write_text(json.dumps(evil))
    code,said = call(results, 'qa', 'pack', '--verify', at/'s.zip'); assert code==2 and 'UNSAFE_NAME' in said
    with zipfile.ZipFile(at/'s.zip', 'a') as z: entry = zipfile.ZipInfo('x'); entry.filename = name; z.writestr(entry, b'harm')
    for words in (('check',at/'s.zip','--reference',photos), ('pack','--verify',at/'s.zip')): code,said = call(results, 'qa', *words); assert code==2 and 'UNSAFE_NAME' in said, said
    assert sorted(p.name for p in tmp_path.rglob('*'))==sorted(['deep down','here','keep','s.zip','s.manifest.json'])

def test_links_twins_and_bombs_are_refused(results, tmp_path):
    photos = results/'Ferien ß'; assert call(results, 'qa', 'pack', results/'neutral', '-o', tmp_path/'s.zip', '--reference', photos)[0]==0
    good = (tmp_path/'s.zip').read_bytes()
    for kind,code in (('link','NOT_A_FILE'), ('bomb','BOMB'), ('twin','DUPLICATE')):
        (tmp_path/'s.zip').write_bytes(good); entry = zipfile.ZipInfo('wall.jpg' if kind=='twin' else 'x.jpg')
        entry.external_attr = ((stat.S_IFLNK if kind=='link' else stat.S_IFREG)|0o777)<<16; data = bytes(8<<20) if kind=='bomb' else b'/etc/passwd'
        with zipfile.ZipFile(tmp_path/'s.zip', 'a') as z, pytest.warns(UserWarning) if kind=='twin' else nullcontext(): z.writestr(entry, data, zipfile.ZIP_DEFLATED)
        for words in (('check',tmp_path/'s.zip','--reference',photos), ('pack','--verify',tmp_path/'s.zip')):
            rc,said = call(results, 'qa', *words); assert rc==2 and f"{code}  {entry.filename}" in said, said
    for n in (0, 21, len(good)//2, len(good)-1):
        (tmp_path/'s.zip').write_bytes(good[:n]); rc,said = call(results, 'qa', 'pack', '--verify', tmp_path/'s.zip'); assert rc==2 and 'torn one' in said

@pytest.mark.parametrize('schema,at', [('submission_manifest','a.manifest.json'), ('run_metadata','small/run_metadata.json')])
def test_a_field_that_is_missing_is_named(results, tmp_path, schema, at):
    if not (results/at).exists(): assert call(results, 'qa', 'pack', results/'small', '-o', results/'a.zip', '--reference', results/'Ferien ß')[0]==0
    good = valid(results/at, schema)
    for field in good:
        (tmp_path/'x.json').write_text(json.dumps({k: v for k,v in good.items() if k!=field}))
        with pytest.raises(DataError, match=f'x.json is not a {schema.replace("_", " ")}: field {field} is missing$'): read_json(tmp_path/'x.json', schema)
    (tmp_path/'x.json').write_text(json.dumps(good|dict(more=1)))
    with pytest.raises(DataError, match="unknown field: 'more'"): read_json(tmp_path/'x.json', schema)

def limit(): signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

@contextmanager
def limited():
    "The same for this process, for a while."
    signals,size = signal.getsignal(signal.SIGXFSZ),resource.getrlimit(resource.RLIMIT_FSIZE); limit()
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, size); signal.signal(signal.SIGXFSZ, signals)

def test_a_full_disk_costs_nothing_that_is_there(results, tmp_path):
    "Files of more than 30 kB cannot be written: one sentence each, what was there stays, and the same call goes on when there is room."
    photos = results/'Ferien ß'; (tmp_path/'s.zip').write_bytes(b'old')
    words = ['pack', results/'small', '-o', tmp_path/'s.zip', '--reference', photos, '--overwrite']
    done = process('from distortkit.commands.qa import app; app()', *words, preexec_fn=limit); out,err = done.communicate(timeout=60)
    assert done.returncode==1 and 's.zip was not written' in err and err.count('\n')==1 and held(tmp_path)=={'s.zip': b'old'}, err
    with limited(): code,said = call(results, 'infer-test', photos, tmp_path/'out')
    assert code==1 and 'are done and safe' in said.splitlines()[-1], said
    assert valid(tmp_path/'out/run_metadata.json', 'run_metadata')['finished_utc'] is None and not list((tmp_path/'out').glob('.*'))
    assert call(results, 'qa', 'pack', tmp_path/'out', '-o', tmp_path/'t.zip', '--reference', photos)[0]==2
    assert call(results, 'infer-test', photos, tmp_path/'out')[0]==0 and held(tmp_path/'out')==held(results/'neutral')

def test_killed_in_the_middle(results, tmp_path):
    "kill -9: no half archive under its name, no half picture; the next call ends what was begun, and nothing differs from a run that was never killed."
    photos = results/'Ferien ß'
    code = """import sys, time; from distortkit.lens import pack
pack.same_content = lambda *a: (print('written', flush=True), time.sleep(60)); pack.pack(*sys.argv[1:])"""
    done = process(code, results/'small', tmp_path/'s.zip', photos); assert done.stdout.readline()=='written\n', done.stderr.read()
    done.kill(); done.communicate()
    assert [p.name[0] for p in tmp_path.iterdir()]==['.']                                # only a hidden file that was never given its name
    assert call(results, 'qa', 'pack', results/'small', '-o', tmp_path/'s.zip', '--reference', photos)[0]==0 and call(results, 'qa', 'pack', '--verify', tmp_path/'s.zip')[0]==0
    many = tmp_path/'many'; many.mkdir(); [shutil.copy(photos/'Rad é.png', many/f'{i:02}.png') for i in range(12)]
    code = """import sys, time; from distortkit.lens import infer; write = infer.write_photo
infer.write_photo = lambda *a: (write(*a), time.sleep(.15))[0]; infer.infer_test(*sys.argv[1:], tell=lambda *a: print(*a, flush=True))"""
    done = process(code, many, tmp_path/'out'); [done.stdout.readline() for _ in range(4)]; done.kill(); done.communicate()
    there = [p for p in (tmp_path/'out').glob('*.png')]; assert 4<=len(there)<12 and all(Image.open(p).load() for p in there)
    code,said = call(results, 'infer-test', many, tmp_path/'out'); assert code==0 and 4<=said.count('(done before)')<12
    assert call(results, 'infer-test', many, tmp_path/'whole')[0]==0 and held(tmp_path/'whole')==held(tmp_path/'out')

@pytest.mark.parametrize('words,said', [(('infer-test','nosuch','out'),'no folder'), (('infer-test','Ferien ß','Ferien ß'),'input folder'),
    (('infer-test','Ferien ß','x','--checkpoint-path','Ferien ß/wall.jpg'),'not a checkpoint'),
    (('infer-test','Ferien ß','x','--checkpoint-id','small','--model-config','debug_smoke'),'another model'),
    (('infer-test','Ferien ß','small','--checkpoint-id','flows'),'holds the results of small'),
    (('qa','check','small','--reference','nosuch'),'no folder'), (('qa','check','Ferien ß','--reference','Ferien ß'),'originals itself'),
    (('qa','select','small','nosuch','--reference','Ferien ß','-o','x'),'no folder'),
    (('qa','select','small','--reference','Ferien ß','-o','small'),'folder of its own'), (('qa','pack','small'),'--reference FOLDER'),
    (('qa','pack','small','-o','small/s.zip','--reference','Ferien ß'),'among the results'),
    (('qa','pack','small','-o','s.tar','--reference','Ferien ß'),'end in .zip'), (('qa','pack','--verify','nosuch.zip'),'no archive')])
def test_a_mistake_is_one_sentence(results, monkeypatch, words, said):
    monkeypatch.chdir(results); before = held(results/'small'); code,output = call(results, *words)
    assert code==1 and said in output and output.startswith('distortkit: ') and len(output.strip().splitlines())==1, output
    assert held(results/'small')==before and not (results/'x').exists()
