"""A humanoid head facing a few people, described once: MJCF for MuJoCo and SDF for Gazebo."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from attn_robotics.systems.gaze.faces import draw_face
from attn_robotics.systems.gaze.human import PUPIL_DISTANCE

NECK: Final = (0.0, 0.0, 1.45)  # m, where both neck axes meet
EYE: Final = (0.07, PUPIL_DISTANCE / 2.0, 0.08)  # m from the neck; the right eye mirrored
CAMERA: Final = (0.10, 0.0, 0.08)  # m from the neck, on the head
FOV: Final = 75.0  # deg, horizontal, of the head camera
IMAGE: Final = (480, 360)
FACE_PLATE: Final = 0.2  # m, side of the square that carries a face, which fills about 0.6 of it


@dataclass(frozen=True)
class Person:
    """Somebody standing around the robot; angles from the neck."""

    id: str
    seed: int
    azimuth: float  # deg
    distance: float  # m
    height: float = 1.55  # m of the eyes

    def position(self, azimuth: float | None = None) -> tuple[float, float, float]:
        """Middle of the face [m]."""
        angle = math.radians(self.azimuth if azimuth is None else azimuth)
        return self.distance * math.cos(angle), self.distance * math.sin(angle), self.height


def face_images(people: Sequence[Person]) -> dict[str, bytes]:
    """PNG files of every face, mouth shut and open, by file name."""
    import cv2

    files = {}
    for person in people:
        for word, mouth in (('shut', 0.0), ('open', 1.0)):
            image = draw_face(person.seed, mouth_open=mouth)
            files[f'{person.id}_{word}.png'] = bytes(cv2.imencode('.png', image[:, :, ::-1])[1].tobytes())
    return files


def _eye_mjcf(side: str, sign: float) -> str:
    return f"""
        <body name="{side}_eye" pos="{EYE[0]} {sign * EYE[1]} {EYE[2]}">
          <joint name="{side}_eye_yaw" axis="0 0 1"/><joint name="{side}_eye_pitch" axis="0 -1 0"/>
          <geom type="sphere" size="0.018" rgba="0.95 0.95 0.95 1"/>
          <geom type="ellipsoid" size="0.004 0.008 0.008" pos="0.0155 0 0" rgba="0.15 0.25 0.4 1"/>
          <geom type="ellipsoid" size="0.003 0.004 0.004" pos="0.018 0 0" rgba="0.02 0.02 0.02 1"/>
          <camera name="{side}_eye_camera" pos="0.021 0 0" xyaxes="0 -1 0 0 0 1" fovy="50"/>
        </body>
        <body name="{side}_lid" pos="{EYE[0]} {sign * EYE[1]} {EYE[2]}">
          <joint name="{side}_lid" axis="0 1 0"/>
          <geom type="ellipsoid" size="0.02 0.02 0.009" pos="-0.001 0 0.013" rgba="0.75 0.72 0.7 1"/>
        </body>"""


def to_mjcf(people: Sequence[Person]) -> str:
    """MJCF; face textures are the files of `face_images`."""
    vertical = math.degrees(2 * math.atan(math.tan(math.radians(FOV) / 2) * IMAGE[1] / IMAGE[0]))
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
    <body name="{p.id}" mocap="true" pos="{' '.join(f'{v:.4f}' for v in p.position())}">
      <geom name="{p.id}_face" type="plane" size="{half} {half} 0.01" material="{p.id}_shut"/>
      <geom type="capsule" fromto="0 -0.4 -0.05 0 -0.8 -0.05" size="0.17"
        rgba="{0.2 + 0.15 * (p.seed % 4):.2f} 0.3 {0.6 - 0.1 * (p.seed % 4):.2f} 1"/>
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
    <body name="neck" pos="{' '.join(map(str, NECK))}">
      <joint name="neck_yaw" axis="0 0 1"/>
      <geom type="cylinder" fromto="0 0 -0.1 0 0 0" size="0.04" rgba="0.3 0.32 0.35 1"/>
      <body name="head">
        <joint name="neck_pitch" axis="0 -1 0"/>
        <geom type="ellipsoid" size="0.085 0.075 0.115" pos="-0.015 0 0.07" rgba="0.75 0.72 0.7 1"/>
        <geom type="capsule" fromto="0.068 -0.02 0.01 0.068 0.02 0.01" size="0.005" rgba="0.5 0.25 0.25 1"/>
        <camera name="head_camera" pos="{' '.join(map(str, CAMERA))}" xyaxes="0 -1 0 0 0 1" fovy="{vertical:.4f}"/>
        {_eye_mjcf('left', 1.0)}{_eye_mjcf('right', -1.0)}
      </body>
    </body>{''.join(bodies)}
  </worldbody>
</mujoco>
"""


def _sdf_joint(name: str, parent: str, child: str, axis: str) -> str:
    return (
        f'<joint name="{name}" type="revolute"><parent>{parent}</parent><child>{child}</child><axis><xyz>{axis}</xyz>'
        '<limit><lower>-1.57</lower><upper>1.57</upper></limit></axis></joint>'
        '<plugin filename="gz-sim-joint-position-controller-system" name="gz::sim::systems::JointPositionController">'
        f'<joint_name>{name}</joint_name><use_velocity_commands>true</use_velocity_commands>'
        f'<topic>{name}/command</topic></plugin>'
    )


def _sdf_link(name: str, pose: Sequence[float], shape: str, extra: str = '') -> str:
    place = ' '.join(f'{v:.4f}' for v in pose)
    inertia = '<inertial><mass>0.2</mass><inertia><ixx>2e-4</ixx><iyy>2e-4</iyy><izz>2e-4</izz></inertia></inertial>'
    visual = f'<visual name="shape"><geometry>{shape}</geometry></visual>' if shape else ''
    return f'<link name="{name}"><pose>{place} 0 0 0</pose><gravity>false</gravity>{inertia}{visual}{extra}</link>'


def to_sdf(people: Sequence[Person]) -> str:
    """The same scene as SDF 1.9; write the files of `face_images` beside it."""
    x, y, z = NECK
    camera = (
        f'<sensor name="head_camera" type="camera"><pose>{" ".join(map(str, CAMERA))} 0 0 0</pose>'
        f'<update_rate>30</update_rate><topic>image</topic><camera><horizontal_fov>{math.radians(FOV):.5f}'
        f'</horizontal_fov><image><width>{IMAGE[0]}</width><height>{IMAGE[1]}</height></image></camera></sensor>'
    )
    skull = '<ellipsoid><radii>0.085 0.075 0.115</radii></ellipsoid>'
    ball = '<sphere><radius>0.018</radius></sphere>'
    links = [_sdf_link('neck', NECK, '<cylinder><radius>0.04</radius><length>0.1</length></cylinder>')]
    links.append(_sdf_link('head', NECK, skull, camera))
    joints = [_sdf_joint('neck_yaw', 'world', 'neck', '0 0 1'), _sdf_joint('neck_pitch', 'neck', 'head', '0 -1 0')]
    for side, sign in (('left', 1.0), ('right', -1.0)):
        place = (x + EYE[0], y + sign * EYE[1], z + EYE[2])
        links += [_sdf_link(f'{side}_eye_mount', place, ''), _sdf_link(f'{side}_eye', place, ball)]
        links.append(_sdf_link(f'{side}_lid', place, ''))
        joints.append(_sdf_joint(f'{side}_eye_yaw', 'head', f'{side}_eye_mount', '0 0 1'))
        joints.append(_sdf_joint(f'{side}_eye_pitch', f'{side}_eye_mount', f'{side}_eye', '0 -1 0'))
        joints.append(_sdf_joint(f'{side}_lid', 'head', f'{side}_lid', '0 1 0'))
    crowd = []
    for p in people:
        spot = ' '.join(f'{v:.4f}' for v in p.position())
        turn = math.radians(p.azimuth) + math.pi
        crowd.append(
            f'<model name="{p.id}"><static>true</static><pose>{spot} 0 0 {turn:.4f}</pose><link name="face">'
            f'<visual name="face"><geometry><plane><normal>1 0 0</normal><size>{FACE_PLATE} {FACE_PLATE}</size></plane>'
            f'</geometry><material><diffuse>1 1 1 1</diffuse><pbr><metal><albedo_map>{p.id}_shut.png</albedo_map>'
            '<roughness>1</roughness><metalness>0</metalness></metal></pbr></material></visual></link></model>'
        )
    return (
        '<?xml version="1.0"?>\n<sdf version="1.9"><world name="gaze">'
        '<plugin filename="gz-sim-physics-system" name="gz::sim::systems::Physics"/>'
        '<plugin filename="gz-sim-sensors-system" name="gz::sim::systems::Sensors"><render_engine>ogre2</render_engine>'
        '</plugin><light name="sun" type="directional"><direction>0.3 0 -1</direction></light>'
        f'<model name="gaze_head">{"".join(links)}{"".join(joints)}</model>{"".join(crowd)}</world></sdf>\n'
    )


def person_quaternion(azimuth: float) -> tuple[float, float, float, float]:
    """Turn (w, x, y, z) of a face plate so that it faces the robot from `azimuth` [deg], upright."""
    # The plate's normal is its z axis and its image's up its y axis: stand it up, then turn it about the vertical.
    turn = math.radians(azimuth) + math.pi
    c, s = math.cos(turn / 2), math.sin(turn / 2)
    # (0.5, 0.5, 0.5, 0.5) takes x to y, y to z and z to x.
    return 0.5 * (c - s), 0.5 * (c - s), 0.5 * (c + s), 0.5 * (c + s)


def joint_positions(row: Mapping[str, float]) -> dict[str, float]:
    """Simulated joint angles [rad] for an axis row in degrees; vergence is split between the eyes."""
    half = 0.5 * row['vergence']
    eyes = {
        'left_eye_yaw': row['eyes_yaw'] - half,
        'right_eye_yaw': row['eyes_yaw'] + half,
        'left_eye_pitch': row['eyes_pitch'],
        'right_eye_pitch': row['eyes_pitch'],
    }
    lids = dict.fromkeys(('left_lid', 'right_lid'), 75.0 * row['lids'] - 25.0 - 0.5 * row['eyes_pitch'])
    angles = {'neck_yaw': row['neck_yaw'], 'neck_pitch': row['neck_pitch'], **eyes, **lids}
    return {name: math.radians(value) for name, value in angles.items()}
