"""Messages to arrays and back: round trips, odd sizes, malformed messages."""

import array
import math

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from nav_msgs.msg import OccupancyGrid

from attn_robotics.conversions import attention, grids, poses, stamps
from attn_robotics.conversions.transforms import RobotTransforms
from attn_robotics.simulation.grid import GridFrame, parse_grid

pytestmark = pytest.mark.ros

QUICK = settings(max_examples=50, deadline=None)
STAMP = Time(sec=3, nanosec=4)
POSES = st.tuples(
    st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(-math.pi, math.pi, exclude_min=True, allow_subnormal=False)
)


# Grids.
@QUICK
@given(
    grid=npst.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 9))),
    resolution=st.sampled_from([0.05, 0.5, 1.0, 2.5]),
    origin=st.tuples(st.floats(-50, 50, width=32), st.floats(-50, 50, width=32)),
)
def test_a_grid_survives_the_round_trip(grid, resolution, origin):
    frame = GridFrame(*grid.shape, resolution, *origin)
    back, where = grids.from_occupancy_grid(grids.to_occupancy_grid(grid, frame, 'm'))
    np.testing.assert_array_equal(back, grid)
    assert (where.height, where.width, where.origin_x, where.origin_y) == (*grid.shape, *origin)
    assert where.resolution == pytest.approx(resolution, rel=1e-6)  # the message has float32


def test_the_first_cell_of_the_message_is_the_lower_left_one():
    message = grids.to_occupancy_grid(parse_grid('...\n#..'), GridFrame(2, 3))
    assert list(message.data) == [100, 0, 0, 0, 0, 0]
    assert (message.info.width, message.info.height) == (3, 2)


def test_unknown_cells_are_obstacles_unless_told_otherwise():
    message = grids.to_occupancy_grid(parse_grid('..'), GridFrame(1, 2))
    message.data = array.array('b', [-1, 49])
    assert grids.from_occupancy_grid(message)[0].tolist() == [[True, False]]
    assert grids.from_occupancy_grid(message, unknown_is_obstacle=False)[0].tolist() == [[False, False]]


def spoiled(**changes):
    message = grids.to_occupancy_grid(parse_grid('..\n..'), GridFrame(2, 2))
    for name, value in changes.items():
        if name == 'data':
            message.data = value
        elif name == 'turn':
            message.info.origin.orientation = poses.to_quaternion(value)
        else:
            setattr(message.info, name, value)
    return message


@pytest.mark.parametrize(
    ('message', 'why'),
    [
        (OccupancyGrid(), 'map of 0 x 0 cells'),
        (spoiled(width=3), 'map data has 4 cells, its info says 3 x 2'),
        (spoiled(width=2**31, height=2**31), 'must have 1 to'),
        (spoiled(turn=0.3), 'map origin is rotated'),
        (spoiled(turn=math.pi), 'map origin is rotated'),
        (spoiled(data=array.array('b')), 'map data has 0 cells'),
        (spoiled(resolution=0.0), 'map resolution must be a positive number'),
        (spoiled(resolution=math.nan), 'map resolution must be a positive number'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_a_malformed_map_is_refused_with_a_reason(message, why):
    with pytest.raises(grids.GridError, match=why):
        grids.from_occupancy_grid(message)


def test_a_map_whose_origin_is_no_number_is_refused():
    message = spoiled()
    message.info.origin.position.x = math.nan
    with pytest.raises(grids.GridError, match='origin'):
        grids.from_occupancy_grid(message)


# Stamps.
@QUICK
@given(st.floats(0, 2**31 - 1))
def test_a_stamp_keeps_the_time_to_a_nanosecond(seconds):
    stamp = stamps.to_stamp(seconds)
    assert 0 <= stamp.nanosec < 1_000_000_000
    assert stamps.to_seconds(stamp) == pytest.approx(seconds, abs=1e-9, rel=1e-15)


def test_time_before_the_start_is_zero():
    assert stamps.to_stamp(-1.0) == Time()


# Poses.
@QUICK
@given(POSES)
def test_a_pose_survives_transform_and_odometry(pose):
    (transform,) = poses.to_transforms(np.array([pose]), ['c'], ['p'], STAMP).transforms
    assert (transform.header.frame_id, transform.child_frame_id, transform.header.stamp) == ('p', 'c', STAMP)
    assert poses.from_transform(transform.transform) == pytest.approx(pose, abs=1e-9)
    assert poses.from_odometry(poses.to_odometry(pose, (1.0, 2.0), 'p', 'c', STAMP)) == pytest.approx(pose, abs=1e-9)


@QUICK
@given(POSES, POSES, POSES)
def test_composition_is_associative(first, second, third):
    left = poses.compose(poses.compose(first, second), third)
    right = poses.compose(first, poses.compose(second, third))
    assert left[:2] == pytest.approx(right[:2], abs=1e-6)
    assert math.remainder(left[2] - right[2], 2 * math.pi) == pytest.approx(0, abs=1e-9)


def test_yaw_ignores_the_length_of_the_quaternion_sign():
    q = poses.to_quaternion(2.0)
    assert poses.yaw_of(Quaternion(x=-q.x, y=-q.y, z=-q.z, w=-q.w)) == pytest.approx(2.0)


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match='zip'):
        poses.to_transforms(np.zeros((2, 3)), ['a'], ['b', 'c'], STAMP)


# Transforms of a fleet.
def moved(rows, children, parents):
    return poses.to_transforms(np.array(rows, float), children, parents, STAMP)


def test_a_robot_is_known_once_both_its_links_are():
    fleet = RobotTransforms(['r0', 'r1'], 'map')
    assert fleet.missing() == ['r0', 'r1']
    assert list(fleet.take(moved([[1, 0, 0]], ['r0/base_link'], ['r0/odom']))) == []
    fleet.take_static(moved([[10, 5, math.pi / 2]], ['r0/odom'], ['map']))
    assert fleet.missing() == ['r1']
    assert fleet.pose(0) == pytest.approx((10, 6, math.pi / 2))
    assert np.isnan(fleet.poses()[1]).all()


def test_a_robot_may_be_localised_in_the_map_directly():
    fleet = RobotTransforms(['r0'], 'map')
    ((robot, pose),) = fleet.take(moved([[2, 3, 0.5]], ['r0/base_link'], ['map']))
    assert robot == 0 and pose == pytest.approx((2, 3, 0.5))


def test_frames_of_others_are_passed_over():
    fleet = RobotTransforms(['r0'], 'map')
    assert list(fleet.take(moved([[0, 0, 0]] * 2, ['camera', 'r0/odom'], ['r0/base_link', 'earth']))) == []
    assert fleet.missing() == ['r0']
    stranger = moved([[0, 0, 0]] * 2, ['r7/base_link', 'camera'], ['map', 'map'])
    assert fleet.strangers(stranger) == ['r7']


# Attention.
WEIGHTS = npst.arrays(
    np.float32, st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)), elements=st.floats(0, 1, width=32)
)


def to_message(weights, **options):
    ids = ([f'q{i}' for i in range(weights.shape[1])], [f'k{i}' for i in range(weights.shape[2])])
    return attention.to_attention_map(weights, *ids, mechanism='m', layer='l', tick=3, stamp=STAMP, **options)


@QUICK
@given(WEIGHTS)
def test_attention_survives_the_round_trip(weights):
    message = to_message(weights)
    np.testing.assert_array_equal(attention.from_attention_map(message), weights)
    assert (message.mechanism, message.layer, message.tick, message.top_k) == ('m', 'l', 3, 0)


@QUICK
@given(WEIGHTS, st.integers(1, 6))
def test_top_k_keeps_the_largest_of_each_row(weights, top_k):
    dense = attention.from_attention_map(to_message(weights, top_k=top_k))
    assert dense.shape == weights.shape
    np.testing.assert_array_equal(np.where(dense > 0, dense, 0), np.where(dense > 0, weights, 0))
    np.testing.assert_array_equal(
        np.sort(dense, axis=-1)[..., ::-1][..., :top_k], np.sort(weights, axis=-1)[..., ::-1][..., :top_k]
    )


def test_distances_and_names_travel_with_the_weights():
    weights = np.full((1, 2, 3), 1 / 3)
    message = to_message(weights, distances=np.array([[0, 1, np.nan], [1, 0, 2]]), frame_id='floor')
    np.testing.assert_array_equal(message.distances, np.array([0, 1, np.nan, 1, 0, 2], np.float32))
    assert message.key_ids == ['k0', 'k1', 'k2'] and message.header.frame_id == 'floor'


def test_weights_that_do_not_fit_the_names_are_refused():
    with pytest.raises(ValueError, match='weights are 2 x 2 for 1 queries and 2 keys'):
        attention.to_attention_map(np.zeros((1, 2, 2)), ['a'], ['a', 'b'], mechanism='', layer='', tick=0, stamp=STAMP)


@pytest.mark.parametrize(
    ('changes', 'why'),
    [
        ({'weights': array.array('f', [1.0])}, '1 weights for 1 heads x 2 queries x 2'),
        ({'heads': 2}, '8 weights|4 weights'),
        ({'indices': array.array('i', [0, 1])}, '2 indices for 4 weights'),
        ({'indices': array.array('i', [0, 1, 2, 7])}, 'outside the 3 keys'),
        ({'indices': array.array('i', [0, 1, 2, -2])}, 'outside the 3 keys'),
        ({'top_k': 9}, '4 weights'),
    ],
    ids=str,
)
def test_a_malformed_attention_map_is_refused(changes, why):
    message = to_message(np.random.default_rng(0).random((1, 2, 3)), top_k=2)
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match=why):
        attention.from_attention_map(message)


def test_padding_adds_nothing():
    message = to_message(np.array([[[0.7, 0.2, 0.1]]]), top_k=2)
    message.indices = array.array('i', [0, -1])
    np.testing.assert_allclose(attention.from_attention_map(message), [[[0.7, 0, 0]]], rtol=1e-6)


def test_edges_come_strongest_first_and_leave_the_own_robot_out():
    weights = np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.7, 0.3], [0.8, 0.2]]])
    assert attention.strongest_edges(weights, 5) == [(1, 0, pytest.approx(0.7)), (0, 1, pytest.approx(0.2))]


def test_markers_draw_one_line_an_edge():
    weights, positions = np.full((1, 3, 3), 1 / 3), np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    (lines,) = attention.to_markers(weights, positions, frame_id='map', stamp=STAMP, edges_per_robot=1).markers
    assert lines.header.frame_id == 'map' and len(lines.points) == len(lines.colors) == 6
    assert {(p.x, p.y) for p in lines.points} <= {tuple(p) for p in positions.tolist()}
    assert all(color.a == pytest.approx(1.0) for color in lines.colors)


def test_markers_of_a_single_robot_are_empty_but_valid():
    (lines,) = attention.to_markers(np.ones((1, 1, 1)), np.zeros((1, 2)), frame_id='map', stamp=STAMP).markers
    assert not lines.points and lines.pose.orientation.w == 1.0


@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 3, 5), (4, 300, 300)])
def test_the_image_shows_a_white_pixel_where_a_row_peaks(shape):
    weights = np.random.default_rng(0).random(shape)
    image = attention.to_image(weights, frame_id='map', stamp=STAMP)
    assert image.step == image.width and len(image.data) == image.height * image.width
    zoom = image.height // shape[1]
    pixels = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width)[::zoom, ::zoom]
    np.testing.assert_array_equal(pixels.argmax(1), weights.mean(0).argmax(1))
    assert (pixels.max(1) == 255).all() and min(image.height, image.width) >= min(256, *shape[1:])
