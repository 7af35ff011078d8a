"""A world as MJCF, MuJoCo's own format, with one of two bodies for the robots.

`wheeled` stands on two driven wheels and two frictionless casters and has mass, slip and contact; `disc` slides in
the plane without touching the floor, which is more than ten times quicker to simulate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal, get_args
from xml.sax.saxutils import quoteattr

from attn_robotics.simulation.boxes import Box, boxes
from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.robot import RobotModel
from attn_robotics.simulation.world import World

Body = Literal['wheeled', 'disc']
BODIES: tuple[Body, ...] = get_args(Body)

# Collision bits: who has a bit in contype meets who has it in conaffinity. Wheels and casters only meet the floor;
# the chassis, which covers them from above, meets walls and other chassis.
_FLOOR = 'contype="1" conaffinity="0" condim="1" group="0"'
_ROLLING = 'contype="0" conaffinity="1" group="0"'
_CHASSIS = 'contype="2" conaffinity="6" condim="3" group="1"'
_WALL = 'contype="4" conaffinity="0" condim="3" group="1"'
_TILE = 5.0  # [m] measured: 3 to 6 m are alike, 8 m is slower
SCAN_GROUPS = (0, 1, 0, 0, 0, 0)  # geom groups that a lidar sees
SCAN_HEIGHT = 0.6  # of the lidar over the floor, in heights of the robot


def to_mjcf(world: World, body: Body = 'wheeled', timestep: float = 0.005) -> str:
    """Describe a world for MuJoCo.

    Bodies and joints of robot i are the i-th in order; joints per robot are `free, left, right` or `x, y, yaw`,
    actuators `left, right` [rad/s] or `x, y` [m/s] and `yaw` [rad/s]. A disc's joints measure in the map frame.

    Args:
        world: what to describe.
        body: kind of robot body.
        timestep: of the physics [s].

    Raises:
        WorldError: unknown body.
    """
    if body not in BODIES:
        raise WorldError(f'unknown body {body!r}; choose one of {", ".join(BODIES)}')
    frame = world.frame
    length, width = frame.width * frame.resolution, frame.height * frame.resolution
    x, y = frame.origin_x + length / 2, frame.origin_y + width / 2
    walls = '\n'.join(_walls(boxes(world)))
    integrator = 'implicitfast' if body == 'wheeled' else 'Euler'  # a disc has nothing stiff
    make_body = _wheeled if body == 'wheeled' else _disc
    make_actuators = _wheel_motors if body == 'wheeled' else _planar_motors
    robots = '\n'.join(
        make_body(world.robot, name, *start) for name, start in zip(world.names, world.start_xy.tolist(), strict=True)
    )
    actuators = '\n'.join(make_actuators(world.robot, name) for name in world.names)
    return f"""<mujoco model={quoteattr(world.name)}>
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{timestep:.6g}" integrator="{integrator}" cone="pyramidal" iterations="30" tolerance="1e-6"/>
  <default>
    <default class="floor"><geom {_FLOOR}/></default>
    <default class="wall"><geom {_WALL} rgba="0.35 0.35 0.4 1"/></default>
    <default class="chassis"><geom {_CHASSIS} rgba="0.2 0.5 0.8 1"/></default>
    <default class="hull"><geom contype="0" conaffinity="0" group="2" rgba="0.2 0.5 0.8 1"/></default>
    <default class="wheel"><geom {_ROLLING} condim="3" friction="1 0.005 0.0001" rgba="0.1 0.1 0.1 1"/></default>
    <default class="caster"><geom {_ROLLING} condim="1" rgba="0.6 0.6 0.6 1"/></default>
  </default>
  <worldbody>
    <light pos="{x:.6g} {y:.6g} 20" dir="0 0 -1"/>
    <geom name="floor" class="floor" type="plane" pos="{x:.6g} {y:.6g} 0" size="{length:.6g} {width:.6g} 0.1"/>
{robots}
{walls}
  </worldbody>
  <actuator>
{actuators}
  </actuator>
</mujoco>
"""


def _walls(walls: Iterable[Box]) -> Iterator[str]:
    """Walls as static bodies, one for each tile of the map.

    The broad phase sorts bodies: walls in the world body itself are all tested against every robot, which takes twice
    as long, and a body of its own for each wall makes more to sort.
    """
    tiles: dict[tuple[object, ...], list[Box]] = defaultdict(list)
    for box in walls:
        is_long = max(box.length, box.width) > _TILE  # the border, say, would make its tile overlap everything
        tiles[(box.name,) if is_long else (box.x // _TILE, box.y // _TILE)].append(box)
    for index, tile in enumerate(tiles.values()):
        yield f'    <body name="walls_{index}">'
        for box in tile:
            yield (
                f'      <geom name="{box.name}" class="wall" type="box" '
                f'pos="{box.x:.6g} {box.y:.6g} {box.height / 2:.6g}" '
                f'size="{box.length / 2:.6g} {box.width / 2:.6g} {box.height / 2:.6g}"/>'
            )
        yield '    </body>'


def _chassis(robot: RobotModel, name: str, mass: float, kind: str = 'chassis') -> str:
    middle, half = (robot.height + robot.clearance) / 2, (robot.height - robot.clearance) / 2
    return (
        f'<geom name="{name}" class="{kind}" type="cylinder" pos="0 0 {middle:.6g}" '
        f'size="{robot.radius:.6g} {half:.6g}" mass="{mass:.6g}"/>'
    )


def _wheeled(robot: RobotModel, name: str, x: float, y: float) -> str:
    wheel, caster = robot.wheel_radius, robot.clearance
    lift = 0.0005  # casters hang a little over the floor, so that the wheels carry the robot and grip
    lines = [
        f'    <body name="{name}" pos="{x:.6g} {y:.6g} 0">',
        f'      <freejoint name="{name}/free"/>',
        f'      {_chassis(robot, f"{name}/chassis", 0.9 * robot.mass)}',
    ]
    lines += [
        f'      <geom class="caster" type="sphere" size="{caster:.6g}" '
        f'pos="{at * 0.7 * robot.radius:.6g} 0 {caster + lift:.6g}" mass="{0.01 * robot.mass:.6g}"/>'
        for at in (1, -1)
    ]
    lines += [
        f'      <body name="{name}/{side}" pos="0 {at * robot.wheel_separation / 2:.6g} {wheel:.6g}">'
        f'<joint name="{name}/{side}" axis="0 1 0" armature="0.001"/>'
        f'<geom class="wheel" type="ellipsoid" size="{wheel:.6g} {wheel / 4:.6g} {wheel:.6g}" '
        f'mass="{0.04 * robot.mass:.6g}"/></body>'
        for side, at in (('left', 1), ('right', -1))
    ]
    return '\n'.join([*lines, '    </body>'])


def _wheel_motors(robot: RobotModel, name: str) -> str:
    # a wheel that carries half the robot reaches its speed in about 20 ms
    gain = 0.5 * robot.mass * robot.wheel_radius**2 / 0.02
    return '\n'.join(
        f'    <velocity name="{name}/{side}" joint="{name}/{side}" kv="{gain:.6g}"/>' for side in ('left', 'right')
    )


def _disc(robot: RobotModel, name: str, x: float, y: float) -> str:
    del x, y  # the simulator sets the start in qpos, so that qpos is the pose in the map frame
    # A sphere touches upright walls and its like exactly where a disc would, and is a fifth quicker to test than a
    # cylinder; the cylinder that is seen carries the mass.
    return f"""    <body name="{name}">
      <joint name="{name}/x" type="slide" axis="1 0 0"/>
      <joint name="{name}/y" type="slide" axis="0 1 0"/>
      <joint name="{name}/yaw" type="hinge" axis="0 0 1"/>
      <geom name="{name}/chassis" class="chassis" type="sphere" pos="0 0 {SCAN_HEIGHT * robot.height:.6g}"
            size="{robot.radius:.6g}" mass="0"/>
      {_chassis(robot, f'{name}/hull', robot.mass, 'hull')}
    </body>"""


def _planar_motors(robot: RobotModel, name: str) -> str:
    push = robot.mass / 0.01  # 10 ms to reach the speed
    turn = 0.5 * robot.mass * robot.radius**2 / 0.01
    limit = 10 * robot.mass * robot.max_acceleration  # a robot can push, but not through a wall
    return '\n'.join(
        f'    <velocity name="{name}/{axis}" joint="{name}/{axis}" kv="{gain:.6g}" '
        f'forcerange="-{limit:.6g} {limit:.6g}"/>'
        for axis, gain in (('x', push), ('y', push), ('yaw', turn))
    )
