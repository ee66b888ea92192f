"What is measured is told in one form, wrong input in one sentence, and both renderers see the same geometry. No time is asserted."
import json
import cv2, numpy as np, pytest, torch
import torch.nn.functional as F
from typer.testing import CliRunner
from distortkit.commands.bench import app
from distortkit.core.data import to_tensor
from distortkit.core.photo import Photo, read_photo, write_photo
from distortkit.geometry.flow import fuse_grids, residual_to_norm, upsample_residual_flow
from distortkit.geometry.grid import grid_to_pixels
from distortkit.lens.bench import bench_photo
from distortkit.lens.bench_render import RENDER_ROWS
from distortkit.lens.bench_train import TRAIN_ROWS
from distortkit.lens.distort import build_parametric_grid
from distortkit.lens.params import as_params
from distortkit.lens.render import Warp, WarpedPixels, map_strips

KEYS = {'name','ratio','goal','seconds','peak_mib','peer','passed','rounds','difference'}

@pytest.fixture(autouse=True)
def one_thread():
    "Small pictures on a busy machine: torch's threads would only wait for each other."
    before = torch.get_num_threads(); torch.set_num_threads(1); yield; torch.set_num_threads(before)

def run(*words): return CliRunner().invoke(app, [str(w) for w in words])
def rows_of(done): return [json.loads(line) for line in done.stdout.splitlines()]

def test_render_rows_as_json():
    names = [n for n in RENDER_ROWS if n not in ('with prediction','beside kornia','peak memory')] # these are in the notebook
    done = run('render', '--megapixels', .3, '--rounds', 1, '--json', '--no-memory', *(w for n in names for w in ('--rows', n)))
    assert done.exit_code==0, done.stderr
    rows = rows_of(done); assert [r['name'] for r in rows]==names
    for r in rows:
        assert KEYS<=set(r) and r['ratio']>0 and r['seconds']>0 and r['rounds']==1
        assert (r['goal'] is None)==(r['passed'] is None)

def test_train_rows_as_json():
    rows = rows_of(run('train', '--rounds', 1, '--side', 64, '--batch', 2, '--json'))
    assert [r['name'] for r in rows]==list(TRAIN_ROWS)
    for r in rows: assert KEYS<=set(r) and r['ratio']>0 and r['goal']>0
    assert max(r['difference'] for r in rows[:3])<1e-2    # the same values and gradients

def test_own_photograph(tmp_path):
    own = tmp_path/'my photo ü.png'; write_photo(Photo(bench_photo(.05)), own); before = own.read_bytes()
    done = run('render', '--photo', own, '--rounds', 1, '--rows', 'decode', '--no-memory')
    assert done.exit_code==0 and 'decode + encode only' in done.stdout and own.read_bytes()==before

@pytest.mark.parametrize('words, says', [(('render','--rows','sharper'), 'there is no row sharper'), (('train','--rows','adam'), 'there is no row adam'),
    (('render','--photo','nowhere.jpg'), 'no such file'), (('render','--photo',__file__), 'not a photograph')])
def test_wrong_input_is_one_sentence(words, says):
    done = run(*words)
    assert done.exit_code==1 and says in done.stderr and len(done.stderr.strip().splitlines())==1 and not done.stdout

@pytest.mark.parametrize('words', [('render','--rounds','0'), ('render','--megapixels','0'), ('render','--megapixels','many'), ('train','--side','-1'), ('draw',)])
def test_options_out_of_range(words):
    done = run(*words); assert done.exit_code not in (0, None) and 'Traceback' not in done.output

LENSES = dict(barrel=dict(k1=-.12, k2=.02, p1=2e-3, p2=-1e-3), moustache=dict(k1=-.1, k2=.12, k3=-.03, s=1.05), decentred=dict(k1=.06, dcx=.05, dcy=-.03, s=1.1))

@pytest.mark.parametrize('lens', LENSES)
@pytest.mark.parametrize('flow', [False,True])
def test_two_renderers_one_geometry(lens, flow):
    "The strips' map is that of the training grid to .01 px, and so are the pixels, of 8 and 16 bits."
    photo = bench_photo(.2); h,w = photo.shape[:2]; params = as_params(**LENSES[lens], dtype=torch.float64)
    residual = .3*torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(0)) if flow else None
    grid = build_parametric_grid(params, h, w)
    if flow: grid = fuse_grids(grid, upsample_residual_flow(residual_to_norm(residual[None].double()), h, w))
    warp = Warp(params[0], (h,w), residual)
    for rows in (64, 256):
        places = np.concatenate([s for _,s in map_strips(warp, rows)])
        assert places.shape==(h,w,2) and np.abs(places-grid_to_pixels(grid)[0].numpy()).max()<.01
    want = F.grid_sample(to_tensor(photo)[None], grid.float(), padding_mode='border', align_corners=True)[0].permute(1,2,0).numpy()
    for pixels,most in ((photo,255), (photo.astype(np.uint16)*257,65535)):
        got = np.asarray(WarpedPixels(pixels, warp, cv2.INTER_LINEAR))
        assert got.dtype==pixels.dtype and np.abs(got/most-want).mean()<.5/255

def test_a_file_is_the_same_whole_or_in_strips(tmp_path):
    "Written while it is rendered, with one thread or three, or rendered first: the same bytes."
    photo = Photo(bench_photo(.3)); warp = Warp(as_params(k1=-.1)[0], photo.size); threads = cv2.getNumThreads()
    try:
        files = []
        for n in (1,3):
            cv2.setNumThreads(n); lazy = WarpedPixels(photo.pixels, warp)
            for pixels in (lazy, np.asarray(lazy)): files.append(write_photo(Photo(pixels), tmp_path/f'{len(files)}.jpg').read_bytes())
    finally: cv2.setNumThreads(threads)
    assert len(set(files))==1 and read_photo(tmp_path/'0.jpg').size==photo.size
