"""World, embedded simulator, execution graph and controller together, with everything that can go wrong."""

from __future__ import annotations

import numpy as np
import pytest
from joint_moves import draw_joint_move, walking_distances

from attn_robotics.simulation.embedded import WATCHDOG, EmbeddedSimulator
from attn_robotics.simulation.faults import Faults, LossyChannel, OdometryNoise, Outage
from attn_robotics.simulation.mjcf import Body
from attn_robotics.simulation.world import World
from attn_robotics.systems.sparc.execution import ExecutionGraph
from attn_robotics.systems.sparc.motion import CellController, MotionLimits, lean_in

PERIOD = 0.05  # [s] of the controller
DECIDE = 10  # controller periods per decision
SILENCE = 0.5  # [s] after which a robot that dropped out is given up


class Fleet:
    """A run: decisions by chance towards the goals, execution by the code under test."""

    def __init__(self, world: World, body: Body, faults: Faults, watchdog: float = WATCHDOG) -> None:
        self.world, self.faults = world, faults
        count = world.robots
        self.simulator = EmbeddedSimulator(world, body=body, watchdog=watchdog)
        self.graph = ExecutionGraph(world.instance.starts, horizon=4)
        limits = MotionLimits.of(world.robot, latency_s=faults.message_delay_s, roll_on_s=watchdog)
        self.controller = CellController(count, limits)
        self.noise = OdometryNoise(count, faults)
        self.channels = [LossyChannel[tuple[float, float]](faults, robot) for robot in range(count)]
        self.distances = walking_distances(world.instance.grid, world.instance.goals)
        self.rng = np.random.default_rng(faults.seed)
        self.lost = np.zeros(count, bool)
        self.lean_m = limits.lean(world.frame.resolution)
        self.gap_m = np.inf  # smallest between two discs, or a disc and a wall
        self.walls = np.pad(world.instance.grid, 1, constant_values=True)
        self.visited = world.instance.starts[:, None].copy()

    def run(self, seconds: float) -> None:
        for tick in range(round(seconds / PERIOD)):
            now = self.simulator.time
            self._break(now)
            if tick % DECIDE == 0:
                blocked = self.world.instance.grid.copy()
                blocked[tuple(self.graph.routes()[self.lost].reshape(-1, 2).T)] = True
                still = self.graph.full() | self.lost
                self.graph.append(draw_joint_move(self.rng, self.graph.planned(), blocked, still, self.distances))
            self._drive(now)
            self.simulator.step(PERIOD)
            self._measure()

    def _break(self, now: float) -> None:
        count = self.world.robots
        dead = self.faults.dropped(now, count)  # silent: their wheels roll on until the watchdog stops them
        self.simulator.stop(self.faults.stopped(now, count) & ~dead)
        silent = self.faults.dropped(now - SILENCE, count)
        if (silent & ~self.lost).any():
            self.lost = silent
            self.graph.rollback()

    def _drive(self, now: float) -> None:
        seen = self.noise.apply(self.simulator.poses(), now)
        dropped = self.faults.dropped(now, self.world.robots)
        to_xy = self.world.frame.to_xy
        while (arrived := self.controller.arrived(seen, to_xy(self.graph.routes())) & ~dropped).any():
            self.graph.complete(np.flatnonzero(arrived))
        routes = lean_in(to_xy(self.graph.routes()), self.graph.granted(), to_xy(self.graph.upcoming()), self.lean_m)
        linear, angular = self.controller.step(seen, routes, PERIOD)
        for robot, channel in enumerate(self.channels):
            if not dropped[robot]:
                channel.push((float(linear[robot]), float(angular[robot])), now)
            for command in channel.pop_due(now):
                self.simulator.command(*command, robots=robot)

    def _measure(self) -> None:
        centres = self.simulator.poses()[:, :2]
        apart = np.linalg.norm(centres[:, None] - centres, axis=-1)[np.triu_indices(len(centres), 1)]
        # corners of the obstacles around each robot's cell
        frame, radius = self.world.frame, self.world.robot.radius
        cells = frame.to_cell(centres)
        beside = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing='ij'), axis=-1).reshape(-1, 2)
        near = cells[:, None] + beside
        off = np.abs(centres[:, None] - frame.to_xy(near))
        from_cell = np.linalg.norm(np.maximum(off - frame.resolution / 2, 0.0), axis=-1)
        to_wall = np.where(self.walls[near[..., 0] + 1, near[..., 1] + 1], from_cell, np.inf)
        self.gap_m = min(self.gap_m, apart.min(initial=np.inf) - 2 * radius, to_wall.min() - radius)
        self.visited = np.concatenate([self.visited, self.graph.held()[:, None]], axis=1)

    def moves(self) -> np.ndarray:
        """(N,) cells entered."""
        return (np.diff(self.visited, axis=1) != 0).any(axis=-1).sum(axis=1)


def make_world(robots: int, size: int, density: float, seed: int) -> World:
    return World.from_description(
        {'map': {'random': {'size': size, 'density': density}}, 'robots': robots, 'seed': seed}
    )


STOPS = (Outage(3, 5.0, 8.0), Outage(9, 6.3, 4.0))
DROP_OUTS = (Outage(17, 8.1), Outage(0, 11.7))
FAULTS = {
    'none': Faults(seed=7),
    'late': Faults(message_delay_s=0.1, message_jitter_s=0.1, message_loss=0.1, seed=7),
    'noisy': Faults(odometry_noise_m=0.02, odometry_noise_rad=0.02, seed=7),
    'stops': Faults(stops=STOPS, drop_outs=DROP_OUTS, seed=7),
    'all': Faults(
        message_delay_s=0.1, message_jitter_s=0.1, message_loss=0.1, odometry_noise_m=0.02, odometry_noise_rad=0.02,
        stops=STOPS, drop_outs=DROP_OUTS, seed=7,
    ),
}  # fmt: skip


@pytest.mark.parametrize('faults', FAULTS)
def test_nothing_touches_with_32_robots_among_30_percent_obstacles(faults):
    fleet = Fleet(make_world(32, 20, 0.3, seed=7), 'disc', FAULTS[faults])
    fleet.run(40.0)
    assert fleet.simulator.contact_pairs == []
    assert fleet.gap_m > 0.02
    lost = fleet.lost
    assert lost.sum() == len(FAULTS[faults].drop_outs)
    assert np.median(fleet.moves()[~lost]) >= 8, 'the fleet must move for this to mean anything'


def test_nothing_touches_on_real_wheels_with_all_faults_on():
    faults = FAULTS['all']
    fleet = Fleet(make_world(20, 15, 0.3, seed=3), 'wheeled', faults)
    fleet.run(20.0)
    assert fleet.simulator.contact_pairs == []
    assert fleet.gap_m > 0.02
    assert fleet.lost.sum() == 2


@pytest.mark.parametrize('watchdog', [0.25, 0.5])
def test_nothing_touches_when_one_controller_after_another_dies_at_full_speed(watchdog):
    rng = np.random.default_rng(2)
    dying = zip(rng.permutation(32)[:16].tolist(), rng.uniform(1, 15, 16).tolist(), strict=True)
    faults = Faults(drop_outs=tuple(Outage(robot, at) for robot, at in dying), seed=5)
    fleet = Fleet(make_world(32, 20, 0.3, seed=5), 'disc', faults, watchdog)
    fleet.run(18.0)
    assert fleet.simulator.contact_pairs == []
    assert fleet.gap_m > 0.02
    assert fleet.lost.sum() == 16


def test_a_stopped_robot_holds_up_only_those_behind_it():
    world = World.from_description(
        {
            'map': {'text': '......\n######\n......'},
            'starts': [[0, 2], [0, 0], [2, 0]],
            'goals': [[0, 5], [0, 4], [2, 5]],
        }
    )
    fleet = Fleet(world, 'disc', Faults(stops=(Outage(0, 1.0, 60.0),), seed=1))
    fleet.run(25.0)
    held = fleet.graph.held()
    assert held[0].tolist() in ([0, 2], [0, 3])
    assert held[1, 1] < held[0, 1]
    # the one on the other lane has passed everything (it wanders a little, as chance is part of its planner)
    assert fleet.moves()[2] >= 5
    assert fleet.simulator.contact_events == 0
