"""The Gazebo part of the launch, with a made-up ros_gz in an ament prefix of its own."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from launch.actions import IncludeLaunchDescription, LogInfo, RegisterEventHandler
from launch_ros.actions import Node

from attn_robotics.nodes._world import WorldParams
from attn_robotics.ros import gazebo
from attn_robotics.ros.gazebo import GazeboError, gazebo_actions, watch_log
from attn_robotics.simulation.sdf import to_sdf
from launch import LaunchContext

pytestmark = pytest.mark.ros

ROOT = Path(__file__).parents[3]

GZ_SIM = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration


def generate_launch_description():
    return LaunchDescription([
        DeclareLaunchArgument('gz_args', default_value='', description='arguments of gz sim'),
        DeclareLaunchArgument('on_exit_shutdown', default_value='false', description='end with the server'),
        ExecuteProcess(cmd=['gz sim', LaunchConfiguration('gz_args')], shell=True, output='screen'),
    ])
"""
GZ = """#!/bin/sh
echo "gz was started with: $*"
while [ ! -e "$BRIDGE_READY" ]; do sleep 0.05; done
echo "$GZ_SAYS" >&2
exec sleep 60
"""
BRIDGE = """#!/bin/sh
for argument; do case "$argument" in *.yaml) cat "$argument";; esac; done
touch "$BRIDGE_READY"
exec sleep 60
"""


@pytest.fixture
def prefix(tmp_path, monkeypatch):
    """An ament prefix with ros_gz_sim and ros_gz_bridge, and a gz on the path."""
    root = tmp_path / 'prefix'
    index = root / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    for package in ('ros_gz_sim', 'ros_gz_bridge'):
        (index / package).touch()
        (root / 'share' / package / 'launch').mkdir(parents=True)
    (root / 'share' / 'ros_gz_sim' / 'launch' / 'gz_sim.launch.py').write_text(GZ_SIM)
    for path, text in ((root / 'bin' / 'gz', GZ), (root / 'lib' / 'ros_gz_bridge' / 'parameter_bridge', BRIDGE)):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv('AMENT_PREFIX_PATH', os.pathsep.join([str(root), os.environ.get('AMENT_PREFIX_PATH', '')]))
    monkeypatch.setenv('PATH', os.pathsep.join([str(root / 'bin'), os.environ['PATH']]))
    return root


WORLD = WorldParams(robots=3, size=8, density=0.1, seed=4).load()


def context(**changes):
    """A launch context with the arguments of sparc_sim.launch.py."""
    defaults = {
        'scan': 'false', 'headless': 'true', 'out': '', 'namespace': '',
    }  # fmt: skip
    made = LaunchContext()
    made.launch_configurations.update(defaults | changes)
    return made


def test_it_writes_world_and_bridge_where_the_results_go(prefix, tmp_path):
    actions = gazebo_actions(context(out=str(tmp_path / 'out')), WORLD)
    assert [type(a) for a in actions] == [LogInfo, RegisterEventHandler, IncludeLaunchDescription, Node]
    sdf = (tmp_path / 'out' / 'gazebo' / 'world.sdf').read_text()
    assert sdf.count('<model name="robot_') == 3 and 'version="1.9"' in sdf
    entries = yaml.safe_load((tmp_path / 'out' / 'gazebo' / 'bridge.yaml').read_text())
    topics = {entry['ros_topic_name']: entry for entry in entries}
    assert {'/clock', '/tf', '/robot_0/cmd_vel', '/robot_2/odom'} <= set(topics)
    assert topics['/robot_0/cmd_vel']['direction'] == 'ROS_TO_GZ'
    assert not [topic for topic in topics if topic.endswith(('/scan', '/contacts'))]  # no ros_gz_interfaces here


def test_it_is_the_world_that_the_nodes_read(prefix, tmp_path):
    gazebo_actions(context(out=str(tmp_path)), WORLD)
    assert (tmp_path / 'gazebo' / 'world.sdf').read_text() == to_sdf(WORLD)


def test_without_a_result_folder_nothing_stays_behind(prefix):
    code = (
        'from launch import LaunchContext\n'
        'from attn_robotics.nodes._world import WorldParams\n'
        'from attn_robotics.ros.gazebo import gazebo_actions\n'
        'context = LaunchContext()\n'
        f'context.launch_configurations.update({dict(context().launch_configurations)!r})\n'
        'print(gazebo_actions(context, WorldParams(robots=1).load())[0].msg[0].text)\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.split('Gazebo runs ')[1].strip()).parent
    assert folder.name.startswith('attn_gazebo_') and not folder.exists()


@pytest.mark.parametrize(('headless', 'arguments'), [('true', ['-r', '-s']), ('false', ['-r'])])
def test_the_server_gets_the_world_also_from_a_folder_with_spaces(prefix, tmp_path, headless, arguments):
    out = tmp_path / 'my results'
    include = gazebo_actions(context(out=str(out), headless=headless), WORLD)[2]
    given = {str(key): str(value) for key, value in include.launch_arguments}
    assert shlex.split(given['gz_args']) == [*arguments, str(out / 'gazebo' / 'world.sdf')]


def test_a_namespace_moves_robot_topics_only(prefix, tmp_path):
    gazebo_actions(context(out=str(tmp_path), namespace='/hall'), WORLD)
    entries = yaml.safe_load((tmp_path / 'gazebo' / 'bridge.yaml').read_text())
    pairs = {entry['ros_topic_name']: entry['gz_topic_name'] for entry in entries}
    assert pairs['/hall/robot_1/odom'] == '/robot_1/odom' and pairs['/clock'] == '/clock' and '/tf' in pairs


@pytest.mark.parametrize('missing', ['ros_gz_sim', 'ros_gz_bridge', 'gz'])
def test_what_is_missing_is_named_with_the_command_that_installs_it(prefix, monkeypatch, missing):
    if missing == 'gz':
        monkeypatch.setattr(gazebo.shutil, 'which', lambda name: None)
    else:
        (prefix / 'share' / 'ament_index' / 'resource_index' / 'packages' / missing).unlink()
    with pytest.raises(GazeboError, match='sudo apt install ros-jazzy-ros-gz') as caught:
        gazebo_actions(context(), WORLD)
    named = str(caught.value).split('but ')[1].split(' is not installed')[0]
    assert named == ('the gz command' if missing == 'gz' else missing)


def said(text, name='gz-1'):
    return SimpleNamespace(process_name=name, text=text)


def test_a_plugin_that_is_missing_is_found_in_the_log_also_across_pieces():
    watch = watch_log()
    watch(said(b'[Msg] Loading world\n'))
    watch(said(b'[Err] [SystemLoader.cc:92] Failed to load system pl'))
    watch(said(b'ugin [other] from elsewhere\n', 'bridge-2'))
    with pytest.raises(GazeboError, match='cannot load gz-sim-diff-drive-system, without which'):
        watch(said(b'ugin [gz-sim-diff-drive-system] : Could not find shared library.\n'))


LAUNCH = """
import sys
sys.path[:0] = {paths!r}
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from attn_robotics.nodes._world import WorldParams
from attn_robotics.ros.gazebo import gazebo_actions

NAMES = dict(scan='false', headless='true', out={out!r}, namespace='')
WORLD = WorldParams(robots=2, size=6, density=0.0, seed=1).load()


def generate_launch_description():
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=value, description=name) for name, value in NAMES.items()),
        OpaqueFunction(function=gazebo_actions, args=[WORLD]),
    ])
"""


def run_launch(tmp_path, gz_says):
    path = tmp_path / 'only_gazebo.launch.py'
    path.write_text(LAUNCH.format(paths=[str(ROOT)], out=str(tmp_path / 'out')))
    environment = os.environ | {'GZ_SAYS': gz_says, 'BRIDGE_READY': str(tmp_path / 'ready')}
    command = ['ros2', 'launch', str(path)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_launch_ends_with_a_reason_when_gazebo_lacks_a_plugin(prefix, tmp_path):
    says = '[Err] [SystemLoader.cc:92] Failed to load system plugin [gz-sim-diff-drive-system] : not found'
    with run_launch(tmp_path, says) as process:
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 1, text
    assert 'Gazebo cannot load gz-sim-diff-drive-system' in text and 'Traceback' not in text
    assert f'gz was started with: sim -r -s {tmp_path}/out/gazebo/world.sdf' in text
    assert f'config_file: {tmp_path}/out/gazebo/bridge.yaml' in text


def test_the_main_launch_stops_with_one_line_where_gazebo_is_not_installed(launch_main):
    text, code = launch_main('simulator:=gazebo')
    assert code == 1 and 'sudo apt install ros-jazzy-ros-gz' in text
    assert 'Traceback' not in text and 'process started' not in text


@pytest.fixture
def launch_main():
    if gazebo.has('ros_gz_sim'):
        pytest.skip('Gazebo is installed here')

    def run(*arguments):
        command = ['ros2', 'launch', str(ROOT / 'launch' / 'sparc_sim.launch.py'), *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        return done.stdout, done.returncode

    return run
