"Fixed sets and endless samples: splits that never meet, the same pixels everywhere, errors that name the folder."
import multiprocessing, subprocess, sys
import cv2, numpy as np, pytest
from PIL import Image
from distortkit.core.data import item_rng
from distortkit.core.files import DataError
from distortkit.core.splits import split_of
from distortkit.lens.degrade import DegradeSettings
from distortkit.lens.mix import JUDGED, MixSettings, draw_lens
from distortkit.lens.panoramas import Flat, Panorama, pixel_grid, snap
from distortkit.lens.profiles import lens_split
from distortkit.lens.sets import KINDS, SampleList, Samples, make_sample, split_sources, test_sets as fixed_sets

rng = np.random.default_rng(0)
def picture(h, w): return cv2.resize(rng.integers(0, 255, (h//8,w//8,3)).astype(np.uint8), (w,h), interpolation=cv2.INTER_CUBIC)
def names_of(split, n=2): return [x for x in (f'p{i}.png' for i in range(200)) if split_of(x)==split][:n]

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    at = tmp_path_factory.mktemp('sources')
    for kind,shape in dict(photos=(96,160), panoramas=(128,256)).items():
        (at/kind).mkdir()
        for split in ('train','val','test'):
            for n in names_of(split): Image.fromarray(picture(*shape)).save(at/kind/n)
    return dict(photos=at/'photos', panoramas=at/'panoramas')

def test_splits_never_meet(folders):
    have = {s: split_sources(s, **folders, scenes=30) for s in ('train','val','test')}
    for kind in KINDS:
        seen = [n for s in have.values() for n in s[kind]]; assert len(seen)==len(set(seen))
    for split in have:
        for i in range(40):
            name = draw_lens(np.random.default_rng(i), split, JUDGED)[1]; model = name.split(' @ ')[0].split(' ')
            assert any(lens_split(' '.join(model[k:]))==split for k in range(1, len(model)))

def test_the_same_request_gives_the_same_pixels(folders, tmp_path):
    how = dict(**folders, n=2, long_side=96, cache=tmp_path)
    a,b = fixed_sets('test', **how),fixed_sets('test', **how); assert len(list(tmp_path.glob('*.npz')))==4
    path, = tmp_path.glob('photos-*.npz'); path.write_bytes(path.read_bytes()[:999]); c = fixed_sets('test', **how)
    for k in a:
        for x,y,z in zip(a[k], b[k], c[k]):
            assert (x['rgb']==y['rgb']).all() and (x['rgb']==z['rgb']).all() and (x['grid']==z['grid']).all() and x['lens']==z['lens']
    assert (fixed_sets('test', **how|dict(seed=1))['photos'][0]['rgb'].shape!=a['photos'][0]['rgb'].shape) or (fixed_sets('test', **how|dict(seed=1))['photos'][0]['rgb']!=a['photos'][0]['rgb']).any()

def test_another_process_gives_the_same_sample(folders):
    s = Samples('train', **folders, long_side=96, scenes=8)
    with multiprocessing.get_context('spawn').Pool(1) as pool: other = pool.map(s.__getitem__, range(3))
    for i,o in enumerate(other): assert (o['rgb']==s[i]['rgb']).all() and o['source']==s[i]['source']

def test_straight_is_straight(folders):
    for s in fixed_sets('val', **folders, n=6, long_side=80, cache=False)['straight']:
        h,w = s['rgb'].shape[:2]; assert s['lens']=='straight' and s['strength']<1e-4
        np.testing.assert_allclose(s['grid'], np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1), atol=1e-4)
        np.testing.assert_allclose(s['params'], [0]*7+[1], atol=1e-9)

def test_the_grid_is_where_the_lens_shows_a_point(folders):
    source = Flat.of(picture(320, 480)); s = make_sample(source, item_rng(0, 0, 3), 'train', MixSettings(straight=0, tail=1), long_side=120)
    h,w = s['rgb'].shape[:2]; mid = np.array([w-1,h-1])/2; unit = (max(h, w)-1)/2
    for x,y in ((0,0),(w-1,3),(w//2,h-1)):
        at = (np.array([x,y])-mid)/unit; np.testing.assert_allclose(s['grid'][y,x], s['exact'].see(at[None,None])[0,0]*unit+mid, atol=2e-3)

def test_size_changes_nothing_but_the_size(folders):
    for kind in ('photos','panoramas'):
        source = next(iter(split_sources('val', **folders, scenes=0)[kind].values()))(); never = DegradeSettings(**{k: 0 for k in DegradeSettings.model_fields if k!='quality'})
        a,b = (make_sample(source, item_rng(0, 0, 1), 'val', JUDGED, never, n) for n in (96,384)); small = cv2.resize(b['rgb'], a['rgb'].shape[1::-1], interpolation=cv2.INTER_AREA)
        assert a['lens']==b['lens'] and abs(a['strength']-b['strength'])<.03 and np.abs(small.astype(int)-a['rgb'])[4:-4,4:-4].mean()<4

def test_what_is_wrong_is_named(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere'): fixed_sets('val', photos='nowhere')
    with pytest.raises(ValueError, match='train, val or test'): fixed_sets('all')
    with pytest.raises(ValueError, match='belongs to the val split'): fixed_sets('val', panoramas=tmp_path)
    n = names_of('val')[0]; Image.fromarray(picture(96, 160)).save(tmp_path/n)
    with pytest.raises(DataError, match=f'{n} is no panorama'): fixed_sets('val', panoramas=tmp_path, n=1, cache=False)
    (tmp_path/n).write_bytes(b'no picture')
    with pytest.raises(DataError, match=n): fixed_sets('val', panoramas=tmp_path, n=1, cache=False)
