"""The fleet node in one process with a floor, a map and goals."""

import array
import math

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist
from nav_msgs.msg import OccupancyGrid
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from attn_robotics.conversions import attention as attention_messages
from attn_robotics.conversions.attention import from_attention_map
from attn_robotics.conversions.grids import to_occupancy_grid
from attn_robotics.conversions.poses import to_transforms
from attn_robotics.nodes.sparc_fleet import SparcFleet
from attn_robotics.ros import qos
from attn_robotics.simulation.grid import GridFrame, parse_grid
from attn_robotics.systems.sparc.fleet import LOST
from attn_robotics_interfaces.msg import AttentionMap, FleetStatus
from attn_robotics_interfaces.srv import PlanStep

pytestmark = pytest.mark.ros

ROOM = 'A..b\n.##.\nB..a'


@pytest.fixture
def fleet(graph, small_weights):
    """Start a fleet node of two robots, patient with a busy machine."""

    def start(**parameters):
        return graph.start(
            SparcFleet,
            **{
                'robots': 2,
                'weights': str(small_weights),
                'lost_s': 60.0,
                'stall_s': 60.0,
                'stale_s': 60.0,
                **parameters,
            },
        )

    return start


@pytest.fixture
def driving(graph, floor, fleet):
    """A floor, and a node that drives the two robots on it."""
    ground, node = floor(ROOM), fleet()
    graph.until(lambda: graph.state(node) == 'active')
    ground.say_all()
    graph.until(lambda: node._fleet is not None and node._fleet.tick > 0, 'a decision')
    return ground, node


def test_a_map_transforms_and_goals_make_robots_drive(graph, floor, fleet):
    statuses = graph.hear(FleetStatus, 'sparc/status')
    ground, node = floor(ROOM), fleet()
    graph.until(lambda: graph.state(node) == 'active')
    assert 'map not received' in node.diagnose()[1]
    ground.say_all()
    graph.until(lambda: (np.abs(ground.velocities) > 0).any(), 'a velocity')
    graph.until(lambda: statuses and any(statuses[-1].lag), 'a status with a plan')
    assert list(statuses[-1].robot_ids) == ['robot_0', 'robot_1'] and statuses[-1].decision_ms > 0
    assert (list(statuses[-1].goal_rows), list(statuses[-1].goal_columns)) == ([2, 0], [3, 3])
    assert not graph.errors()


def test_shipped_weights_bring_both_robots_to_their_goals(graph, floor, fleet):
    statuses = graph.hear(FleetStatus, 'sparc/status')
    ground, node = floor('A.a\nB.b'), fleet(weights='', max_speed=2.0, max_turn_rate=6.0)
    graph.until(lambda: graph.state(node) == 'active')
    ground.say_all()
    there = lambda: np.linalg.norm(ground.poses[:, :2] - ground.goals, axis=1).max() < 0.2  # noqa: E731
    graph.until(there, 'arrival')
    assert all(math.isfinite(value) for status in statuses for value in (status.decision_ms, status.decision_p99_ms))


def test_attention_costs_nothing_while_nobody_listens_and_comes_when_somebody_does(graph, driving, monkeypatch):
    ground, node = driving
    asked, built = [], []
    propose = node._fleet.propose

    def spy(now_s, *, need_attention):
        asked.append(need_attention)
        return propose(now_s, need_attention=need_attention)

    monkeypatch.setattr(node._fleet, 'propose', spy)
    for name in ('to_attention_map', 'to_markers', 'to_image'):
        make = getattr(attention_messages, name)
        monkeypatch.setattr(
            attention_messages, name, lambda *a, _make=make, _name=name, **k: (built.append(_name), _make(*a, **k))[1]
        )
    renew(graph, ground)
    graph.until(lambda: len(asked) >= 2, 'two decisions')
    assert asked == [False] * len(asked) and not built

    maps = []
    subscription = graph.tester.create_subscription(AttentionMap, 'sparc/attention', maps.append, 10)
    renew(graph, ground)
    graph.until(lambda: maps, 'an attention map')
    assert set(built) == {'to_attention_map'}
    weights = from_attention_map(maps[-1])
    assert weights.shape == (2, 2, 2) and list(maps[-1].key_ids) == ['robot_0', 'robot_1']
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-3)
    distances = np.array(maps[-1].distances).reshape(2, 2)
    assert distances[0, 0] == 0 and distances[0, 1] == distances[1, 0] > 0
    assert maps[-1].mechanism == 'relation' and maps[-1].layer.startswith('communication.')

    graph.tester.destroy_subscription(subscription)
    graph.until(lambda: not node._display.is_looked_at, 'the subscription to go')
    del asked[:], built[:]
    renew(graph, ground)
    graph.until(lambda: len(asked) >= 2, 'two decisions')
    assert not any(asked[1:]) and not built


def renew(graph, ground):
    """Send robot_0 to the free cell farthest from it, so that there is something to decide."""
    free = ground.frame.to_xy(np.argwhere(~ground.grid))
    free = free[np.linalg.norm(free[:, None] - ground.goals[None], axis=-1).min(axis=1) > 0.5]
    away = np.linalg.norm(free - ground.poses[0, :2], axis=1)
    ground.goals[0] = free[away.argmax()]
    ground.say_goal(0)


def test_top_k_can_be_changed_while_driving(graph, driving):
    ground, node = driving
    maps = graph.hear(AttentionMap, 'sparc/attention')
    (result,) = node.set_parameters([Parameter('attention_top_k', value=1)])
    assert result.successful
    renew(graph, ground)
    graph.until(lambda: maps and maps[-1].top_k == 1, 'a map with one key a row')
    assert len(maps[-1].weights) == len(maps[-1].indices) == maps[-1].heads * 2


def test_markers_and_image_come_when_asked_for(graph, driving):
    ground, _ = driving
    markers, images = (
        graph.hear(MarkerArray, 'sparc/attention_markers'),
        graph.hear(Image, 'sparc/attention_image', qos.SENSOR),
    )
    renew(graph, ground)
    graph.until(lambda: markers and images, 'a marker and an image')
    assert markers[-1].markers[0].header.frame_id == 'map'
    assert images[-1].encoding == 'mono8' and len(images[-1].data) == images[-1].step * images[-1].height


def small_map(rows='..\n..', **changes):
    grid = parse_grid(rows)
    message = to_occupancy_grid(grid, GridFrame(*grid.shape))
    for name, value in changes.items():
        setattr(message.info, name, value)
    return message


def pose_of(ground, robot, name=None, x=None, ahead_s=0.0):
    ground.ahead_s = ahead_s
    message = TFMessage(transforms=ground.transforms().transforms[robot : robot + 1])
    if name:
        message.transforms[0].child_frame_id = f'{name}/base_link'
    ground.ahead_s = 0.0
    if x is not None:
        message.transforms[0].transform.translation.x = x
    return message


def wrong_map_data():
    message = small_map()
    message.data = array.array('b', [0])
    return message


BAD = {
    'goal in a wall': (lambda g: g.say_goal(0, (1.5, 1.5)), 'bad goal', 'inside an obstacle'),
    'goal off the map': (lambda g: g.say_goal(0, (40.0, 1.0)), 'bad goal', 'off the 3 x 4 map'),
    'goal of another robot': (lambda g: g.say_goal(0, g.goals[1]), 'bad goal', 'same goal'),
    'goal that is no number': (lambda g: g.say_goal(0, (math.nan, 1.0)), 'goal is not a number', 'robot_0'),
    'goal in another frame': (lambda g: g.say_goal(0, frame_id='odom'), 'goal in another frame', 'robot_0: odom'),
    'map of another size': (
        lambda g: g.graph.say(small_map(), 'map', qos.LATCHED), 'map changed its size or place', 'clean up',
    ),
    'map in another place': (
        lambda g: g.graph.say(to_occupancy_grid(g.grid, GridFrame(3, 4, 1.0, 5.0, 5.0)), 'map', qos.LATCHED),
        'map changed its size or place', 'clean up',
    ),
    'map without its cells': (lambda g: g.graph.say(wrong_map_data(), 'map', qos.LATCHED), 'bad map', '1 cells'),
    'map without a size': (
        lambda g: g.graph.say(small_map(resolution=0.0), 'map', qos.LATCHED), 'bad map', 'resolution',
    ),
    'map with a wall on a robot': (
        lambda g: g.graph.say(to_occupancy_grid(~g.grid, g.frame), 'map', qos.LATCHED), 'bad map', 'obstacle',
    ),
    'pose that is no number': (
        lambda g: g.graph.say(pose_of(g, 0, x=math.nan), '/tf', qos.TRANSFORMS), 'pose is not a number', 'robot_0',
    ),
    'pose from the future': (
        lambda g: g.graph.say(pose_of(g, 0, ahead_s=1e4), '/tf', qos.TRANSFORMS),
        'pose from the future', 'use_sim_time',
    ),
    'pose of an unknown robot': (
        lambda g: g.graph.say(pose_of(g, 0, 'robot_7'), '/tf', qos.TRANSFORMS), 'pose of an unknown robot', 'robot_7',
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_one_line_counted_and_the_robots_go_on(graph, driving, case):
    say, reason, detail = BAD[case]
    ground, node = driving
    say(ground)
    graph.until(lambda: any(key.startswith(reason) for key in node.dropped), 'a refusal')
    graph.settle()
    # A busy machine may add that a command rests on an old pose.
    (line,) = [line for line in graph.warnings() if reason in line]
    assert detail in line
    assert not graph.errors() and 'Traceback' not in graph.log()
    assert graph.state(node) == 'active'
    before = node._fleet.tick
    renew(graph, ground)
    graph.until(lambda: node._fleet.tick > before, 'the next decision')


def test_two_robots_in_one_cell_are_named_and_the_fleet_starts_once_they_are_apart(graph, floor, fleet):
    heard = graph.hear(DiagnosticArray, '/diagnostics')
    ground, node = floor(ROOM), fleet()
    right = ground.poses.copy()
    ground.poses[1] = ground.poses[0]
    graph.until(lambda: graph.state(node) == 'active')
    ground.say_all()
    said = lambda: [s.message for a in heard for s in a.status if s.level == DiagnosticStatus.ERROR]  # noqa: E731
    graph.until(said, 'an error in diagnostics')
    assert 'robot_0 and robot_1 are both in cell (0, 0); move one away' in said()[-1]
    assert len(graph.errors()) == 1 and graph.state(node) == 'active'
    ground.poses[:] = right
    graph.until(lambda: node._fleet is not None, 'a fleet')


def test_a_robot_in_a_wall_is_named(graph, floor, fleet):
    ground, node = floor(ROOM), fleet()
    ground.poses[1, :2] = 1.5
    graph.until(lambda: graph.state(node) == 'active')
    ground.say_all()
    graph.until(graph.errors, 'an error line')
    assert 'robot_1 stands at (1, 1), inside an obstacle' in graph.errors()[0]


@pytest.mark.parametrize('place', [(30.0, 1.0), None], ids=['off the map', 'in the cell of the other robot'])
def test_a_robot_reported_where_it_can_not_be_while_it_drives_is_named_and_stops(graph, driving, place):
    ground, node = driving
    right = ground.poses[0].copy()
    ground.poses[0, :2] = ground.poses[1, :2] if place is None else place
    graph.until(lambda: any('robot_0 is reported at' in line for line in graph.warnings()), 'the line')
    graph.until(lambda: not ground.velocities[0].any(), 'a robot that stands')
    assert not graph.errors() and graph.state(node) == 'active'
    ground.poses[0] = right
    tick = node._fleet.tick
    renew(graph, ground)
    graph.until(lambda: node._fleet.tick > tick, 'the next decision')


def test_a_lost_robot_is_an_obstacle_until_it_is_seen_again(graph, floor, fleet):
    heard = graph.hear(DiagnosticArray, '/diagnostics')
    ground, node = floor(ROOM), fleet(lost_s=2.0)
    graph.until(lambda: graph.state(node) == 'active')
    ground.say_all()
    graph.until(lambda: node._fleet is not None and node._fleet.tick > 0, 'a decision')
    ground.hidden.add(1)
    graph.until(lambda: node._fleet.states()[1] == LOST, 'robot_1 to be lost')
    graph.until(lambda: any(s.message == 'lost: robot_1' for a in heard for s in a.status), 'diagnostics')
    assert any('robot_1 sends no pose for' in line for line in graph.warnings())
    before = node._fleet.tick
    ground.say_goal(0, ground.frame.to_xy(np.array([0, 1])))
    graph.until(lambda: node._fleet.tick > before, 'a decision for robot_0')
    ground.hidden.clear()
    graph.until(lambda: node._fleet.states()[1] != LOST, 'robot_1 to be back')


def test_a_robot_that_was_dead_from_the_start_is_an_obstacle_after_a_while(graph, floor, fleet):
    heard = graph.hear(DiagnosticArray, '/diagnostics')
    ground, node = floor(ROOM), fleet(start_s=0.5)
    ground.hidden.add(1)
    graph.until(lambda: graph.state(node) == 'active')
    ground.say_all()
    graph.until(lambda: any('nobody says where robot_1 stands' in s.message for a in heard for s in a.status))
    assert node._fleet is None
    graph.say(to_transforms(ground.poses[1:], ['robot_1/odom'], ['map'], Time()), '/tf_static', qos.TRANSFORMS_STATIC)
    graph.until(lambda: node._fleet is not None and node._fleet.states()[1] == LOST, 'a fleet without robot_1')
    assert any('never heard of robot_1' in line for line in graph.warnings())
    graph.until(lambda: ground.velocities[0].any(), 'robot_0 to drive')
    graph.until(lambda: any(s.message == 'lost: robot_1' for a in heard for s in a.status), 'diagnostics')
    ground.hidden.clear()
    graph.until(lambda: node._fleet.states()[1] != LOST, 'robot_1 to be taken in')


def test_ends_that_do_not_fit_are_one_line_on_either_side(graph, floor, fleet):
    node = fleet()
    graph.until(lambda: graph.state(node) == 'active')
    volatile = QoSProfile(depth=1)
    graph.tester.create_publisher(OccupancyGrid, 'map', volatile)
    graph.until(lambda: any("incompatible QoS on 'map'" in line for line in graph.warnings()), 'a line about map')
    assert any('a publisher offers less' in line and 'DURABILITY' in line for line in graph.warnings())
    latched = qos.LATCHED
    graph.tester.create_subscription(FleetStatus, '/sparc/status', lambda _: None, latched)
    graph.until(lambda: any('a subscription asks for more' in line for line in graph.warnings()), 'a line about status')
    assert node.dropped['incompatible QoS on ~/status'] == 1


def test_a_robot_whose_pose_is_old_waits_for_a_newer_one(graph, floor, fleet):
    ground, node = floor(ROOM), fleet(stale_s=5.0)
    graph.until(lambda: graph.state(node) == 'active')
    ground.say_all()
    graph.until(lambda: ground.velocities.any(), 'a velocity')
    ground.ahead_s = -30.0
    graph.until(lambda: not ground.velocities.any(), 'all to stand')
    assert node.dropped['command on an old pose'] >= 1
    ground.ahead_s = 0.0
    graph.until(lambda: ground.velocities.any(), 'all to go on')


def test_deactivation_stops_the_robots(graph, driving):
    ground, node = driving
    graph.until(lambda: (np.abs(ground.velocities) > 0).any(), 'a velocity')
    node.trigger_deactivate()
    graph.until(lambda: not ground.velocities.any(), 'all to stop')
    node.trigger_cleanup()
    assert graph.state(node) == 'unconfigured'
    node.trigger_configure()
    node.trigger_activate()
    graph.until(lambda: node._fleet is not None, 'a fleet from latched map and goals')


def test_cleanup_returns_every_publisher_and_subscription(graph, driving):
    _, node = driving
    node.trigger_deactivate()
    node.trigger_cleanup()
    own = {publisher.topic_name for publisher in node.publishers}
    assert not own & {'/sparc/status', '/sparc/attention', '/robot_0/cmd_vel'}
    assert not {s.topic_name for s in node.subscriptions} & {'/map', '/tf', '/robot_0/goal_pose'}


@pytest.mark.parametrize('damage', ['bytes', 'card', 'missing'])
def test_weights_that_are_not_what_their_card_says_keep_the_node_unconfigured(graph, small_weights, tmp_path, damage):
    path = tmp_path / 'w.safetensors'
    data = bytearray(small_weights.read_bytes())
    data[-1] ^= 1
    if damage != 'missing':
        path.write_bytes(data)
    if damage != 'card':
        path.with_suffix('.yaml').write_text(small_weights.with_suffix('.yaml').read_text())
    node = graph.start(SparcFleet, robots=2, weights=str(path))
    graph.until(graph.errors, 'an error line')
    (line,) = graph.errors()
    assert 'cannot configure' in line and ('checksum' in line if damage == 'bytes' else 'no weights at' in line)
    assert graph.state(node) == 'unconfigured' and 'Traceback' not in graph.log()


def test_two_fleets_in_two_namespaces_do_not_hear_each_other(graph, small_weights):
    first, second = (
        graph.start(SparcFleet, namespace=space, robots=1, weights=str(small_weights)) for space in ('/a', '/b')
    )
    graph.until(lambda: graph.state(first) == graph.state(second) == 'active')
    grid = parse_grid('..')
    graph.say(to_occupancy_grid(grid, GridFrame(*grid.shape)), '/a/map', qos.LATCHED)
    graph.until(lambda: first._map is not None, 'the map of /a')
    assert second._map is None
    assert {p.topic_name for p in second.publishers if p.msg_type is Twist} == {'/b/robot_0/cmd_vel'}


def ask(graph, **fields):
    return graph.call(PlanStep, 'sparc/plan_step', **fields)


ROOM_REQUEST = {
    'height': 2, 'width': 3, 'grid': bytes([0, 0, 0, 0, 1, 0]),
    'rows': [0, 1], 'columns': [0, 2], 'goal_rows': [0, 0], 'goal_columns': [2, 0],
}  # fmt: skip


def test_plan_step_moves_a_fleet_without_topics_and_without_conflict(graph, fleet):
    node = fleet()
    graph.until(lambda: graph.state(node) == 'active')
    cells = [(0, 0), (1, 2)]
    for step in range(6):
        fields = {**ROOM_REQUEST, 'rows': [r for r, _ in cells], 'columns': [c for _, c in cells], 'reset': step == 0}
        answer = ask(graph, **fields)
        assert answer.success, answer.message
        cells = list(zip(answer.next_rows, answer.next_columns, strict=True))
        assert len(set(cells)) == 2 and (1, 1) not in cells and len(answer.preferences) == 10


def test_plan_step_takes_robots_that_come_and_go_and_a_map_that_grows_from_call_to_call(graph, fleet):
    node = fleet()
    graph.until(lambda: graph.state(node) == 'active')
    assert ask(graph, **ROOM_REQUEST).success
    alone = {**ROOM_REQUEST, 'rows': [0], 'columns': [1], 'goal_rows': [0], 'goal_columns': [2]}
    grown = {'height': 3, 'grid': bytes([0, 0, 0, 0, 1, 0, 0, 0, 0])}
    for request, robots in ((alone, 1), (ROOM_REQUEST, 2), ({**ROOM_REQUEST, **grown}, 2), (alone, 1)):
        answer = ask(graph, **request)
        assert answer.success, answer.message
        assert len(set(zip(answer.next_rows, answer.next_columns, strict=True))) == robots
    assert not node.dropped


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'grid': bytes(5)}, 'grid has 5 cells for 2 x 3'),
        ({'rows': [0]}, 'must be equally long'),
        ({'rows': [0, 0], 'columns': [0, 0]}, 'share the start'),
        ({'rows': [1, 1], 'columns': [1, 2]}, 'inside an obstacle'),
        ({'goal_rows': [9, 0]}, 'off the 2 x 3 map'),
    ],
)
def test_a_bad_plan_step_is_one_line_and_counted(graph, fleet, change, words):
    node = fleet()
    graph.until(lambda: graph.state(node) == 'active')
    answer = ask(graph, **{**ROOM_REQUEST, **change})
    assert not answer.success and words in answer.message and '\n' not in answer.message
    assert node.dropped['bad plan_step'] == 1
