"""Occupancy grid, MuJoCo world and Gazebo world are three views of one thing."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.simulation.boxes import boxes, rectangles
from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.grid import parse_grid
from attn_robotics.simulation.mjcf import BODIES, to_mjcf
from attn_robotics.simulation.sdf import bridge_config, to_sdf
from attn_robotics.simulation.world import World

WORLDS = Path(__file__).parents[3] / 'config' / 'worlds'

# Plugin libraries of Gazebo Harmonic with their class, from its source: `gz_add_system` and `GZ_ADD_PLUGIN_ALIAS`.
HARMONIC = {
    ('gz-sim-physics-system', 'gz::sim::systems::Physics'),
    ('gz-sim-user-commands-system', 'gz::sim::systems::UserCommands'),
    ('gz-sim-scene-broadcaster-system', 'gz::sim::systems::SceneBroadcaster'),
    ('gz-sim-contact-system', 'gz::sim::systems::Contact'),
    ('gz-sim-sensors-system', 'gz::sim::systems::Sensors'),
    ('gz-sim-imu-system', 'gz::sim::systems::Imu'),
    ('gz-sim-diff-drive-system', 'gz::sim::systems::DiffDrive'),
    ('gz-sim-odometry-publisher-system', 'gz::sim::systems::OdometryPublisher'),
    ('gz-sim-pose-publisher-system', 'gz::sim::systems::PosePublisher'),
    ('gz-sim-joint-state-publisher-system', 'gz::sim::systems::JointStatePublisher'),
}


@pytest.fixture(params=['random', 'warehouse', 'shifted'])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == 'shifted':
        return World.load(WORLDS / 'random.yaml', size=[7, 12], density=0.35, robots=4, resolution=1.5)
    return World.load(WORLDS / f'{request.param}.yaml')


def rasterise(world: World, rows: list[tuple[float, float, float, float]]) -> np.ndarray:
    """Which cells' centres lie in boxes given as x, y, length, width; asserts that no box cuts through a cell."""
    frame = world.frame
    low = np.array([frame.origin_x, frame.origin_y])
    for x, y, length, width in rows:
        corners = (
            np.array([[x - length / 2, y - width / 2], [x + length / 2, y + width / 2]]) - low
        ) / frame.resolution
        np.testing.assert_allclose(corners, corners.round(), atol=1e-4)
    centres = frame.to_xy(np.stack(np.indices(world.instance.grid.shape), axis=-1))
    grid = np.zeros(world.instance.grid.shape, bool)
    for x, y, length, width in rows:
        grid |= (np.abs(centres[..., 0] - x) < length / 2) & (np.abs(centres[..., 1] - y) < width / 2)
    return grid


def sdf_boxes(root: ElementTree.Element, kind: str) -> dict[str, tuple[float, ...]]:
    found = {}
    for item in root.findall(f"./world/model[@name='walls']/link/{kind}"):
        pose = [float(word) for word in item.findtext('pose', '').split()]
        size = [float(word) for word in item.findtext('geometry/box/size', '').split()]
        found[item.get('name', '').removesuffix('_visual')] = (*pose[:2], *size)
    return found


def test_the_occupancy_grid_is_the_map_with_its_bottom_row_first():
    world = World.load(WORLDS / 'corridor.yaml')
    data = world.occupancy()
    assert data.dtype == np.int8
    assert set(np.unique(data)) == {0, 100}
    # cell (1, 7) of the drawing is the free bay over the corridor: x 7.5, y 3.5, that is row 3 of the message
    assert data[3, 7] == 0
    assert data[3, 6] == 100


def test_mujoco_gazebo_and_occupancy_hold_the_same_obstacles(world):
    grid = world.occupancy()[::-1] == 100
    root = ElementTree.fromstring(to_sdf(world))
    gazebo = sdf_boxes(root, 'collision')
    assert gazebo == sdf_boxes(root, 'visual')
    for body in BODIES:
        model = mujoco.MjModel.from_xml_string(to_mjcf(world, body))
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        embedded = {}
        for geom in range(model.ngeom):
            name = model.geom(geom).name
            if name.startswith(('obstacle', 'border')):
                embedded[name] = (*data.geom_xpos[geom][:2], *(2 * model.geom_size[geom]))
        assert embedded.keys() == gazebo.keys()
        for name, numbers in embedded.items():
            np.testing.assert_allclose(numbers, gazebo[name], atol=1e-4)
    inside = [numbers[:4] for name, numbers in gazebo.items() if name.startswith('obstacle')]
    np.testing.assert_array_equal(rasterise(world, inside), grid)


def test_robots_start_at_the_same_places_with_the_same_wheels(world):
    root = ElementTree.fromstring(to_sdf(world))
    model = mujoco.MjModel.from_xml_string(to_mjcf(world, 'wheeled'))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    for name, start in zip(world.names, world.start_xy, strict=True):
        robot = root.find(f"./world/model[@name='{name}']")
        assert robot is not None
        np.testing.assert_allclose(
            [float(word) for word in robot.findtext('pose', '').split()], [*start, 0, 0, 0, 0], rtol=1e-5
        )
        np.testing.assert_allclose(data.body(name).xpos, [*start, 0], atol=1e-4)
        masses = [float(item.text or 0) for item in robot.findall('./link/inertial/mass')]
        assert sum(masses) == pytest.approx(world.robot.mass) == pytest.approx(model.body(name).subtreemass[0])
        drive = robot.find("./plugin[@filename='gz-sim-diff-drive-system']")
        assert drive is not None
        assert float(drive.findtext('wheel_radius', '')) == world.robot.wheel_radius
        assert float(drive.findtext('wheel_separation', '')) == world.robot.wheel_separation
        assert float(drive.findtext('max_linear_velocity', '')) == world.robot.max_speed


def test_gazebo_s_wheels_turn_forwards_about_the_axis_to_the_left(world):
    link = ElementTree.fromstring(to_sdf(world)).find("./world/model[@name='robot_0']/link[@name='left_wheel']")
    assert link is not None
    roll = float(link.findtext('pose', '').split()[3])
    # the joint's axis is z of the wheel; turned by the roll it must be y of the robot, or the robot drives backwards
    np.testing.assert_allclose([0, -math.sin(roll), math.cos(roll)], [0, 1, 0], atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 999))
def test_rectangles_cover_every_obstacle_once_and_nothing_else(height, width, density, seed):
    grid = np.random.default_rng(seed).random((height, width)) < density
    cover = np.zeros(grid.shape, int)
    for row, column, rows, columns in rectangles(grid).tolist():
        cover[row : row + rows, column : column + columns] += 1
    np.testing.assert_array_equal(cover, grid.astype(int))


def test_a_shelf_is_one_box_and_the_border_has_four():
    assert rectangles(parse_grid('.....\n.###.\n.###.\n.....')).tolist() == [[1, 1, 2, 3]]
    assert len(boxes(World.load(WORLDS / 'warehouse.yaml'))) == 20 + 4


def test_every_plugin_is_one_that_harmonic_ships_and_physics_is_the_quick_one(world):
    root = ElementTree.fromstring(to_sdf(world, scan=True))
    assert root.get('version') == '1.9'
    pairs = {(plugin.get('filename'), plugin.get('name')) for plugin in root.iter('plugin')}
    assert pairs <= HARMONIC
    assert len(list(root.iter('plugin'))) == 5 + 2 * world.robots
    assert root.findtext('./world/physics/max_step_size') == '0.004'
    assert root.findtext('./world/physics/dart/collision_detector') == 'bullet'


def test_the_bridge_names_exactly_the_topics_of_the_gazebo_world(world):
    root = ElementTree.fromstring(to_sdf(world, scan=True))
    entries = yaml.safe_load(bridge_config(world, scan=True))
    keys = {'ros_topic_name', 'gz_topic_name', 'ros_type_name', 'gz_type_name', 'direction'}
    assert all(entry.keys() == keys for entry in entries)
    assert {entry['direction'] for entry in entries if entry['gz_topic_name'].endswith('cmd_vel')} == {'ROS_TO_GZ'}
    assert {entry['direction'] for entry in entries if 'cmd_vel' not in entry['gz_topic_name']} == {'GZ_TO_ROS'}
    offered = {'/clock'}
    for robot in root.findall('./world/model'):
        offered |= {item.text for item in robot.findall("./plugin[@filename='gz-sim-diff-drive-system']/topic")}
        publisher = robot.find("./plugin[@filename='gz-sim-odometry-publisher-system']")
        if publisher is not None:
            offered |= {publisher.findtext('odom_topic'), publisher.findtext('tf_topic')}
        offered |= {item.text for item in robot.findall('./link/sensor/topic')}
    assert {entry['gz_topic_name'] for entry in entries} == offered
    assert len(yaml.safe_load(bridge_config(world, contacts=False))) == 2 + 2 * world.robots


@pytest.mark.skipif(shutil.which('ign') is None, reason='needs Debian packages ignition-tools and libsdformat-dev')
@pytest.mark.parametrize('scan', [False, True])
def test_the_sdf_parser_calls_the_world_valid(tmp_path, world, scan):
    path = tmp_path / 'world.sdf'
    path.write_text(to_sdf(world, scan=scan))
    checked = subprocess.run(['ign', 'sdf', '-k', str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0
    assert checked.stdout.strip().splitlines()[-1:] == ['Valid.']
    assert 'Error' not in checked.stderr.replace('Library error', '')


def test_an_unknown_body_is_refused():
    with pytest.raises(WorldError, match="unknown body 'tracked'; choose one of wheeled, disc"):
        to_mjcf(World.load(WORLDS / 'random.yaml'), 'tracked')
