"""What node tests stand in for robots, without physics: a floor with wheeled ones, and a head."""

import math

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Twist
from sensor_msgs.msg import JointState
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory

from attn_robotics.conversions import gaze as gaze_messages
from attn_robotics.conversions.grids import to_occupancy_grid
from attn_robotics.conversions.poses import to_pose_stamped, to_transforms
from attn_robotics.conversions.stamps import to_seconds, to_stamp
from attn_robotics.nodes.gaze import Gaze
from attn_robotics.ros import qos
from attn_robotics.simulation.grid import GridFrame
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.weights_file import write_weights

PERIOD_S = 0.05


class Floor:
    """A map drawn as text, robots A, B, ... on it and their goals a, b, ...; robots go where cmd_vel sends them."""

    def __init__(self, graph, drawing):
        rows = drawing.strip().split('\n')
        self.grid = np.array([[letter == '#' for letter in row] for row in rows])
        self.frame = GridFrame(*self.grid.shape)
        cells = {letter: (r, c) for r, row in enumerate(rows) for c, letter in enumerate(row) if letter.isalpha()}
        letters = sorted(letter for letter in cells if letter.isupper())
        self.names = [f'robot_{index}' for index in range(len(letters))]
        self.goals = self.frame.to_xy(np.array([cells[letter.lower()] for letter in letters]))
        xy = self.frame.to_xy(np.array([cells[letter] for letter in letters]))
        self.poses = np.concatenate([xy, np.zeros((len(letters), 1))], axis=1)
        self.velocities = np.zeros((len(letters), 2))
        self.commands = [[] for _ in letters]
        self.hidden, self.ahead_s = set(), 0.0
        self.graph = graph
        self._tf = graph.tester.create_publisher(TFMessage, '/tf', qos.TRANSFORMS)
        for robot, name in enumerate(self.names):
            graph.tester.create_subscription(
                Twist, f'{name}/cmd_vel', lambda message, robot=robot: self._on_command(robot, message), qos.COMMAND
            )
        graph.tester.create_timer(PERIOD_S, self._tick)

    def say_map(self):
        self.graph.say(to_occupancy_grid(self.grid, self.frame), 'map', qos.LATCHED)

    def say_goal(self, robot, xy=None, frame_id='map'):
        goal = self.goals[robot] if xy is None else xy
        message = to_pose_stamped(goal, frame_id, Time())
        self.graph.say(message, f'robot_{robot}/goal_pose', qos.LATCHED)

    def say_all(self):
        self.say_map()
        for robot in range(len(self.names)):
            self.say_goal(robot)

    def transforms(self):
        seen = [robot for robot in range(len(self.names)) if robot not in self.hidden]
        children = [f'{self.names[robot]}/base_link' for robot in seen]
        return to_transforms(self.poses[seen], children, ['map'] * len(seen), self.stamp())

    def stamp(self):
        return to_stamp(self.graph.tester.get_clock().now().nanoseconds * 1e-9 + self.ahead_s)

    def _on_command(self, robot, message):
        self.commands[robot].append((message.linear.x, message.angular.z))
        self.velocities[robot] = message.linear.x, message.angular.z

    def _tick(self):
        linear, angular = self.velocities.T
        yaw = self.poses[:, 2] + angular * PERIOD_S / 2
        self.poses[:, 0] += linear * np.cos(yaw) * PERIOD_S
        self.poses[:, 1] += linear * np.sin(yaw) * PERIOD_S
        self.poses[:, 2] = np.remainder(self.poses[:, 2] + angular * PERIOD_S + math.pi, 2 * math.pi) - math.pi
        self._tf.publish(self.transforms())


@pytest.fixture
def floor(graph):
    """Make a floor from a drawing."""
    return lambda drawing: Floor(graph, drawing)


@pytest.fixture(scope='session')
def small_weights(tmp_path_factory):
    """A file of tiny random weights with its card."""
    import torch

    path = tmp_path_factory.mktemp('weights') / 'small.safetensors'
    torch.manual_seed(0)
    with torch.no_grad():
        write_weights(path, SparcNetwork(SparcConfig.small()), {'name': 'random'})
    return path


@pytest.fixture
def world_file(tmp_path):
    """Write a world description and return its path."""

    def write(text):
        path = tmp_path / 'world.yaml'
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def runtime(graph, tmp_path):
    """A client of a runtime that is still to be started."""
    from runtime_world import Client, Held

    Held.free.set()
    Held.only = 0
    client = Client(graph, tmp_path)
    client.put('identity')
    yield client
    Held.free.set()


class Head:
    """Goes where trajectories send it, tells its joints 50 times a second, and remembers every command."""

    def __init__(self, graph):
        self.graph, self.row, self.profile = graph, np.zeros(6), load_profile()
        self.follows, self.tells = True, True
        self.commands = []  # (stamp [s], row (6,))
        self._joints = graph.tester.create_publisher(JointState, 'joint_states', qos.SENSOR)
        graph.tester.create_subscription(JointTrajectory, 'joint_trajectory', self._on_trajectory, qos.COMMAND)
        graph.tester.create_timer(0.02, self._tell)

    def now(self):
        return self.graph.tester.get_clock().now().nanoseconds * 1e-9

    def stamp(self, ago=0.0):
        return to_stamp(self.now() - ago)

    def target(self, name='wall', yaw=20.0, pitch=0.0, distance=1.5, frame='neck_base', **fields):
        return gaze_messages.to_gaze_target(name, (yaw, pitch), distance, self.stamp(), frame, **fields)

    def gaze_yaw(self):
        return self.row[0] + self.row[2]

    def largest_jump(self):
        """Most that the commanded neck moved between two commands beyond what its speed allows [deg]."""
        fastest = max(self.profile.joints[axis].velocity for axis in ('neck_yaw', 'neck_pitch'))
        jumps = [
            np.abs(b[:2] - a[:2]).max() - fastest * 0.05  # a late step covers at most 50 ms
            for (_, a), (_, b) in zip(self.commands, self.commands[1:], strict=False)
        ]
        return max(jumps, default=-math.inf)

    def _on_trajectory(self, message):
        _, points = gaze_messages.from_trajectory(self.profile, message)
        self.commands.append((to_seconds(message.header.stamp), points[-1]))
        if self.follows:
            self.row = points[-1]

    def _tell(self):
        if self.tells:
            self._joints.publish(gaze_messages.to_joint_state(self.profile, self.row, self.stamp()))


@pytest.fixture
def head(graph):
    return Head(graph)


@pytest.fixture
def gaze(graph):
    """Start a gaze node; without faces, since a detector costs a process."""
    return lambda **parameters: graph.start(Gaze, **{'faces': False, 'selection': 'rules', 'idle': False, **parameters})
