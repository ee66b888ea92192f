"The command line as a person meets it: real processes, real signals, real exit codes."
import json, os, signal, subprocess, sys, time
from pathlib import Path
import pytest

TOY = ["run_name = ''\nmodel_config = ''\nloss_config = ''\ntrain_config = ''\nlong = False", """
import time, torch
from distortkit.core.runs import Run
run = Run.open(run_name, dict())
try:
    for i in range(1200): print('step', i, flush=True); time.sleep(.05)
except KeyboardInterrupt:
    torch.save({}, run.dir/'interrupted.pt'); raise
"""]

@pytest.fixture
def project(tmp_path):
    "A project with one stage that would take a minute and saves itself when interrupted."
    cell = lambda i,text: dict(cell_type='code', id=f'cell-{i}', metadata={'tags':['parameters'] if i==0 else []}, source=text, execution_count=None, outputs=[])
    nb = dict(cells=[cell(i,t) for i,t in enumerate(TOY)], nbformat=4, nbformat_minor=5,
              metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3')))
    (tmp_path/'nbs/stages').mkdir(parents=True)
    (tmp_path/'nbs/stages/stage1.ipynb').write_text(json.dumps(nb))
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nlib_name = distortkit\n')
    (tmp_path/'toy.yaml').write_text('run_name: toy\n')
    return tmp_path

def start(project, *words):
    env = {k: v for k,v in os.environ.items() if k!='WORLD_SIZE'} | dict(DISTORTKIT_RUNS=str(project/'runs'), PYTHONUNBUFFERED='1')
    return subprocess.Popen([sys.executable, '-m', 'distortkit.cli', *map(str, words)], cwd=project, env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)

TRAIN = ['train', 'stage1', *(w for kind in ('model','loss','train') for w in (f'--{kind}-config', 'toy.yaml'))]

@pytest.mark.parametrize('number,code', [(signal.SIGINT,130), (signal.SIGTERM,143)])
def test_a_signal_reaches_the_training_loop(project, number, code):
    cli = start(project, *TRAIN)
    try:
        while 'step 3' not in (line := cli.stdout.readline()): assert line, cli.stderr.read()
        os.killpg(cli.pid, number) if number==signal.SIGINT else cli.send_signal(number)  # a terminal signals the whole group
        out,err = cli.communicate(timeout=60)
    finally: cli.kill()
    assert cli.returncode==code, err
    assert (project/'runs/toy/interrupted.pt').exists() and (project/'runs/toy/stage1.ipynb').exists()
    assert 'go on with --resume-from' in err and 'interrupted.pt' in err and 'Traceback' not in err

def test_an_old_notebook_is_not_lost_when_the_stage_never_started(project):
    (project/'runs/toy').mkdir(parents=True); (project/'runs/toy/stage1.ipynb').write_text('old')
    (project/'runs/toy/resolved_config.json').write_text('{}')
    os.utime(project/'runs/toy/resolved_config.json', (1,1))
    stage = project/'nbs/stages/stage1.ipynb'; stage.write_text(stage.read_text().replace('import time, torch', "raise ValueError('no such data')"))
    cli = start(project, *TRAIN); out,err = cli.communicate(timeout=60)
    assert cli.returncode==1 and 'stage1 failed: ValueError: no such data' in err and 'Traceback' not in err
    assert (project/'runs/toy/stage1.ipynb').read_text()=='old' and str(project/'runs/unfinished/toy-stage1.ipynb') in err

@pytest.mark.parametrize('words,said', [(['train','stage9'], "no stage 'stage9'"), (['train','stage1','--set','x'], 'KEY=VALUE'),
    ([*TRAIN,'--train-config','nosuch'], 'nosuch'), (['trian'], 'trian'), (['correct','nosuch.jpg','-o','out'], 'no photograph'),
    ([*TRAIN,'--warp-backend','mock'], 'has no parameter warp_backend'), (['configs','lens/train/nosuch'], 'nosuch')])
def test_a_mistake_is_one_sentence(project, words, said):
    cli = start(project, *words); out,err = cli.communicate(timeout=60)
    assert cli.returncode==1 and said in err and 'Traceback' not in err, err

def test_help_needs_nothing_heavy():
    seen = subprocess.run([sys.executable, '-c', 'import sys, distortkit.cli; print(*sys.modules)'], capture_output=True, text=True, check=True).stdout.split()
    assert not {'torch','cv2','numpy','papermill','transformers'} & set(seen)

def test_the_entry_point_is_installed():
    done = subprocess.run([Path(sys.executable).with_name('distortkit'), '--help'], capture_output=True, text=True, check=True)
    for word in ('train','correct','demo','configs','data','proxy','profile','qa','bench','infer-test'): assert f'\n  {word} ' in done.stdout
