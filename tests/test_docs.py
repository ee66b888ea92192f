"What README and CONTRIBUTING tell people to type exists."
import re, shlex
from pathlib import Path
import papermill, pytest, typer
from distortkit.cli import app
from distortkit.core.config import CONFIGS
from house import ROOT

DOCS = ['README.md','CONTRIBUTING.md']

def words(group, before=()):
    "Every command of a group and of the groups inside it: ('qa','check') -> command."
    for name,c in group.commands.items():
        if hasattr(c, 'commands'): yield from words(c, (*before, name))
        else: yield (*before, name),c

COMMANDS = dict(words(typer.main.get_command(app)))

def typed():
    "Every command of the docs and of the help texts: fenced lines, spans in backticks, indented help lines."
    for doc in DOCS:
        text = (ROOT/doc).read_text(encoding='utf-8')
        fenced = re.findall(r'```bash\n(.*?)```', text, re.S)
        spans = re.findall(r'`([^`\n]+)`', re.sub(r'```.*?```', '', text, flags=re.S))
        yield from ((doc, l) for l in [l for block in fenced for l in block.splitlines()]+spans)
    helps = [app.registered_callback.callback.__doc__, *(c.help or '' for c in COMMANDS.values())]
    yield from (('--help', l.strip()) for h in helps for l in h.splitlines() if l.startswith('  '))

def kind(line):
    "Program and arguments of a line; (None, []) when it is not a command of ours."
    words = shlex.split(line.split(' > ')[0].split(' #')[0]) if line.count("'")%2==0 and line.count('"')%2==0 else []
    if not words: return None,[]
    program = Path(words[0]).name
    if program=='torchrun' and 'distortkit.cli' in words: return 'distortkit', words[words.index('distortkit.cli')+1:]
    return (program, words[1:]) if program in ('distortkit','make','papermill') else (None, [])

OURS = [(doc, line, *kind(line)) for doc,line in typed() if kind(line)[0]]
pick = lambda program: pytest.mark.parametrize('doc,line,args', [(d,l,a) for d,l,p,a in OURS if p==program], ids=lambda v: v if isinstance(v, str) else '')

def test_there_are_commands(): assert {p for *_,p,_ in OURS}=={'distortkit','make','papermill'} and len(OURS)>=20

@pick('distortkit')
def test_distortkit_commands(doc, line, args):
    if not args or args==['COMMAND','--help'] or args==['--help']: return
    called = next((c for c in (tuple(args[:2]), tuple(args[:1])) if c in COMMANDS), None)
    if called is None and any(c[:len(args)]==tuple(args) for c in COMMANDS): return  # a group is meant
    assert called, f"{doc}: {line!r}: no command {' '.join(args[:2])}"
    options = {o: p for p in COMMANDS[called].params for o in (*p.opts, *p.secondary_opts) if o.startswith('-')}
    for a,value in zip(args[len(called):], [*args[len(called)+1:], '']):
        if a.startswith('-') and a!='--help': assert a in options, f"{doc}: {line!r}: {' '.join(called)} has no option {a}"
        if re.fullmatch(r'--(model|loss|train)-config', a):
            assert (CONFIGS/'lens'/a[2:].split('-')[0]/f'{value}.yaml').exists(), f"{doc}: {line!r}: no shipped settings {value}"
    if args[0]=='configs' and len(args)>1: assert (CONFIGS/f'{args[1]}.yaml').exists(), f"{doc}: {line!r}: no such settings"
    if args[0]=='train' and len(args)>1: assert re.fullmatch('stage[123]', args[1]), f"{doc}: {line!r}: no such stage"

@pick('make')
def test_make_targets(doc, line, args):
    targets = re.findall(r'^([a-z-]+):', (ROOT/'Makefile').read_text(), re.M)
    for a in args:
        if '=' not in a: assert a in targets, f"{doc}: {line!r}: no target {a}"

@pick('papermill')
def test_papermill_parameters(doc, line, args):
    assert (ROOT/args[0]).exists(), f"{doc}: {args[0]} is missing"
    known = papermill.inspect_notebook(str(ROOT/args[0]))
    for a,value in zip(args, args[1:]):
        if a=='-p': assert value in known, f"{doc}: {args[0]} has no parameter {value}"

@pytest.mark.parametrize('doc', DOCS)
def test_places_exist(doc):
    text = (ROOT/doc).read_text(encoding='utf-8')
    links = [l for l in re.findall(r'\]\(([^)]+)\)', text) if not l.startswith('http')]
    spans = [s.rstrip('/') for s in re.findall(r'`((?:nbs|tests|distortkit|\.ci)/[\w./-]+)`', text)]
    missing = [p for p in links+spans if not (ROOT/p).exists()]
    assert not missing, f"{doc} names {', '.join(missing)}"
