"""The product's fleet, driving the embedded simulator with all that can go wrong; only the network is missing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from attn_robotics.simulation.embedded import WATCHDOG, EmbeddedSimulator
from attn_robotics.simulation.faults import Faults, LossyChannel, OdometryNoise, Outage
from attn_robotics.simulation.world import World
from attn_robotics.systems.sparc.fleet import Fleet, FleetConfig
from attn_robotics.systems.sparc.motion import MotionLimits

PERIOD = 0.05  # [s] of control and of poses


class Uniform:
    """No preference at all: the shield alone decides, with distances to break ties."""

    def reset(self, grid, goals, distances, *, seed):
        self.priorities = np.random.default_rng(seed).random(len(goals))

    def set_goals(self, goals, distances, robots):
        pass

    def change_map(self, grid, distances):
        pass

    def step(self, cells, last_actions, *, need_attention=False, meanwhile=None):
        return np.full((len(cells), 5), np.log(0.2), np.float32)

    def attention(self):
        return {}


class Run:
    """A fleet whose poses and commands come late, with odometry that errs and wheels that fail."""

    def __init__(self, seed: int, faults: Faults, **changes: float) -> None:
        self.world = World.from_description(
            {'map': {'random': {'size': 20, 'density': 0.3}}, 'robots': 32, 'seed': seed}
        )
        world, self.faults = self.world, faults
        self.simulator = EmbeddedSimulator(world, body='disc')
        limits = MotionLimits.of(world.robot, latency_s=2 * faults.message_delay_s, roll_on_s=WATCHDOG)
        limits = dataclasses.replace(limits, **changes)
        grid, starts = world.instance.grid, world.instance.starts.astype(np.int32)
        self.fleet = Fleet(grid, world.frame, world.names, starts, Uniform(), limits, FleetConfig(seed=seed))
        for robot, goal in enumerate(world.instance.goals.astype(np.int32)):
            self.fleet.set_goal(robot, goal)
        self.noise = OdometryNoise(world.robots, faults)
        self.poses = [LossyChannel[np.ndarray](faults, robot) for robot in range(world.robots)]
        self.commands = [LossyChannel[tuple[float, float]](faults, 100 + robot) for robot in range(world.robots)]
        self.notes: list[str] = []

    def run(self, seconds: float) -> None:
        fleet, simulator, count = self.fleet, self.simulator, self.world.robots
        for _ in range(round(seconds / PERIOD)):
            now = simulator.time
            simulator.stop(self.faults.stopped(now, count))
            silent = self.faults.dropped(now, count)
            seen = self.noise.apply(simulator.poses(), now)
            for robot in range(count):
                if not silent[robot]:
                    self.poses[robot].push(seen[robot], now)
                for x, y, yaw in self.poses[robot].pop_due(now):
                    fleet.observe(robot, (x, y, yaw), now)
            self.notes += fleet.advance(now)
            if fleet.is_due(now):
                fleet.decide(now)
            linear, angular = fleet.velocities(PERIOD)
            for robot in range(count):
                self.commands[robot].push((float(linear[robot]), float(angular[robot])), now)
                for command in self.commands[robot].pop_due(now):
                    simulator.command(*command, robots=robot)
            simulator.step(PERIOD)


def everything(seed: int) -> Faults:
    return Faults(
        message_delay_s=0.05, message_jitter_s=0.05, message_loss=0.05, odometry_noise_m=0.02, odometry_noise_rad=0.02,
        stops=(Outage(3, 5.0, 8.0), Outage(9, 6.3, 12.0), Outage(20, 12.0, 9.0)), drop_outs=(Outage(17, 10.0),),
        seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize('seed', [7, 9])
def test_nothing_touches_with_the_fleet_of_the_product_and_all_faults_on(seed):
    run = Run(seed, everything(seed))
    start = run.simulator.poses()[:, :2]
    run.run(60.0)
    assert run.simulator.contact_pairs == []
    moved = np.linalg.norm(run.simulator.poses()[:, :2] - start, axis=1)
    assert run.fleet.tick >= 15 and (moved > 1.0).sum() >= 24, 'the fleet must move for this to mean anything'
    assert any('robot_17 sends no pose' in note for note in run.notes)


def test_robots_that_call_a_cell_left_too_early_do_touch():
    # nothing but the handing over of cells keeps the others from touching
    run = Run(7, everything(7), radius=0.01, arrival_m=0.6)
    run.run(60.0)
    assert run.simulator.contact_events > 0
