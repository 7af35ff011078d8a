"""What `simulator:=gazebo` adds to a launch: Gazebo Harmonic through ros_gz, and the bridge to ROS topics."""

from __future__ import annotations

import atexit
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch.actions import IncludeLaunchDescription, LogInfo, RegisterEventHandler
from launch.event_handlers import OnProcessIO
from launch.events.process import ProcessIO
from launch.launch_context import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from attn_robotics.simulation.sdf import bridge_config, to_sdf
from attn_robotics.simulation.world import World

# Gazebo only logs what it cannot load, and its server goes on without: robots that never move.
LOAD_FAILURE = re.compile(rb'Failed to load system plugin \[([^\]]+)\]')
GLOBAL_TOPICS = ('/clock', '/tf')  # never below a namespace


class GazeboError(RuntimeError):
    """Gazebo cannot be used; the message says what is missing and how to get it."""


def gazebo_actions(context: LaunchContext, world: World) -> list[Any]:
    """Everything that runs the launch's world in Gazebo.

    Writes world.sdf and bridge.yaml into `<out>/gazebo`, or without `out` into a folder that goes with this process.

    Args:
        context: of a launch that has the arguments of `sparc_sim.launch.py`.
        world: which all nodes of the launch read.

    Raises:
        GazeboError: Gazebo or ros_gz is missing.
    """

    def argument(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    share = check_installation()
    scan = argument('scan').lower() == 'true'
    out = argument('out')
    folder = Path(out).expanduser().absolute() / 'gazebo' if out else passing_folder()
    folder.mkdir(parents=True, exist_ok=True)
    sdf, bridge = folder / 'world.sdf', folder / 'bridge.yaml'
    sdf.write_text(to_sdf(world, scan=scan))
    bridge.write_text(below(argument('namespace'), bridge_config(world, scan=scan, contacts=has('ros_gz_interfaces'))))
    server_only = '-s ' if argument('headless').lower() == 'true' else ''
    return [
        LogInfo(msg=f'Gazebo runs {sdf}'),
        RegisterEventHandler(OnProcessIO(on_stdout=watch_log(), on_stderr=watch_log())),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(share / 'launch' / 'gz_sim.launch.py')),
            launch_arguments={
                'gz_args': f'-r {server_only}{shlex.quote(str(sdf))}',
                'on_exit_shutdown': 'true',
            }.items(),
        ),
        Node(
            package='ros_gz_bridge',
            executable='parameter_bridge',
            name='gazebo_bridge',
            output='screen',
            parameters=[{'config_file': str(bridge)}],
        ),
    ]


def passing_folder() -> Path:
    """A folder that is removed when this process, which outlives Gazebo, ends."""
    folder = tempfile.mkdtemp(prefix='attn_gazebo_')
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def has(package: str) -> bool:
    """Whether a ROS package is installed."""
    try:
        get_package_share_directory(package)
    except PackageNotFoundError:
        return False
    return True


def check_installation() -> Path:
    """Look for Gazebo and ros_gz; returns the share folder of ros_gz_sim.

    Raises:
        GazeboError: names what is missing and how to install it.
    """
    missing = [name for name in ('ros_gz_sim', 'ros_gz_bridge') if not has(name)]
    if shutil.which('gz') is None:
        missing.append('the gz command')
    if missing:
        raise GazeboError(
            f'simulator:=gazebo needs Gazebo Harmonic with ros_gz, but {", ".join(missing)} is not installed; '
            'type: sudo apt install ros-jazzy-ros-gz (or use simulator:=embedded)'
        )
    return Path(get_package_share_directory('ros_gz_sim'))


def below(namespace: str, config: str) -> str:
    """The bridge's configuration with ROS topics below a namespace; Gazebo's own topics stay."""
    prefix = f'/{namespace.strip("/")}' if namespace.strip('/') else ''
    entries = yaml.safe_load(config)
    for entry in entries:
        if entry['ros_topic_name'] not in GLOBAL_TOPICS:
            entry['ros_topic_name'] = prefix + entry['ros_topic_name']
    return str(yaml.safe_dump(entries, sort_keys=False))


def watch_log() -> Callable[[ProcessIO], None]:
    """A handler for process output that ends the launch when Gazebo cannot load a plugin."""
    tails: dict[str, bytes] = {}  # output comes in pieces that need not end with a line

    def watch(event: ProcessIO) -> None:
        text = tails.get(event.process_name, b'') + event.text
        if found := LOAD_FAILURE.search(text):
            plugin = found[1].decode(errors='replace')
            raise GazeboError(
                f'Gazebo cannot load {plugin}, without which robots do not move; is this Gazebo Harmonic with all its '
                'systems? type: sudo apt install --reinstall ros-jazzy-ros-gz'
            )
        tails[event.process_name] = text[-200:]

    return watch
