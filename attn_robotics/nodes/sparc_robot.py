"""Plan and drive one robot of a fleet from its own pose and its neighbours' messages.

Start one such process a robot, anywhere on the same ROS domain. All of them take the same actions as the fleet node
would, with no central planner.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Mapping

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped, Twist
from nav_msgs.msg import OccupancyGrid
from tf2_msgs.msg import TFMessage

from attn_robotics.conversions.grids import GridError, from_occupancy_grid
from attn_robotics.conversions.notes import from_robot_message, to_robot_message
from attn_robotics.conversions.poses import to_twist
from attn_robotics.conversions.stamps import to_stamp
from attn_robotics.conversions.transforms import RobotTransforms
from attn_robotics.nodes._robot_display import RobotDisplay
from attn_robotics.nodes._robot_params import SparcRobotParams
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import AttnNode, ConfigurationError, run_node
from attn_robotics.simulation.faults import Faults, LossyChannel
from attn_robotics.systems.sparc.robot import RobotAgent, RobotConfig
from attn_robotics.systems.sparc.weights_card import WeightsError
from attn_robotics_interfaces.msg import RobotMessage

HEARTBEAT_S = 0.2


class SparcRobot(AttnNode):
    """The `sparc` node of one robot."""

    EXPECTED = (*AttnNode.EXPECTED, WeightsError)
    NAME = 'sparc_robot'
    Params = SparcRobotParams
    params: SparcRobotParams

    def configure(self) -> None:
        """Load weights, connect to map, transforms, goal and neighbours."""
        p = self.params
        self._names = tuple(f'robot_{index}' for index in range(p.robots))
        if p.robot not in self._names:
            raise ConfigurationError(
                f"robot '{p.robot}' is none of {self._names[0]} to {self._names[-1]}; raise robots"
            )
        self._index = self._names.index(p.robot)
        self._policy = p.load_policy(threads=1)  # many such processes share a machine in simulation
        self._agent: RobotAgent | None = None
        self._goal: tuple[float, float] | None = None
        self._transforms = RobotTransforms(self._names, p.map_frame)
        self._instance = secrets.randbits(32)
        faults = Faults(message_loss=p.message_loss, message_delay_s=p.message_delay_s, seed=p.seed)
        self._channel: LossyChannel[RobotMessage] = LossyChannel(faults, self._index)
        self._sent_step = (-1, -1)
        self._sent_s = -np.inf
        self._bytes = self._messages = 0
        self._problem = ''
        self._held = [
            self.create_subscription(OccupancyGrid, 'map', self._on_map, qos.LATCHED),
            self.create_subscription(TFMessage, '/tf', self._on_transforms, qos.TRANSFORMS),
            self.create_subscription(TFMessage, '/tf_static', self._transforms.take_static, qos.TRANSFORMS_STATIC),
            self.create_subscription(PoseStamped, f'{p.robot}/goal_pose', self._on_goal, qos.LATCHED),
            self.create_subscription(RobotMessage, 'sparc/messages', self._on_message, qos.MESSAGES),
        ]
        self._command = self.create_publisher(Twist, f'{p.robot}/cmd_vel', qos.COMMAND)
        self._radio = self.create_publisher(RobotMessage, 'sparc/messages', qos.MESSAGES)
        self._display = RobotDisplay(self, p.robot, p.map_frame)
        self._timer = self.create_timer(1.0 / p.control_rate, self._control, autostart=False)
        self._last_control_s: float | None = None

    def activate(self) -> None:
        """Start to drive."""
        self._timer.reset()

    def deactivate(self) -> None:
        """Stop."""
        self._timer.cancel()
        self._command.publish(to_twist(0.0, 0.0))

    def release(self) -> None:
        """Forget everything."""
        if not hasattr(self, '_held'):
            return
        for subscription in self._held:
            self.destroy_subscription(subscription)
        for publisher in (self._command, self._radio):
            self.destroy_publisher(publisher)
        self._display.close()
        self.destroy_timer(self._timer)
        self._agent = None
        del self._held

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """Say who is lost and what the radio carries."""
        agent = self._agent
        if agent is None:
            return DiagnosticStatus.WARN, "waits for 'map'; is a map server running with transient local QoS?", {}
        values = {
            'epoch': agent.epoch,
            'step': agent.step,
            'team': len(agent.team),
            'bytes per step': self._bytes // max(1, self._messages),
        }
        if self._problem:
            return DiagnosticStatus.ERROR, self._problem, values
        if agent.mismatch:
            return DiagnosticStatus.ERROR, agent.mismatch, values
        if agent.lost:
            return DiagnosticStatus.WARN, f'lost: {", ".join(agent.lost)}', values
        if agent.pose is None or agent.goal is None:
            return DiagnosticStatus.WARN, 'waits for its pose and goal', values
        return DiagnosticStatus.OK, 'arrived' if agent.has_arrived else 'driving', values

    def _on_map(self, message: OccupancyGrid) -> None:
        try:
            grid, frame = from_occupancy_grid(message)
        except GridError as error:
            self.drop('bad map', str(error))
            return
        if self._agent is not None:
            # All robots must plan on one map: they would have to change it in the same step.
            if grid.shape != self._agent.grid.shape or frame != self._agent.frame:
                height, width = self._agent.grid.shape
                change = f'{height} x {width} cells to {grid.shape[0]} x {grid.shape[1]}'
                self.drop('map changed its size or place while robots drive', f'{change}; configure all robots anew')
            elif not np.array_equal(grid, self._agent.grid):
                self.drop('map changed while robots drive', 'goes on with the old one; configure all robots anew')
            return
        p = self.params
        limits = p.limits()
        config = RobotConfig(horizon=p.horizon, lost_s=p.lost_s, start_s=p.start_s, seed=p.seed)
        self._agent = RobotAgent(p.robot, self._names, grid, frame, self._policy, limits, config)
        self._take_goal()

    def _on_transforms(self, message: TFMessage) -> None:
        for robot, pose in self._transforms.take(message):
            if self._agent is None or not np.isfinite(pose).all():
                continue
            if robot == self._index:
                self._agent.pose = pose
        if self._agent is not None:
            # Stands for the robot's own sensors, which see who is near whether or not the radio works.
            others = np.delete(self._transforms.poses(), self._index, axis=0)[:, :2]
            self._agent.seen = others[np.isfinite(others).all(axis=1)]

    def _on_goal(self, message: PoseStamped) -> None:
        if message.header.frame_id not in ('', self.params.map_frame):
            self.drop('goal in another frame', message.header.frame_id)
            return
        self._goal = (message.pose.position.x, message.pose.position.y)
        self._take_goal()

    def _take_goal(self) -> None:
        if self._agent is None or self._goal is None:
            return
        row, column = self._agent.frame.to_cell(np.array(self._goal)).tolist()
        try:
            self._agent.set_goal((row, column))
        except ValueError as error:
            self.drop('bad goal', str(error))

    def _on_message(self, message: RobotMessage) -> None:
        if self._agent is None:
            return
        if message.robot_id != self.params.robot:
            self._channel.push(message, time.monotonic())
        elif message.instance != self._instance:
            self._problem = f'another process sends as {self.params.robot}; give each robot an id of its own'
            self.drop('robot id twice', self._problem)

    def _receive(self, wall_s: float) -> None:
        """Take the messages that have come through the (maybe faulty) radio."""
        assert self._agent is not None
        for message in self._channel.pop_due(wall_s):
            try:
                self._agent.receive(from_robot_message(message), wall_s)
            except ValueError as error:
                self.drop('bad message', str(error))

    def _control(self) -> None:
        agent, now_s = self._agent, self._now_s()
        last_s, self._last_control_s = self._last_control_s, now_s
        if agent is None:
            return
        agent.need_attention = self._display.is_looked_at
        before = (agent.epoch, agent.step)
        self._receive(time.monotonic())
        for note in agent.advance(now_s, time.monotonic()):
            self.get_logger().warning(note)
        if (agent.epoch, agent.step) != before:
            self._display.show(agent, to_stamp(self._transforms.stamps_s[self._index]))
        self._send(now_s)
        dt_s = 1.0 / self.params.control_rate if last_s is None else max(now_s - last_s, 1e-3)
        velocity = agent.velocities(dt_s)
        age_s = now_s - self._transforms.stamps_s[self._index]
        if age_s > self.params.stale_s:
            self.drop('command on an old pose', f'{age_s:.1f} s')
            velocity = (0.0, 0.0)
        if self._problem:
            velocity = (0.0, 0.0)
        self._command.publish(to_twist(*velocity))
        agent.prepare()

    def _send(self, now_s: float) -> None:
        """Send a new note at once, and the same again as a heartbeat."""
        agent = self._agent
        assert agent is not None
        is_new = (agent.epoch, agent.step) != self._sent_step
        if not is_new and 0 <= now_s - self._sent_s < HEARTBEAT_S:
            return
        for note in agent.outgoing():
            message = to_robot_message(note, to_stamp(now_s), self.params.map_frame, self._instance)
            self._radio.publish(message)
            if is_new and note is agent.note:
                self._bytes += note.size_bytes
                self._messages += 1
        self._sent_step, self._sent_s = (agent.epoch, agent.step), now_s


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(SparcRobot, args)


if __name__ == '__main__':
    sys.exit(main())
