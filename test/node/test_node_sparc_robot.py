"""Robot nodes that plan for themselves, on the real graph."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from attn_robotics.conversions.grids import to_occupancy_grid
from attn_robotics.conversions.notes import from_robot_message, to_robot_message
from attn_robotics.conversions.stamps import to_stamp
from attn_robotics.nodes.sparc_robot import SparcRobot
from attn_robotics.ros import qos
from attn_robotics.simulation.grid import GridFrame, parse_grid
from attn_robotics.systems.sparc.note import Note
from attn_robotics_interfaces.msg import AttentionMap, FleetStatus, RobotMessage

pytestmark = pytest.mark.ros

ROOM = 'A.b\n.#.\nB.a'


@pytest.fixture
def robots(graph, small_weights):
    """Start one node a robot."""

    def start(count=2, **parameters):
        common = {'robots': 2, 'weights': str(small_weights), 'lost_s': 10.0, 'stale_s': 60.0, **parameters}
        return [graph.start(SparcRobot, **{**common, 'robot': f'robot_{index}'}) for index in range(count)]

    return start


def test_two_robots_agree_over_topics_and_drive(graph, floor, robots):
    messages = graph.hear(RobotMessage, 'sparc/messages', qos.MESSAGES)
    statuses = graph.hear(FleetStatus, 'sparc/status')
    maps = graph.hear(AttentionMap, 'sparc/attention')
    ground, nodes = floor(ROOM), robots()
    graph.until(lambda: all(graph.state(node) == 'active' for node in nodes))
    ground.say_all()
    graph.until(lambda: all(node._agent is not None and node._agent.step > 2 for node in nodes), 'steps')
    graph.until(lambda: (np.abs(ground.velocities) > 0).any(), 'a velocity')
    graph.until(lambda: maps and statuses, 'attention and status')
    assert {message.robot_id for message in messages} == {'robot_0', 'robot_1'}
    cells = {}
    for message in messages:
        cells.setdefault((message.epoch, message.sequence), {})[message.robot_id] = (message.row, message.column)
    assert all(len(set(by.values())) == len(by) for by in cells.values()), 'two robots planned into one cell'
    assert len(maps[-1].query_ids) == 1 and list(maps[-1].key_ids) == ['robot_0', 'robot_1']
    assert not graph.errors()


def test_a_robot_alone_in_a_fleet_of_two_waits_and_says_why(graph, floor, robots):
    ground, (node,) = floor(ROOM), robots(1, lost_s=0.5, start_s=0.5)
    graph.until(lambda: graph.state(node) == 'active')
    ground.say_map()
    ground.say_goal(0)
    graph.until(lambda: 'more than half' in node.diagnose()[1], 'the reason')
    assert node.diagnose()[0] == DiagnosticStatus.ERROR and not ground.velocities.any()


@pytest.mark.parametrize(
    'change',
    [{'robot': 'robot_7'}, {'cell': (1, 1)}, {'cell': (40, 0)}, {'embedding': np.zeros(3, np.float32)}],
    ids=['unknown robot', 'in a wall', 'off the map', 'other weights'],
)
def test_a_message_that_cannot_be_is_counted_and_the_robot_goes_on(graph, floor, robots, change):
    ground, nodes = floor(ROOM), robots()
    graph.until(lambda: all(graph.state(node) == 'active' for node in nodes))
    ground.say_all()
    graph.until(lambda: all(node._agent is not None and node._agent.step > 0 for node in nodes), 'a step')
    good = nodes[1]._agent.note
    bad = to_robot_message(Note(**{**vars(good), **change}), to_stamp(1.0), 'map')
    graph.say(bad, 'sparc/messages', qos.MESSAGES)
    graph.until(lambda: nodes[0].dropped['bad message'] > 0, 'the refusal')
    step = nodes[0]._agent.step
    graph.until(lambda: nodes[0]._agent.step > step, 'another step')


def test_a_second_process_under_the_same_id_stops_the_robot_and_is_named(graph, floor, robots):
    ground, nodes = floor(ROOM), robots()
    graph.until(lambda: all(graph.state(node) == 'active' for node in nodes))
    ground.say_all()
    graph.until(lambda: all(node._agent is not None and node._agent.step > 0 for node in nodes), 'a step')
    copy = to_robot_message(nodes[0]._agent.note, to_stamp(1.0), 'map', instance=7)
    graph.say(copy, 'sparc/messages', qos.MESSAGES)
    graph.until(lambda: 'another process sends as robot_0' in nodes[0].diagnose()[1], 'the reason')
    graph.until(lambda: not ground.velocities[0].any(), 'a robot that stands')


def test_a_device_that_is_not_there_is_one_line(graph, small_weights):
    node = graph.start(SparcRobot, robot='robot_0', robots=2, weights=str(small_weights), device='banana')
    graph.until(lambda: any("device 'banana' is not available" in line for line in graph.errors()), 'the refusal')
    assert graph.state(node) == 'unconfigured' and 'Traceback' not in graph.log()


def test_notes_survive_the_message():
    note = Note(
        'robot_3',
        2,
        7,
        5,
        (1, 2),
        (3, 4),
        9,
        True,
        17.25,
        np.log(np.full(5, 0.2, np.float32)),
        np.arange(8, dtype='f4'),
    )
    back = from_robot_message(to_robot_message(note, to_stamp(1.5), 'map'))
    for name, value in vars(note).items():
        np.testing.assert_array_equal(getattr(back, name), value)


def test_a_note_weighs_on_the_radio_what_it_says():
    from rclpy.serialization import serialize_message

    note = Note('robot_12', 1, 2, 3, (4, 5), (6, 7), 8, False, 0.5, np.zeros(5, np.float32), np.zeros(256, np.float32))
    assert len(serialize_message(to_robot_message(note, to_stamp(1.0), 'map'))) == note.size_bytes


def test_a_robot_outside_the_fleet_stays_unconfigured(graph, small_weights):
    node = graph.start(SparcRobot, robot='robot_5', robots=2, weights=str(small_weights))
    graph.until(lambda: any("robot 'robot_5' is none of" in line for line in graph.errors()), 'the refusal')
    assert graph.state(node) == 'unconfigured'


@pytest.mark.parametrize(
    ('rows', 'reason', 'detail'),
    [
        ('...\n.#.\n...\n...', 'map changed its size or place', '3 x 3 cells to 4 x 3'),
        ('...\n...\n...', 'map changed while robots drive', 'goes on with the old one'),
    ],
    ids=['size', 'obstacles'],
)
def test_a_map_that_changes_in_mid_run_is_one_line_and_the_robot_goes_on(graph, floor, robots, rows, reason, detail):
    ground, nodes = floor(ROOM), robots()
    graph.until(lambda: all(graph.state(node) == 'active' for node in nodes))
    ground.say_all()
    graph.until(lambda: all(node._agent is not None and node._agent.step > 0 for node in nodes), 'a step')
    grid = parse_grid(rows)
    graph.say(to_occupancy_grid(grid, GridFrame(*grid.shape)), 'map', qos.LATCHED)
    graph.until(lambda: all(any(key.startswith(reason) for key in node.dropped) for node in nodes), 'the refusals')
    lines = [line for line in graph.warnings() if reason in line]
    assert len(lines) == 2 and all(detail in line for line in lines)
    assert all(node._agent.grid.shape == (3, 3) for node in nodes)
    step = nodes[0]._agent.step
    graph.until(lambda: nodes[0]._agent.step > step, 'another step')


@pytest.mark.parametrize(('xy', 'words'), [((1.5, 1.5), 'inside an obstacle'), ((40.0, 1.0), 'off the 3 x 3 map')])
def test_a_goal_where_the_robot_can_not_go_is_one_line_and_the_old_one_stays(graph, floor, robots, xy, words):
    ground, nodes = floor(ROOM), robots()
    graph.until(lambda: all(graph.state(node) == 'active' for node in nodes))
    ground.say_all()
    graph.until(lambda: all(node._agent is not None and node._agent.step > 0 for node in nodes), 'a step')
    goal = nodes[0]._agent.goal
    ground.say_goal(0, xy)
    graph.until(lambda: nodes[0].dropped['bad goal'] > 0, 'the refusal')
    assert any('bad goal' in line and words in line for line in graph.warnings())
    assert nodes[0]._agent.goal == goal and not graph.errors()


@pytest.mark.parametrize('place', [(30.0, 1.0), None], ids=['off the map', 'in the cell of the other robot'])
def test_a_robot_reported_far_from_its_way_waits_and_says_so(graph, floor, robots, place):
    ground, nodes = floor(ROOM), robots()
    graph.until(lambda: all(graph.state(node) == 'active' for node in nodes))
    ground.say_all()
    graph.until(lambda: all(node._agent is not None and node._agent.step > 0 for node in nodes), 'a step')
    ground.poses[0, :2] = ground.poses[1, :2] if place is None else place
    graph.until(lambda: 'from its way' in nodes[0].diagnose()[1], 'the reason')
    graph.until(lambda: not ground.velocities[0].any(), 'a robot that stands')
