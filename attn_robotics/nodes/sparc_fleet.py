"""Plan and drive a whole fleet: one attentive network, one batch, all robots.

Listens to the map, the robots' transforms and their goals; publishes a velocity for every robot and shows who attends
to whom.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped, Twist
from nav_msgs.msg import OccupancyGrid
from numpy.typing import NDArray
from rclpy.publisher import Publisher
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from attn_robotics.conversions import attention as attention_messages
from attn_robotics.conversions.grids import GridError, from_occupancy_grid
from attn_robotics.conversions.plan_step import from_plan_step, refusal, to_plan_step
from attn_robotics.conversions.poses import to_twist
from attn_robotics.conversions.stamps import to_stamp
from attn_robotics.conversions.transforms import RobotTransforms
from attn_robotics.nodes._planner import PlannerParams
from attn_robotics.ros import qos
from attn_robotics.ros.deferred import Deferred, DeferredService
from attn_robotics.ros.lifecycle import AttnNode, run_node
from attn_robotics.ros.parameters import param
from attn_robotics.ros.worker import LatestWorker
from attn_robotics.simulation.grid import GridFrame
from attn_robotics.systems.sparc.fleet import LOST, Decision, Fleet, FleetConfig, FleetError, Proposal
from attn_robotics.systems.sparc.policy import WeightsError
from attn_robotics.systems.sparc.step import StepPlanner
from attn_robotics_interfaces.msg import AttentionMap, FleetStatus
from attn_robotics_interfaces.srv import PlanStep

FUTURE_S = 10.0  # a stamp further ahead belongs to another clock, not to a late one


@dataclass(frozen=True)
class SparcFleetParams(PlannerParams):
    """Tunables of the fleet node."""

    horizon: int = param(6, 'Decisions a robot may be ahead of its wheels.', low=1, high=16, read_only=True)
    lost_s: float = param(
        2.0, 'Without a pose for this long a robot is an obstacle [s].', low=0.2, high=60.0, read_only=True
    )
    start_s: float = param(
        30.0,
        'Start without robots that were never heard for this long, where their odometry begins is an obstacle '
        '[s of wall time].',
        low=0.5,
        high=600.0,
        read_only=True,
    )
    stale_s: float = param(
        0.3, 'With a pose older than this a robot waits for a newer one [s].', low=0.05, high=60.0, read_only=True
    )
    stall_s: float = param(
        3.0, 'Without progress for this long a robot is planned around [s].', low=0.5, high=60.0, read_only=True
    )
    attention_top_k: int = param(0, 'Keys of each row on ~/attention; 0 sends all.', low=0, high=1024)
    attention_layer: int = param(-1, 'Communication layer to show; -1 is the last.', low=-1, high=63)
    seed: int = param(0, 'Of priorities and random ties.', low=0, high=2**31 - 1, read_only=True)


class SparcFleet(AttnNode):
    """The `sparc` node: decisions for all robots, execution, attention topics."""

    NAME = 'sparc'
    Params = SparcFleetParams
    EXPECTED = (*AttnNode.EXPECTED, WeightsError)
    params: SparcFleetParams

    def configure(self) -> None:
        """Load weights, connect to map, transforms and goals."""
        p = self.params
        self._names = tuple(f'robot_{index}' for index in range(p.robots))
        self._policy = p.load_policy()
        Fleet.warm_up(self._policy)
        self._fleet: Fleet | None = None
        self._map: tuple[NDArray[np.bool_], GridFrame] | None = None
        self._goals: dict[int, tuple[float, float]] = {}
        self._transforms = RobotTransforms(self._names, p.map_frame)
        self._durations_ms: deque[float] = deque(maxlen=1000)
        self._deciding = False
        self._decided: Decision | None = None
        self._problem = ''
        self._since_s: float | None = None  # wall time at which the first robot was heard
        self._worker = LatestWorker(self._evaluate, self._on_evaluate_error, 'sparc_decision')

        self._held = [
            self.create_subscription(OccupancyGrid, 'map', self._on_map, qos.LATCHED),
            self.create_subscription(TFMessage, '/tf', self._on_transforms, qos.TRANSFORMS),
            self.create_subscription(TFMessage, '/tf_static', self._transforms.take_static, qos.TRANSFORMS_STATIC),
            *(
                self.create_subscription(PoseStamped, f'{name}/goal_pose', partial(self._on_goal, index), qos.LATCHED)
                for index, name in enumerate(self._names)
            ),
        ]
        self._commands: list[Publisher] = [
            self.create_publisher(Twist, f'{name}/cmd_vel', qos.COMMAND) for name in self._names
        ]
        self._status = self.create_publisher(FleetStatus, '~/status', qos.STATE)
        self._attention = self.create_publisher(AttentionMap, '~/attention', qos.STATE)
        self._markers = self.create_publisher(MarkerArray, '~/attention_markers', qos.STATE)
        self._image = self.create_publisher(Image, '~/attention_image', qos.SENSOR)
        self._planner: StepPlanner | None = None  # loads weights of its own with the first call
        self._plan_step = DeferredService(self, PlanStep, '~/plan_step', self._on_plan_step, refusal, own_thread=True)
        self._timer = self.create_timer(1.0 / p.control_rate, self._control, autostart=False)
        self._last_control_s: float | None = None
        self._last_sent = np.zeros((p.robots, 2))

    def activate(self) -> None:
        """Start to drive."""
        self._timer.reset()

    def deactivate(self) -> None:
        """Stop every robot."""
        self._timer.cancel()
        for publisher in self._commands:
            publisher.publish(to_twist(0.0, 0.0))

    def release(self) -> None:
        """Close the worker, forget the fleet."""
        if not hasattr(self, '_worker'):
            return
        self._worker.close()
        if hasattr(self, '_plan_step'):
            self._plan_step.close('the planner is being cleaned up')
            del self._plan_step
        for subscription in self._held:
            self.destroy_subscription(subscription)
        for publisher in (*self._commands, self._status, self._attention, self._markers, self._image):
            self.destroy_publisher(publisher)
        self.destroy_timer(self._timer)
        self._held, self._commands, self._fleet = [], [], None
        del self._worker, self._policy

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """Say who is missing, who is lost, and how fast decisions are."""
        if self._problem:
            return DiagnosticStatus.ERROR, self._problem, {}
        fleet = self._fleet
        if fleet is None:
            return DiagnosticStatus.WARN, self._waiting_for(), {}
        states = fleet.states()
        lost = [name for name, state in zip(self._names, states, strict=True) if state == LOST]
        p50, p99 = self._percentiles()
        values = {'decisions': fleet.tick, 'decision p50 [ms]': f'{p50:.2f}', 'decision p99 [ms]': f'{p99:.2f}'}
        if lost:
            return DiagnosticStatus.WARN, f'lost: {", ".join(lost)}', values
        return DiagnosticStatus.OK, 'arrived' if fleet.has_arrived else 'driving', values

    # Inputs: convert and keep.
    def _on_map(self, message: OccupancyGrid) -> None:
        try:
            grid, frame = from_occupancy_grid(message)
        except GridError as error:
            self.drop('bad map', str(error))
            return
        if self._fleet is not None and (grid.shape != self._fleet.grid.shape or frame != self._fleet.frame):
            self.drop('map changed its size or place while robots drive', 'clean up and configure the node first')
            return
        self._map = (grid, frame)

    def _on_transforms(self, message: TFMessage) -> None:
        now_s = self._now_s()
        for robot, pose in self._transforms.take(message):
            if self._fleet is None:
                continue
            ahead_s = self._transforms.stamps_s[robot] - now_s
            if ahead_s > FUTURE_S:
                self.drop('pose from the future', f'{self._names[robot]}: {ahead_s:.0f} s; is use_sim_time the same?')
                continue
            if not np.isfinite(pose).all():
                self.drop('pose is not a number', self._names[robot])
                continue
            self._fleet.observe(robot, pose, now_s)
        for name in self._transforms.strangers(message):
            self.drop('pose of an unknown robot', f'{name}; robots are {self._names[0]} to {self._names[-1]}')

    def _on_goal(self, robot: int, message: PoseStamped) -> None:
        if message.header.frame_id not in ('', self.params.map_frame):
            self.drop('goal in another frame', f'{self._names[robot]}: {message.header.frame_id}')
            return
        goal = (message.pose.position.x, message.pose.position.y)
        if not np.isfinite(goal).all():
            self.drop('goal is not a number', self._names[robot])
            return
        self._goals[robot] = goal
        if self._fleet is not None:
            self._send_goal(robot)

    def _send_goal(self, robot: int) -> None:
        assert self._fleet is not None
        try:
            self._fleet.set_goal(robot, self._fleet.frame.to_cell(np.array(self._goals[robot])))
        except FleetError as error:
            self.drop('bad goal', str(error))

    def _on_plan_step(self, request: PlanStep.Request, deferred: Deferred) -> None:
        """Answer one joint decision; this runs in the service's own thread."""
        response = deferred.response
        try:
            if self._planner is None:
                self._planner = StepPlanner(self.params.load_policy(), seed=self.params.seed)
            plan = self._planner.plan(*from_plan_step(request), reset=request.reset)
            to_plan_step(plan, response)
        except (ValueError, WeightsError) as error:
            self.dropped['bad plan_step'] += 1
            refusal(response, str(error))
        deferred.answer(response)

    # The loop.
    def _control(self) -> None:
        now_s = self._now_s()
        last_s, self._last_control_s = self._last_control_s, now_s
        if self._fleet is None and not self._found_fleet():
            return
        fleet = self._fleet
        assert fleet is not None
        self._change_map()
        for note in fleet.advance(now_s):
            self.get_logger().warning(note)
        if self._decided is not None:
            decision, self._decided = self._decided, None
            if fleet.commit(decision):
                self._publish(fleet, decision)
        if not self._deciding and fleet.is_due(now_s):
            self._deciding = True
            self._worker.put(fleet.propose(now_s, need_attention=self._somebody_looks()))
        dt_s = 1.0 / self.params.control_rate if last_s is None else max(now_s - last_s, 1e-3)
        self._command(*fleet.velocities(dt_s))

    def _found_fleet(self) -> bool:
        """Build the fleet once the map and every robot are known."""
        poses = self._first_poses()
        if self._map is None or poses is None:
            return False
        grid, frame = self._map
        p = self.params
        config = FleetConfig(horizon=p.horizon, lost_s=p.lost_s, stall_s=p.stall_s, seed=p.seed)
        limits = p.limits()
        try:
            self._fleet = Fleet(grid, frame, self._names, frame.to_cell(poses[:, :2]), self._policy, limits, config)
        except FleetError as error:
            self._problem = str(error)
            self.get_logger().error(self._problem, throttle_duration_sec=5.0)
            return False
        self._problem = ''
        for robot in range(p.robots):
            if self._transforms.pose(robot) is not None:  # the others are lost from the start
                self._fleet.observe(robot, tuple(poses[robot]), self._now_s())
        for robot in self._goals:
            self._send_goal(robot)
        self.get_logger().info(f'fleet of {p.robots} on a {grid.shape[0]} x {grid.shape[1]} map')
        return True

    def _first_poses(self) -> NDArray[np.float64] | None:
        """(N, 3) where the robots stand; one that was never heard stands where its odometry begins, after a while.

        Where even that is unknown everybody waits: it could stand anywhere.
        """
        poses = self._transforms.poses()
        unheard = np.flatnonzero(np.isnan(poses[:, 0]))
        if self._map is None or len(unheard) == len(poses):
            self._since_s = None
            return None
        if len(unheard):
            self._since_s = time.monotonic() if self._since_s is None else self._since_s
            places = [self._transforms.origin(robot) for robot in unheard.tolist()]
            if time.monotonic() - self._since_s < self.params.start_s or None in places:
                return None
            poses[unheard] = places
            names = ', '.join(self._names[robot] for robot in unheard)
            self.get_logger().warning(
                f'never heard of {names} in {self.params.start_s:g} s: the others start without, it is an obstacle'
            )
        return poses

    def _change_map(self) -> None:
        """Take over obstacles that came or went, once."""
        assert self._fleet is not None and self._map is not None
        if self._map[0] is self._fleet.grid or np.array_equal(self._map[0], self._fleet.grid):
            return
        try:
            self._fleet.change_map(self._map[0])
        except FleetError as error:
            self.drop('bad map', str(error))
            self._map = (self._fleet.grid, self._fleet.frame)

    def _evaluate(self, proposal: Proposal) -> None:
        fleet = self._fleet
        if fleet is not None:
            self._decided = fleet.evaluate(proposal)
            self._problem = ''
            fleet.prepare()
        self._deciding = False

    def _on_evaluate_error(self, error: BaseException) -> None:
        self._deciding = False
        self._problem = f'decision failed: {error}'
        self.get_logger().error(self._problem, throttle_duration_sec=5.0)

    # Outputs.
    def _command(self, linear: NDArray[np.float64], angular: NDArray[np.float64]) -> None:
        """Send what changed and what moves; robots' watchdogs and the simulator's clock wait for the latter."""
        velocities = np.stack([linear, angular], axis=1)
        velocities[self._stale()] = 0.0
        changed = (np.abs(velocities - self._last_sent) > 1e-3).any(axis=1)
        moving = (velocities != 0).any(axis=1)
        due = changed | moving
        for robot in np.flatnonzero(due):
            self._commands[robot].publish(to_twist(*velocities[robot]))
        self._last_sent[due] = velocities[due]

    def _stale(self) -> NDArray[np.bool_]:
        """(N,) robots whose newest pose is too old to drive by: they would leave their cells before we notice."""
        stamps_s = self._transforms.stamps_s
        stale: NDArray[np.bool_] = (stamps_s > 0) & (self._now_s() - stamps_s > self.params.stale_s)
        if stale.any() and (self._last_sent[stale] != 0).any():
            self.drop('command on an old pose', f'{self._names[int(stale.argmax())]} waits for a newer one')
        return stale

    def _publish(self, fleet: Fleet, decision: Decision) -> None:
        stamp = to_stamp(decision.proposal.seen_s)
        self._durations_ms.append(decision.duration_s * 1e3)
        p50, p99 = self._percentiles()
        planned = fleet.planned()
        status = FleetStatus(tick=fleet.tick, robot_ids=list(self._names), state=fleet.states().tobytes())
        status.header.stamp = stamp
        status.header.frame_id = self.params.map_frame
        status.rows, status.columns = planned[:, 0].tolist(), planned[:, 1].tolist()
        status.goal_rows, status.goal_columns = fleet.goals[:, 0].tolist(), fleet.goals[:, 1].tolist()
        status.lag = fleet.lag().tolist()
        status.decision_ms = decision.duration_s * 1e3
        status.decision_p50_ms, status.decision_p99_ms = p50, p99
        self._status.publish(status)
        if decision.attention:
            self._publish_attention(fleet, decision)

    def _publish_attention(self, fleet: Fleet, decision: Decision) -> None:
        layers = list(decision.attention)
        layer = layers[min(self.params.attention_layer, len(layers) - 1)]
        weights = decision.attention[layer]
        xy = fleet.frame.to_xy(decision.proposal.cells)
        stamp, frame_id = to_stamp(decision.proposal.seen_s), self.params.map_frame
        if self._attention.get_subscription_count():
            message = attention_messages.to_attention_map(
                weights,
                self._names,
                self._names,
                mechanism='relation',
                layer=layer,
                tick=fleet.tick,
                stamp=stamp,
                frame_id=frame_id,
                distances=np.linalg.norm(xy[:, None] - xy[None], axis=-1),
                top_k=self.params.attention_top_k,
            )
            self._attention.publish(message)
        if self._markers.get_subscription_count():
            self._markers.publish(
                attention_messages.to_markers(weights, decision.proposal.poses[:, :2], frame_id=frame_id, stamp=stamp)
            )
        if self._image.get_subscription_count():
            self._image.publish(attention_messages.to_image(weights, frame_id=frame_id, stamp=stamp))

    def _somebody_looks(self) -> bool:
        publishers = (self._attention, self._markers, self._image)
        return any(publisher.get_subscription_count() for publisher in publishers)

    def _percentiles(self) -> tuple[float, float]:
        if not self._durations_ms:
            return 0.0, 0.0
        p50, p99 = np.percentile(self._durations_ms, [50, 99])
        return float(p50), float(p99)

    def _waiting_for(self) -> str:
        if self._map is None:
            return "map not received on 'map'; is a map server running with transient local QoS?"
        missing = self._transforms.missing()
        if not missing:
            return 'about to start'
        line = f'no transform {self.params.map_frame} -> {missing[0]}/base_link yet ({len(missing)} robots missing)'
        places = [self._transforms.origin(self._names.index(name)) for name in missing]
        if self._since_s is not None and None in places:
            name = missing[places.index(None)]
            line += f'; nobody says where {name} stands, so all wait: start it, or set `robots` to those that are there'
        return line


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(SparcFleet, args)


if __name__ == '__main__':
    sys.exit(main())
