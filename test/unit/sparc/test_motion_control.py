"""The cell controller on an ideal unicycle: no wheels, no slip, only geometry and limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.systems.sparc.motion import CellController, MotionLimits, lean_in

DT = 0.05


def integrate(poses: np.ndarray, linear: np.ndarray, angular: np.ndarray, dt: float = DT) -> np.ndarray:
    middle = poses[:, 2] + angular * dt / 2
    return poses + dt * np.stack([linear * np.cos(middle), linear * np.sin(middle), angular], axis=-1)


def follow(
    controller: CellController,
    cells: np.ndarray,
    yaw: float,
    seconds: float,
    noise: float = 0.0,
    seed: int = 0,
    lookahead: int = 2,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drive one robot along (M, 2) cell centres; returns poses (T, 3), commands (T, 2) and how far it got (T,)."""
    rng = np.random.default_rng(seed)
    poses = np.array([[*cells[0], yaw]])
    done = 0
    trace, commands, progress = [], [], []
    error = np.zeros(2)
    for _ in range(round(seconds / DT)):
        error = np.clip(0.9 * error + noise * np.sqrt(1 - 0.81) * rng.standard_normal(2), -3 * noise, 3 * noise)
        seen = poses + np.array([*error, 0.0])
        route = cells[np.minimum(done + np.arange(lookahead + 1), len(cells) - 1)][None]
        if controller.arrived(seen, route)[0]:
            done += 1
            continue
        linear, angular = controller.step(seen, route, DT)
        poses = integrate(poses, linear, angular)
        trace.append(poses[0])
        commands.append([linear[0], angular[0]])
        progress.append(done)
    return np.array(trace), np.array(commands), np.array(progress)


def clearance(point: np.ndarray, cells: np.ndarray) -> float:
    """How far a point is from the nearest cell that is none of these [m]."""
    around = np.round(point) + np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2)
    others = around[(np.abs(around[:, None] - cells).max(axis=-1) > 0.5).all(axis=1)]
    return float(np.linalg.norm(np.maximum(np.abs(point - others) - 0.5, 0.0), axis=1).min())


STRAIGHT = np.array([[x, 0.0] for x in range(7)])


def test_collinear_cells_are_passed_without_slowing_down():
    trace, commands, progress = follow(CellController(1), STRAIGHT, 0.0, 9.0)
    middle = (trace[:, 0] > 1.5) & (trace[:, 0] < 4.5)
    assert commands[middle, 0].min() > 0.95
    assert progress[-1] == 6
    np.testing.assert_allclose(trace[-1], [6, 0, 0], atol=0.05)


def test_a_robot_that_may_not_go_on_stops_at_the_centre_and_stays():
    trace, commands, _ = follow(CellController(1), STRAIGHT[:3], 0.0, 8.0)
    assert trace[:, 0].max() < 2.0 + 0.05
    np.testing.assert_allclose(trace[-1, :2], [2, 0], atol=0.05)
    np.testing.assert_allclose(commands[-20:], 0, atol=0.02)


def test_a_robot_that_looks_away_turns_on_the_spot_first():
    trace, commands, _ = follow(CellController(1), STRAIGHT[:2], np.pi - 0.1, 6.0)
    facing = np.abs(trace[:, 2]) < 0.85
    assert np.abs(trace[~facing, :2]).max() < 0.02
    assert commands[~facing, 0].max() < 0.05
    np.testing.assert_allclose(trace[-1, :2], [1, 0], atol=0.05)


def test_speeds_and_accelerations_stay_within_the_limits():
    limits = MotionLimits(max_speed=0.8, max_acceleration=0.5, max_turn_rate=1.5, max_turn_acceleration=3.0)
    cells = np.array([[0, 0], [1, 0], [1, 1], [2, 1], [3, 1], [3, 0], [3, -1]], float)
    trace, commands, progress = follow(CellController(1, limits), cells, 2.0, 25.0)
    assert progress[-1] == 6
    assert (np.abs(commands).max(axis=0) <= [0.8 + 1e-9, 1.5 + 1e-9]).all()
    assert (np.abs(commands).max(axis=0) > [0.75, 1.45]).all()
    assert (np.abs(np.diff(commands, axis=0)).max(axis=0) <= np.array([0.5, 3.0]) * DT + 1e-9).all()
    assert commands[:, 0].min() >= -1e-9
    assert len(trace)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-np.pi, np.pi), st.sampled_from([0.0, 0.02]), st.integers(1, 3))
def test_the_disc_stays_in_the_cells_held_and_granted_on_any_way(seed, yaw, noise, lookahead):
    rng = np.random.default_rng(seed)
    steps = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[rng.integers(0, 4, 8)]
    cells = np.concatenate([np.zeros((1, 2)), steps.cumsum(axis=0)])
    trace, _, progress = follow(CellController(1), cells, yaw, 40.0, noise, seed, lookahead)
    assert progress[-1] == 8
    # half a cell minus the radius is 0.2 m on both sides; without errors the controller needs half of it
    needed = 0.3 + (0.1 if not noise else 0.1 - 3 * noise)
    for pose, done in zip(trace, progress, strict=True):
        own = cells[max(done - 1, 0) : done + lookahead + 1]  # the last one is left while its next owner still is far
        assert clearance(pose[:2], own) > needed, f'at {pose} between {own.tolist()}'


def test_a_corner_is_rounded_without_stopping_and_not_cut_further_than_a_quarter_circle():
    cells = np.array([[0, 0], [1, 0], [2, 0], [2, 1], [2, 2]], float)
    trace, commands, progress = follow(CellController(1), cells, 0.0, 7.0)
    near = np.linalg.norm(trace[:, :2] - cells[2], axis=1) < 0.6
    assert commands[near, 0].min() > 0.3
    assert np.linalg.norm(trace[:, :2] - [1.5, 0.5], axis=1).min() > 0.45
    assert progress[-1] == 4


def test_a_corner_whose_far_side_is_not_granted_is_driven_to_its_centre():
    trace, _, _ = follow(CellController(1), np.array([[0, 0], [1, 0]], float), 0.0, 5.0)
    assert np.abs(trace[:, 1]).max() < 0.02
    np.testing.assert_allclose(trace[-1, :2], [1, 0], atol=0.05)


def test_a_smaller_map_is_driven_alike():
    limits = MotionLimits(radius=0.14, arrival_m=0.1)
    cells = np.array([[0, 0], [1, 0], [1, 1], [2, 1], [2, 2]], float)
    trace, _, progress = follow(CellController(1, limits, 0.5), cells / 2, 0.0, 12.0)
    assert progress[-1] == 4
    for pose, done in zip(trace, progress, strict=True):
        assert clearance(2 * pose[:2], cells[max(done - 1, 0) : done + 3]) > 0.36


def test_a_robot_that_waits_for_a_cell_faces_it_and_stands_a_little_towards_it():
    controller = CellController(1)
    poses, route = np.zeros((1, 3)), np.zeros((1, 3, 2))
    routes = lean_in(route, np.zeros(1, int), np.array([[0.0, 1.0]]), controller.limits.lean(1.0))
    for _ in range(100):
        poses = integrate(poses, *controller.step(poses, routes, DT))
    np.testing.assert_allclose(poses[0], [0, 0.2, np.pi / 2], atol=0.1)
    # a robot too large for its cell stays in the middle
    assert MotionLimits(radius=0.42).lean(1.0) == 0.0


def test_arrival_needs_the_centre_and_a_robot_that_waits_never_arrives():
    controller = CellController(4)
    routes = np.array([[[0, 0], [1, 0]]] * 3 + [[[1, 0], [1, 0]]], float)
    poses = np.array([[0.75, 0, 0], [0.85, 0, 0], [1.2, 0.0, 0], [1.0, 0, 0]])
    assert controller.arrived(poses, routes).tolist() == [False, True, True, False]


def test_a_waiting_robot_recentres_backwards_rather_than_turning_round():
    controller = CellController(1)
    poses = np.array([[0.15, 0.0, 0.0]])
    route = np.zeros((1, 3, 2))
    turned = 0.0
    for _ in range(100):
        linear, angular = controller.step(poses, route, DT)
        poses = integrate(poses, linear, angular)
        turned = max(turned, abs(float(poses[0, 2])))
    assert np.hypot(*poses[0, :2]) < 0.05
    assert turned < 0.3


def test_many_robots_at_once_are_driven_like_each_alone():
    rng = np.random.default_rng(5)
    poses = rng.uniform(-1, 1, (20, 3))
    routes = rng.integers(-1, 2, (20, 3, 2)).astype(float)
    together = CellController(20).step(poses, routes, DT)
    for robot in range(20):
        alone = CellController(1).step(poses[robot : robot + 1], routes[robot : robot + 1], DT)
        np.testing.assert_allclose([together[0][robot], together[1][robot]], np.concatenate(alone))


def test_known_latency_is_made_up_for():
    overshoot = []
    for latency in (0.0, 0.3):
        controller = CellController(1, MotionLimits(latency_s=latency))
        poses = np.zeros((1, 3))
        late = [(np.zeros(1), np.zeros(1))] * 6  # commands take hold 0.3 s late
        for _ in range(160):
            late.append(controller.step(poses, STRAIGHT[None, [0, 1, 2]], DT))
            poses = integrate(poses, *late.pop(0))
        overshoot.append(abs(poses[0, 0] - 2.0))
        late.clear()
    assert overshoot[1] < 0.05
    assert overshoot[1] <= overshoot[0]


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match='max_speed must be positive, got 0'):
        MotionLimits(max_speed=0)
    with pytest.raises(ValueError, match='latency_s'):
        MotionLimits(latency_s=-0.1)
