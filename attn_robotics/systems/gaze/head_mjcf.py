"""The head and its people for MuJoCo."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from attn_robotics.systems.gaze.head_world import EYE_FOV, FACE_PLATE, FOV, IMAGE, PARTS, Part, Person, Shape


def to_mjcf(people: Sequence[Person]) -> str:
    """MJCF; face textures are the files of `face_images`."""
    assets, bodies = [], []
    for p in people:
        for word in ('shut', 'open'):
            assets += [
                f'<texture name="{p.id}_{word}" type="2d" file="{p.id}_{word}.png"/>'
                f'<material name="{p.id}_{word}" texture="{p.id}_{word}" texuniform="false" texrepeat="1 1" '
                f'specular="0" shininess="0" emission="0.35"/>'
            ]
        half = FACE_PLATE / 2
        bodies.append(f"""
    <body name="{p.id}" mocap="true" pos="{_row(p.position())}">
      <geom name="{p.id}_face" type="plane" size="{half} {half} 0.01" material="{p.id}_shut"/>
      <geom type="capsule" fromto="0 -0.4 -0.05 0 -0.8 -0.05" size="0.17" rgba="{_row(p.colour)} 1"/>
    </body>""")
    return f"""<mujoco model="gaze_head">
  <visual><global offwidth="960" offheight="720"/><headlight ambient="0.45 0.45 0.45" diffuse="0.4 0.4 0.4"/></visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="0.75 0.78 0.8" rgb2="0.55 0.58 0.6" width="64"
      height="64"/>
    {''.join(assets)}
  </asset>
  <worldbody>
    <light pos="0 0 4" dir="0.3 0 -1" castshadow="false"/>
    <geom type="plane" size="6 6 0.1" rgba="0.5 0.5 0.52 1"/>
    <camera name="overview" pos="-1.6 -1.5 2.6" xyaxes="0.62 -0.78 0 0.33 0.26 0.9" fovy="55"/>
    <camera name="portrait" pos="0.75 0 1.53" xyaxes="0 1 0 0 0 1" fovy="30"/>
    <geom type="capsule" fromto="0 0 0.6 0 0 1.36" size="0.09" rgba="0.3 0.32 0.35 1"/>
    {_children('')}{''.join(bodies)}
  </worldbody>
</mujoco>
"""


def _children(parent: str) -> str:
    return ''.join(_part(part) for part in PARTS if part.parent == parent)


def _part(part: Part) -> str:
    hinges = ''.join(f'<joint name="{hinge.name}" axis="{_row(hinge.axis)}"/>' for hinge in part.hinges)
    shapes = ''.join(_shape(shape) for shape in part.shapes)
    camera = ''
    if part.camera:
        fovy = EYE_FOV if 'eye' in part.camera else _vertical(FOV)
        camera = (
            f'<camera name="{part.camera}" pos="{_row(part.camera_place)}" xyaxes="0 -1 0 0 0 1" fovy="{fovy:.4f}"/>'
        )
    return f"""
    <body name="{part.name}" pos="{_row(part.place)}">{hinges}{shapes}{camera}{_children(part.name)}</body>"""


def _shape(shape: Shape) -> str:
    size = shape.size if shape.kind == 'ellipsoid' else (shape.size[0], shape.size[2])
    return f'<geom type="{shape.kind}" size="{_row(size)}" pos="{_row(shape.place)}" rgba="{_row(shape.colour)} 1"/>'


def _vertical(horizontal: float) -> float:
    return math.degrees(2 * math.atan(math.tan(math.radians(horizontal) / 2) * IMAGE[1] / IMAGE[0]))


def _row(values: Iterable[float]) -> str:
    return ' '.join(f'{value:.5g}' for value in values)
