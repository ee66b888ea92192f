"Build distortkit: what it is stands in settings.ini; the stage notebooks of nbs/stages travel inside the wheel."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
ini = ConfigParser(delimiters=['='], interpolation=None)
if not ini.read(HERE/'settings.ini', encoding='utf-8'): raise SystemExit(f"setup.py: settings.ini is missing in {HERE}")
cfg = ini['DEFAULT']

class build_with_stages(build_py):
    "A wheel carries nbs/stages/*.ipynb as distortkit/stages/; an editable install reads them where they are."
    def run(self):
        super().run()
        if getattr(self, 'editable_mode', False): return
        for nb in sorted((HERE/'nbs/stages').glob('*.ipynb')):
            dest = Path(self.build_lib)/cfg['lib_name']/'stages'/nb.name
            self.mkpath(str(dest.parent))
            self.copy_file(str(nb), str(dest))

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=(HERE/'README.md').read_text(encoding='utf-8') if (HERE/'README.md').exists() else cfg['description'],
    long_description_content_type='text/markdown', author=cfg['author'], author_email=cfg['author_email'],
    license='Apache-2.0', license_files=['LICENSE'], keywords=cfg['keywords'].split(),
    packages=find_packages(include=[cfg['lib_name'], cfg['lib_name']+'.*']),
    package_data={cfg['lib_name']: ['configs/**/*.yaml', 'configs/**/*.json', 'schemas/*.json', 'weights/**/*']},
    python_requires='>='+cfg['min_python'], install_requires=cfg['requirements'].split(),
    extras_require={'dev': cfg['dev_requirements'].split(), 'browser': cfg['browser_requirements'].split()},
    entry_points={'console_scripts': cfg['console_scripts'].split()},
    cmdclass={'build_py': build_with_stages}, zip_safe=False)
