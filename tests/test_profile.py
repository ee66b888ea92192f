"`distortkit profile` from file to file, against OpenCV, lensfun and COLMAP's own formulas."
import json
from functools import partial
from pathlib import Path
import cv2, lensfunpy, numpy as np, pytest, torch
from PIL import Image
from distortkit.commands.profile import app
from distortkit.core.checkpoint import save_checkpoint
from distortkit.core.data import embedded_photos
from distortkit.core.files import DataError, read_rgb
from distortkit.lens.camera import Camera, camera_from_params, frame_points, params_from_camera, seen_points
from distortkit.lens.correct import Corrector
from distortkit.lens.hybrid import HybridModel, ModelSettings
from distortkit.lens.lensfun import fit_lensfun, lensfun_xml, params_from_lensfun, read_lensfun
from distortkit.lens.profile_files import LensProfile, profile_text, read_profile
from distortkit.lens.profile_fit import fit_photos
from house import ask

DATABASE = Path(lensfunpy.__file__).parent/'db_files'

call = partial(ask, app)

def far(a, b): return float(np.hypot(*(np.asarray(a)-b).T).max())

VECTORS = [((640,480),500.,500.,330.,236.,(-.28,.09,.001,-.002,-.01)), ((427,641),610.,610.,200.,330.,(.12,-.05,0,0)), ((1280,720),1000.,1000.,639.5,359.5,(-.05,.01,-.0005,.0008,.02)),
           ((640,480),505.,505.,330.,236.,(.1,-.2,.001,-.002,.05,.38,-.25,.02)), ((640,480),500.,502.,310.,250.,(-.2,.06,0,.001,0)), ((800,600),700.,700.,400.,300.,())]

@pytest.mark.parametrize('size,fx,fy,cx,cy,coefficients', VECTORS)
def test_opencv_vectors(size, fx, fy, cx, cy, coefficients):
    "The kit's numbers make OpenCV's map: forward by initUndistortRectifyMap, back by undistortPoints."
    cam = Camera(*size, fx, fy, cx, cy, coefficients); row,gap = params_from_camera(cam); w,h = size
    K,D = np.array([[fx,0,cx],[0,fy,cy],[0,0,1]]),np.array(coefficients or (0,0,0,0), float)
    whole = np.stack(cv2.initUndistortRectifyMap(K, D, None, K, size, cv2.CV_32FC1), -1)
    pixels = np.stack(np.meshgrid(np.arange(0, w, 13), np.arange(0, h, 11)), -1).reshape(-1, 2)
    ours = seen_points(row, pixels, w, h)
    assert far(ours, whole[pixels[:,1],pixels[:,0]])<=gap.max_px*1.2+2e-3 and gap.max_px<=.1
    inner = pixels[(np.abs(pixels-[cx,cy])<[.3*w,.3*h]).all(1)]
    back = cv2.undistortPoints(seen_points(row, inner, w, h)[:,None], K, D, P=K)[:,0]
    assert far(back, inner)<=.1

@pytest.mark.parametrize('ending', ['yml','xml','json'])
def test_opencv_reads_what_is_written_and_is_read(ending, tmp_path):
    D = np.array([[-.12,.03,.001,-.002,-.004]]); K = np.array([[500.,0,330],[0,500,236],[0,0,1]]); theirs = tmp_path/f'theirs.{ending}'
    store = cv2.FileStorage(str(theirs), cv2.FILE_STORAGE_WRITE)
    for k,v in dict(image_width=640, image_height=480, camera_matrix=K, distortion_coefficients=D).items(): store.write(k, v)
    store.release()
    kit,again = tmp_path/'kit.yaml',tmp_path/f'again.{ending}'
    assert call('convert', theirs, '-o', kit, '--to', 'distortkit')[0]==0 and call('convert', kit, '-o', again, '--to', 'opencv')[0]==0
    store = cv2.FileStorage(str(again), cv2.FILE_STORAGE_READ)
    assert np.allclose(store.getNode('camera_matrix').mat(), K, atol=1e-9) and np.allclose(store.getNode('distortion_coefficients').mat(), D, atol=1e-12)
    assert store.getNode('image_width').real()==640; store.release()

def modifier(xml, focal, crop, w, h):
    "Places and lensfun's map there, from its own loader; rows that go through its plain code."
    lens, = lensfunpy.Database(xml=xml, load_common=False, load_bundled=False).lenses
    mod = lensfunpy.Modifier(lens, crop, w, h); mod.initialize(focal, 8, 10, scale=1., flags=lensfunpy.ModifyFlags.DISTORTION)
    place = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1)
    return place[1::2,::7].reshape(-1, 2), mod.apply_geometry_distortion()[1::2,::7].reshape(-1, 2)

def test_real_lenses_through_lensfun():
    "Numbers of real lenses, written, loaded by lensfun: its map is theirs to the residual told; where the model allows, to .1 px."
    cals = [c for name in ('slr-nikon','mil-olympus','compact-canon','mil-sony') for c in read_lensfun((DATABASE/f'{name}.xml').read_bytes())][::15]
    assert len(cals)>80; close = 0
    for c in cals:
        w,h = 601,round(600/c.aspect)//2*2+1; row,first = params_from_lensfun(c, w, h)
        assert far(c.seen(frame_points(w, h), w, h), seen_points(row, frame_points(w, h), w, h))<=first.max_px+1e-9
        cal,there,second = fit_lensfun(row, w, h, 'ptlens', c.crop, focal=c.focal, maker='A', model='B')
        place,map_ = modifier(lensfun_xml([cal]), c.focal, c.crop, w, h)
        off = far(map_, seen_points(there, place, w, h)); assert off<=second.max_px+.02, (c.model, off, second)
        close += off<=.1
    assert close>.6*len(cals), close
    exact = [-.08,.02,0,0,0,.03,-.02,1.]                                       # a lens that poly5 can hold, centre and all
    cal,there,gap = fit_lensfun(exact, 601, 401, 'poly5', 1.6, focal=24., maker='A', model='B'); place,map_ = modifier(lensfun_xml([cal]), 24., 1.6, 601, 401)
    assert far(map_, seen_points(there, place, 601, 401))<.02 and gap.max_px<1e-6
    original = fit_lensfun([.01,0,0,0,0,0,0,1], 601, 401, 'poly3', 1., focal=35., maker='A', model='B')
    place,map_ = modifier(lensfun_xml([original[0]]), 35., 1., 601, 401); assert far(map_, seen_points(original[1], place, 601, 401))<.1

def test_a_lens_of_the_database_for_opencv(tmp_path):
    out = tmp_path/'calib.yml'; pick = ('convert', DATABASE/'slr-canon.xml', '-o', out, '--to', 'opencv', '--size', '3001x2001', '--lens', 'EF 24-70mm f/2.8L II')
    code,said = call(*pick); assert code==1 and 'say which with --focal-length-mm' in said
    code,said = call(*pick, '--focal-length-mm', 20); assert code==1 and 'calibrated from 24 to 70 mm, not at 20' in said
    code,said = call(*pick, '--focal-length-mm', 26, '--json'); assert code==0, said                # between two focal lengths
    told = json.loads(next(l for l in said.splitlines() if l.startswith('{')))['lost_px']; _,profile,_ = read_profile(out)
    lens = next(l for l in lensfunpy.Database().lenses if 'EF 24-70mm f/2.8L II' in l.model); w,h = 3001,2001
    mod = lensfunpy.Modifier(lens, lens.crop_factor, w, h); mod.initialize(26, 8, 10, scale=1., flags=lensfunpy.ModifyFlags.DISTORTION)
    place = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1)[1::2,::7].reshape(-1, 2); map_ = mod.apply_geometry_distortion()[1::2,::7].reshape(-1, 2)
    assert far(map_, seen_points(profile.row, place, w, h))<=told+.1
    assert call(*pick, '--focal-length-mm', 26)[0]==1                                              # nothing is replaced

def colmap_map(text, straight):
    "COLMAP's formula, written down from its manual: the middle of the first pixel is .5, .5."
    _,model,w,h,*v = next(l for l in text.splitlines() if not l.startswith('#')).split(); v = list(map(float, v)); k = [0.]*8
    if model in ('SIMPLE_RADIAL','RADIAL'): f,cx,cy,*r = v; fx = fy = f; k[:len(r)] = r
    else: fx,fy,cx,cy,*r = v; k[:len(r)] = r
    x,y = ((straight+.5-[cx,cy])/[fx,fy]).T; r2 = x*x+y*y
    g = (1+k[0]*r2+k[1]*r2**2+k[4]*r2**3)/(1+k[5]*r2+k[6]*r2**2+k[7]*r2**3)
    return np.stack([fx*(x*g+2*k[2]*x*y+k[3]*(r2+2*x*x))+cx, fy*(y*g+2*k[3]*x*y+k[2]*(r2+2*y*y))+cy], -1)-.5

@pytest.mark.parametrize('size', [(1200,800), (800,1200)])
@pytest.mark.parametrize('model', ['SIMPLE_RADIAL','RADIAL','OPENCV','FULL_OPENCV'])
def test_colmap(size, model, tmp_path):
    names = dict(SIMPLE_RADIAL=1, RADIAL=2, OPENCV=2, FULL_OPENCV=3)[model]; p = [.002,-.001] if 'OPENCV' in model else [0,0]
    row = [*[-.08,.02,-.004][:names], *[0]*(3-names), *p, .02,-.01, 1.]; at = frame_points(*size)
    text,there,gap = profile_text(LensProfile.of(row, *size, focal_px=900.), 'colmap', model=model)
    assert gap.max_px<1e-9 and far(colmap_map(text, at), seen_points(row, at, *size))<1e-9
    (tmp_path/'cameras.txt').write_text(text); kind,back,gap = read_profile(tmp_path/'cameras.txt')
    assert kind=='colmap' and np.allclose(back.row, row, atol=1e-12) and abs(back.focal_px-900)<1e-9
    if model!='FULL_OPENCV':                                                  # too few terms: fitted, the residual is what the formula gives
        rich = [-.08,.02,-.03,0,0,.02,-.01,1.]; text,there,gap = profile_text(LensProfile.of(rich, *size), 'colmap', model=model)
        assert gap.max_px>.1 and abs(far(seen_points(there, at, *size), seen_points(rich, at, *size))-gap.max_px)<1e-9

def test_round_trip_over_all_formats(tmp_path):
    "Kit, OpenCV, COLMAP, kit, lensfun, kit: a lens that poly5 holds comes back to .1 px of 6000."
    row = [-.06,.015,0,0,0,.01,-.02,1.]; (tmp_path/'0').write_text(profile_text(LensProfile.of(row, 6000, 4000, focal_mm=24, crop=1., maker='Own', model='Own 24mm'), 'distortkit')[0])
    last = tmp_path/'0'; ways = [('opencv',), ('colmap',), ('distortkit',), ('lensfun','--model','poly5','--focal-length-mm',24,'--crop',1.), ('opencv','--size','6000x4000')]
    for i,(to,*more) in enumerate(ways, 1):
        code,said = call('convert', last, '-o', tmp_path/str(i), '--to', to, *more); assert code==0, said
        last = tmp_path/str(i)
    back = read_profile(last)[1]; at = frame_points(6000, 4000)
    assert far(seen_points([*back.row[:7], 1.], at, 6000, 4000), seen_points(row, at, 6000, 4000))<.1

K = 'K: [[500,0,320],[0,500,240],[0,0,1]]\n'
WRONG = {'bomb.xml': ('<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><lensdatabase>&b;</lensdatabase>','entities'), 'read.xml': ('<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/hostname">]><lensdatabase>&a;</lensdatabase>','entities'),
    'torn.xml': ('<lensdatabase><lens>','not readable XML'), 'half.yml': (K,'no distortion_coefficients'), 'nan.yml': (K+'D: [0,0,.nan,0]\nwidth: 640\nheight: 480','NaN'), 'fish.yml': (K+'D: [0,0,0,0]\ndistortion_model: equidistant','fisheye'),
    'laughs.yml': ('a: &a [1,1]\nb: [*a,*a]\n'+K,'aliases'), 'code.yml': ('!!python/object/apply:os.system ["true"]','not readable YAML'), 'cameras.txt': ('1 FOV 640 480 500 500 320 240 .9','FOV cannot be converted'),
    'short.txt': ('1 OPENCV 640 480 500 500','numbers, got 2'), 'empty.yml': ('','empty'), 'words.txt': ('hello','no lens profile'), 'kit.yaml': ('distortkit_profile: 1\nparams: {k1: 1}\nwidth: 9\nheight: 9','must hold k1'),
    'typo.yaml': (profile_text(LensProfile.of([0]*7+[1], 9, 9), 'distortkit')[0]+'widht: 3\n','widht')}

@pytest.mark.parametrize('name', WRONG)
def test_wrong_files_end_in_one_sentence(name, tmp_path):
    text,word = WRONG[name]; (tmp_path/name).write_text(text)
    code,said = call('convert', tmp_path/name, '-o', tmp_path/'out', '--to', 'opencv', '--size', '640x480')
    assert code==1 and word in said and name in said and said.startswith('distortkit: ') and said.count('\n')==1, said
    assert not (tmp_path/'out').exists()

def test_no_byte_ends_it(tmp_path):
    "A profile cut or changed anywhere is read, or refused by name."
    rng = np.random.default_rng(0); row = [-.1,.02,0,0,0,.01,-.02,1.]; file = tmp_path/'x'
    for to in ('opencv','lensfun','colmap','distortkit'):
        whole = profile_text(LensProfile.of(row, 600, 400, focal_mm=24, crop=1.), to, '.xml' if to=='opencv' else '')[0].encode()
        for _ in range(60):
            data = bytearray(whole[:rng.integers(1, len(whole))] if rng.random()<.5 else whole)
            for _ in range(rng.integers(0, 4)): data[rng.integers(len(data))] = rng.integers(256)
            file.write_bytes(data)
            try: assert np.isfinite(read_profile(file, size=(600,400))[1].row).all()
            except DataError as e: assert str(e).startswith('x') and len(str(e))<400 and '\n' not in str(e)

def test_a_profile_that_folds_is_named(tmp_path):
    (tmp_path/'a.yml').write_text('K: [[600,0,640],[0,600,360],[0,0,1]]\nD: [-.35,.08,0,0,-.02]\nwidth: 1280\nheight: 720')
    code,said = call('convert', tmp_path/'a.yml', '-o', tmp_path/'b.yml', '--to', 'opencv'); assert code==0 and 'warning: ' in said and ('folds' in said or 'turns back' in said), said

@pytest.fixture(scope='module')
def album(tmp_path_factory):
    "A checkpoint that has learned nothing, and photographs through one lens; one of them taken upright, one with another lens, one without edges."
    home = tmp_path_factory.mktemp('album'); settings = ModelSettings(backbone_name='curves'); torch.manual_seed(0)
    save_checkpoint(home/'best.pt', dict(model=HybridModel(settings).state_dict(), extra=dict(stage='stage1_param_only', model_settings=settings.model_dump(mode='json'))))
    row = np.array([-.08,.02,0,0,0,0,0,1.]); cam = camera_from_params(row, 451, 301); pick = embedded_photos()
    at = cv2.undistortPoints(np.stack(np.meshgrid(np.arange(451.), np.arange(301.)), -1).reshape(-1,1,2), cam.matrix, cam.full, P=cam.matrix).reshape(301,451,2).astype(np.float32)
    for name,focal,turn in [('brick',24,1), ('rocket',24,1), ('coffee',24,6), ('china',50,1)]:
        rgb = cv2.resize(pick[name](), (451,301), interpolation=cv2.INTER_AREA); exif = Image.Exif(); exif[271] = 'M'; exif[274] = turn; sub = exif.get_ifd(0x8769); sub[0xA434] = 'Own 24-70'; sub[0x920A] = float(focal); sub[0xA405] = focal
        Image.fromarray(cv2.remap(rgb, at[...,0], at[...,1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)).save(home/f'{name}.jpg', quality=97, exif=exif)
    Image.new('RGB', (451,301), 'grey').save(home/'wall.png'); return home,row

def test_fit_from_photographs(album, tmp_path):
    home,row = album; own = [home/f'{n}.jpg' for n in ('brick','rocket','coffee')]; out = tmp_path/'own.yaml'; at = frame_points(451, 301); ask = ('--checkpoint', home/'best.pt', '--device', 'cpu')
    code,said = call('fit', *own, home/'wall.png', tmp_path/'gone.jpg', '-o', out, *ask); assert code==2 and 'wall.png: skipped' in said and 'gone.jpg: skipped' in said and '3 photographs agree' in said, said
    kind,profile,_ = read_profile(out); assert (kind, profile.model, profile.focal_mm, profile.crop, (profile.width, profile.height))==('distortkit','Own 24-70',24.,1.,(451,301)) and profile.sd['k1']>0
    off = far(seen_points([*profile.row[:7], 1.], at, 451, 301), seen_points(row, at, 451, 301)); assert off<.3*far(at, seen_points(row, at, 451, 301)), off
    assert call('convert', out, '-o', tmp_path/'own.xml', '--to', 'lensfun')[0]==0 and read_lensfun((tmp_path/'own.xml').read_bytes())[0].focal==24
    code,said = call('fit', *own, home/'china.jpg', '-o', tmp_path/'x', *ask); assert code==1 and '2 lenses or focal lengths' in said and '50 mm' in said, said
    code,said = call('fit', home/'wall.png', '-o', tmp_path/'x', *ask); assert code==1 and 'none of the photographs' in said
    code,said = call('fit', *own, '-o', tmp_path/'x', '--checkpoint', tmp_path/'none.pt'); assert code==1 and 'no checkpoint' in said and said.count('\n')==1
    code,said = call('fit', *own, '-o', out, *ask); assert code==1 and 'there already' in said
    assert not (tmp_path/'x').exists()

def test_a_photograph_on_its_side_tells_the_lens_of_the_sensor(album, tmp_path):
    "The same picture stored lying, with a note to turn it: centre and tangential part turn back with it."
    corrector = Corrector.from_pretrained(album[0]/'best.pt', 'cpu'); pixels = read_rgb(album[0]/'brick.jpg'); exif = Image.Exif(); exif[274] = 6
    Image.fromarray(pixels).save(tmp_path/'up.png'); Image.fromarray(np.rot90(pixels)).save(tmp_path/'side.png', exif=exif)     # 6: turn right to see it upright
    up,side = (fit_photos(corrector, [tmp_path/f'{n}.png']).profile for n in ('up','side'))
    assert (side.width, side.height)==(up.height, up.width) and np.abs(up.row[5:7]).min()>1e-7
    x,y = frame_points(up.width, up.height).T; lie = lambda p: np.stack([p[:,1], up.width-1-p[:,0]], -1)                         # upright place -> stored place
    straight = np.stack([x, y], -1)
    assert far(lie(seen_points(up.row, straight, up.width, up.height)), seen_points(side.row, lie(straight), side.width, side.height))<1e-3

def test_fit_from_points(tmp_path):
    row = [-.15,.03,-.01,.002,-.003,.02,-.03,1.05]; at = frame_points(640, 427, 12); seen = seen_points(row, at, 640, 427)+np.random.default_rng(0).normal(0, .05, at.shape); seen[5] += 30
    np.savetxt(tmp_path/'pairs.csv', np.c_[at, seen], delimiter=',', header='x_straight,y_straight,x_seen,y_seen', comments='')
    code,said = call('fit', '--points', tmp_path/'pairs.csv', '--size', '640x427', '-o', tmp_path/'own.json'); assert code==0, said
    assert far(seen_points(read_profile(tmp_path/'own.json')[1].row, at, 640, 427), seen_points(row, at, 640, 427))<.15
