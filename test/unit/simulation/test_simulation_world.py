"""Worlds from descriptions and map files, and what bad ones are answered."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.grid import draw_grid, parse_grid
from attn_robotics.simulation.instances import components, random_instance
from attn_robotics.simulation.maps import coarsen
from attn_robotics.simulation.robot import RobotModel
from attn_robotics.simulation.world import World

WORLDS = Path(__file__).parents[3] / 'config' / 'worlds'
PLAN = '..#\n...\n#..\n...'


def write(folder: Path, text: str, name: str = 'world.yaml') -> Path:
    path = folder / name
    path.write_text(text)
    return path


def write_nav2(folder: Path, grid: np.ndarray, **changes: object) -> Path:
    image = np.where(grid, 0, 254).astype(np.uint8)
    (folder / 'map.pgm').write_bytes(b'P5\n# a comment\n%d %d\n255\n' % image.shape[::-1] + image.tobytes())
    fields = {'image': 'map.pgm', 'resolution': 1.0, 'origin': [-2.0, 3.0, 0.0], 'negate': 0,
              'occupied_thresh': 0.65, 'free_thresh': 0.25, 'mode': 'trinary', **changes}  # fmt: skip
    return write(folder, '\n'.join(f'{key}: {value}' for key, value in fields.items() if value is not None), 'map.yaml')


@pytest.mark.parametrize('path', sorted(WORLDS.glob('*.yaml')), ids=lambda path: path.stem)
def test_every_shipped_world_loads(path):
    world = World.load(path)
    assert world.name == path.stem
    assert world.names[-1] == f'robot_{world.robots - 1}'


def test_the_default_world_is_the_instance_that_evaluations_draw():
    world = World.load(WORLDS / 'random.yaml')
    instance = random_instance(20, 0.15, 8, 0)
    np.testing.assert_array_equal(world.instance.grid, instance.grid)
    np.testing.assert_array_equal(world.instance.starts, instance.starts)
    np.testing.assert_array_equal(world.instance.goals, instance.goals)
    assert world.robot == RobotModel()


def test_what_is_asked_for_replaces_what_the_file_says(tmp_path):
    world = World.load(WORLDS / 'random.yaml', robots=32, size=[12, 30], density=0.3, seed=7, resolution=2.0)
    assert world.robots == 32
    assert world.instance.grid.shape == (12, 30)
    assert world.instance.seed == 7
    assert world.frame.resolution == 2.0
    drawn = World.load(WORLDS / 'warehouse.yaml', map='random', size=15, density=0.1, robots=3)
    assert drawn.instance.grid.shape == (15, 15)
    path = write(tmp_path, 'type octile\nheight 4\nwidth 3\nmap\n' + PLAN + '\n', 'small.map')
    chosen = World.load(WORLDS / 'corridor.yaml', map=str(path), robots=2)
    assert draw_grid(chosen.instance.grid) == PLAN
    assert World.load(WORLDS / 'corridor.yaml', robots=2).instance.starts.tolist() == [[0, 0], [2, 1]]


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    one, same, other = (World.load(WORLDS / 'warehouse.yaml', seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.instance.starts, same.instance.starts)
    assert (one.instance.starts != other.instance.starts).any()


def test_a_nav2_map_keeps_its_picture_its_origin_and_its_thresholds(tmp_path):
    grid = parse_grid(PLAN)
    write_nav2(tmp_path, grid)
    world = World.load(write(tmp_path, 'map: {file: map.yaml}\nrobots: 2'))
    assert draw_grid(world.instance.grid) == PLAN
    assert (world.frame.origin_x, world.frame.origin_y) == (-2.0, 3.0)
    assert world.frame.to_xy([[3, 0]]).tolist() == [[-1.5, 3.5]]
    # 254 is free, 205 unknown, 100 in between, 0 occupied: all but free is an obstacle
    shades = np.array([[254, 205, 100, 0]], np.uint8)
    cv2.imwrite(str(tmp_path / 'shades.png'), shades)
    for negate, expected in ((0, '.###'), (1, '###.')):
        write_nav2(tmp_path, grid, image='shades.png', negate=negate, free_thresh=0.19)
        world = World.load(write(tmp_path, 'map: {file: map.yaml}\nrobots: 1'))
        assert draw_grid(world.instance.grid) == expected


def test_a_plain_pgm_and_a_colour_png_tell_the_same_as_a_raw_pgm(tmp_path):
    write(tmp_path, 'P2 # plain\n3 1\n255\n254 0 254\n', 'plain.pgm')
    colour = np.zeros((1, 3, 3), np.uint8)
    colour[0, [0, 2]] = 254
    cv2.imwrite(str(tmp_path / 'colour.png'), colour)
    for image in ('plain.pgm', 'colour.png'):
        write_nav2(tmp_path, parse_grid('.'), image=image)
        world = World.load(write(tmp_path, 'map: {file: map.yaml}\nrobots: 1'))
        assert draw_grid(world.instance.grid) == '.#.'


def test_fine_pixels_are_joined_to_cells_that_hold_a_robot(tmp_path):
    fine = np.zeros((9, 8), bool)
    fine[0, 0] = fine[5, 5] = True
    assert draw_grid(coarsen(fine, 4)) == '##\n..\n.#'
    write_nav2(tmp_path, fine, resolution=0.25)
    world = World.load(write(tmp_path, 'map: {file: map.yaml}\nresolution: 1.0\nrobots: 1'))
    assert draw_grid(world.instance.grid) == '##\n..\n.#'
    with pytest.raises(WorldError, match=r'resolution 0.25 m is too small for robot.radius 0.3 m; .* at least 0.80 m'):
        World.load(write(tmp_path, 'map: {file: map.yaml}\nrobots: 1'))
    with pytest.raises(WorldError, match=r'resolution 0.9 is no multiple of the map image, whose pixels measure 0.25'):
        World.load(write(tmp_path, 'map: {file: map.yaml}\nresolution: 0.9\nrobots: 1'))


def test_a_movingai_scenario_gives_starts_and_goals_as_columns_and_rows_from_the_top(tmp_path):
    write(tmp_path, 'type octile\nheight 4\nwidth 3\nmap\n' + PLAN.replace('#', 'T') + '\n', 'small.map')
    lines = ['version 1', '0 small.map 3 4 0 0 2 3 5.0', '0 small.map 3 4 1 0 0 3 4.0']
    write(tmp_path, '\n'.join(lines), 'small.scen')
    world = World.load(write(tmp_path, 'map: {file: small.map}\nscenario: small.scen'))
    assert draw_grid(world.instance.grid) == PLAN
    assert world.instance.starts.tolist() == [[0, 0], [0, 1]]
    assert world.instance.goals.tolist() == [[3, 2], [3, 0]]
    with pytest.raises(WorldError, match=r'small.scen holds 2 starts and goals, 3 robots need more'):
        World.load(tmp_path / 'world.yaml', robots=3)


def test_goals_left_out_are_drawn_where_their_robot_can_get(tmp_path):
    text = 'map:\n  text: |\n    ...#..\n    ...#..\nstarts: [[0, 0], [1, 4], [0, 5]]\n'
    for seed in range(5):
        instance = World.load(write(tmp_path, text), seed=seed).instance
        labels = components(instance.grid)
        np.testing.assert_array_equal(labels[tuple(instance.starts.T)], labels[tuple(instance.goals.T)])


INLINE = 'map:\n  text: |\n    ..#\n    ...\n'


@pytest.mark.parametrize(
    ('text', 'complaint'),
    [
        ('robot: {radius: 0.3}', 'map must hold exactly one of random, text, file'),
        (INLINE + 'robts: 3', "unknown key 'robts'; did you mean 'robots'"),
        (INLINE + 'robots: many', "robots must be a whole number from 1 to 1024, got 'many'"),
        (INLINE + 'robots: 0', 'robots must be a whole number'),
        (INLINE + 'robots: true', 'robots must be a whole number'),
        (INLINE + 'robots: 9', '9 robots do not fit on the 5 connected free cells'),
        (INLINE + 'seed: -1', 'seed must be a whole number'),
        (INLINE + 'robot: {radus: 0.3}', "robot: unknown key 'radus'; did you mean 'radius'"),
        (INLINE + 'robot: {mass: heavy}', "robot.mass must be a positive number, got 'heavy'"),
        (INLINE + 'robot: {wheel_separation: 0.7}', 'reach beyond robot.radius'),
        (INLINE + 'robot: [1]', 'robot must hold keys and values'),
        (INLINE + 'robots: 2\nresolution: 0.5', 'resolution 0.5 m is too small for robot.radius'),
        (INLINE + 'starts: [[0, 2]]\n', r'start of robot_0 at \(0, 2\) is inside an obstacle; move it'),
        (INLINE + 'starts: [[0, 9]]\n', r'start of robot_0 at \(0, 9\) is off the 2 x 3 map'),
        (INLINE + 'goals: [[0, 2]]\n', r'goal of robot_0 at \(0, 2\) is inside an obstacle; move it'),
        (INLINE + 'starts: [[0, 0], [0, 0]]\n', r'robot_0 and robot_1 share the start \(0, 0\); give each its own'),
        (INLINE + 'starts: [[0, 0]]\nrobots: 2', 'starts names 1 cells for 2 robots'),
        (INLINE + 'starts: [0, 0]', r'starts must be a list of \[row, column\]'),
        (INLINE + 'starts: [[0, 0]]\nscenario: a.scen', 'scenario and starts or goals are both given'),
        ('map: {text: ".#.."}\nstarts: [[0, 0]]\ngoals: [[0, 2]]', r'goal of robot_0 at \(0, 2\) can not be reached'),
        ('map: {text: ".x."}', "map line 1 has an unknown cell 'x'; use . and #"),
        ('map: {random: {size: 5000}}', 'map.random.size must be a whole number from 1 to 1024'),
        ('map: {random: {density: 1.2}}', 'map.random.density must be a number from 0 to 0.95'),
        ('map: {random: {denstiy: 0.2}}', "map.random: unknown key 'denstiy'; did you mean 'density'"),
        ('map: {random: {size: 3, density: 0.9}}\nrobots: 9', 'no room for 9 robots'),
        ('map: {file: nowhere.yaml}', r'nowhere.yaml does not exist; check the path'),
        ('map: {file: world.txt}', 'unknown kind of map; give a nav2 .yaml or a MovingAI .map'),
        ('- 1', 'must hold keys and values, got list'),
        ('map: {text: [', 'is not valid YAML at line 1'),
    ],
)
def test_a_bad_description_gets_one_line_that_names_file_culprit_and_fix(tmp_path, text, complaint):
    path = write(tmp_path, text)
    with pytest.raises(WorldError, match=complaint) as caught:
        World.load(path)
    assert str(tmp_path) in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('changes', 'complaint'),
    [
        ({'image': 'gone.pgm'}, 'gone.pgm does not exist'),
        ({'image': 'map.yaml'}, 'map.yaml is no image; give a PGM or PNG'),
        ({'image': None}, "is no nav2 map: 'image' is missing"),
        ({'image': '[1, 2]'}, 'image must be a file name'),
        ({'mode': 'raw'}, "mode 'raw' is not supported; save the map with mode trinary"),
        ({'negate': 2}, 'negate must be 0 or 1'),
        ({'resolution': -1}, 'resolution must be positive'),
        ({'resolution': '.nan'}, 'resolution must be a finite number'),
        ({'occupied_thresh': 0.2}, 'need 0 <= free_thresh < occupied_thresh <= 1'),
        ({'origin': [0, 0, 0.5]}, 'turned by yaw 0.5'),
        ({'origin': [0, 0]}, r'origin must be \[x, y, yaw\]'),
        ({'colour': 'red'}, "unknown key 'colour'"),
    ],
)
def test_a_bad_nav2_map_is_refused_by_name(tmp_path, changes, complaint):
    write_nav2(tmp_path, parse_grid(PLAN), **changes)
    with pytest.raises(WorldError, match=complaint) as caught:
        World.load(write(tmp_path, 'map: {file: map.yaml}\nrobots: 1'))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('content', 'complaint'),
    [
        (b'P5\n3 4\n255\nabc', 'the image breaks off after 3 bytes'),
        (b'P5\nthree 4\n255\n', 'is no PGM image'),
        (b'P5\n99999999999999999999 4\n255\n', 'at most 8192 a side'),
        (b'P5\n3', 'is no PGM image'),
        (b'P2\n2 1\n255\n1 x', 'breaks off or holds something other than numbers'),
        (b'', 'is no image'),
    ],
)
def test_a_broken_image_is_refused_by_name(tmp_path, content, complaint):
    write_nav2(tmp_path, parse_grid(PLAN))
    (tmp_path / 'map.pgm').write_bytes(content)
    with pytest.raises(WorldError, match=rf'map.pgm.*{complaint}'):
        World.load(write(tmp_path, 'map: {file: map.yaml}\nrobots: 1'))


@pytest.mark.parametrize(
    ('content', 'complaint'),
    [
        ('', 'is no MovingAI map'),
        ('hello world\n' * 20, 'is no MovingAI map'),
        ('type octile\nheight x\nwidth 3\nmap\n...', 'height and width must be whole numbers'),
        ('type octile\nheight 100000\nwidth 3\nmap\n...', 'sides from 1 to 1024'),
        ('type octile\nheight 2\nwidth 3\nmap\n...', 'header says 2 x 3, the drawing is 1 x 3'),
        ('type octile\nheight 1\nwidth 3\nmap\n.?.', "unknown cell '\\?'"),
    ],
)
def test_a_file_that_is_no_movingai_map_is_refused_by_name(tmp_path, content, complaint):
    write(tmp_path, content, 'bad.map')
    with pytest.raises(WorldError, match=rf'bad.map.*{complaint}'):
        World.load(write(tmp_path, 'map: {file: bad.map}\nrobots: 1'))


def test_size_makes_no_sense_for_a_drawn_map_and_says_so():
    with pytest.raises(WorldError, match='size only applies to a random map; add map:=random'):
        World.load(WORLDS / 'corridor.yaml', size=10)
    with pytest.raises(WorldError, match='does not exist'):
        World.load(WORLDS / 'atlantis.yaml')
