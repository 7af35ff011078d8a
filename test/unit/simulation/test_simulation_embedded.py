"""The embedded simulator in physical units."""

from __future__ import annotations

import numpy as np
import pytest

from attn_robotics.simulation.embedded import EmbeddedSimulator
from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.mjcf import BODIES, Body
from attn_robotics.simulation.world import World


def draw(text: str, starts: list[list[int]], **more: object) -> World:
    return World.from_description({'map': {'text': text}, 'starts': starts, 'goals': starts, **more})


ROOM = '\n'.join(['.' * 8] * 6)


@pytest.fixture(params=BODIES)
def body(request: pytest.FixtureRequest) -> Body:
    return request.param


def drive(simulator: EmbeddedSimulator, linear: float, angular: float, seconds: float) -> None:
    for _ in range(round(seconds / 0.1)):
        simulator.command(linear, angular)
        simulator.step(0.1)


def test_robots_stand_at_the_centres_of_their_cells_and_look_along_x(body):
    world = draw(ROOM, [[0, 0], [5, 7], [2, 3]])
    simulator = EmbeddedSimulator(world, body=body)
    drive(simulator, 0.0, 0.0, 1.0)
    np.testing.assert_allclose(simulator.poses(), [[0.5, 5.5, 0], [7.5, 0.5, 0], [3.5, 3.5, 0]], atol=2e-3)
    np.testing.assert_allclose(simulator.velocities(), 0, atol=1e-3)
    assert simulator.time == pytest.approx(1.0)
    assert simulator.contact_events == 0


def test_a_robot_drives_as_far_as_speed_and_acceleration_say(body):
    simulator = EmbeddedSimulator(draw(ROOM, [[2, 0]]), body=body)
    drive(simulator, 1.0, 0.0, 3.0)
    # 2 m/s^2 up to 1 m/s, then constant: 0.25 m + 2.5 m
    x, y, yaw = simulator.poses()[0]
    assert simulator.world.robot.max_acceleration == 2.0
    assert x - 0.5 == pytest.approx(2.75, abs=0.08)
    np.testing.assert_allclose([y, yaw], [3.5, 0], atol=5e-3)
    assert simulator.velocities()[0, 0] == pytest.approx(1.0, abs=0.03)


def test_speed_and_acceleration_limits_hold_whatever_is_commanded(body):
    simulator = EmbeddedSimulator(draw(ROOM, [[2, 0]]), body=body)
    speeds = [0.0]
    for _ in range(40):
        simulator.command(9.0, 0.0)
        simulator.step(0.05)
        speeds.append(float(simulator.velocities()[0, 0]))
    assert max(speeds) < 1.05
    assert np.abs(np.diff(speeds)).max() < 1.3 * simulator.world.robot.max_acceleration * 0.05 + 0.02


def test_a_robot_turns_to_the_left_for_positive_rates_and_stays_on_the_spot(body):
    simulator = EmbeddedSimulator(draw(ROOM, [[2, 3]]), body=body)
    drive(simulator, 0.0, 1.0, 1.5)
    # 6 rad/s^2 up to 1 rad/s: 0.083 rad + 1.333 rad
    x, y, yaw = simulator.poses()[0]
    assert simulator.world.robot.max_turn_acceleration == 6.0
    assert yaw == pytest.approx(1.417, abs=0.05)
    np.testing.assert_allclose([x, y], [3.5, 3.5], atol=0.01)
    drive(simulator, 0.0, 1.0, 4.0)
    assert -np.pi <= simulator.poses()[0, 2] <= np.pi


def test_driving_a_circle_comes_back_to_its_beginning(body):
    simulator = EmbeddedSimulator(draw(ROOM, [[4, 3]]), body=body)
    drive(simulator, 0.5, 0.5, 0.5 + 2 * np.pi / 0.5)
    # radius v / w = 1 m; the acceleration's lead-in moves the circle, but not its height over the start
    trace = []
    for _ in range(126):
        drive(simulator, 0.5, 0.5, 0.1)
        trace.append(simulator.poses()[0, :2])
    extent = np.ptp(np.array(trace), axis=0)
    np.testing.assert_allclose(extent, 2.0, atol=0.08)


def test_without_commands_a_robot_stops_after_the_watchdog_s_time(body):
    simulator = EmbeddedSimulator(draw(ROOM, [[2, 0]]), body=body)
    drive(simulator, 0.5, 0.0, 1.0)
    simulator.step(0.1)
    assert simulator.velocities()[0, 0] == pytest.approx(0.5, abs=0.03)
    simulator.step(1.2)
    assert abs(simulator.velocities()[0, 0]) < 0.01


def test_a_collision_is_one_event_with_both_names_however_long_it_lasts(body):
    simulator = EmbeddedSimulator(draw(ROOM, [[2, 0], [2, 2], [5, 7]]), body=body)
    for _ in range(40):
        simulator.command(0.5, 0.0, robots=[0])
        simulator.step(0.1)
    assert simulator.contact_events == 1
    assert simulator.contact_pairs == [('robot_0', 'robot_1')]
    for _ in range(10):
        simulator.command(0.5, 0.0, robots=[2])
        simulator.step(0.1)
    assert simulator.contact_pairs[1] == ('robot_2', 'border_east')
    # the walls hold: nobody is pushed through
    assert simulator.poses()[2, 0] < 7.75


def test_driving_into_an_obstacle_is_counted_and_passing_it_closely_is_not(body):
    text = '.....\n..#..\n.....'
    hits = EmbeddedSimulator(draw(text, [[1, 0]]), body=body)
    drive(hits, 0.5, 0.0, 4.0)
    assert hits.contact_pairs == [('robot_0', 'obstacle_0')]
    passes = EmbeddedSimulator(draw(text, [[0, 0]]), body=body)
    drive(passes, 0.5, 0.0, 7.0)
    assert passes.poses()[0, 0] > 3.5
    assert passes.contact_events == 0


def test_a_stopped_robot_brakes_and_goes_on_when_it_may(body):
    simulator = EmbeddedSimulator(draw(ROOM, [[2, 0], [4, 0]]), body=body)
    simulator.stop([True, True])
    drive(simulator, 0.5, 0.0, 1.0)
    np.testing.assert_allclose(simulator.poses()[:, 0], 0.5, atol=5e-3)
    simulator.stop([False, True])
    drive(simulator, 0.5, 0.0, 2.0)
    assert simulator.poses()[0, 0] > 1.0
    assert simulator.poses()[1, 0] == pytest.approx(0.5, abs=5e-3)


def test_a_scan_measures_walls_obstacles_and_robots_but_not_its_own(body):
    simulator = EmbeddedSimulator(draw('......\n.#....\n......', [[1, 3], [1, 5]]), body=body)
    ranges = simulator.scan(0, beams=4, max_range=10.0)  # backwards, right, ahead, left
    # robot at (3.5, 1.5): obstacle's side at x = 2, walls at y = 0 and 3, the other's hull at x = 5.5 - 0.3
    np.testing.assert_allclose(ranges, [1.5, 1.5, 1.7, 1.5], atol=0.01)
    assert np.isinf(simulator.scan(0, beams=4, max_range=1.6)).tolist() == [False, False, True, False]
    for _ in range(8):
        simulator.command(0.0, 1.0)
        simulator.step(0.1)
    turned = simulator.scan(0, beams=360)
    yaw = simulator.poses()[0, 2]
    beam = round((np.pi - yaw) / (2 * np.pi / 360))  # the one that still looks along x
    assert turned[beam] == pytest.approx(1.7, abs=0.02)


def test_the_same_commands_give_the_same_motion_bit_for_bit(body):
    world = World.from_description({'map': {'random': {'size': 12, 'density': 0.2}}, 'robots': 10, 'seed': 3})
    runs = []
    for _ in range(2):
        rng = np.random.default_rng(0)
        simulator = EmbeddedSimulator(world, body=body)
        for _ in range(20):
            simulator.command(rng.uniform(-1, 1, 10), rng.uniform(-2, 2, 10))
            simulator.step(0.1)
        runs.append((simulator.poses(), simulator.contact_events))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


def test_nonsense_is_refused():
    world = draw(ROOM, [[0, 0]])
    with pytest.raises(WorldError, match='timestep'):
        EmbeddedSimulator(world, timestep=0.1)
    with pytest.raises(ValueError, match='not finite'):
        EmbeddedSimulator(world, body='disc').command(np.nan, 0.0)
