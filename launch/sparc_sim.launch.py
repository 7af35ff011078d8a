"""A fleet of simulated robots drives to its goals, each guided by the attentive communication policy.

ros2 launch attn_robotics sparc_sim.launch.py robots:=32 density:=0.3 seed:=7
"""

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    GroupAction,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PythonExpression
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

# name, default, description, type as the nodes know it (None: for this file only)
ARGUMENTS = (
    ('robots', '8', 'number of robots', int),
    ('size', '0', 'side of the random map [cells]; 0 takes the world description', int),
    ('density', '-1.0', 'share of obstacles on the random map; below 0 takes the world description', float),
    ('seed', '-1', 'seed of map, starts and goals; below 0 takes the world description', int),
    ('world', 'worlds/random.yaml', 'world description: a path, or a name below config/', str),
    ('map', '', 'nav2 map_server YAML or MovingAI .map to drive on instead', str),
    ('simulator', 'embedded', 'embedded (MuJoCo) or gazebo (Gazebo Harmonic through ros_gz)', None),
    ('planner', 'fleet', 'fleet: one node decides for all; robots: one process a robot, messages over topics', None),
    ('headless', 'false', 'no window; without a display there is none anyway', bool),
    ('body', 'wheeled', 'embedded simulator: wheeled robots with floor contact, or quicker discs', str),
    (
        'real_time_factor',
        '1.0',
        'embedded simulator: simulated seconds a second at most; 0 is as fast as it goes',
        float,
    ),
    ('scan', 'false', 'publish a lidar for every robot', bool),
    ('odometry_noise', '0.0', 'embedded simulator: standard deviation of reported positions [m]', float),
    ('stop_robot', '', 'embedded simulator: a robot whose wheels stop for a while, such as robot_3', str),
    ('drop_robot', '', 'embedded simulator: a robot that drops out for ever', str),
    ('message_loss', '0.0', 'planner:=robots: share of messages between robots that get lost', float),
    ('lifelong', 'false', 'new goals for ever; end with Ctrl-C or timeout_s', bool),
    ('timeout_s', '900.0', 'give up after this time [simulated s]', float),
    ('exit_when_done', 'true', 'end everything when the mission is over', bool),
    ('out', '', 'folder for summary.json, run.png and run.gif; empty writes nothing', str),
    ('weights', '', 'policy weights (.safetensors); empty takes those that ship', str),
    ('device', 'cpu', 'where the network runs: cpu or cuda', str),
    ('backend', 'torch', 'what runs the network: torch or onnxruntime', str),
    ('namespace', '', 'namespace of everything but /clock, /tf and /tf_static', None),
    ('use_sim_time', 'true', 'follow /clock', bool),
    ('params_file', '', 'YAML with parameters that win over all of these', None),
    ('autostart', 'true', 'nodes configure and activate themselves', bool),
    ('log_level', 'info', 'debug, info, warn or error', None),
)
KIND = {name: kind for name, _, _, kind in ARGUMENTS}
WORLD = ('world', 'robots', 'size', 'density', 'seed', 'map')


def parameters(*names: str) -> dict[str, ParameterValue]:
    """Node parameters from launch arguments of the same name."""
    return {name: ParameterValue(LaunchConfiguration(name), value_type=KIND[name]) for name in names}


def node(executable: str, *names: str, use_sim_time: bool = True, **options) -> Node:
    """One of our nodes with the arguments it takes."""
    values = parameters(*names, 'autostart', *(['use_sim_time'] if use_sim_time else []))
    return Node(
        package='attn_robotics',
        executable=executable,
        output='screen',
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        **{'parameters': [values, *options.pop('extra', [])], **options},
    )


def is_choice(name: str, value: str) -> IfCondition:
    """Whether an argument has a value."""
    return IfCondition(PythonExpression(["'", LaunchConfiguration(name), f"' == '{value}'"]))


def from_file(context) -> list:
    """The user's parameter file, when there is one."""
    path = LaunchConfiguration('params_file').perform(context)
    return [path] if path else []


def check(context) -> None:
    """Refuse arguments of the wrong type by name, before anything starts."""
    for name, kind in KIND.items():
        value = LaunchConfiguration(name).perform(context)
        try:
            good = value.lower() in ('true', 'false') if kind is bool else kind is None or kind(value) is not None
        except ValueError:
            good = False
        if not good:
            words = {bool: 'true or false', int: 'a whole number', float: 'a number'}[kind]
            raise RuntimeError(f'launch argument {name} must be {words}, got {value!r}')


def everything(context) -> list:
    """Build the nodes; here, since their number depends on the arguments."""
    check(context)
    extra = from_file(context)
    simulator = LaunchConfiguration('simulator').perform(context)
    nodes: list = []
    if simulator == 'gazebo':
        from attn_robotics.ros.gazebo import gazebo_actions

        nodes += gazebo_actions(context)
    else:
        nodes.append(
            node(
                'embedded_simulator',
                *WORLD,
                *('body', 'real_time_factor', 'headless', 'scan', 'odometry_noise', 'stop_robot', 'drop_robot'),
                use_sim_time=False,
                extra=extra,
            )
        )
    planning = ('weights', 'device', 'backend')
    if LaunchConfiguration('planner').perform(context) == 'robots':
        for index in range(int(LaunchConfiguration('robots').perform(context))):
            own = {'robot': f'robot_{index}'}
            nodes.append(
                node(
                    'sparc_robot',
                    'robots',
                    'message_loss',
                    *planning,
                    extra=[own, *extra],
                    name=f'sparc_{index}',
                )
            )
    else:
        nodes.append(node('sparc_fleet', 'robots', *planning, extra=extra))
    mission = node('mission', *WORLD, 'lifelong', 'timeout_s', 'exit_when_done', 'out', extra=extra)
    nodes.append(mission)
    over = RegisterEventHandler(
        OnProcessExit(target_action=mission, on_exit=[EmitEvent(event=Shutdown(reason='the mission is over'))])
    )
    return [GroupAction([PushRosNamespace(LaunchConfiguration('namespace')), *nodes]), over]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, stay on this machine unless told otherwise, start everything."""
    choices = {'simulator': ['embedded', 'gazebo'], 'planner': ['fleet', 'robots'], 'body': ['wheeled', 'disc']}
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(
                    name,
                    default_value=default,
                    description=text,
                    **({'choices': choices[name]} if name in choices else {}),
                )
                for name, default, text, _ in ARGUMENTS
            ),
            SetEnvironmentVariable(
                'ROS_AUTOMATIC_DISCOVERY_RANGE',
                EnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', default_value='LOCALHOST'),
            ),
            OpaqueFunction(function=everything),
        ]
    )
