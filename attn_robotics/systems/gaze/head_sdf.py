"""The head and its people for Gazebo: `python -m attn_robotics.systems.gaze.head_sdf FOLDER`.

Joints take positions on `/model/gaze_head/joint/NAME/0/cmd_pos` [rad] and tell theirs on the topic of Gazebo's joint
state publisher. People stand still there: who talks and moves by script is the embedded simulator's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from attn_robotics.systems.gaze.head_world import (
    EYE_FOV,
    FACE_PLATE,
    FOV,
    IMAGE,
    PARTS,
    Part,
    Person,
    Shape,
    Vector,
    default_people,
    face_images,
)

# Of Gazebo Harmonic (gz-sim 8).
_PLUGINS: Final = {
    'gz-sim-physics-system': 'gz::sim::systems::Physics',
    'gz-sim-user-commands-system': 'gz::sim::systems::UserCommands',
    'gz-sim-scene-broadcaster-system': 'gz::sim::systems::SceneBroadcaster',
}
# Light enough not to matter, heavy enough for a solver; the controllers command speeds, not torques.
_INERTIA: Final = (
    '<inertial><mass>0.2</mass><inertia><ixx>2e-4</ixx><iyy>2e-4</iyy><izz>2e-4</izz></inertia></inertial>'
)


def to_sdf(people: Sequence[Person]) -> str:
    """SDF 1.9; write the files of `face_images` beside it."""
    links, joints = (
        ['<link name="torso">' + _INERTIA + _torso() + '</link>'],
        ['<joint name="stand" type="fixed"><parent>world</parent><child>torso</child></joint>'],
    )
    origins: dict[str, Vector] = {'': (0.0, 0.0, 0.0)}
    for part in PARTS:
        x, y, z = (a + b for a, b in zip(origins[part.parent], part.place, strict=True))
        origins[part.name] = (x, y, z)
        above = part.parent or 'torso'
        for k, hinge in enumerate(part.hinges):
            # A joint turns a link: all but the last of a part's joints turn an empty one in between.
            last = k == len(part.hinges) - 1
            link = part.name if last else f'{part.name}_mount_{k}'
            links.append(_link(link, origins[part.name], part if last else None))
            joints.append(
                f'<joint name="{hinge.name}" type="revolute"><parent>{above}</parent><child>{link}</child><axis>'
                f'<xyz>{_row(hinge.axis)}</xyz><limit><lower>{math.radians(hinge.lower):.5f}</lower>'
                f'<upper>{math.radians(hinge.upper):.5f}</upper></limit></axis></joint>'
                '<plugin filename="gz-sim-joint-position-controller-system" '
                f'name="gz::sim::systems::JointPositionController"><joint_name>{hinge.name}</joint_name>'
                '<use_velocity_commands>true</use_velocity_commands></plugin>'
            )
            above = link
    plugins = ''.join(f'<plugin filename="{file}" name="{name}"/>' for file, name in _PLUGINS.items())
    return (
        f'<?xml version="1.0"?>\n<sdf version="1.9"><world name="gaze">{plugins}'
        '<plugin filename="gz-sim-sensors-system" name="gz::sim::systems::Sensors"><render_engine>ogre2</render_engine>'
        '</plugin><light name="sun" type="directional"><direction>0.3 0 -1</direction></light>'
        f'<model name="gaze_head">{"".join(links)}{"".join(joints)}<plugin '
        'filename="gz-sim-joint-state-publisher-system" name="gz::sim::systems::JointStatePublisher"/></model>'
        f'{"".join(_person(p) for p in people)}</world></sdf>\n'
    )


def _torso() -> str:
    body = '<capsule><radius>0.09</radius><length>0.76</length></capsule>'
    paint = _paint((0.3, 0.32, 0.35))
    return f'<visual name="body"><pose>0 0 0.98 0 0 0</pose><geometry>{body}</geometry>{paint}</visual>'


def _link(name: str, place: Vector, part: Part | None) -> str:
    shapes = ''.join(_visual(f'shape_{k}', shape) for k, shape in enumerate(part.shapes)) if part else ''
    camera = _camera(part) if part and part.camera else ''
    return (
        f'<link name="{name}"><pose>{_row(place)} 0 0 0</pose><gravity>false</gravity>{_INERTIA}{shapes}{camera}</link>'
    )


def _visual(name: str, shape: Shape) -> str:
    if shape.kind == 'ellipsoid':
        body = f'<ellipsoid><radii>{_row(shape.size)}</radii></ellipsoid>'
    else:
        body = f'<cylinder><radius>{shape.size[0]}</radius><length>{2 * shape.size[2]}</length></cylinder>'
    return (
        f'<visual name="{name}"><pose>{_row(shape.place)} 0 0 0</pose><geometry>{body}</geometry>'
        f'{_paint(shape.colour)}</visual>'
    )


def _camera(part: Part) -> str:
    is_eye = 'eye' in part.camera
    width, height = (IMAGE[1], IMAGE[1]) if is_eye else IMAGE
    angle = math.radians(EYE_FOV if is_eye else FOV)
    topic = 'image' if not is_eye else f'{part.camera}/image'
    return (
        f'<sensor name="{part.camera}" type="camera"><pose>{_row(part.camera_place)} 0 0 0</pose>'
        f'<update_rate>30</update_rate><topic>{topic}</topic><camera><horizontal_fov>{angle:.5f}</horizontal_fov>'
        f'<image><width>{width}</width><height>{height}</height></image></camera></sensor>'
    )


def _person(p: Person) -> str:
    turn = math.radians(p.azimuth) + math.pi
    return (
        f'<model name="{p.id}"><static>true</static><pose>{_row(p.position())} 0 0 {turn:.4f}</pose><link name="body">'
        f'<visual name="face"><geometry><plane><normal>1 0 0</normal><size>{FACE_PLATE} {FACE_PLATE}</size></plane>'
        f'</geometry><material><diffuse>1 1 1 1</diffuse><pbr><metal><albedo_map>{p.id}_shut.png</albedo_map>'
        '<roughness>1</roughness><metalness>0</metalness></metal></pbr></material></visual>'
        '<visual name="clothes"><pose>-0.05 0 -0.6 0 0 0</pose><geometry><capsule><radius>0.17</radius>'
        f'<length>0.4</length></capsule></geometry>{_paint(p.colour)}</visual></link></model>'
    )


def _paint(colour: Vector) -> str:
    return f'<material><ambient>{_row(colour)} 1</ambient><diffuse>{_row(colour)} 1</diffuse></material>'


def _row(values: Iterable[float]) -> str:
    return ' '.join(f'{value:.5g}' for value in values)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='gaze.sdf and the pictures of faces go here')
    parser.add_argument('--people', type=int, default=3, choices=(2, 3, 4))
    parser.add_argument('--seed', type=int, default=0, help='of places and faces')
    args = parser.parse_args(argv)
    people = default_people(args.people, args.seed)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, data in face_images(people).items():
        (args.folder / name).write_bytes(data)
    (args.folder / 'gaze.sdf').write_text(to_sdf(people), encoding='utf-8')
    print(f'{args.folder / "gaze.sdf"}: check with ign sdf -k (or gz sdf -k), run with gz sim')


if __name__ == '__main__':
    main()
