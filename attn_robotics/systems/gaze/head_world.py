"""A humanoid head facing a few people, described once; `head_mjcf` and `head_sdf` say it in their languages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from attn_robotics.systems.gaze.faces import draw_face
from attn_robotics.systems.gaze.human import PUPIL_DISTANCE

NECK: Final = (0.0, 0.0, 1.45)  # m, where both neck axes meet
EYE: Final = (0.07, PUPIL_DISTANCE / 2.0, 0.08)  # m from the neck; the right eye mirrored
EYE_MIDDLE: Final = (EYE[0], 0.0, EYE[2])  # m from the neck
CAMERA: Final = (0.10, 0.0, 0.08)  # m from the neck, on the head
FOV: Final = 75.0  # deg, horizontal, of the head camera
EYE_FOV: Final = 50.0  # deg, vertical, of the cameras in the eyes
IMAGE: Final = (480, 360)
FACE_PLATE: Final = 0.2  # m, side of the square that carries a face, which fills about 0.6 of it
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Shape:
    """What is seen of a part."""

    kind: str  # ellipsoid or cylinder (upright); a sphere is a round ellipsoid
    size: Vector  # m: half axes; of a cylinder radius, radius and half length
    place: Vector  # m, from the part's origin
    colour: Vector


@dataclass(frozen=True)
class Hinge:
    """A joint of a part; several turn it one after the other."""

    name: str
    axis: Vector
    lower: float  # deg
    upper: float


@dataclass(frozen=True)
class Part:
    """A rigid piece of the head."""

    name: str
    parent: str  # empty: the world
    place: Vector  # m, from the parent's origin
    hinges: tuple[Hinge, ...]
    shapes: tuple[Shape, ...]
    camera: str = ''  # name of a camera that looks ahead ...
    camera_place: Vector = (0.0, 0.0, 0.0)  # m ... from here


_SKIN, _NECK_GREY, _LIP = (0.75, 0.72, 0.7), (0.3, 0.32, 0.35), (0.5, 0.25, 0.25)
_WHITE, _IRIS, _PUPIL = (0.95, 0.95, 0.95), (0.15, 0.25, 0.4), (0.02, 0.02, 0.02)
_UP, _LEFT_DOWN, _LEFT = (0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (0.0, 1.0, 0.0)


def _eye(side: str, sign: float) -> tuple[Part, Part]:
    place = (EYE[0], sign * EYE[1], EYE[2])
    ball = Part(
        f'{side}_eye',
        'head',
        place,
        (Hinge(f'{side}_eye_yaw', _UP, -65, 65), Hinge(f'{side}_eye_pitch', _LEFT_DOWN, -40, 35)),
        (
            Shape('ellipsoid', (0.018, 0.018, 0.018), (0.0, 0.0, 0.0), _WHITE),
            Shape('ellipsoid', (0.004, 0.008, 0.008), (0.0155, 0.0, 0.0), _IRIS),
            Shape('ellipsoid', (0.003, 0.004, 0.004), (0.018, 0.0, 0.0), _PUPIL),
        ),
        f'{side}_eye_camera',
        (0.021, 0.0, 0.0),
    )
    lid = Part(
        f'{side}_lid',
        'head',
        place,
        (Hinge(f'{side}_lid_hinge', _LEFT, -45, 70),),
        (Shape('ellipsoid', (0.02, 0.02, 0.009), (-0.001, 0.0, 0.013), _SKIN),),
    )
    return ball, lid


PARTS: Final = (
    Part('neck', '', NECK, (Hinge('neck_yaw', _UP, -80, 80),), (
        Shape('cylinder', (0.04, 0.04, 0.05), (0.0, 0.0, -0.05), _NECK_GREY),
    )),
    Part('head', 'neck', (0.0, 0.0, 0.0), (Hinge('neck_pitch', _LEFT_DOWN, -35, 40),), (
        Shape('ellipsoid', (0.085, 0.075, 0.115), (-0.015, 0.0, 0.07), _SKIN),
        Shape('ellipsoid', (0.005, 0.025, 0.005), (0.068, 0.0, 0.01), _LIP),
    ), 'head_camera', CAMERA),
    *_eye('left', 1.0),
    *_eye('right', -1.0),
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """Somebody standing around the robot; angles from the neck."""

    id: str
    seed: int
    azimuth: float  # deg
    distance: float  # m
    height: float = 1.55  # m of the eyes

    def position(self, azimuth: float | None = None) -> Vector:
        """Middle of the face [m]."""
        angle = math.radians(self.azimuth if azimuth is None else azimuth)
        return self.distance * math.cos(angle), self.distance * math.sin(angle), self.height

    @property
    def colour(self) -> Vector:
        """Of the clothes."""
        return 0.2 + 0.15 * (self.seed % 4), 0.3, 0.6 - 0.1 * (self.seed % 4)


def default_people(n: int, seed: int) -> list[Person]:
    """Two to four people in an arc."""
    rng = np.random.default_rng(seed)
    places = np.linspace(-32, 32, n) if n > 1 else [0.0]
    return [
        Person(f'p{i}', seed * 10 + i, float(a), float(rng.uniform(0.9, 1.4)), float(rng.uniform(1.5, 1.62)))
        for i, a in enumerate(places)
    ]


def face_images(people: Sequence[Person]) -> dict[str, bytes]:
    """PNG files of every face, mouth shut and open, by file name."""
    import cv2

    files = {}
    for person in people:
        for word, mouth in (('shut', 0.0), ('open', 1.0)):
            image = draw_face(person.seed, mouth_open=mouth)
            files[f'{person.id}_{word}.png'] = bytes(cv2.imencode('.png', image[:, :, ::-1])[1].tobytes())
    return files


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
    lids = dict.fromkeys(('left_lid_hinge', 'right_lid_hinge'), 75.0 * row['lids'] - 25.0 - 0.5 * row['eyes_pitch'])
    angles = {'neck_yaw': row['neck_yaw'], 'neck_pitch': row['neck_pitch'], **eyes, **lids}
    return {name: math.radians(value) for name, value in angles.items()}
