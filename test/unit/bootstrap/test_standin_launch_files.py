import subprocess
import sys

import pytest

HEAD = """
from launch import LaunchDescription
from launch.actions import *
from launch.conditions import IfCondition, UnlessCondition
from launch.event_handlers import *
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import *
from launch_ros.actions import *
from launch_ros.substitutions import FindPackageShare

def generate_launch_description():
    return LaunchDescription([
"""
TAIL = '\n    ])\n'


@pytest.fixture
def write(prefix):
    def write_file(text, name='main.launch.py'):
        path = prefix / 'share' / 'demo' / 'launch' / name
        path.write_text(HEAD + text + TAIL)
        return path

    return write_file


@pytest.fixture
def ros2(environment):
    def run(*words):
        command = [sys.executable, '-m', 'ros2cli_standin', *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    return run


ARGUMENTS = """
    DeclareLaunchArgument('robots', default_value='8', description='How many'),
    DeclareLaunchArgument('simulator', default_value=['em', LaunchConfiguration('x', default='b')],
        choices=['emb', 'gz']),
    LogInfo(msg=['robots=', LaunchConfiguration('robots')]),
"""


def test_show_args_lists_descriptions_defaults_and_choices_in_the_official_layout(ros2, write):
    write(ARGUMENTS)
    answer = ros2('launch', 'demo', 'main.launch.py', '--show-args')
    assert answer.returncode == 0
    assert answer.stdout == (
        "Arguments (pass arguments as '<name>:=<value>'):\n\n"
        "    'robots':\n        How many\n        (default: '8')\n\n"
        "    'simulator':\n        no description given. Valid choices are: ['emb', 'gz']\n"
        "        (default: 'em' + LaunchConfiguration('x'))\n"
    )


def test_arguments_reach_their_configurations_by_package_and_by_path(ros2, write):
    path = write(ARGUMENTS)
    assert 'robots=8\n' in ros2('launch', 'demo', 'main.launch.py').stdout
    answer = ros2('launch', str(path), 'robots:=3', 'extra:=1')
    assert 'robots=3\n' in answer.stdout
    assert "[WARNING] [launch]: the launch argument 'extra' is not declared by main.launch.py" in answer.stdout
    assert answer.returncode == 0


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['nothing', 'x.launch.py'], "package 'nothing' not found"),
        (['demo', 'x.launch.py'], "launch file 'x.launch.py' not found in package 'demo'"),
        (['demo'], "no launch file given for the package 'demo'"),
        (['x/y.launch.py'], "the launch file 'x/y.launch.py' does not exist"),
        (['demo', 'main.launch.py', 'robots=3'], "malformed launch argument 'robots=3', expected the form"),
        (['demo', 'main.launch.py', ':=3'], "malformed launch argument ':=3', expected the form"),
        (
            ['demo', 'main.launch.py', 'simulator:=ode'],
            "'simulator' has the value 'ode', valid choices are: ['emb', 'gz']",
        ),
        (['demo', 'needs.launch.py'], "required launch argument 'map' (description: 'the map') was not provided"),
        (['demo', 'raises.launch.py'], 'cannot load the launch file: ZeroDivisionError'),
        (['demo', 'syntax.launch.py'], 'line'),
        (
            ['demo', 'keyword.launch.py'],
            "Node's keyword argument sparkle is missing here: this is the attn_robotics stand-in",
        ),
        (['demo', 'action.launch.py'], 'launch.actions.ForEach is missing here'),
        (
            ['demo', 'executable.launch.py'],
            "executable 'absent' not found in package 'demo'; it has: fail, show, stubborn",
        ),
        (['demo', 'other.launch.xml'], "the launch file format of 'other.launch.xml' is missing here"),
    ],
)
def test_a_mistake_is_one_line_without_traceback(ros2, write, words, said):
    write(ARGUMENTS)
    write("DeclareLaunchArgument('map', description='the map'),", 'needs.launch.py')
    write('1 / 0', 'raises.launch.py')
    write('(', 'syntax.launch.py')
    write("Node(package='demo', executable='show', sparkle=True),", 'keyword.launch.py')
    write('__import__("launch").actions.ForEach([]),', 'action.launch.py')
    write("Node(package='demo', executable='absent'),", 'executable.launch.py')
    write('', 'other.launch.xml')
    answer = ros2('launch', *words)
    text = answer.stdout + answer.stderr
    assert answer.returncode == 1
    assert 'Traceback' not in text
    assert len([line for line in text.splitlines() if said in line]) == 1, text


def test_a_node_gets_name_namespace_parameters_and_remappings(ros2, write, tmp_path):
    extra = tmp_path / 'extra.yaml'
    extra.write_text('/**: {ros__parameters: {from_file: 1}}\n')
    write(f"""
    SetParameter('use_sim_time', True),
    GroupAction([
        PushRosNamespace('fleet'), SetRemap('odom', 'wheel_odom'),
        Node(package='demo', executable='show', name='one', namespace='r1', output='screen', arguments=['-v'],
             ros_arguments=['--log-level', 'warn'],
             parameters=[{{'robots': LaunchConfiguration('n', default='4')}}, {str(extra)!r}],
             remappings=[('scan', LaunchConfiguration('scan', default='laser'))]),
    ]),
    Node(package='demo', executable='show', exec_name='outside', output='screen', parameters=[{{'a': 1}}]),
    """)
    lines = ros2('launch', 'demo', 'main.launch.py').stdout.splitlines()
    first, second = (next(line for line in lines if line.startswith(f'[{name}] <')) for name in ('show-1', 'outside-2'))
    assert first.startswith('[show-1] <-v><--ros-args><--log-level><warn><-r><__node:=one><-r><__ns:=/fleet/r1>')
    assert first.endswith('<-r><odom:=wheel_odom><-r><scan:=laser>')
    assert '__ns' not in second and 'wheel_odom' not in second
    parameters = [line.removeprefix('[show-1] ') for line in lines if line.startswith('[show-1] ')]
    assert parameters[1:] == [
        '/**:',
        '  ros__parameters:',
        '    use_sim_time: true',
        '/fleet/r1/one:',
        '  ros__parameters:',
        '    robots: 4',
        '/**: {ros__parameters: {from_file: 1}}',
    ]


def test_an_included_file_gets_its_arguments_and_a_group_keeps_them_inside(ros2, write):
    write(
        """
    DeclareLaunchArgument('who', description='greeted'),
    LogInfo(msg=['hello ', LaunchConfiguration('who')]), LogInfo(msg=ThisLaunchFileDir()),
    """,
        'inner.launch.py',
    )
    inner = "[FindPackageShare('demo'), '/launch/inner.launch.py']"
    write(f"""
    GroupAction([IncludeLaunchDescription(PythonLaunchDescriptionSource({inner}),
                 launch_arguments={{'who': ['rob', 'ot']}}.items())]),
    LogInfo(msg=['after: ', LaunchConfiguration('who', default='nobody')]),
    GroupAction([SetLaunchConfiguration('a', '1'), SetEnvironmentVariable('STANDIN_E', '1')]),
    LogInfo(msg=['a=', LaunchConfiguration('a', default='0'), EnvironmentVariable('STANDIN_E', default_value='0')]),
    GroupAction([SetLaunchConfiguration('b', '1')], scoped=False),
    LogInfo(msg=['b=', LaunchConfiguration('b')]),
    OpaqueFunction(function=lambda context, word: [LogInfo(msg=word)], args=['made late']),
    IncludeLaunchDescription(PythonLaunchDescriptionSource({inner})),
    """)
    answer = ros2('launch', 'demo', 'main.launch.py')
    said = [line.partition('[launch.user]: ')[2] for line in answer.stdout.splitlines() if 'launch.user' in line]
    assert said[0] == 'hello robot'
    assert said[1].endswith('/share/demo/launch')
    assert said[2:] == ['after: nobody', 'a=00', 'b=1', 'made late']
    assert "required launch argument 'who'" in answer.stdout
    assert answer.returncode == 1


def test_help_says_that_this_is_a_stand_in(ros2):
    for words in ([], ['launch'], ['run'], ['pkg'], ['pkg', 'list']):
        text = ' '.join(ros2(*words, '--help').stdout.split())
        assert 'stand-in by attn_robotics' in text and 'ros-jazzy-ros-base' in text, words


def test_an_unknown_command_or_option_is_named(ros2):
    answer = ros2('doctor')
    assert answer.returncode == 2 and "'doctor' is missing here" in answer.stderr
    answer = ros2('pkg', 'list', '--sparkle')
    assert answer.returncode == 2 and '--sparkle' in answer.stderr and 'stand-in' in answer.stderr


def test_run_becomes_the_executable(ros2):
    assert ros2('run', 'demo', 'show', '--flag', 'x').stdout == '<--flag><x>\n'
    assert ros2('run', 'demo', 'fail').returncode == 7
    answer = ros2('run', 'demo', 'absent')
    assert answer.returncode == 1 and answer.stderr.count('\n') == 1 and 'fail, show, stubborn' in answer.stderr


def test_packages_are_found_through_the_index(ros2, prefix):
    assert ros2('pkg', 'list').stdout == 'demo\n'
    assert ros2('pkg', 'prefix', 'demo').stdout == f'{prefix}\n'
    assert ros2('pkg', 'executables', 'demo').stdout.split() == ['fail', 'show', 'stubborn']
    assert "package 'nothing' not found" in ros2('pkg', 'prefix', 'nothing').stderr
