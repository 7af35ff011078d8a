"""Simulate a fleet of differential-drive robots in MuJoCo: the embedded stand-in for Gazebo, with the same topics.

Publishes /clock, /tf and each robot's odom (and scan, when asked for), and drives each robot by its cmd_vel.
"""

from __future__ import annotations

import array
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from sensor_msgs.msg import LaserScan
from std_msgs.msg import UInt32
from tf2_msgs.msg import TFMessage

from attn_robotics.conversions.poses import to_odometry, to_transforms
from attn_robotics.conversions.stamps import to_stamp
from attn_robotics.nodes._world import WorldParams
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import run_node
from attn_robotics.ros.parameters import param
from attn_robotics.ros.simulation import SimulationNode
from attn_robotics.simulation.embedded import EmbeddedSimulator, ViewerError
from attn_robotics.simulation.faults import Faults, OdometryNoise, parse_outages

CLOCK_PERIOD_S = 0.02
ANSWER_S = 0.05  # [simulated s] after a command the robot's next one is waited for: planners here send 20 a second
IDLE_S = 0.3  # [simulated s] after this long without a command nobody drives the robot
WAIT_S = 1.0  # [wall s] longest wait for commands; nobody waits for a robot that got none then, or that shall stand


@dataclass(frozen=True)
class EmbeddedSimulatorParams(WorldParams):
    """Tunables of the embedded simulator."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    body: str = param('wheeled', 'Wheels with contact, or quicker discs.', choices=('wheeled', 'disc'), read_only=True)
    real_time_factor: float = param(
        1.0, 'Simulated seconds a second at most; 0 runs as fast as the machine can.', low=0.0, high=100.0
    )
    wait_for_commands: bool = param(
        True, 'Let time stand still while whoever drives a robot is late; off where a person drives by hand.'
    )
    odom_rate: float = param(20.0, 'Poses a simulated second [Hz].', low=1.0, high=50.0, read_only=True)
    scan: bool = param(False, 'Publish a ray-cast lidar for every robot.', read_only=True)
    scan_rate: float = param(5.0, 'Scans a simulated second [Hz].', low=0.5, high=50.0, read_only=True)
    scan_beams: int = param(180, 'Beams of a scan.', low=8, high=2048, read_only=True)
    scan_range: float = param(10.0, 'Range of a scan [m].', low=0.5, high=100.0, read_only=True)
    headless: bool = param(True, 'No window; off opens the MuJoCo viewer where there is a display.', read_only=True)
    stops: str = param(
        '', 'Fault: robots whose wheels fail, as robot@seconds+duration: 3@10+5, robot_7@20.', read_only=True
    )
    drop_outs: str = param('', 'Fault: robots that fall silent and stay, as robot@seconds: 3@10.', read_only=True)
    odometry_noise_m: float = param(
        0.0, 'Fault: standard deviation of reported positions [m].', low=0.0, high=0.2, read_only=True
    )
    odometry_noise_rad: float = param(
        0.0, 'Fault: standard deviation of reported headings [rad].', low=0.0, high=0.2, read_only=True
    )


class EmbeddedSimulatorNode(SimulationNode):
    """The `simulator` node."""

    NAME = 'simulator'
    PERIOD_S = CLOCK_PERIOD_S
    Params = EmbeddedSimulatorParams
    params: EmbeddedSimulatorParams

    def configure(self) -> None:
        """Build the world; nothing moves yet."""
        p = self.params
        world = p.load()
        faults = Faults(
            stops=parse_outages(p.stops),
            drop_outs=parse_outages(p.drop_outs),
            odometry_noise_m=p.odometry_noise_m,
            odometry_noise_rad=p.odometry_noise_rad,
            seed=world.instance.seed,
        )
        faults.stopped(0.0, world.robots)  # refuses robots that are not there
        self._world, self._faults = world, faults
        self._noise = OdometryNoise(world.robots, faults)
        self._dropped = np.zeros(world.robots, bool)
        self._simulator = EmbeddedSimulator(world, body=p.body)  # type: ignore[arg-type]
        self._commands: dict[int, tuple[float, float]] = {}
        self._news = threading.Condition()  # guards the commands
        self._commanded_s = np.full(world.robots, -np.inf)  # simulated times of the newest commands
        self._is_awaited = np.zeros(world.robots, bool)  # who was told to move, and not waited for in vain since
        self.open_clock()
        self._tf = self.create_publisher(TFMessage, '/tf', qos.TRANSFORMS)
        self._contacts = self.create_publisher(UInt32, '~/contacts', qos.LATCHED)
        self._odom = [self.create_publisher(Odometry, f'{name}/odom', qos.SENSOR) for name in world.names]
        self._scan = [
            self.create_publisher(LaserScan, f'{name}/scan', qos.SENSOR) for name in (world.names if p.scan else ())
        ]
        self._listeners = [
            self.create_subscription(Twist, f'{name}/cmd_vel', partial(self._on_command, index), qos.COMMAND)
            for index, name in enumerate(world.names)
        ]
        self.get_logger().info(
            f'{world.robots} {p.body} robots on {world.name}, {world.frame.height} x {world.frame.width} cells of '
            f'{world.frame.resolution:g} m'
        )

    def release(self) -> None:
        """Forget the world."""
        if not hasattr(self, '_listeners'):
            return
        for listener in self._listeners:
            self.destroy_subscription(listener)
        for publisher in (self._tf, self._contacts, *self._odom, *self._scan):
            self.destroy_publisher(publisher)
        self.close_clock()
        del self._listeners, self._simulator

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """Report time, speed and contacts."""
        simulator = self._simulator
        if self.failure:
            return DiagnosticStatus.ERROR, self.failure, {'simulated time [s]': f'{simulator.time:.1f}'}
        values = {
            'simulated time [s]': f'{simulator.time:.1f}',
            'real-time factor': f'{self.pace.real_time_factor:.2f}',
            'contact events': simulator.contact_events,
        }
        if simulator.contact_events:
            first, second = simulator.contact_pairs[-1]
            return DiagnosticStatus.WARN, f'{first} touched {second}', values
        return DiagnosticStatus.OK, 'running', values

    def _on_command(self, robot: int, message: Twist) -> None:
        command = (message.linear.x, message.angular.z)
        if not np.isfinite(command).all():
            self.drop('cmd_vel is not a number', self._world.names[robot])
            return
        with self._news:
            self._commands[robot] = command
            self._news.notify()

    def simulate(self) -> None:
        """Open a window where one is wanted, in the thread that draws, and let time run."""
        p = self.params
        self._every_odom = max(1, round(1.0 / (p.odom_rate * CLOCK_PERIOD_S)))
        self._every_scan = max(1, round(1.0 / (p.scan_rate * CLOCK_PERIOD_S)))
        self._show = self._open_viewer()
        self._reported = -1
        super().simulate()

    def wake(self) -> None:
        """End the wait for a command."""
        with self._news:
            self._news.notify()

    def step(self, number: int) -> bool:
        """Let robots fail and drive, and tell of it."""
        simulator = self._simulator
        self._break()
        self._await_commands()
        self._apply_commands()
        simulator.step(CLOCK_PERIOD_S)
        self.tell_time(simulator.time)
        if number % self._every_odom == 0:
            self._publish_poses()
        if self.params.scan and number % self._every_scan == 0:
            self._publish_scans()
        if simulator.contact_events != self._reported:
            self._reported = simulator.contact_events
            self._contacts.publish(UInt32(data=self._reported))
        if self._show is not None and number % 2 == 0:
            self._show()
        return True

    def speed(self) -> float:
        """The factor, which may be set at run time; without a limit time need not hurry before somebody drives."""
        return self.params.real_time_factor or (0.0 if self._commanded_s.max() >= 0 else 1.0)

    def _break(self) -> None:
        """Let robots fail whose time has come."""
        simulator, faults, robots = self._simulator, self._faults, self._world.robots
        simulator.stop(faults.stopped(simulator.time, robots))
        self._dropped = faults.dropped(simulator.time, robots)

    def _await_commands(self) -> None:
        """Let time stand still for a moment where whoever drives a robot has not answered yet.

        A planner that is short of computing time would otherwise drive by poses that are long past, and a run as fast
        as the machine can would mostly be one without a planner.
        """
        if not self.params.wait_for_commands:
            return
        silent_s = self._simulator.time - self._commanded_s
        slow = np.flatnonzero((silent_s > ANSWER_S) & (silent_s < IDLE_S) & self._is_awaited).tolist()
        if slow:
            with self._news:
                self._news.wait_for(lambda: self._commands.keys() >= {*slow} or not self.is_running, WAIT_S)
                self._is_awaited[[robot for robot in slow if robot not in self._commands]] = False

    def _apply_commands(self) -> None:
        simulator = self._simulator
        with self._news:
            commands, self._commands = self._commands, {}
        if commands:
            robots = [*commands]
            velocities = np.array([*commands.values()])
            self._commanded_s[robots], self._is_awaited[robots] = simulator.time, velocities.any(axis=1)
            linear, angular = velocities.T
            simulator.command(linear, angular, robots)

    def _publish_poses(self) -> None:
        """Send odometry relative to each robot's start, as wheels count it, and the same as transforms."""
        world, simulator = self._world, self._simulator
        poses, velocities = simulator.poses(), simulator.velocities()
        poses[:, :2] -= world.start_xy  # robots start facing along x, so only the origin moves
        poses = self._noise.apply(poses, simulator.time)
        stamp = to_stamp(simulator.time)
        rows = np.flatnonzero(~self._dropped)
        heard = [world.names[robot] for robot in rows]
        for robot, name in zip(rows, heard, strict=True):
            if self._odom[robot].get_subscription_count():
                self._odom[robot].publish(
                    to_odometry(poses[robot], velocities[robot], f'{name}/odom', f'{name}/base_link', stamp)
                )
        self._tf.publish(
            to_transforms(
                poses[rows],
                [f'{name}/base_link' for name in heard],
                [f'{name}/odom' for name in heard],
                stamp,
            )
        )

    def _publish_scans(self) -> None:
        p, simulator = self.params, self._simulator
        for robot, (name, publisher) in enumerate(zip(self._world.names, self._scan, strict=True)):
            if self._dropped[robot] or not publisher.get_subscription_count():
                continue
            ranges = simulator.scan(robot, p.scan_beams, p.scan_range)
            step = 2 * np.pi / p.scan_beams
            scan = LaserScan(angle_min=-np.pi, angle_max=np.pi - step, angle_increment=step, range_max=p.scan_range)
            scan.header.stamp = to_stamp(simulator.time)
            scan.header.frame_id = f'{name}/base_link'
            scan.scan_time = 1.0 / p.scan_rate
            scan.ranges = array.array('f', ranges.astype(np.float32).tobytes())
            publisher.publish(scan)

    def _open_viewer(self) -> Callable[[], None] | None:
        if self.params.headless:
            return None
        if not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')):
            self.get_logger().warning('no display: running without a window (headless:=true says so on purpose)')
            return None
        try:
            return self._simulator.open_viewer()
        except ViewerError as error:
            self.get_logger().warning(f'cannot open a window: {error}; running without (headless:=true says so)')
            return None


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(EmbeddedSimulatorNode, args)


if __name__ == '__main__':
    sys.exit(main())
