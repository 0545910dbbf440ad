"Reads settings.ini, the one owner of name, version and requirements, for `pip install -e .`"
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

config = ConfigParser(delimiters=['='])
config.read(Path(__file__).with_name('settings.ini'), encoding='utf8')
cfg = config['DEFAULT']
setup(name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], license='Apache-2.0', author=cfg['author'],
      python_requires=f">={cfg['min_python']}", packages=find_packages(include=['deepfakenb', 'deepfakenb.*']),
      install_requires=cfg['requirements'].split(), extras_require={'dev': cfg['dev_requirements'].split(), 'cluster': cfg['cluster_requirements'].split()},
      entry_points={'console_scripts': cfg['console_scripts'].split()})
