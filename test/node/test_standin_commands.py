"""The stand-in's `ros2` commands against a real node, over real middleware, on the loopback interface."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

# One worker: what the commands say is asked once for all tests.
pytestmark = [pytest.mark.ros, pytest.mark.xdist_group('standin')]
pytest.importorskip('rclpy')

STANDIN = Path(__file__).parents[2] / 'bootstrap' / 'standin'
LIMIT_S = 60

TALKER = """
import rclpy
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from geometry_msgs.msg import PoseStamped
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import SetBool

rclpy.init()
node = LifecycleNode('talker', namespace='/ns')
limits = FloatingPointRange(from_value=0.0, to_value=2.0)
node.declare_parameter('gain', 1.5, ParameterDescriptor(description='How loud.', floating_point_range=[limits]))
node.declare_parameter('map.name', 'rooms')
node.declare_parameter('map.size', [20, 30])
# Plain publishers talk in every state of the life cycle.
create = super(LifecycleNode, node).create_publisher
latched = create(String, 'latched', QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
latched.publish(String(data='once'))
counter = create(String, 'counter', 10)
array = create(Float64MultiArray, 'array', qos_profile_sensor_data)
pose = create(PoseStamped, 'pose', 10)
count = 0

def tick():
    global count
    count += 1
    counter.publish(String(data=f'number {count}'))
    array.publish(Float64MultiArray(data=[float(i) for i in range(200)]))
    pose.publish(PoseStamped())

def answer(request, response):
    response.success, response.message = request.data, 'heard'
    return response

node.create_timer(0.02, tick)
node.create_service(SetBool, 'switch', answer)
print('ready', flush=True)
rclpy.spin(node)
"""


@pytest.fixture(scope='module')
def environment(fresh_domain):
    return os.environ | {
        'ROS_DOMAIN_ID': str(fresh_domain),
        'PYTHONPATH': str(STANDIN),
        'AMENT_PREFIX_PATH': os.environ.get('AMENT_PREFIX_PATH') or sys.prefix,
    }


@pytest.fixture(scope='module')
def talker(environment):
    command = [sys.executable, '-c', TALKER]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline() == b'ready\n'
        yield process
        process.kill()


@pytest.fixture(scope='module')
def start(environment):
    """Start a `ros2` command."""

    def start_command(*words):
        command = [sys.executable, '-m', 'ros2cli_standin', *words]
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return start_command


@pytest.fixture(scope='module')
def answers(talker, start):
    """What commands say that change nothing, by command line; they run side by side."""
    commands = [
        'topic list -t',
        'topic info /ns/array --verbose',
        'topic type /ns/counter',
        'topic echo /ns/counter --once',
        'topic echo /ns/latched --once',
        'topic echo ns/array --once --no-arr',
        'topic echo ns/array --once --field data --flow-style -l 2',
        'topic echo ns/pose --once --field pose.orientation.w',
        'topic echo ns/pose --once --field pose.nothing',
        'topic echo /nothing --once',
        'node list',
        'node info /ns/talker',
        'node info /nobody',
        'service list -t',
        'param list /ns/talker',
        'param get /ns/talker map.size',
        'param get /ns/talker nothing',
        'param describe /ns/talker gain',
        'param dump /ns/talker',
        'lifecycle nodes',
        'lifecycle get',
    ]
    found = {}
    for first in range(0, len(commands), 11):
        running = {line: start(*line.split()) for line in commands[first : first + 11]}
        for line, process in running.items():
            found[line] = (process.communicate(timeout=LIMIT_S)[0], process.returncode)
    return found


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('topic type /ns/counter', 'std_msgs/msg/String\n'),
        ('topic echo /ns/latched --once', 'data: once\n---\n'),
        ('topic echo ns/array --once --field data --flow-style -l 2', "[0.0, 1.0, '...']\n---\n"),
        ('topic echo ns/pose --once --field pose.orientation.w', '1.0\n---\n'),
        ('node list', '/ns/talker\n'),
        ('param get /ns/talker map.size', 'Integer values are: [20, 30]\n'),
        ('lifecycle nodes', '/ns/talker\n'),
        ('lifecycle get', '/ns/talker: unconfigured [1]\n'),
    ],
)
def test_a_command_says_exactly(answers, line, expected):
    assert answers[line] == (expected, 0)


@pytest.mark.parametrize(
    ('line', 'parts'),
    [
        ('topic list -t', ['/ns/counter [std_msgs/msg/String]\n', '/ns/array [std_msgs/msg/Float64MultiArray]\n']),
        ('topic info /ns/array --verbose', ['Publisher count: 1\n', 'Node name: talker', 'BEST_EFFORT', 'RIHS01_']),
        ('topic echo /ns/counter --once', ['data: number ']),
        ('topic echo ns/array --once --no-arr', ["data: '<sequence type: double, length: 200>'\n"]),
        ('node info /ns/talker', ['  Service Servers:\n', '    /ns/switch: std_srvs/srv/SetBool\n']),
        ('service list -t', ['/ns/switch [std_srvs/srv/SetBool]\n']),
        ('param list /ns/talker', ['  gain\n  map.name\n  map.size\n']),
        ('param describe /ns/talker gain', ['Type: double', 'Description: How loud.', 'Max value: 2.0']),
    ],
)
def test_a_command_says_among_other_things(answers, line, parts):
    text, code = answers[line]
    assert code == 0
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ('line', 'said'),
    [
        ('topic echo ns/pose --once --field pose.nothing', "no field 'pose.nothing'"),
        ('topic echo /nothing --once', "topic '/nothing' is not published"),
        ('node info /nobody', "node '/nobody' not found; there are: /ns/talker"),
        ('param get /ns/talker nothing', "'nothing' of '/ns/talker' is not set"),
    ],
)
def test_what_is_not_there_is_one_line(answers, line, said):
    text, code = answers[line]
    assert code == 1 and text.count('\n') == 1 and said in text


def test_dumped_parameters_are_a_parameter_file(answers):
    parameters = yaml.safe_load(answers['param dump /ns/talker'][0])['/ns/talker']['ros__parameters']
    assert parameters['map'] == {'name': 'rooms', 'size': [20, 30]}
    assert parameters['gain'] == 1.5


def run_all(start, *lines):
    """What commands say side by side, and their exit codes."""
    running = [start(*line) for line in lines]
    return [(process.communicate(timeout=LIMIT_S)[0], process.returncode) for process in running]


def test_parameters_states_and_services_can_be_changed(answers, start):
    # After `answers`, which reads the state before.
    good, bad, states, service, unknown = run_all(
        start,
        ('param', 'set', '/ns/talker', 'map.name', 'halls'),
        ('param', 'set', '/ns/talker', 'gain', '3.0'),
        ('lifecycle', 'set', '/ns/talker', 'configure'),
        ('service', 'call', '/ns/switch', 'std_srvs/srv/SetBool', '{data: true}'),
        ('service', 'call', '/ns/switch', 'std_srvs/srv/SetBool', '{date: true}'),
    )
    assert good == ('Set parameter successful\n', 0)
    assert bad[1] == 1 and 'refused gain=3.0' in bad[0]
    assert states == ('Transitioning successful\n', 0)
    assert "response:\nstd_srvs.srv.SetBool_Response(success=True, message='heard')" in service[0]
    assert unknown == ("ros2 service: SetBool_Request has no field 'date'; it has: data\n", 1)
    name, again = run_all(
        start,
        ('param', 'get', '/ns/talker', 'map.name', '--hide-type'),
        ('lifecycle', 'set', '/ns/talker', 'configure'),
    )
    assert name == ('halls\n', 0)
    assert again[1] == 1 and 'it can: cleanup [2], activate [3], shutdown [' in again[0]


def lines_until(process, wanted):
    """The lines of a process until one holds `wanted`."""
    found = []
    for line in process.stdout:
        found.append(line)
        if wanted in line:
            return found
    raise AssertionError(f'{wanted!r} never came: {found}')


def test_published_messages_are_echoed_with_every_field(start):
    values = '{header: {stamp: {sec: 3}, frame_id: 7}, pose: {position: {x: 1}, orientation: {w: 0.5}}}'
    pub = start('topic', 'pub', '/sent', 'geometry_msgs/msg/PoseStamped', values, '-r', '20')
    try:
        text, code = start('topic', 'echo', '/sent', '--once').communicate(timeout=LIMIT_S)[0], 0
    finally:
        pub.send_signal(signal.SIGINT)
        pub.communicate(timeout=LIMIT_S)
    message = yaml.safe_load(text.removesuffix('---\n'))
    assert code == 0
    assert message['header'] == {'stamp': {'sec': 3, 'nanosec': 0}, 'frame_id': '7'}
    assert message['pose']['position'] == {'x': 1.0, 'y': 0.0, 'z': 0.0}
    assert message['pose']['orientation']['w'] == 0.5


@pytest.mark.parametrize(
    ('kind', 'values', 'said'),
    [
        ('std_msgs/msg/Header', '{stamp: {sec: -2147483649}}', "'stamp.sec' is a int32"),
        ('std_msgs/msg/Header', '{stamp: 3}', "'stamp' is a builtin_interfaces/Time: it wants a mapping"),
        ('std_msgs/msg/UInt8MultiArray', '{data: [256]}', "'data' is a sequence<uint8>"),
        ('std_msgs/msg/String', '[1]', 'is no YAML mapping'),
        ('std_msgs/msg/Nothing', '', "'std_msgs/msg/Nothing' is not installed"),
    ],
)
def test_values_that_do_not_fit_are_one_line(start, kind, values, said):
    process = start('topic', 'pub', '--once', '/x', kind, values)
    text = process.communicate(timeout=LIMIT_S)[0]
    assert process.returncode == 1 and text.count('\n') == 1 and said in text, text


def test_rates_are_measured(talker, start):
    process = start('topic', 'hz', '/ns/counter', '-w', '50')
    lines = lines_until(process, 'window: ')
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert float(lines[0].removeprefix('average rate: ')) > 0
    assert 'std dev' in lines[1]


def test_recorded_topics_come_back_from_the_bag(talker, start, tmp_path):
    from mcap.reader import make_reader
    from rclpy.serialization import deserialize_message
    from std_msgs.msg import String

    bag = tmp_path / 'bag'
    recorder = start('bag', 'record', '--all', '-o', str(bag), '--exclude-topics', '/rosout', '/parameter_events')
    try:
        lines_until(recorder, "'/ns/pose'")
        # A topic that appears while recording is recorded too.
        words = ('-w', '1', '--times', '5', '--rate', '50')
        ((text, code),) = run_all(start, ('topic', 'pub', '/late', 'std_msgs/msg/String', '{data: x}', *words))
        assert code == 0 and 'publishing #5: ' in text
    finally:
        recorder.send_signal(signal.SIGTERM)
        recorder.communicate(timeout=LIMIT_S)
    assert recorder.returncode == 0
    metadata = yaml.safe_load((bag / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    counts = {each['topic_metadata']['name']: each['message_count'] for each in metadata['topics_with_message_count']}
    (file_name,) = metadata['relative_file_paths']
    with (bag / file_name).open('rb') as stream:
        reader = make_reader(stream)
        assert reader.get_header().profile == 'ros2'
        messages = [(schema, channel, message) for schema, channel, message in reader.iter_messages()]
    assert sum(counts.values()) == len(messages) == metadata['message_count']
    assert counts['/ns/latched'] == 1 and min(counts['/ns/counter'], counts['/ns/array'], counts['/late']) > 0
    assert '/rosout' not in counts
    schemas = {channel.topic: schema for schema, channel, _ in messages}
    assert all(schema.encoding == 'ros2msg' for schema in schemas.values())
    pose = schemas['/ns/pose'].data.decode()
    names = [line for line in pose.splitlines() if line.startswith('MSG: ')]
    assert schemas['/ns/pose'].name == 'geometry_msgs/msg/PoseStamped'
    assert {
        f'MSG: {name}' for name in ('std_msgs/Header', 'builtin_interfaces/Time', 'geometry_msgs/Quaternion')
    } <= set(names)
    assert len(names) == len(set(names)) == 5
    (latched,) = [message for _, channel, message in messages if channel.topic == '/ns/latched']
    assert deserialize_message(latched.data, String).data == 'once'
    assert [message.log_time for *_, message in messages] == sorted(message.log_time for *_, message in messages)

    text, code = run_all(start, ('bag', 'info', str(bag)))[0]
    assert code == 0 and f'Messages:          {len(messages)}\n' in text
    assert 'Topic: /ns/latched | Type: std_msgs/msg/String | Count: 1 | Serialization Format: cdr' in text

    echo = start('topic', 'echo', '/again', 'std_msgs/msg/String')
    player = start(
        'bag', 'play', str(bag), '--topics', '/ns/counter', '/ns/latched', '-m', '/ns/counter:=/again', '-r', '20', '-l'
    )
    try:
        assert any('data: number ' in line for line in lines_until(echo, 'data: '))
    finally:
        for process in (echo, player):
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=LIMIT_S)


def test_what_is_no_bag_is_one_line(start, tmp_path):
    (tmp_path / 'cut.mcap').write_bytes(b'\x89MCAP0\r\n')
    for line in (('info', str(tmp_path / 'none')), ('info', str(tmp_path)), ('play', str(tmp_path)), ('record',)):
        text, code = run_all(start, ('bag', *line))[0]
        assert code == 1 and text.count('\n') == 1, text


def test_definitions_are_shown_with_those_of_their_fields(start):
    text, code = run_all(start, ('interface', 'show', 'geometry_msgs/msg/PoseStamped', '--no-comments'))[0]
    assert code == 0
    assert text.splitlines()[:6] == [
        'std_msgs/Header header',
        '\tbuiltin_interfaces/Time stamp',
        '\t\tint32 sec',
        '\t\tuint32 nanosec',
        '\tstring frame_id',
        'Pose pose',
    ]
    services, unknown = run_all(start, ('interface', 'list', '-s'), ('interface', 'show', 'std_msgs/msg/Nothing'))
    assert '    std_srvs/srv/SetBool\n' in services[0] and 'msg/' not in services[0]
    assert unknown[1] == 1 and "'std_msgs/msg/Nothing' is not installed" in unknown[0]


def test_launched_nodes_get_their_names_and_parameters_and_leave_on_ctrl_c(start, environment, tmp_path):
    node = tmp_path / 'node.py'
    node.write_text(TALKER.replace("'talker', namespace='/ns'", "'plain'"))
    file = tmp_path / 'main.launch.py'
    file.write_text(f"""
import sys
from launch import LaunchDescription
from launch_ros.actions import Node

def generate_launch_description():
    return LaunchDescription([
        Node(executable=sys.executable, arguments=[{str(node)!r}], name='given', namespace='fleet',
             parameters=[{{'map.name': 'from launch', 'gain': 0.5}}], remappings=[('counter', 'renamed')],
             output='screen'),
    ])
""")
    launch = start('launch', str(file))
    try:
        lines_until(launch, 'ready')
        value, topic = run_all(
            start,
            ('param', 'get', '/fleet/given', 'map.name', '--hide-type'),
            ('topic', 'echo', '/fleet/renamed', '--once'),
        )
    finally:
        launch.send_signal(signal.SIGINT)
        rest = launch.communicate(timeout=LIMIT_S)[0]
    assert value == ('from launch\n', 0)
    assert topic[0].startswith('data: number ')
    assert launch.returncode == 0 and 'user interrupted with ctrl-c (SIGINT)' in rest
