"""A fleet of simulated robots drives to its goals, each guided by the attentive communication policy.

ros2 launch attn_robotics sparc_sim.launch.py robots:=32 density:=0.3 seed:=7
"""

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    GroupAction,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.parameter_descriptions import ParameterValue

from attn_robotics.nodes._world import WorldParams
from attn_robotics.simulation.world import World
from launch import LaunchDescription

# name, default, description, type as the nodes know it (None: for this file only)
ARGUMENTS = (
    ('robots', '0', 'number of robots; 0 takes the world description', int),
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
    ('stops', '', 'embedded simulator: robots whose wheels fail, such as 3@10+5 (robot@seconds+duration)', str),
    ('drop_outs', '', 'embedded simulator: robots that fall silent for ever, such as 3@10, robot_7@20', str),
    ('odometry_noise', '0.0', 'embedded simulator: standard deviation of poses [m, and rad of heading]', float),
    ('message_loss', '0.0', 'planner:=robots: share of messages between robots that get lost', float),
    ('message_delay', '0.0', 'planner:=robots: how late messages between robots come [s]', float),
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
WORLD = ('world', 'size', 'density', 'seed', 'map')  # and robots, whose number everybody must know
LIMITS = ('max_speed', 'max_acceleration', 'max_turn_rate', 'max_turn_acceleration')


def parameter(name: str) -> ParameterValue:
    """A node parameter from the launch argument of a name."""
    return ParameterValue(LaunchConfiguration(name), value_type=KIND[name])


def parameters(*names: str) -> dict[str, ParameterValue]:
    """Node parameters from launch arguments of the same name."""
    return {name: parameter(name) for name in names}


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


def from_file(context) -> list:
    """The user's parameter file, when there is one."""
    path = LaunchConfiguration('params_file').perform(context)
    return [path] if path else []


def check(context) -> World:
    """Refuse arguments of the wrong type by name, and bad worlds, before anything starts; returns the world."""
    for name, kind in KIND.items():
        value = LaunchConfiguration(name).perform(context)
        try:
            good = value.lower() in ('true', 'false') if kind is bool else kind is None or kind(value) is not None
        except ValueError:
            good = False
        if not good:
            words = {bool: 'true or false', int: 'a whole number', float: 'a number'}[kind]
            raise RuntimeError(f'launch argument {name} must be {words}, got {value!r}')

    values = {name: LaunchConfiguration(name).perform(context) for name in (*WORLD, 'robots')}
    return WorldParams(**{name: KIND[name](value) for name, value in values.items()}).load()


def when_mission_ends(event, context) -> list:
    """End everything with the mission, unless somebody killed it: robots don't need it to drive."""
    if event.returncode in (0, 1):
        return [EmitEvent(event=Shutdown(reason='the mission is over'))]
    return [LogInfo(msg=f'mission was lost (exit code {event.returncode}); the others go on, end them with Ctrl-C')]


def everything(context) -> list:
    """Build the nodes; here, since their number depends on the world."""
    world = check(context)
    robots = {'robots': world.robots}
    extra = from_file(context)
    simulator = LaunchConfiguration('simulator').perform(context)
    nodes: list = []
    if simulator == 'gazebo':
        from attn_robotics.ros.gazebo import gazebo_actions

        nodes += gazebo_actions(context, world)
    else:
        noise = {f'odometry_noise_{unit}': parameter('odometry_noise') for unit in ('m', 'rad')}
        nodes.append(
            node(
                'embedded_simulator',
                *WORLD,
                *('body', 'real_time_factor', 'headless', 'scan', 'stops', 'drop_outs'),
                use_sim_time=False,
                extra=[robots, noise, *extra],
            )
        )
    planning = ('weights', 'device', 'backend')
    limits = {name: float(getattr(world.robot, name)) for name in LIMITS}
    limits['robot_radius'] = float(world.robot.radius)
    if LaunchConfiguration('planner').perform(context) == 'robots':
        radio = {'message_loss': parameter('message_loss'), 'message_delay_s': parameter('message_delay')}
        for index, name in enumerate(world.names):
            nodes.append(
                node(
                    'sparc_robot',
                    *planning,
                    extra=[{'robot': name}, robots, limits, radio, *extra],
                    name=f'sparc_{index}',
                )
            )
    else:
        nodes.append(node('sparc_fleet', *planning, extra=[robots, limits, *extra]))
    contacts = {'contacts_from': 'gazebo' if simulator == 'gazebo' else 'simulator'}
    mission = node(
        'mission', *WORLD, 'lifelong', 'timeout_s', 'exit_when_done', 'out', extra=[robots, contacts, *extra]
    )
    nodes.append(mission)
    over = RegisterEventHandler(OnProcessExit(target_action=mission, on_exit=when_mission_ends))
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
