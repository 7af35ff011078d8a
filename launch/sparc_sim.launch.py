"""A fleet of simulated robots drives to its goals, each guided by the attentive communication policy.

ros2 launch attn_robotics sparc_sim.launch.py robots:=32 density:=0.3 seed:=7
"""

from launch.actions import EmitEvent, LogInfo, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown

from attn_robotics.nodes._world import WorldParams
from attn_robotics.ros.launching import Arguments, in_namespace
from launch import LaunchDescription

ARGUMENTS = Arguments(
    (
        ('robots', '0', 'number of robots; 0 takes the world description', int),
        ('size', '0', 'side of the random map [cells]; 0 takes the world description', int),
        ('density', '-1.0', 'share of obstacles on the random map; below 0 takes the world description', float),
        ('seed', '-1', 'seed of map, starts and goals; below 0 takes the world description', int),
        ('world', 'worlds/random.yaml', 'world description: a path, or a name below config/', str),
        ('map', '', 'nav2 map_server YAML or MovingAI .map to drive on instead', str),
        ('simulator', 'embedded', 'embedded (MuJoCo) or gazebo (Gazebo Harmonic through ros_gz)', None),
        (
            'planner',
            'fleet',
            'fleet: one node decides for all; robots: one process a robot, messages over topics',
            None,
        ),
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
        ('backend', 'auto', 'what runs the network: torch, onnxruntime, or auto for the faster one', str),
        ('use_sim_time', 'true', 'follow /clock', bool),
    ),
    choices={'simulator': ['embedded', 'gazebo'], 'planner': ['fleet', 'robots'], 'body': ['wheeled', 'disc']},
)
WORLD = ('world', 'size', 'density', 'seed', 'map')  # and robots, whose number everybody must know
LIMITS = ('max_speed', 'max_acceleration', 'max_turn_rate', 'max_turn_acceleration')


def when_mission_ends(event, context) -> list:
    """End everything with the mission, unless somebody killed it: robots don't need it to drive."""
    if event.returncode in (0, 1):
        return [EmitEvent(event=Shutdown(reason='the mission is over'))]
    return [LogInfo(msg=f'mission was lost (exit code {event.returncode}); the others go on, end them with Ctrl-C')]


def everything(context) -> list:
    """Build the nodes; here, since their number depends on the world."""
    world = WorldParams(
        **ARGUMENTS.values(context, *WORLD, 'robots')
    ).load()  # a bad one ends it before anything starts
    robots = {'robots': world.robots}
    simulator = ARGUMENTS.text(context, 'simulator')
    nodes: list = []
    if simulator == 'gazebo':
        from attn_robotics.ros.gazebo import gazebo_actions

        nodes += gazebo_actions(context, world)
    else:
        noise = {f'odometry_noise_{unit}': ARGUMENTS.parameter('odometry_noise') for unit in ('m', 'rad')}
        faults = ('stops', 'drop_outs')
        own = ('body', 'real_time_factor', 'headless', 'scan', *faults)
        nodes.append(ARGUMENTS.node(context, 'embedded_simulator', *WORLD, *own, more=[robots, noise]))
    planning = ('weights', 'device', 'backend', 'use_sim_time')
    limits = {name: float(getattr(world.robot, name)) for name in LIMITS}
    limits['robot_radius'] = float(world.robot.radius)
    if ARGUMENTS.text(context, 'planner') == 'robots':
        radio = {
            'message_loss': ARGUMENTS.parameter('message_loss'),
            'message_delay_s': ARGUMENTS.parameter('message_delay'),
        }
        for index, name in enumerate(world.names):
            more = [{'robot': name}, robots, limits, radio]
            nodes.append(ARGUMENTS.node(context, 'sparc_robot', *planning, more=more, name=f'sparc_{index}'))
    else:
        nodes.append(ARGUMENTS.node(context, 'sparc_fleet', *planning, more=[robots, limits]))
    contacts = {'contacts_from': 'gazebo' if simulator == 'gazebo' else 'simulator'}
    own = ('lifelong', 'timeout_s', 'exit_when_done', 'out', 'use_sim_time')
    mission = ARGUMENTS.node(context, 'mission', *WORLD, *own, more=[robots, contacts])
    nodes.append(mission)
    over = RegisterEventHandler(OnProcessExit(target_action=mission, on_exit=when_mission_ends))
    return [in_namespace(*nodes), over]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, stay on this machine unless told otherwise, start everything."""
    return ARGUMENTS.description(everything)
