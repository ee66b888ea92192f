"Own pairs from a list to a trained model: audited, split, packed, trained on from files and from shards, stopped and resumed."
import csv, io, json, shutil, subprocess, sys, tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from distortkit.commands.data import app
from distortkit.core.checkpoint import load_checkpoint
from distortkit.core.data import embedded_photos
from distortkit.core.files import DataError
from distortkit.lens import train
from distortkit.lens.pairs import read_pairs
from distortkit.lens.shards import ShardSet, index_shard

PHOTOS = ('coffee','rocket','china','flower','brick','page')

def run(*words): return CliRunner().invoke(app, [str(w) for w in words])

def turned(rgb, path, **kw):
    "A file that is stored on its side and says so."
    exif = Image.Exif(); exif[274] = 6; Image.fromarray(np.rot90(rgb)).save(path, exif=exif, **kw)

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Twelve pairs of six photographs at two resolutions, in folders and files with awkward names; audited, split and packed."
    home = tmp_path_factory.mktemp('eigene Bilder'); (home/'geknickt').mkdir(); (home/'gerade ä').mkdir(); rows = []
    for i,n in enumerate(PHOTOS):
        for side in (200,320):
            photo = Image.fromarray(embedded_photos()[n]()); photo.thumbnail((side,side)); rgb = np.asarray(photo); bent = np.roll(rgb, 2, 1)
            places = f'geknickt/{n} {side}.jpg', f'gerade ä/{n} {side}.{"png" if i==1 else "jpg"}'
            turned(bent, home/places[0], quality=95) if i==2 else Image.fromarray(bent).save(home/places[0], quality=95)
            photo.save(home/places[1]); rows.append((f'{n} é/{side}', *places, n))
    with (home/'pairs.csv').open('w', newline='', encoding='utf-8') as f: csv.writer(f).writerows([('image_id','input_path','target_path','group'), *rows])
    for words in (('audit','pairs.csv','-o','audit.csv'), ('split','audit.csv','-o','split.csv','--parts','train=.67,val=.33'), ('pack','split.csv','-o','tar files','--shard-size','60kB')):
        done = run(*(home/w if w.endswith('.csv') or ' ' in w else w for w in words)); assert done.exit_code==0, done.output
    return home

def test_the_audit_sees_what_is_stored(folder):
    rows = list(csv.DictReader((folder/'audit.csv').open(newline='', encoding='utf-8'))); assert [r['image_id'] for r in rows]==[r.image_id for r in read_pairs(folder/'pairs.csv')]
    for r in rows:
        with Image.open(folder/r['target_path']) as im: assert (int(r['target_width']),int(r['target_height']))==im.size==(int(r['input_width']),int(r['input_height']))
        assert not r['problem'] and 0<float(r['mae'])<.2
    report = json.loads((folder/'audit.json').read_text(encoding='utf-8')); assert report['usable']==12 and report['groups']==6
    assert sum(report['strata'].values())==12 and not [c for c in report['same_bytes'] if len(c['groups'])>1]

def test_the_split_keeps_shoots_whole_and_says_what_it_did(folder):
    rows = read_pairs(folder/'split.csv'); parts = {g: {r.split for r in rows if r.group==g} for g in PHOTOS}; report = json.loads((folder/'split.json').read_text())
    assert all(len(p)==1 for p in parts.values()) and report['parts']=={p: sum(r.split==p for r in rows) for p in ('train','val','test')} and report['parts']['test']==0
    again = run('split', folder/'audit.csv', '-o', folder/'again.csv', '--parts', 'train=.67,val=.33'); assert again.exit_code==0
    assert (folder/'again.csv').read_bytes()==(folder/'split.csv').read_bytes()

def test_two_builds_of_shards_are_byte_equal_and_hold_the_files(folder):
    assert run('pack', folder/'split.csv', '-o', folder/'second', '--shard-size', '60kB').exit_code==0; here,there = folder/'tar files',folder/'second'
    assert {p.name: p.read_bytes() for p in here.iterdir()}=={p.name: p.read_bytes() for p in there.iterdir()}
    rows = {r.image_id: r for r in read_pairs(folder/'split.csv')}; shards = ShardSet(here); assert len(shards.shards)>3
    for s in shards.shards:
        for i in range(s.pairs): told,seen,straight = shards.read(s, i); r = rows.pop(told['image_id']); assert (seen,straight,s.split)==(r.input_path.read_bytes(), r.target_path.read_bytes(), r.split)
    assert not rows

SETTINGS = ('epochs=2','checkpoint_every_steps=2','log_interval=1','device=cpu','max_steps_per_epoch=null')
def trained(name, *words, **kw):
    "A debug run; its weights and its diary without times."
    stage = train.run_stage('stage1', loss_config='debug_smoke', train_config='debug_smoke', run_name=str(name), use_synthetic=False, overrides=(*SETTINGS, *words), **kw)
    told = [{k: v for k,v in l.items() if k not in ('time','seconds','images_per_s')} for l in stage.run.history.lines if l['kind']!='note']
    return load_checkpoint(name/'last.pt')['model'], told

def test_files_and_shards_train_alike_and_a_stopped_run_goes_on(folder, tmp_path, monkeypatch):
    monkeypatch.setenv('IN_TEST', '1'); want,diary = trained(tmp_path/'files', f'pairs_csv={folder/"split.csv"}'); tar = f'pairs_shards={folder/"tar files"}'
    got,told = trained(tmp_path/'shards', tar, 'workers=1'); assert told==diary and all(torch.equal(got[k], want[k]) for k in want)
    update,count = train.Engine.update,[]
    def stop(self, group):
        count.append(1)
        if len(count)==6: raise KeyboardInterrupt
        return update(self, group)
    monkeypatch.setattr(train.Engine, 'update', stop)
    with pytest.raises(KeyboardInterrupt): trained(tmp_path/'cut', tar)
    monkeypatch.setattr(train.Engine, 'update', update); read = []; asked = ShardSet.read
    monkeypatch.setattr(ShardSet, 'read', lambda self, shard, i: read.append((shard.split,shard.name,i)) or asked(self, shard, i))
    got,told = trained(tmp_path/'cut', tar, resume_from='auto'); assert told==diary and all(torch.equal(got[k], want[k]) for k in want)
    done = sum(l['kind']=='step' and l['epoch']==2 for l in diary); first = [r for r in read if r[0]=='train']
    assert len(first)==len(set(first))<2*done                                                           # what was done is not read again

def test_a_shard_cannot_reach_out_of_itself(folder, tmp_path):
    shutil.copytree(folder/'tar files', tmp_path/'evil'); shards = ShardSet(tmp_path/'evil'); victim = tmp_path/'evil'/shards.shards[0].name; (tmp_path/'secret.jpg').write_bytes(b'secret')
    def member(name, data=b'', kind=tarfile.REGTYPE, link=''): m = tarfile.TarInfo(name); m.size,m.type,m.linkname = len(data),kind,link; return m,io.BytesIO(data)
    for evil in (member('../../secret.input.jpg'), member('/secret.input.jpg'), member('x/../../y.json'), member('a.input.jpg', kind=tarfile.SYMTYPE, link='../secret.jpg'),
                 member('a.input.jpg', kind=tarfile.LNKTYPE, link='../secret.jpg'), member('a.json', kind=tarfile.CHRTYPE)):
        with tarfile.open(victim, 'w') as tar: tar.addfile(*evil)
        with pytest.raises(DataError, match=f'{victim.name} cannot be used: its member'): index_shard(victim)
        with pytest.raises(DataError, match='cannot be used'): shards.read(shards.shards[0], 0)
        shards = ShardSet(tmp_path/'evil')
    assert sorted(p.name for p in tmp_path.iterdir())==['evil','secret.jpg']

def test_mistakes_end_in_one_sentence(folder, tmp_path):
    (tmp_path/'two.csv').write_text(f'image_id,input_path,target_path,group,split\na,{folder/"gerade ä/page 200.jpg"},{folder/"gerade ä/page 200.jpg"},g,train\nb,{folder/"gerade ä/page 320.jpg"},{folder/"gerade ä/page 320.jpg"},g,val\n', encoding='utf-8')
    (tmp_path/'lacks.csv').write_text('image_id,input_path\na,b\n'); (tmp_path/'binary.csv').write_bytes(bytes(range(256))); (tmp_path/'a.csv').touch()
    for why,words in {"group 'g' is told to be train and, by 'b', val": ('split', tmp_path/'two.csv', '-o', tmp_path/'o.csv'), 'told to be train': ('pack', tmp_path/'two.csv', '-o', tmp_path/'o'),
            'lacks the column target_path': ('audit', tmp_path/'lacks.csv', '-o', tmp_path/'o.csv'), 'not a CSV file': ('split', tmp_path/'binary.csv', '-o', tmp_path/'o.csv'),
            'is empty': ('pack', tmp_path/'a.csv', '-o', tmp_path/'o'), 'add up to 1': ('split', folder/'audit.csv', '-o', tmp_path/'o.csv', '--parts', 'train=.8,val=.8')}.items():
        done = run(*words); assert done.exit_code==1 and why in done.output and len([l for l in done.output.splitlines() if l.startswith('distortkit: ')])==1, done.output
    assert not (tmp_path/'o.csv').exists()

def test_help_is_light():
    code = "import sys; import distortkit.commands.data; print([m for m in ('torch','numpy','cv2','PIL','webdataset','tqdm') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()=='[]'
