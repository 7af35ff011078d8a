"""The rooms of ARCHITECTURE.md, held to their word by walking syntax trees."""

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / 'attn_robotics'
ROS_ROOMS = {'conversions', 'ros', 'nodes'}
ROS_MODULES = re.compile(
    r'(rclpy|rcl_\w+|launch|launch_ros|launch_testing|ament_\w+|rosidl_\w+|tf2\w*|\w+_msgs|\w+_interfaces)$'
)


def read_rooms() -> dict[str, set[str]]:
    """Room -> rooms that it may import, from the table in ARCHITECTURE.md; `all above` means the rows above it."""
    rooms: dict[str, set[str]] = {}
    for line in (ROOT / 'ARCHITECTURE.md').read_text().splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        name = re.match(r'`(?:attn_robotics/)?(\w+)/', cells[0])
        if len(cells) != 3 or name is None:
            continue
        allowed = cells[2].split('(')[0]
        above = set(rooms) if 'all above' in allowed else {room for room in rooms if re.search(rf'\b{room}\b', allowed)}
        rooms[name[1]] = above
    return rooms


ROOMS = read_rooms()


def modules(room: str) -> list[Path]:
    top = ROOT / 'kernels' if room == 'kernels' else ROOT / room if room == 'bootstrap' else PACKAGE / room
    return sorted(path for path in top.rglob('*.py') if '__pycache__' not in path.parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a module imports, also within functions."""
    inside = path.resolve().relative_to(ROOT).with_suffix('').parts
    if inside[0] == 'kernels':
        inside = ('attn_robotics', *inside)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(inside[: len(inside) - node.level]) if node.level else ''
            source = '.'.join(filter(None, [base, node.module]))
            # `from attn_robotics import kernels` names a room only with what is imported.
            yield from ((node.lineno, f'{source}.{alias.name}') for alias in node.names)


def room_of(name: str) -> str | None:
    parts = name.split('.')
    if parts[0] != 'attn_robotics':
        return None
    return parts[1] if len(parts) > 1 and (parts[1] in ROOMS) else None


def test_the_page_lists_every_room_that_exists():
    folders = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert folders <= set(ROOMS), f'ARCHITECTURE.md does not list {sorted(folders - set(ROOMS))}'


@pytest.mark.parametrize('room', sorted(ROOMS))
def test_rooms_import_downward_only(room):
    wrong = [
        f'{path.relative_to(ROOT)}:{line} imports {name}'
        for path in modules(room)
        for line, name in imports(path)
        if (other := room_of(name)) is not None and other != room and other not in ROOMS[room]
    ]
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('room', sorted(set(ROOMS) - ROS_ROOMS - {'bootstrap'}))
def test_mathematics_imports_nothing_of_ros(room):
    wrong = [
        f'{path.relative_to(ROOT)}:{line} imports {name}'
        for path in modules(room)
        for line, name in imports(path)
        if ROS_MODULES.match(name.split('.')[0])
    ]
    assert not wrong, '\n'.join(wrong)


def test_modules_beside_the_rooms_import_no_room():
    wrong = [
        f'{path.name}:{line} imports {name}'
        for path in PACKAGE.glob('*.py')
        for line, name in imports(path)
        if room_of(name) is not None or ROS_MODULES.match(name.split('.')[0])
    ]
    assert not wrong, '\n'.join(wrong)


def test_nodes_hold_no_networks():
    wrong = [
        f'{path.relative_to(ROOT)}:{line}'
        for path in modules('nodes')
        for line, name in imports(path)
        if name.startswith(('torch.nn', 'scipy'))
    ]
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize(
    'path', [p for p in modules('nodes') if not p.stem.startswith('_')], ids=lambda path: path.stem
)
def test_every_executable_has_a_main_and_says_what_it_is_for(path):
    tree = ast.parse(path.read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert 'main' in functions, f'{path.name} has no main(); helpers start with an underscore'
    main = functions['main'].args
    assert len(main.defaults) == len(main.args), f'main() of {path.name} must work without arguments'
    assert ast.get_docstring(tree), f'{path.name} has no docstring, which --help shows'


@pytest.fixture(scope='module')
def setup_arguments():
    with patch('setuptools.setup') as setup, pytest.MonkeyPatch.context() as patcher:
        patcher.chdir(ROOT)
        runpy.run_path(str(ROOT / 'setup.py'))
    return setup.call_args.kwargs


def test_setup_installs_every_launch_and_configuration_file(setup_arguments):
    installed = {(folder, Path(file).name) for folder, files in setup_arguments['data_files'] for file in files}
    wanted = {
        (f'share/attn_robotics/{path.parent.relative_to(ROOT)}', path.name)
        for top in ('launch', 'config')
        for path in (ROOT / top).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    assert wanted <= installed, sorted(wanted - installed)
    assert ('share/ament_index/resource_index/packages', 'attn_robotics') in installed
    assert ('share/attn_robotics', 'package.xml') in installed


def test_setup_makes_an_executable_of_every_node(setup_arguments):
    scripts = dict(line.split(' = ') for line in setup_arguments['entry_points']['console_scripts'])
    nodes = {path.stem for path in modules('nodes') if not path.stem.startswith('_')}
    assert set(scripts) == nodes
    assert all(target == f'attn_robotics.executables:{name}' for name, target in scripts.items())


def test_setup_ships_every_package(setup_arguments):
    wanted = {
        '.'.join(path.parent.relative_to(ROOT).parts)
        for path in PACKAGE.rglob('__init__.py')
        if 'kernels' not in path.relative_to(PACKAGE).parts
    }
    assert wanted <= set(setup_arguments['packages'])


def calls(path: Path, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


@pytest.mark.parametrize('path', sorted((ROOT / 'launch').rglob('*.launch.py')), ids=lambda path: path.name)
def test_every_launch_argument_is_declared_and_described(path):
    launch = pytest.importorskip('launch', reason='neither the official launch nor the stand-in is importable')
    description = runpy.run_path(str(path))['generate_launch_description']()
    assert isinstance(description, launch.LaunchDescription)
    arguments = description.get_launch_arguments()
    assert [a.name for a in arguments if not a.description or a.description == 'no description given'] == []
    read = {
        call.args[0].value
        for call in calls(path, 'LaunchConfiguration')
        if call.args and isinstance(call.args[0], ast.Constant)
    }
    assert read <= {a.name for a in arguments}, f'not declared: {sorted(read - {a.name for a in arguments})}'


@pytest.mark.parametrize('path', sorted((ROOT / 'launch').rglob('*.launch.py')), ids=lambda path: path.name)
def test_launch_files_run_no_shell_commands(path):
    names = {name for _, name in imports(path)}
    assert not {name for name in names if name.endswith(('ExecuteProcess', 'ExecuteLocal')) or name == 'subprocess'}
