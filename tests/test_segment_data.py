"A data set built by several processes, one of them killed, is the data set of one process; loaders of any number of workers and machines deal it out once."
import json, os, signal, subprocess, sys, time
from collections import Counter
from multiprocessing.reduction import ForkingPickler
import numpy as np, pytest
from torch.utils.data import DataLoader
from distortkit.core.data import make_loader, start_epoch
from distortkit.core.files import DataError
from distortkit.segment.build import JOURNAL, build_shards
from distortkit.segment.scenes import draw_scene
from distortkit.segment.shards import ShardStream, ShardTiles
from house import tif

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Six rasters, half of them with targets, their header, and the data set as one process builds it."
    root = tmp_path_factory.mktemp('land')
    for i in range(6):
        s = draw_scene((128,320), np.random.default_rng(i)); tif(root/f'raw/images/r{i}.tif', s.rgb.transpose(2, 0, 1))
        if i%2: tif(root/f'raw/masks/r{i}.tif', s.parts[None].astype(np.int16))
    (root/'land.yaml').write_text("dataset_id: land\nsource_root: raw\nmodalities:\n  - {name: rgb, role: input, pattern: images/*.tif}\n  - {name: parts, role: target, pattern: masks/*.tif}\n"
        "sharding: {tile: 64, per_shard: 12}\nsplits: {train_metric_fraction: .3}\n")
    return root,build_shards(root/'land.yaml', root/'one')

def content(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file() and p.name!=JOURNAL}
def done(folder): return sum(b'"kind": "done"' in l for l in (folder/'land'/JOURNAL).read_bytes().splitlines()) if (folder/'land'/JOURNAL).is_file() else 0

def test_a_build_that_is_killed_goes_on(place):
    root,report = place; out = root/'killed'; env = dict(os.environ, OMP_NUM_THREADS='1')
    code = f"from distortkit.segment.build import build_shards\nif __name__=='__main__': build_shards({str(root/'land.yaml')!r}, {str(out)!r}, workers=2)"
    (root/'child.py').write_text(code); child = subprocess.Popen([sys.executable, str(root/'child.py')], env=env, start_new_session=True, stderr=subprocess.PIPE)
    try:
        until = time.monotonic()+120
        while done(out)<15 and child.poll() is None and time.monotonic()<until: time.sleep(.002)
    finally:
        early = child.poll() is not None
        try: os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError: pass
        said = child.communicate()[1].decode()
    assert not early, f"it ended before it was killed: {said[-500:]}"
    half = {p: p.stat().st_mtime_ns for p in out.rglob('*.npz')}; n = done(out); assert 15<=n<60 and content(out).items()!=content(root/'one').items()
    ready = {json.loads(l)['item'] for l in (out/'land'/JOURNAL).read_text().split('\n')[:-1] if '"kind": "done"' in l}
    assert build_shards(root/'land.yaml', out)==report|dict(folder=str(out/'land'))
    assert content(out)==content(root/'one')                                                    # to the byte, made by two processes, killed, ended by one
    assert {p: t for p,t in half.items() if p.stem in ready}=={p: p.stat().st_mtime_ns for p in half if p.stem in ready}   # what was done stayed

def test_a_raster_that_breaks_off_is_one_sentence_and_nothing_is_lost(place):
    root,_ = place; bad = root/'raw/images/r4.tif'; kept = bad.read_bytes(),bad.stat(); out = root/'cut'
    bad.write_bytes(kept[0][:60_000]); os.utime(bad, ns=(kept[1].st_atime_ns, kept[1].st_mtime_ns))
    try:
        with pytest.raises(DataError, match='r4.tif, the file is cut or damaged') as said: build_shards(root/'land.yaml', out)
    finally: bad.write_bytes(kept[0]); os.utime(bad, ns=(kept[1].st_atime_ns, kept[1].st_mtime_ns))
    assert str(ForkingPickler.loads(ForkingPickler.dumps(said.value)))==str(said.value)         # as it comes from a worker process
    before = done(out); assert before>=20
    with pytest.raises(FileExistsError, match='of other files'): build_shards(root/'land.yaml', out)   # the size was another one
    assert done(out)==before; build_shards(root/'land.yaml', out, overwrite=True); assert content(out)==content(root/'one')

@pytest.mark.filterwarnings('ignore:This DataLoader will create')
def test_every_item_once(place):
    root,report = place; tiles = ShardTiles(root/'one'); names = Counter(i.line.item_id for i in tiles.items); assert set(names.values())=={1} and len(tiles)==report['tiles']['train']
    assert len(tiles.blocks)==3                                                                 # fewer shards than machines × workers
    for world,workers in ((1,4),(3,2)):
        streams = [ShardStream(tiles, 3, rank=r, world=world) for r in range(world)]; loaders = [DataLoader(s, 4, num_workers=workers, persistent_workers=True) for s in streams]; orders = []
        for epoch in (0,1):
            for s in streams: s.set_epoch(epoch)
            got = [[k for b in l for k in b['key']] for l in loaders]; assert Counter(sum(got, []))==names; assert max(map(len, got))-min(map(len, got))<=1; orders.append(got)
        assert orders[0]!=orders[1]

def test_batches_do_not_depend_on_workers(place):
    tiles = ShardTiles(place[0]/'one', 'val', cache=4)
    def batches(workers):
        loader = make_loader(tiles, 4, 1, workers=workers, blocks=tiles.blocks, window=2); start_epoch(loader, 2); return list(loader)
    for a,b in zip(batches(0), batches(2), strict=True): assert a['key']==b['key'] and all((a[k]==b[k]).all() for k in ('rgb','slic','target','known'))

def test_splits_share_no_raster(place):
    rasters = {s: {k.line.item_id.split('_')[0] for k in ShardTiles(place[0]/'one', s).items} for s in place[1]['tiles']}
    assert rasters['train']=={'r0','r2','r4'} and set.union(*rasters.values())=={f'r{i}' for i in range(6)} and sum(map(len, rasters.values()))==6
