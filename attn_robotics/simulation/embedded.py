"""The embedded simulator: a world in MuJoCo, all robots read and commanded as arrays."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Callable

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.mjcf import SCAN_GROUPS, SCAN_HEIGHT, Body, to_mjcf
from attn_robotics.simulation.world import World

Array = NDArray[np.float64]

CONTROL_PERIOD = 0.01  # [s] between updates of the motors' set points
# [s] A robot whose controller dies rolls on for this long and then brakes; controllers have to drive accordingly.
WATCHDOG = 0.25
_SAME_TOUCH = 0.25  # [s] a pair that parts for less long is still the same contact event


class ViewerError(RuntimeError):
    """There can be no window; the message says why."""


class EmbeddedSimulator:
    """N differential-drive robots with inertia, commanded by body velocities.

    A robot follows its command within the acceleration limits of the model, and brakes to a stop when it has had no
    command for `watchdog` seconds of simulated time. Not thread-safe.

    Attributes:
        contact_events: how often two robots, or a robot and a wall, have come to touch. Wheels on the floor don't
            count.
        contact_pairs: names of the touching pairs in order of events, the last 1000.
    """

    def __init__(
        self, world: World, *, body: Body = 'wheeled', timestep: float = 0.005, watchdog: float = WATCHDOG
    ) -> None:
        """Build the physics of a world; robots stand on their starts, facing along x.

        Args:
            world: what to simulate.
            body: `wheeled` (wheels, casters, contact with the floor) or `disc` (planar, more than ten times quicker).
            timestep: of the physics [s], at most 0.01.
            watchdog: see the class [s].

        Raises:
            WorldError: unknown body or a time step out of range.
        """
        if not 0 < timestep <= CONTROL_PERIOD:
            raise WorldError(f'timestep must be above 0 and at most {CONTROL_PERIOD} s, got {timestep}')
        self.world = world
        self.body: Body = body
        self.timestep = timestep
        self.watchdog = watchdog
        self.contact_events = 0
        self.contact_pairs: list[tuple[str, str]] = []
        self._model = mujoco.MjModel.from_xml_string(to_mjcf(world, body, timestep))
        self._data = mujoco.MjData(self._model)
        count = world.robots
        width = 9 if body == 'wheeled' else 3
        self._qpos: Array = self._data.qpos[: count * width].reshape(count, width)
        self._qvel: Array = self._data.qvel[: count * (width - (body == 'wheeled'))].reshape(count, -1)
        self._ctrl: Array = self._data.ctrl.reshape(count, -1)
        if body == 'disc':
            self._qpos[:, :2] = world.start_xy
        self._wanted = np.zeros((count, 2))  # commanded linear and angular
        self._set_point = np.zeros((count, 2))  # the same within the acceleration limits
        self._commanded_at = np.full(count, -np.inf)
        self._stopped = np.zeros(count, bool)
        self._stride = max(1, round(CONTROL_PERIOD / timestep))
        self._tick = 0
        robot = world.robot
        self._speed_limit = np.array([robot.max_speed, robot.max_turn_rate])
        period = self._stride * timestep
        self._ramp = np.array([robot.max_acceleration, robot.max_turn_acceleration]) * period
        half = robot.wheel_separation / 2
        self._to_wheels = np.array([[1.0, 1.0], [-half, half]]) / robot.wheel_radius
        self._touch_index()
        mujoco.mj_forward(self._model, self._data)

    @property
    def time(self) -> float:
        """Simulated time [s]."""
        return self._tick * self.timestep

    def command(self, linear: ArrayLike, angular: ArrayLike, robots: ArrayLike | None = None) -> None:
        """Set body velocities; they are clipped to the model's limits.

        Args:
            linear: (N,) forward speeds [m/s], or as many as `robots` names.
            angular: (N,) turn rates [rad/s], positive to the left.
            robots: indices, all robots when None.

        Raises:
            ValueError: a speed is not finite or the shapes don't fit.
        """
        chosen = slice(None) if robots is None else np.atleast_1d(np.asarray(robots))
        wanted = np.stack(np.broadcast_arrays(np.asarray(linear, float), np.asarray(angular, float)), axis=-1)
        if not np.isfinite(wanted).all():
            raise ValueError('a commanded speed is not finite')
        self._wanted[chosen] = np.clip(wanted, -self._speed_limit, self._speed_limit)
        self._commanded_at[chosen] = self.time

    def step(self, duration: float) -> None:
        """Simulate at least `duration` seconds, rounded to whole physics steps."""
        model, data = self._model, self._data
        for _ in range(max(1, round(duration / self.timestep))):
            if self._tick % self._stride == 0:
                self._drive()
            mujoco.mj_step(model, data)
            self._tick += 1
            if data.ncon:
                self._count_contacts()

    def poses(self) -> Array:
        """(N, 3) x [m], y [m] and yaw [rad, -pi to pi] in the map frame: the truth, without odometry noise."""
        poses = np.empty((self.world.robots, 3))
        poses[:, :2] = self._qpos[:, :2]
        poses[:, 2] = self._yaw()
        return poses

    def velocities(self) -> Array:
        """(N, 2) forward speed [m/s] and turn rate [rad/s]."""
        yaw = self._yaw()
        linear = np.cos(yaw) * self._qvel[:, 0] + np.sin(yaw) * self._qvel[:, 1]
        return np.stack([linear, self._qvel[:, 5 if self.body == 'wheeled' else 2]], axis=-1)

    def stop(self, robots: ArrayLike) -> None:
        """Let the wheels of some robots fail until further notice: they brake and ignore commands.

        Args:
            robots: (N,) booleans, True for those that fail; the others work again.
        """
        self._stopped[:] = robots

    def scan(self, robot: int, beams: int = 180, max_range: float = 10.0) -> Array:
        """Cast the beams of one robot's lidar, which sits in the middle of the chassis.

        Args:
            robot: index.
            beams: spread evenly over the full circle; beam 0 points backwards (-pi), the angle grows to the left.
            max_range: [m].

        Returns:
            (beams,) distances from the robot's centre [m], infinite where nothing is within range (REP-117).
        """
        angles = self._yaw()[robot] - np.pi + np.arange(beams) * (2 * np.pi / beams)
        directions = np.stack([np.cos(angles), np.sin(angles), np.zeros(beams)], axis=-1)
        origin = np.array([*self._qpos[robot, :2], SCAN_HEIGHT * self.world.robot.height])
        hit, ranges = np.empty(beams, np.int32), np.empty(beams)
        mujoco.mj_multiRay(
            self._model,
            self._data,
            origin,
            directions.ravel(),
            np.array(SCAN_GROUPS, np.uint8),
            True,
            self._bodies[robot],
            hit,
            ranges,
            None,
            beams,
            max_range,
        )
        ranges[(ranges < 0) | (ranges > max_range)] = np.inf
        return ranges

    def open_viewer(self, limit_s: float = 10.0) -> Callable[[], None]:
        """Open MuJoCo's window on this simulation.

        Args:
            limit_s: how long to wait for the window [s of wall time].

        Returns:
            What shows the present state; call it after steps. It does nothing once the window is closed.

        Raises:
            ViewerError: there is no library, display or graphics driver for it.
        """
        answers: queue.SimpleQueue[Callable[[], None] | Exception] = queue.SimpleQueue()

        def open_window() -> None:
            try:
                import glfw
                import mujoco.viewer  # loads GLFW, which servers need not have

                with warnings.catch_warnings(action='ignore'):  # GLFW's own words; ours are one line
                    if not glfw.init():  # MuJoCo's thread would die of it with a traceback
                        raise ViewerError('GLFW finds no usable display')
                answers.put(mujoco.viewer.launch_passive(self._model, self._data).sync)
            except Exception as error:
                answers.put(error)

        # MuJoCo waits for ever for a window that its own thread fails to make, so a thread of ours does the waiting.
        threading.Thread(target=open_window, name='viewer', daemon=True).start()
        try:
            answer = answers.get(timeout=limit_s)
        except queue.Empty:
            raise ViewerError(f'no window after {limit_s:g} s') from None
        if isinstance(answer, Exception):
            raise ViewerError(' '.join(str(answer).split()) or type(answer).__name__) from answer
        return answer

    def _yaw(self) -> Array:
        if self.body == 'disc':
            turned: Array = np.remainder(self._qpos[:, 2] + np.pi, 2 * np.pi) - np.pi
            return turned
        w, x, y, z = self._qpos[:, 3:7].T
        yaw: Array = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        return yaw

    def _drive(self) -> None:
        """Move the motors' set points towards the commands."""
        listening = (self.time - self._commanded_at <= self.watchdog) & ~self._stopped
        change = self._wanted * listening[:, None] - self._set_point
        self._set_point += np.minimum(np.maximum(change, -self._ramp), self._ramp)  # np.clip takes twice as long
        if self.body == 'wheeled':
            np.matmul(self._set_point, self._to_wheels, out=self._ctrl)
        else:
            # the heading in the middle of the coming period
            yaw = self._qpos[:, 2] + 0.5 * self._stride * self.timestep * self._set_point[:, 1]
            self._ctrl[:, 0] = self._set_point[:, 0] * np.cos(yaw)
            self._ctrl[:, 1] = self._set_point[:, 0] * np.sin(yaw)
            self._ctrl[:, 2] = self._set_point[:, 1]

    def _touch_index(self) -> None:
        """Name what each geom belongs to, as far as touching it counts."""
        model = self._model
        walls = 'border', 'obstacle'
        self._touchable = np.zeros(model.ngeom, bool)
        self._owner: list[str] = []
        for geom in range(model.ngeom):
            name = model.geom(geom).name
            self._touchable[geom] = name.endswith('/chassis') or name.startswith(walls)
            self._owner.append(name.removesuffix('/chassis'))
        self._bodies = [model.body(name).id for name in self.world.names]
        self._last_touch: dict[tuple[int, int], float] = {}

    def _count_contacts(self) -> None:
        pairs = self._data.contact.geom
        pairs = pairs[self._touchable[pairs].all(axis=1)]
        if not len(pairs):
            return
        now = self.time
        for first, second in {(min(pair), max(pair)) for pair in pairs.tolist()}:
            if now - self._last_touch.get((first, second), -np.inf) > _SAME_TOUCH:
                self.contact_events += 1
                self.contact_pairs.append((self._owner[first], self._owner[second]))
                del self.contact_pairs[:-1000]
            self._last_touch[first, second] = now
