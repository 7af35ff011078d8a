"""Give a fleet its map and goals, watch it, and judge the run.

Works the same over the embedded simulator, Gazebo and real robots: it looks at poses and contacts only. Ends with exit
code 0 when every robot stands on its goal and nothing touched, and writes a summary, a picture and a video.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import OccupancyGrid
from std_msgs.msg import UInt32
from tf2_msgs.msg import TFMessage

from attn_robotics.conversions.attention import from_attention_map, strongest_edges
from attn_robotics.conversions.grids import to_occupancy_grid
from attn_robotics.conversions.poses import to_pose_stamped, to_transforms
from attn_robotics.conversions.transforms import RobotTransforms
from attn_robotics.nodes._world import WorldParams
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import AttnNode, run_node
from attn_robotics.ros.parameters import param
from attn_robotics.systems.sparc.drawing import Painter, Recording, save_picture, save_video
from attn_robotics.systems.sparc.mission import ContactCounter, Mission
from attn_robotics_interfaces.msg import AttentionMap, FleetStatus

PATIENCE_S = 10.0  # robots that stand for longer, and nobody decides: say where to look


@dataclass(frozen=True)
class MissionParams(WorldParams):
    """Tunables of the mission node."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    map_frame: str = param('map', 'Frame of map and goals.', read_only=True)
    out: str = param('', 'Folder for summary.json, run.png and run.gif; empty writes nothing.', read_only=True)
    timeout_s: float = param(900.0, 'Give up after this time [simulated s].', low=1.0, high=1e6, read_only=True)
    lifelong: bool = param(False, 'Send a robot to a new goal whenever it arrives, until the time-out.', read_only=True)
    frame_rate: float = param(
        4.0, 'Frames kept for picture and video [per simulated s].', low=0.5, high=20.0, read_only=True
    )
    contacts_from: str = param(
        'simulator',
        'Who reports contacts: the embedded simulator, or the sensors of robots in Gazebo.',
        choices=('simulator', 'gazebo'),
        read_only=True,
    )
    exit_when_done: bool = param(True, 'End the process when the mission is over.', read_only=True)


class MissionNode(AttnNode):
    """The `mission` node."""

    NAME = 'mission'
    Params = MissionParams
    params: MissionParams

    def configure(self) -> None:
        """Load the world and publish its map, origins and goals, latched."""
        p = self.params
        self._world = p.load()
        self._mission = Mission(self._world, timeout_s=p.timeout_s, lifelong=p.lifelong)
        self._transforms = RobotTransforms(self._world.names, p.map_frame)
        self._recording = Recording()
        self._edges: list[tuple[int, int, float]] = []
        self._status: dict[str, FleetStatus] = {}
        self._said_s = -np.inf
        self._closed = False
        self._out = Path(p.out).expanduser() if p.out else None
        if self._out is not None:
            self._out.mkdir(parents=True, exist_ok=True)

        self._map = self.create_publisher(OccupancyGrid, 'map', qos.LATCHED)
        self._static = self.create_publisher(TFMessage, '/tf_static', qos.TRANSFORMS_STATIC)
        self._goals = [
            self.create_publisher(PoseStamped, f'{name}/goal_pose', qos.LATCHED) for name in self._world.names
        ]
        self._listeners = [
            self.create_subscription(TFMessage, '/tf', self._on_transforms, qos.TRANSFORMS),
            self.create_subscription(FleetStatus, 'sparc/status', self._on_status, qos.STATE),
        ]
        self._counter = ContactCounter()
        self._sensors: list[str] = []
        if p.contacts_from == 'simulator':
            self._listeners.append(
                self.create_subscription(UInt32, 'simulator/contacts', self._on_contacts, qos.LATCHED)
            )
        elif (kind := find_contacts()) is None:
            self.get_logger().warning(
                'contacts unknown: ros_gz_interfaces is missing, so this run cannot be called a success; '
                'type: sudo apt install ros-jazzy-ros-gz'
            )
        else:
            self._sensors = [f'{name}/contacts' for name in self._world.names]
            self._listeners += [
                self.create_subscription(kind, topic, self._on_sensor, qos.SENSOR) for topic in self._sensors
            ]
        if p.out:  # only pictures need it, and listening makes the planner compute it
            self._listeners.append(
                self.create_subscription(AttentionMap, 'sparc/attention', self._on_attention, qos.STATE)
            )
        self._timer = self.create_timer(1.0 / p.frame_rate, self._watch, autostart=False)

    def activate(self) -> None:
        """Send everybody off."""
        world, frame_id = self._world, self.params.map_frame
        now = self.get_clock().now().to_msg()
        grid = to_occupancy_grid(world.instance.grid, world.frame, frame_id)
        grid.header.stamp = now
        self._map.publish(grid)
        origins = np.concatenate([world.start_xy, np.zeros((world.robots, 1))], axis=1)
        odometry = [f'{name}/odom' for name in world.names]
        static = to_transforms(origins, odometry, [frame_id] * world.robots, now)
        self._transforms.take_static(static)
        self._static.publish(static)
        for robot in range(world.robots):
            self._send_goal(robot)
        self._timer.reset()

    def deactivate(self) -> None:
        """Stop watching."""
        self._timer.cancel()

    def release(self) -> None:
        """Write what there is and let go."""
        if not hasattr(self, '_listeners'):
            return
        self._finish()
        for listener in self._listeners:
            self.destroy_subscription(listener)
        for publisher in (self._map, self._static, *self._goals):
            self.destroy_publisher(publisher)
        self.destroy_timer(self._timer)
        del self._listeners

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """Report progress."""
        mission = self._mission
        contacts = 'unknown' if mission.contacts is None else mission.contacts
        values = {'arrived': int(mission.arrived.sum()), 'robots': self._world.robots, 'contacts': contacts}
        return (DiagnosticStatus.WARN if mission.contacts else DiagnosticStatus.OK), mission.line(), values

    def _send_goal(self, robot: int) -> None:
        x, y = self._world.frame.to_xy(self._mission.goals[robot]).tolist()
        stamp = self.get_clock().now().to_msg()
        self._goals[robot].publish(to_pose_stamped((x, y), self.params.map_frame, stamp))

    def _on_transforms(self, message: TFMessage) -> None:
        now_s = self._now_s()
        for robot, pose in self._transforms.take(message):
            if np.isfinite(pose).all():
                self._mission.observe(robot, pose[:2], now_s)

    def _on_contacts(self, message: UInt32) -> None:
        self._mission.contacts = max(self._mission.contacts or 0, int(message.data))

    def _on_sensor(self, message: Any) -> None:
        """Count what a robot's contact sensor in Gazebo reports; it is silent while nothing touches."""
        for contact in message.contacts:
            # `robot_3::base_link::chassis`: only the model counts, which tells robots and walls apart
            first, second = (side.name.split('::')[0] for side in (contact.collision1, contact.collision2))
            if first != second:
                self._counter.take(first, second, self._now_s())
        if self._mission.contacts is not None:
            self._mission.contacts = self._counter.events

    def _on_status(self, message: FleetStatus) -> None:
        self._mission.start(self._now_s())
        self._status[message.robot_ids[0] if len(message.robot_ids) == 1 else ''] = message

    def _on_attention(self, message: AttentionMap) -> None:
        index = {name: robot for robot, name in enumerate(self._world.names)}
        try:
            edges = strongest_edges(from_attention_map(message), 2 * len(message.query_ids))
            named = [(index[message.query_ids[q]], index[message.key_ids[k]], w) for q, k, w in edges]
        except (ValueError, KeyError) as error:
            self.drop('bad attention map', str(error))
            return
        mine = {index[name] for name in message.query_ids}
        self._edges = [edge for edge in self._edges if edge[0] not in mine] + named

    def _watch(self) -> None:
        mission, now_s = self._mission, self._now_s()
        if mission.contacts is None and self._sensors and all(map(self.count_publishers, self._sensors)):
            mission.contacts = self._counter.events  # all sensors are there, so silence means that nothing touches
        for robot in mission.advance(now_s):
            self._send_goal(robot)
        if mission.has_started and self._out is not None:
            goals = self._world.frame.to_xy(mission.goals)
            self._recording.add(now_s, mission.positions, self._edges, goals)
        if now_s - self._said_s >= 3.0 or mission.is_over:
            self._said_s = now_s
            self.get_logger().info(f'{mission.line()}, {self._decision_line()}')
        if mission.is_over:
            self._timer.cancel()
            self._finish()
            self.is_done = self.params.exit_when_done

    def _decision_line(self) -> str:
        if not self._status:
            late = self._mission.elapsed_s > PATIENCE_S
            return 'no decision yet' + ('; did the planner fail? see its log, `ros2 lifecycle nodes`' if late else '')
        ticks = max(status.tick for status in self._status.values())
        p50 = max(status.decision_p50_ms for status in self._status.values())
        p99 = max(status.decision_p99_ms for status in self._status.values())
        return f'{ticks} decisions, p50 {p50:.1f} ms, p99 {p99:.1f} ms'

    def _finish(self) -> None:
        """Say and write the result, once."""
        if self._closed:
            return
        self._closed = True
        mission, folder = self._mission, self._out
        self.exit_code = 0 if mission.is_success else 1
        summary = mission.summary()
        summary['decisions'] = max((status.tick for status in self._status.values()), default=0)
        for name in ('decision_p50_ms', 'decision_p99_ms'):
            summary[name] = round(max((getattr(s, name) for s in self._status.values()), default=0.0), 3)
        verdict = 'all robots arrived, nothing touched' if mission.is_success else mission.failure()
        log = self.get_logger().info if mission.is_success else self.get_logger().error
        log(f'{verdict}: {mission.line()}, {self._decision_line()}')
        if folder is None:
            return
        # The verdict first: pictures of a long run take a while, and whoever stops us then still has it.
        temporary = folder / 'summary.tmp'
        temporary.write_text(json.dumps(summary, indent=1) + '\n')
        temporary.replace(folder / 'summary.json')
        written = ['summary.json']
        if self._recording.times_s:
            painter = Painter(self._world.instance.grid, self._world.frame, self._world.robot.radius)
            try:
                save_picture(folder / 'run.png', painter, self._recording)
                save_video(folder / 'run.gif', painter, self._recording)
                written += ['run.png', 'run.gif']
            except OSError as error:
                self.get_logger().warning(f'no pictures of this run: {error}')
        self.get_logger().info(f'written: {folder}/{", ".join(written)}')


def find_contacts() -> Any:
    """The message type of Gazebo's contact sensors, None where ros_gz is not installed."""
    try:
        from ros_gz_interfaces.msg import Contacts
    except ImportError:
        return None
    return Contacts


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(MissionNode, args)


if __name__ == '__main__':
    sys.exit(main())
