"""Install attn_robotics as an ament_python package."""

from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'attn_robotics'

# One executable a module: nodes/<name>.py holds main(), reached through executables.py.
EXECUTABLES = sorted(path.stem for path in Path(PACKAGE, 'nodes').glob('*.py') if not path.stem.startswith('_'))


def tree(top: str) -> list[tuple[str, list[str]]]:
    """Data files below `top`, folder by folder, into share/attn_robotics/<top>."""
    folders = [Path(top), *(p for p in sorted(Path(top).rglob('*')) if p.is_dir())]
    return [
        (f'share/{PACKAGE}/{folder}', files)
        for folder in folders
        if folder.name != '__pycache__' and (files := sorted(f for f in glob(f'{folder}/*') if Path(f).is_file()))
    ]


setup(
    name=PACKAGE,
    version='0.1.0',
    # attn_robotics/kernels is a relative link to kernels/: import the long name only.
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['**/*.safetensors', '**/*.onnx', '**/*.yaml', '**/*.json', '**/*.md', '**/*.npz']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        *tree('launch'),
        *tree('config'),
    ],
    install_requires=['setuptools'],
    zip_safe=False,
    maintainer='attn_robotics maintainers',
    maintainer_email='maintainers@attn-robotics.example.org',
    description='Attention models for robots on one GPU attention runtime.',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [f'{name} = {PACKAGE}.executables:{name}' for name in EXECUTABLES],
    },
)
