"`distortkit correct` from photographs on disk to photographs on disk: what a person types, with a small untrained model."
import json
import numpy as np, pytest
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import get_sampling
from distortkit.cli import app
from distortkit.core.data import embedded_photos
from distortkit.geometry.grid import grid_to_pixels
from distortkit.lens.correct import Corrector
from distortkit.lens.distort import build_parametric_grid
from house import ask, small_checkpoint

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A run called `small`, and a folder with a JPEG on its side, a PNG, a wall without any edge, a torn JPEG and a note."
    home = tmp_path_factory.mktemp('a home'); small_checkpoint(home/'runs/small/best.pt')
    photos = home/'Ferien ß'; photos.mkdir(); pick = embedded_photos()
    exif = Image.Exif(); exif[0x0112] = 6; exif[0x010f] = 'Maker'
    Image.fromarray(pick['coffee']()[:240,:360]).save(photos/'cup.jpg', exif=exif, icc_profile=ICC)
    Image.fromarray(pick['motorcycle']()[:300,:400]).save(photos/'wheel.png')
    Image.fromarray(np.full((120,160,3), 128, np.uint8)).save(photos/'wall.jpg', quality=60)
    (photos/'torn.jpg').write_bytes((photos/'cup.jpg').read_bytes()[:4000]); (photos/'note.txt').write_text('not a photograph')
    return home

def call(home, *words): return ask(app, 'correct', *words, '--device', 'cpu', env=dict(DISTORTKIT_RUNS=str(home/'runs')))

def held(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}
def result(folder): return {k: v for k,v in held(folder).items() if k!='metadata.jsonl'}
def lines(folder): return {l['file']: l for l in map(json.loads, (folder/'metadata.jsonl').read_text().splitlines())}
def photos_of(folder): return {k: v for k,v in result(folder).items() if not k.startswith('index')}

def test_from_folder_to_folder(home):
    photos,out = home/'Ferien ß',home/'out'; before = held(photos)
    code,said = call(home, photos, '-o', out, '--checkpoint', 'small')
    assert code==2 and '2 corrected, 1 left alone, 1 skipped' in said, said
    assert [l for l in said.splitlines() if 'skipped:' in l and 'torn.jpg' in l], said
    assert set(photos_of(out))=={'cup.jpg','cup.metadata.json','wheel.png','wheel.metadata.json','wall.jpg','wall.metadata.json'}
    assert held(photos)==before                                                     # originals are never touched
    with Image.open(out/'cup.jpg') as im:
        assert im.size==(240,360) and im.info['icc_profile']==ICC                   # upright now
        assert (im.getexif()[0x0112], im.getexif()[0x010f])==(1,'Maker')
    with Image.open(out/'wheel.png') as im: assert im.size==(400,300)
    facts = {n: json.loads((out/f'{n}.metadata.json').read_text()) for n in ('cup','wheel','wall')}
    assert facts['cup']['mode_used']==facts['wheel']['mode_used']=='param_only' and facts['wheel']['checkpoint']=='small/best.pt'
    assert (facts['cup']['height'], facts['cup']['width'])==(360,240) and facts['cup']['jacobian']['det_min']>0
    assert facts['wall']['mode_used']=='declined' and facts['wall']['code']=='FEW_CURVES' and (out/'wall.jpg').read_bytes()==before['wall.jpg']

    told = lines(out); assert list(told)==['cup.jpg','torn.jpg','wall.jpg','wheel.png']            # as they were named
    for line in told.values(): assert {'source','file','mode_used','safety','jacobian','warnings','params','seconds','error'}<=set(line)
    assert (out/told['cup.jpg']['source']).samefile(photos/'cup.jpg') and told['cup.jpg']['params']==facts['cup']['params']
    assert 'torn.jpg' in told['torn.jpg']['error'] and told['torn.jpg']['mode_used'] is None and told['wall.jpg']['mode_used']=='declined'
    assert [i.size for i in map(Image.open, (out/'index_files').glob('*.webp'))].count((240,360))==2  # small pictures stand upright too

def test_a_second_call_does_what_is_new(home):
    photos,out = home/'Ferien ß',home/'out2'; words = (photos, '-o', out, '--checkpoint', 'small')
    call(home, *words); first = held(out)
    code,said = call(home, *words)
    assert code==2 and '3 done before, 1 skipped' in said and result(out)=={k: v for k,v in first.items() if k!='metadata.jsonl'}
    (out/'wheel.png').write_bytes(b'mine'); (out/'cup.jpg').unlink()
    code,said = call(home, *words)
    assert code==2 and 'wheel.png is there already' in said and '1 corrected, 1 done before, 2 skipped' in said and (out/'wheel.png').read_bytes()==b'mine', said
    code,said = call(home, *words, '--overwrite')
    assert code==2 and result(out)=={k: v for k,v in first.items() if k!='metadata.jsonl'}           # the same photograph gives the same bytes
    code,said = call(home, *words, '--quality', '60', '--subsampling', '4:2:0')
    assert '2 corrected' in said and (out/'cup.jpg').stat().st_size<.7*len(first['cup.jpg']) and get_sampling(Image.open(out/'cup.jpg'))==2 and (out/'wheel.png').read_bytes()==first['wheel.png']
    before = held(photos); code,said = call(home, photos/'cup.jpg', '-o', photos, '--checkpoint', 'small', '--overwrite')
    assert code==1 and 'original' in said and held(photos)==before

def test_the_map_of_a_photograph(home):
    corrector = Corrector.from_pretrained(home/'runs/small', 'cpu'); rgb = embedded_photos()['motorcycle']()[:300,:400]
    places = corrector.predict_map(rgb); assert places.shape==(300,400,2) and places.dtype==np.float32
    params = corrector.estimate(rgb).params[None]; assert params.abs().sum()>1            # it found something beside s = 1
    exact = grid_to_pixels(build_parametric_grid(params.double(), 300, 400))[0].numpy()
    assert np.abs(places-exact).max()<.02
    assert corrector.predict_map(np.full((100,150,3), 90, np.uint8)) is None

@pytest.mark.parametrize('name,said', [('nosuch','no checkpoint nosuch'), ('note.pt','not a checkpoint')])
def test_a_wrong_checkpoint_is_one_sentence(home, name, said):
    (home/'runs/note.pt').write_text('hello')
    code,output = call(home, home/'Ferien ß/wheel.png', '-o', home/'never', '--checkpoint', name)
    assert code==1 and said in output and len(output.strip().splitlines())==1 and not (home/'never').exists()
