"""Plan and drive a whole fleet: one attentive network, one batch, all robots.

Listens to the map, the robots' transforms and their goals; publishes a velocity for every robot and shows who attends
to whom.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import OccupancyGrid
from numpy.typing import NDArray
from tf2_msgs.msg import TFMessage

from attn_robotics.conversions.grids import GridError, from_occupancy_grid
from attn_robotics.conversions.transforms import RobotTransforms
from attn_robotics.nodes._fleet_commands import FleetCommands
from attn_robotics.nodes._fleet_display import FleetDisplay
from attn_robotics.nodes._fleet_params import SparcFleetParams
from attn_robotics.nodes._fleet_service import PlanStepService
from attn_robotics.nodes._fleet_start import FleetStart
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import AttnNode, run_node
from attn_robotics.ros.worker import LatestWorker
from attn_robotics.simulation.grid import GridFrame
from attn_robotics.systems.sparc.fleet import LOST, Decision, Fleet, FleetConfig, FleetError, Proposal
from attn_robotics.systems.sparc.weights_card import WeightsError

FUTURE_S = 10.0  # a stamp further ahead belongs to another clock, not to a late one


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
        self._beginning = FleetStart(self._names, self._transforms, p.map_frame, p.start_s, self.get_logger())
        self._deciding = False
        self._decided: Decision | None = None
        self._problem = ''
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
        self._commands = FleetCommands(self, self._names)
        self._display = FleetDisplay(self, p.map_frame)
        self._plan_step = PlanStepService(self, p, self.dropped)
        self._timer = self.create_timer(1.0 / p.control_rate, self._control, autostart=False)
        self._last_control_s: float | None = None

    def activate(self) -> None:
        """Start to drive."""
        self._timer.reset()

    def deactivate(self) -> None:
        """Stop every robot."""
        self._timer.cancel()
        self._commands.stop()

    def release(self) -> None:
        """Close the worker, forget the fleet."""
        if not hasattr(self, '_worker'):
            return
        self._worker.close()
        if hasattr(self, '_plan_step'):
            self._plan_step.close()
            del self._plan_step
        for subscription in self._held:
            self.destroy_subscription(subscription)
        self._commands.close()
        self._display.close()
        self.destroy_timer(self._timer)
        self._held, self._fleet = [], None
        del self._worker, self._policy

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """Say who is missing, who is lost, and how fast decisions are."""
        if self._problem:
            return DiagnosticStatus.ERROR, self._problem, {}
        fleet = self._fleet
        if fleet is None:
            return DiagnosticStatus.WARN, self._beginning.waits_for(has_map=self._map is not None), {}
        states = fleet.states()
        lost = [name for name, state in zip(self._names, states, strict=True) if state == LOST]
        p50, p99 = self._display.decisions_ms.quantiles
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
                self._display.show(
                    fleet, decision, layer=self.params.attention_layer, top_k=self.params.attention_top_k
                )
        if not self._deciding and fleet.is_due(now_s):
            self._deciding = True
            self._worker.put(fleet.propose(now_s, need_attention=self._display.is_looked_at))
        dt_s = 1.0 / self.params.control_rate if last_s is None else max(now_s - last_s, 1e-3)
        velocities = np.stack(fleet.velocities(dt_s), axis=1)
        velocities[self._stale()] = 0.0
        self._commands.send(velocities)

    def _found_fleet(self) -> bool:
        """Build the fleet once the map and every robot are known."""
        poses = None if self._map is None else self._beginning.poses()
        if self._map is None or poses is None:
            return False
        (grid, frame), p = self._map, self.params
        config = FleetConfig(horizon=p.horizon, lost_s=p.lost_s, stall_s=p.stall_s, seed=p.seed)
        cells = frame.to_cell(poses[:, :2])
        try:
            self._fleet = Fleet(grid, frame, self._names, cells, self._policy, p.limits(), config)
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

    def _stale(self) -> NDArray[np.bool_]:
        """(N,) robots whose newest pose is too old to drive by: they would leave their cells before we notice."""
        stamps_s = self._transforms.stamps_s
        stale: NDArray[np.bool_] = (stamps_s > 0) & (self._now_s() - stamps_s > self.params.stale_s)
        if (stale & self._commands.moving).any():
            self.drop('command on an old pose', f'{self._names[int(stale.argmax())]} waits for a newer one')
        return stale


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(SparcFleet, args)


if __name__ == '__main__':
    sys.exit(main())
