"""The mission node: what it publishes, and how it judges a run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import OccupancyGrid
from std_msgs.msg import UInt32
from tf2_msgs.msg import TFMessage

from attn_robotics.conversions.attention import to_attention_map
from attn_robotics.conversions.grids import from_occupancy_grid
from attn_robotics.conversions.poses import to_transforms
from attn_robotics.nodes import mission as mission_module
from attn_robotics.nodes.mission import MissionNode
from attn_robotics.ros import qos

pytestmark = pytest.mark.ros

WORLD = """
map:
  text: |
    ..#.
    ....
starts: [[0, 0], [1, 0]]
goals: [[0, 3], [1, 3]]
"""


@pytest.fixture
def mission(graph, world_file, tmp_path):
    """Start a mission on a small world, which ends soon."""

    def start(**parameters):
        options = {'world': world_file(WORLD), 'timeout_s': 20.0, 'out': str(tmp_path / 'out'), **parameters}
        return graph.start(MissionNode, **options)

    return start


def stand(graph, node, xy):
    """Let the robots stand at positions, as a localisation reports it."""
    publisher = graph.tester.create_publisher(TFMessage, '/tf', qos.TRANSFORMS)
    rows = np.concatenate([xy, np.zeros((len(xy), 1))], axis=1)
    names = [f'robot_{robot}/base_link' for robot in range(len(xy))]
    graph.tester.create_timer(0.05, lambda: publisher.publish(to_transforms(rows, names, ['map'] * len(xy), Time())))


def say_nothing_touched(graph, node):
    graph.say(UInt32(data=0), 'simulator/contacts', qos.LATCHED)
    graph.until(lambda: node._mission.contacts == 0, 'the contacts')


def goals_of(node):
    return node._world.frame.to_xy(node._world.instance.goals)


def summary_of(tmp_path):
    return json.loads((tmp_path / 'out' / 'summary.json').read_text())


def test_latecomers_get_map_origins_and_goals(graph, mission):
    node = mission()
    graph.until(lambda: graph.state(node) == 'active')
    maps = graph.hear(OccupancyGrid, 'map', qos.LATCHED)
    goals = graph.hear(PoseStamped, 'robot_1/goal_pose', qos.LATCHED)
    static = graph.hear(TFMessage, '/tf_static', qos.TRANSFORMS_STATIC)
    graph.until(lambda: maps and goals and static, 'latched messages')
    grid, frame = from_occupancy_grid(maps[0])
    np.testing.assert_array_equal(grid, node._world.instance.grid)
    assert frame == node._world.frame and maps[0].header.frame_id == 'map'
    assert (goals[0].pose.position.x, goals[0].pose.position.y) == tuple(goals_of(node)[1])
    assert {(t.header.frame_id, t.child_frame_id) for t in static[0].transforms} == {
        ('map', 'robot_0/odom'), ('map', 'robot_1/odom'),
    }  # fmt: skip


def test_all_on_their_goals_is_a_success(graph, mission, tmp_path):
    node = mission()
    graph.until(lambda: graph.state(node) == 'active')
    say_nothing_touched(graph, node)
    stand(graph, node, goals_of(node))
    graph.until(lambda: node.is_done, 'the end')
    assert node.exit_code == 0
    summary = summary_of(tmp_path)
    assert summary['success'] and summary['arrived'] == summary['robots'] == 2 and summary['contacts'] == 0
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {'summary.json', 'run.png', 'run.gif'}
    assert 'all robots arrived, nothing touched' in graph.log()


def test_time_that_is_up_is_a_failure_which_names_who_is_missing(graph, mission, tmp_path, monkeypatch):
    monkeypatch.setattr('attn_robotics.nodes.mission.PATIENCE_S', 0.5)
    node = mission(timeout_s=1.0)
    graph.until(lambda: graph.state(node) == 'active')
    stand(graph, node, np.stack([goals_of(node)[0], node._world.start_xy[1]]))
    graph.until(lambda: node.is_done, 'the end')
    assert node.exit_code == 1 and not summary_of(tmp_path)['success']
    (line,) = graph.errors()
    assert 'time is up, not arrived: robot_1' in line
    assert 'no decision yet; did the planner fail?' in line


def test_a_contact_is_a_failure_even_when_all_arrive(graph, mission, tmp_path):
    node = mission()
    graph.until(lambda: graph.state(node) == 'active')
    graph.say(UInt32(data=2), 'simulator/contacts', qos.LATCHED)
    graph.until(lambda: node._mission.contacts == 2, 'the contacts')
    stand(graph, node, goals_of(node))
    graph.until(lambda: node.is_done, 'the end')
    assert node.exit_code == 1
    summary = summary_of(tmp_path)
    assert summary['contacts'] == 2 and summary['arrived'] == 2 and not summary['success']


def touch(first, second):
    """What a contact sensor in Gazebo reports."""
    sides = {'collision1': SimpleNamespace(name=first), 'collision2': SimpleNamespace(name=second)}
    return SimpleNamespace(contacts=[SimpleNamespace(**sides)])


@pytest.mark.parametrize('contacts_from', ['simulator', 'gazebo'])
def test_a_run_of_which_nobody_tells_contacts_is_no_success(graph, mission, tmp_path, contacts_from, monkeypatch):
    monkeypatch.setattr(mission_module, 'find_contacts', lambda: None)
    node = mission(contacts_from=contacts_from)
    graph.until(lambda: graph.state(node) == 'active')
    stand(graph, node, goals_of(node))
    graph.until(lambda: node.is_done, 'the end')
    summary = summary_of(tmp_path)
    assert node.exit_code == 1 and summary['arrived'] == 2
    assert summary['contacts'] is None and not summary['success']
    (line,) = graph.errors()
    assert 'contacts unknown' in line and '2/2 arrived' in line
    warned = [line for line in graph.warnings() if 'sudo apt install ros-jazzy-ros-gz' in line]
    assert len(warned) == (contacts_from == 'gazebo')


def test_contact_sensors_are_counted_once_all_of_them_are_there(graph, mission, monkeypatch):
    monkeypatch.setattr(mission_module, 'find_contacts', lambda: UInt32)  # any type will do for the connection
    node = mission(contacts_from='gazebo')
    graph.until(lambda: graph.state(node) == 'active')
    graph.tester.create_publisher(UInt32, 'robot_0/contacts', 10)
    stand(graph, node, node._world.start_xy)
    graph.until(lambda: node.count_publishers('robot_0/contacts') and node._mission.has_started, 'one sensor')
    graph.settle()
    assert node._mission.contacts is None
    graph.tester.create_publisher(UInt32, 'robot_1/contacts', 10)
    graph.until(lambda: node._mission.contacts == 0, 'the other sensor')
    for names in (
        ('robot_0::base_link::chassis', 'robot_1::base_link::chassis'),
        ('robot_1::base_link::chassis', 'robot_0::base_link::chassis'),
        ('robot_0::base_link::chassis', 'robot_0::left_wheel::tyre'),
    ):
        node._on_sensor(touch(*names))
    assert node._mission.contacts == 1


def test_a_tilde_in_the_result_folder_is_home(graph, mission, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    node = mission(out='~/results')
    graph.until(lambda: graph.state(node) == 'active')
    graph.stop(node)
    assert (tmp_path / 'results' / 'summary.json').exists()


def test_the_verdict_is_written_even_when_pictures_fail(graph, mission, tmp_path, monkeypatch):
    def no_disk(*_):
        raise OSError('no space left on device')

    monkeypatch.setattr(mission_module, 'save_picture', no_disk)
    node = mission()
    graph.until(lambda: graph.state(node) == 'active')
    say_nothing_touched(graph, node)
    stand(graph, node, goals_of(node))
    graph.until(lambda: node.is_done, 'the end')
    assert summary_of(tmp_path)['success'] and node.exit_code == 0
    assert [line for line in graph.warnings() if 'no space left on device' in line]


def test_a_mission_that_never_saw_its_robots_says_so_when_it_ends(graph, mission, tmp_path):
    node = mission()
    graph.until(lambda: graph.state(node) == 'active')
    graph.stop(node)
    assert node.exit_code == 1 and 'never started: no pose of robot_0, robot_1' in graph.log()
    assert not summary_of(tmp_path)['success']


def test_a_mission_that_stays_does_not_end_the_process(graph, mission):
    node = mission(exit_when_done=False, out='')
    graph.until(lambda: graph.state(node) == 'active')
    say_nothing_touched(graph, node)
    stand(graph, node, goals_of(node))
    graph.until(lambda: node._closed, 'the verdict')
    assert not node.is_done and node.exit_code == 0


def test_without_pictures_a_mission_asks_for_no_attention_and_keeps_no_frames(graph, mission):
    node = mission(out='')
    graph.until(lambda: graph.state(node) == 'active')
    say_nothing_touched(graph, node)
    stand(graph, node, goals_of(node))
    graph.until(lambda: node.is_done, 'the end')
    assert not node.count_subscribers('sparc/attention') and not node._recording.times_s
    assert node.exit_code == 0


def test_lifelong_sends_who_arrives_to_a_new_goal(graph, mission):
    node = mission(lifelong=True, timeout_s=1e5, out='')
    goals = graph.hear(PoseStamped, 'robot_0/goal_pose', qos.LATCHED)
    graph.until(lambda: graph.state(node) == 'active')
    stand(graph, node, goals_of(node))
    graph.until(lambda: len(goals) >= 2, 'a new goal')
    assert goals[-1].pose.position != goals[0].pose.position and not node.is_done


@pytest.mark.parametrize('names', [('robot_0', 'robot_9'), ('robot_0', 'robot_1')], ids=['unknown', 'short'])
def test_an_attention_map_that_makes_no_sense_is_counted(graph, mission, names):
    node = mission()
    graph.until(lambda: graph.state(node) == 'active')
    message = to_attention_map(np.full((1, 2, 2), 0.5), names, names, mechanism='m', layer='l', tick=1, stamp=Time())
    if 'robot_9' not in names:
        message.heads = 7
    graph.say(message, 'sparc/attention')
    graph.until(lambda: node.dropped['bad attention map'], 'a refusal')
    assert graph.state(node) == 'active' and len(graph.warnings()) == 1


def test_a_result_folder_that_cannot_be_made_is_one_line(graph, mission, tmp_path):
    (tmp_path / 'file').touch()
    node = mission(out=str(tmp_path / 'file' / 'out'))
    graph.until(graph.errors, 'an error line')
    assert len(graph.errors()) == 1 and graph.state(node) == 'unconfigured'
