"Notebooks in a real browser: JupyterLab and headless Chromium in a folder of their own, with keys, mouse, and a look at what changed."
import hashlib, json, os, re, secrets, shutil, signal, socket, subprocess, sys, tempfile, time, urllib.error, urllib.request
from pathlib import Path
from house import ROOT

FLAGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync --disable-dev-shm-usage'.split()
SHOTS = ROOT/'outputs/browser'
NOISE = ('favicon', 'Failed to load resource', 'lsp', 'ResizeObserver loop')  # console lines that say nothing about a notebook
SETTINGS = {'notification': dict(fetchNews='false', checkForUpdates=False, doNotDisturbMode=True)}  # of apputils-extension

def chromium():
    "Path of a Chromium, or None; the variable CHROMIUM names one, and then only that one counts."
    named = os.environ.get('CHROMIUM')
    return next(filter(None, map(shutil.which, [named] if named else ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'])), None)

def missing():
    "One sentence with what a browser test lacks here; empty when it can run."
    try: import playwright.sync_api  # noqa: F401
    except ImportError: return "no browser tests: playwright is not installed; `make test-browser` installs it"
    if not chromium(): return "no browser tests: no chromium found; `make test-browser` installs it or says how"
    return ''

def shoot(page, name, **kw):
    "Save a screenshot as outputs/browser/<name>.png."
    SHOTS.mkdir(parents=True, exist_ok=True); path = SHOTS/f'{name}.png'
    page.screenshot(path=str(path), **kw)
    return path

# --- what runs inside the page

STATE = '''() => {
  const w = window.jupyterapp?.shell.currentWidget, s = w?.sessionContext, model = w?.content?.model;
  const code = model ? Array.from(model.cells).filter(c => c.type === 'code' && c.sharedModel.getSource().trim()) : [];
  const views = Array.from(document.querySelectorAll('[data-mime-type="application/vnd.jupyter.widget-view+json"]'));
  return {cells: code.length, done: code.filter(c => c.executionCount).length, kernel: s?.session?.kernel?.status ?? 'none',
    bar: (document.querySelector('#jp-main-statusbar')?.innerText ?? '').replace(/\\s+/g, ' '), ran: window.ranAll ?? '',
    dialog: document.querySelector('.jp-Dialog')?.innerText ?? '', nodes: document.querySelectorAll('.jp-OutputArea-output *').length,
    waiting: views.filter(v => !v.querySelector('.lm-Widget *') || /Loading widget|^Loading/.test(v.innerText)).length}; }'''

LISTEN = '''() => { const w = window.jupyterapp.shell.currentWidget; window.kernelErrors = [];
  w.sessionContext.iopubMessage.connect((_, m) => { const c = m.content;
    if (m.header.msg_type === 'error') window.kernelErrors.push(c.traceback.join('\\n') || c.ename + ': ' + c.evalue);
    if (m.header.msg_type === 'stream' && /Traceback/.test(c.text)) window.kernelErrors.push(c.text); }); }'''

RUN_ALL = '''() => { window.ranAll = ''; window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.ranAll = 'yes'; }, e => { window.ranAll = String(e); }); }'''

PIXELS = '''e => { if (e.tagName === 'IMG') return e.complete && e.naturalWidth ? e.src : '';
  if (e.tagName !== 'CANVAS' || !e.width || !e.height) return '';
  const c = document.createElement('canvas'); c.width = e.width; c.height = e.height;
  const d = c.getContext('2d'); d.drawImage(e, 0, 0);
  return d.getImageData(0, 0, c.width, c.height).data.some(v => v) ? c.toDataURL() : ''; }'''

LATENCY = '''([e, value, expr, limit]) => new Promise((done, fail) => {
  const seen = new Function('return ' + expr), before = seen(), start = performance.now();
  e.value = value; e.dispatchEvent(new Event('input', {bubbles: true}));
  const look = () => { const t = performance.now() - start;
    if (seen() !== before) requestAnimationFrame(() => { const c = new MessageChannel(); c.port1.onmessage = () => done(performance.now() - start); c.port2.postMessage(0); }); else if (t > limit) fail(new Error(`nothing changed in ${limit} ms: ${expr}`)); else requestAnimationFrame(look); };
  look(); })'''

FRAMES = '''expr => { const seen = new Function('return ' + expr); let last = seen(); window.frames_ = []; window.framesOn = true;
  const look = () => { const now = seen(); if (now !== last) { window.frames_.push(performance.now()); last = now; } if (window.framesOn) requestAnimationFrame(look); };
  requestAnimationFrame(look); }'''

class Sheet:
    "An open page: everything of a Playwright page, and controls by name, keys, drags, pictures and errors."
    def __init__(self, page, origin=''):
        self.page,self.origin,self.console,self.crashes,self.outside = page,origin,[],[],[]
        page.on('console', lambda m: self.console.append(m.text) if m.type=='error' and not any(n in m.text for n in NOISE) else None)
        page.on('pageerror', lambda e: self.crashes.append(str(e)))
        page.on('request', lambda r: None if r.url.startswith((origin, 'data:', 'blob:', 'ws:')) else self.outside.append(r.url))
    def __getattr__(self, name): return getattr(self.page, name)

    def field(self, name, within=''):
        "The control called `name` (its `data-field`) inside `within`: the number box of a range, a select, a check, a button, a file."
        row = self.page.locator(f'{within} [data-field="{name}"]'.strip()).first
        return row.locator('input[type=number],input[type=text],input[type=checkbox],input[type=file],select,textarea,button').first
    def slider(self, name, within=''): return self.page.locator(f'{within} [data-field="{name}"] input[type=range]'.strip()).first
    def put(self, name, value, within=''):
        "Give a control a value as a person does: choose, tick, or type and press Enter."
        e = self.field(name, within); kind = e.evaluate('e => e.tagName+":"+e.type')
        if kind.startswith('SELECT'): e.select_option(str(value))
        elif kind.endswith(':checkbox'): e.set_checked(bool(value))
        elif kind.endswith(':file'): e.set_input_files(value)
        else: e.fill(str(value)); e.press('Enter')
    def press(self, what, *keys):
        "Focus `what` (selector or locator) and press keys, one after another."
        e = self.at(what); e.focus()
        for k in keys: self.page.keyboard.press(k)
    def at(self, what): return self.page.locator(what).first if isinstance(what, str) else what
    def drag(self, what, start=(.5,.5), end=(.75,.5), steps=12):
        "Drag the mouse inside `what`; places are shares of its width and height."
        e = self.at(what); e.scroll_into_view_if_needed(); b = e.bounding_box()
        x,y = lambda p: b['x']+p[0]*b['width'], lambda p: b['y']+p[1]*b['height']
        self.page.mouse.move(x(start), y(start)); self.page.mouse.down()
        self.page.mouse.move(x(end), y(end), steps=steps); self.page.mouse.up()

    def picture_hash(self, what):
        "What an <img>, a <canvas> (2D or WebGL) or any other element shows, as a short hash."
        e = self.at(what); seen = e.evaluate(PIXELS)
        return hashlib.sha256(seen.encode() if seen else e.screenshot()).hexdigest()[:16]
    def wait_change(self, what, before, timeout=10):
        "Wait until the picture is no longer `before`, then until it rests; returns the new hash."
        start = time.monotonic(); last = self.picture_hash(what)
        while time.monotonic()-start<timeout:
            self.page.wait_for_timeout(80); now = self.picture_hash(what)
            if now==last!=before: return now
            last = now
        raise AssertionError(f"the picture {what} did not change in {timeout} s" if last==before else f"the picture {what} never came to rest in {timeout} s")
    def wait_rest(self, what, timeout=10):
        "The hash of a picture that has stopped changing."
        return self.wait_change(what, None, timeout)
    def wait_until(self, f, saying, timeout=10):
        "Call `f` until it is true; `saying` names what was waited for. Returns what `f` returned."
        start = time.monotonic()
        while not (got := f()):
            if time.monotonic()-start>timeout: raise AssertionError(f"waited {timeout} s for {saying}")
            self.page.wait_for_timeout(50)
        return got
    def latency(self, what, values, expr, limit=5000):
        "Milliseconds from setting a range to each value until the JavaScript expression `expr` (a cheap one) gives something else and that frame is painted."
        e = self.at(what).element_handle(); ms = []
        for v in values: ms.append(self.page.evaluate(LATENCY, [e, str(v), expr, limit])); self.page.wait_for_timeout(60)
        return ms
    def frames(self, move, expr):
        "How many frames a second show a new value of the JavaScript expression `expr` while `move()` drags something."
        self.page.evaluate(FRAMES, expr); move()
        at = self.page.evaluate('() => { window.framesOn = false; return window.frames_; }')
        if len(at)<3: raise AssertionError(f"only {len(at)} frames showed something new: {expr}")
        return 1000*(len(at)-1)/(at[-1]-at[0])

    def kernel_errors(self):
        "Text of every error output and of every error that a callback raised after the cells had run."
        return [re.sub(r'\x1b\[[\d;]*m', '', e) for e in self.page.evaluate('() => window.kernelErrors ?? []')]
    def faults(self):
        "Everything that went wrong, as sentences: tracebacks, script errors, console errors, requests that left this machine."
        bad = dict(kernel=self.kernel_errors(), script=self.crashes, console=self.console, outside=self.outside)
        return [f'{k}: {str(v)[-600:]}' for k,all in bad.items() for v in all]
    def check(self): assert not self.faults(), '\n'.join(self.faults())

class Shared:
    "One Chromium for all servers of this process: started by the first, closed by the last (Playwright then lets go of asyncio)."
    users = 0
    def enter(self):
        from playwright.sync_api import sync_playwright
        if not self.users:
            self.home = tempfile.TemporaryDirectory(prefix='chromium-')
            self.before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # told to end: what was started is ended first, as after Ctrl-C
            self.play = sync_playwright().start()
            try: self.browser = self.play.chromium.launch(executable_path=chromium(), args=FLAGS, headless=True,
                                                          env={**os.environ, 'HOME': self.home.name, 'XDG_CONFIG_HOME': self.home.name})
            except BaseException: self.end(); raise
        self.users += 1
        return self.browser
    def leave(self):
        self.users -= 1
        if not self.users: self.browser.close(); self.end()
    def end(self): self.play.stop(); self.home.cleanup(); signal.signal(signal.SIGTERM, self.before)

CHROMIUM = Shared()

class Server:
    "A server of notebooks as a process with its own home, and a Chromium to look at it."
    def __init__(self, folder=None, env=None):
        if missing(): raise RuntimeError(missing())
        self.home = Path(tempfile.mkdtemp(prefix='browser-')); self.runs = self.home/'runs'; self.work = self.home/'work'
        self.token,self.process,self.opened = secrets.token_hex(16),None,0
        for p in (self.runs, self.work): p.mkdir()
        self.folder = Path(folder or ROOT/'nbs/explore')
        at = lambda name: str(self.home/name)
        self.env = {**os.environ, 'HOME': at('home'), 'JUPYTER_CONFIG_DIR': at('config'), 'JUPYTER_DATA_DIR': at('data'), 'JUPYTER_RUNTIME_DIR': at('runtime'),
            'JUPYTERLAB_SETTINGS_DIR': at('settings'), 'JUPYTERLAB_WORKSPACES_DIR': at('workspaces'), 'IPYTHONDIR': at('ipython'), 'JUPYTER_TOKEN': self.token,
            'MPLCONFIGDIR': str(SHOTS/'matplotlib'), 'DISTORTKIT_RUNS': str(self.runs), 'IN_TEST': '1', 'JUPYTER_PLATFORM_DIRS': '1', 'PYTHONUNBUFFERED': '1', **(env or {})}
        for k in ('HOME','JUPYTER_CONFIG_DIR','JUPYTERLAB_SETTINGS_DIR','MPLCONFIGDIR'): Path(self.env[k]).mkdir(parents=True, exist_ok=True)
        with socket.socket() as s: s.bind(('127.0.0.1', 0)); self.port = s.getsockname()[1]
        self.origin = f'http://127.0.0.1:{self.port}'
    def command(self): raise NotImplementedError
    def __enter__(self):
        try:
            self.log = open(self.home/'server.log', 'w+')
            self.process = subprocess.Popen(self.command(), cwd=self.work, env=self.env, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
            self.browser = CHROMIUM.enter()
            self.wait_answer()
        except BaseException: self.__exit__(); raise
        return self
    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            try: self.process.wait(10)
            except subprocess.TimeoutExpired: self.process.kill(); self.process.wait()
            self.log.close()
        shutil.rmtree(self.home, ignore_errors=True)
        if hasattr(self, 'browser'): CHROMIUM.leave()
    def said(self): return (self.home/'server.log').read_text(errors='replace')[-1500:]
    def ask(self, path, method='GET'):
        "The server's answer to a request, as text."
        r = urllib.request.Request(self.origin+path, method=method, headers={'Authorization': f'token {self.token}'})
        with urllib.request.urlopen(r, timeout=10) as f: return f.read().decode()
    def answer_path(self): return '/api/status'
    def wait_answer(self, timeout=60):
        start = time.monotonic()
        while True:
            if self.process.poll() is not None: raise RuntimeError(f"the server ended with {self.process.returncode}: {self.said()}")
            try: return self.ask(self.answer_path())
            except (urllib.error.URLError, OSError): pass
            if time.monotonic()-start>timeout: raise RuntimeError(f"no answer from the server in {timeout} s: {self.said()}")
            time.sleep(.1)
    def sheet(self, url, width=1400, height=1000, timeout=60):
        "A page of a fresh profile at `url`."
        context = self.browser.new_context(viewport=dict(width=width, height=height), accept_downloads=True)
        page = context.new_page(); page.set_default_timeout(15_000)
        s = Sheet(page, self.origin); page.goto(self.origin+url, timeout=timeout*1000, wait_until='domcontentloaded')
        return s
    def place(self, notebook):
        "A copy of a notebook (name in `folder`, path, or list of cell sources) under a name of its own; returns the name."
        self.opened += 1
        if isinstance(notebook, (list,tuple)):
            cells = [dict(cell_type='code', id=f'c{i}', execution_count=None, metadata={}, outputs=[], source=s) for i,s in enumerate(notebook)]
            nb,name = dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5), 'cells.ipynb'
        else:
            path = Path(notebook) if Path(notebook).is_absolute() else self.folder/notebook
            nb,name = json.loads(path.read_text(encoding='utf-8')),path.name
        nb['metadata']['kernelspec'] = dict(display_name='Python 3', language='python', name='python3')
        name = f'{self.opened:03d}_{name}'; (self.work/name).write_text(json.dumps(nb), encoding='utf-8')
        return name
    def close(self, sheet):
        "Close the page and end its kernel."
        sheet.page.context.close()
        for session in json.loads(self.ask('/api/sessions')):
            if session['path']==sheet.name: self.ask(f"/api/sessions/{session['id']}", 'DELETE')

class Lab(Server):
    "JupyterLab: `with Lab() as lab: page = lab.open('warp.ipynb')`."
    def command(self):
        labconfig = self.home/'config/labconfig'; labconfig.mkdir()
        off = {'@jupyterlab/apputils-extension:announcements': True}
        (labconfig/'page_config.json').write_text(json.dumps(dict(disabledExtensions=off, lockedExtensions=off)))
        for plugin,values in {'apputils-extension/notification': SETTINGS['notification'], 'notebook-extension/tracker': dict(windowingMode='none'),
                              'docmanager-extension/plugin': dict(autosave=False)}.items():
            to = Path(self.env['JUPYTERLAB_SETTINGS_DIR'])/'@jupyterlab'/f'{plugin}.jupyterlab-settings'; to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text(json.dumps(values))
        return [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--expose-app-in-browser', '--ip=127.0.0.1', f'--port={self.port}',
                '--ServerApp.port_retries=0', f'--ServerApp.root_dir={self.work}', '--LabApp.news_url=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
                '--LanguageServerManager.autodetect=False', '--KernelManager.shutdown_wait_time=1', '--ServerApp.shutdown_no_activity_timeout=900',
                '--MappingKernelManager.cull_idle_timeout=900', '--MappingKernelManager.cull_connected=True']  # whoever was killed leaves nothing for long
    def open(self, notebook, run=True, timeout=120, **kw):
        "Open a copy of a notebook (name, path, or list of cell sources) and run all its cells; returns the page when kernel and widgets rest."
        name = self.place(notebook); s = self.sheet(f'/doc/tree/{name}?token={self.token}', **kw); s.name = name
        self.wait(s, lambda v: v['kernel']=='idle' and 'Idle' in v['bar'] and v['cells'], timeout, 'an idle kernel')
        s.evaluate(LISTEN)
        if run: self.run(s, timeout)
        return s
    def run(self, s, timeout=120):
        "Run all cells and wait until they have run, the kernel is idle and the widgets stand."
        s.evaluate(RUN_ALL)
        self.wait(s, lambda v: v['ran'] and v['kernel']=='idle' and (v['done']==v['cells'] or s.kernel_errors()), timeout, 'all cells to have run')
        self.rest(s, timeout)
    def rest(self, s, timeout=60):
        "Wait until all widgets are drawn and nothing is added to the outputs any more."
        nodes = [0]
        def still(v):
            same = v['nodes']==nodes[-1]; nodes.append(v['nodes'])
            return v['kernel']=='idle' and not v['waiting'] and (len(nodes)>6 and len(set(nodes[-5:]))==1 and same)
        self.wait(s, still, timeout, 'the widgets to be drawn')
    def wait(self, s, right, timeout, what):
        start = time.monotonic(); v = {}
        while time.monotonic()-start<timeout:
            v = s.evaluate(STATE)
            if v['dialog']: raise AssertionError(f"{s.name}: a dialog stands in the way: {v['dialog'][:200]!r}; console: {s.console[-2:]}")
            if right(v): return v
            if v['kernel']=='dead': break
            s.page.wait_for_timeout(80)
        shoot(s, 'stuck')
        raise AssertionError(f"{s.name}: waited {timeout} s for {what}; kernel {v['kernel']}, {v['done']} of {v['cells']} cells have run, {v['waiting']} widgets not drawn, "
                             f"status bar {v['bar']!r}, errors {s.faults()[:3]}; picture: outputs/browser/stuck.png")
    def kernel_errors(self, sheet): return sheet.kernel_errors()

class Workbench(Server):
    "The pages of `make workbench`: `with Workbench() as bench: page = bench.open('warp.ipynb')`."
    def command(self):
        for p in self.folder.glob('*.ipynb'): shutil.copy(p, self.work)
        self.env.update(BIND='127.0.0.1', PORT=str(self.port), DISPLAY='', WAYLAND_DISPLAY='')
        return [sys.executable, str(ROOT/'.ci/workbench'), str(self.work)]
    def answer_path(self): return '/'
    def open(self, notebook, timeout=120, **kw):
        "The page of a copy of a notebook (name, path, or list of cell sources), when its cells have run and its widgets stand."
        name = notebook if isinstance(notebook, str) and (self.work/notebook).exists() else self.place(notebook); s = self.sheet(f'/voila/render/{name}', **kw); s.name = name
        s.page.wait_for_function('() => document.querySelector("#rendered_cells") && !document.querySelector("#loading")', timeout=timeout*1000)
        nodes = []
        def still():
            nodes.append(s.page.locator('#rendered_cells *').count()); s.page.wait_for_timeout(80)
            return len(nodes)>6 and len(set(nodes[-6:]))==1
        s.wait_until(still, f'{name} to come to rest', timeout)
        return s
    def close(self, sheet): sheet.page.close(run_before_unload=True); sheet.page.context.close()

# --- what an explorer shows with `core.compare`

SHOWN = "document.querySelector('.dk-compare').dataset.picture"  # how many pairs of pictures there were
AFTER = '''e => { const c = document.createElement('canvas'); c.width = e.naturalWidth; c.height = e.naturalHeight; c.getContext('2d').drawImage(e, 0, 0); return c.toDataURL(); }'''

def shown(page): return int(page.evaluate(SHOWN) or 0)
def after(page): return page.locator('.dk-compare img.b').first.evaluate(AFTER)
def settle(page, words, timeout=40):
    "Wait until every form is answered, and the last pair of pictures and what `words` reads stand."
    last = None
    def calm(): nonlocal last; before,last = last,(shown(page), words(page)); return before==last and not page.locator('.dk-form[data-busy]').count()
    page.page.wait_for_timeout(100); page.wait_until(calm, 'the explorer to come to rest', timeout)
