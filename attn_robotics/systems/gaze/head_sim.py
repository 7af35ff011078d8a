"""The head in MuJoCo with rendered cameras; joints go where they are told (no actuator dynamics)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_robotics.systems.gaze.head_mjcf import to_mjcf
from attn_robotics.systems.gaze.head_world import (
    IMAGE,
    NECK,
    Person,
    face_images,
    joint_positions,
    person_quaternion,
)
from attn_robotics.systems.gaze.human import Array
from attn_robotics.systems.gaze.profile import AXES


class HeadSim:
    """A head and people.

    Rendering needs an OpenGL that works without a display: `MUJOCO_GL=egl` (Debian: libegl1 and libegl-mesa0; software
    rendering will do) or `MUJOCO_GL=osmesa` (libosmesa6). Everything else works without.
    """

    def __init__(self, people: Sequence[Person]) -> None:
        import mujoco

        self._mujoco = mujoco
        self.people = list(people)
        self.model = mujoco.MjModel.from_xml_string(to_mjcf(people), face_images(people))
        self.data = mujoco.MjData(self.model)
        self._renderers: dict[tuple[int, int], Any] = {}
        self.place = {p.id: p.azimuth for p in people}
        for person in people:
            self.move_person(person, person.azimuth)
        mujoco.mj_forward(self.model, self.data)

    def move_person(self, person: Person, azimuth: float, *, mouth_open: bool = False) -> None:
        """Put somebody at another azimuth [deg], facing the robot."""
        body = self.model.body(person.id)
        slot = int(body.mocapid[0])
        self.data.mocap_pos[slot] = person.position(azimuth)
        self.data.mocap_quat[slot] = person_quaternion(azimuth)
        word = 'open' if mouth_open else 'shut'
        self.model.geom(f'{person.id}_face').matid[:] = self.model.material(f'{person.id}_{word}').id
        self.place[person.id] = azimuth

    def set_axes(self, row: Array) -> None:
        """Set the joints from a command row (6,) in the order of `profile.AXES`."""
        for name, angle in joint_positions(dict(zip(AXES, map(float, row), strict=True))).items():
            self.data.qpos[self.model.joint(name).qposadr[0]] = angle
        self._mujoco.mj_kinematics(self.model, self.data)
        self._mujoco.mj_comPos(self.model, self.data)
        self._mujoco.mj_camlight(self.model, self.data)

    def true_direction(self, person: Person) -> tuple[float, float]:
        """Yaw and pitch [deg] of a person's eyes from the neck."""
        x, y, z = (a - b for a, b in zip(person.position(self.place[person.id]), NECK, strict=True))
        return math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, math.hypot(x, y)))

    def gaze_error(self, person: Person) -> float:
        """Angle [deg] between the cyclopean line of sight and the way to a person's face."""
        rays = self.eye_rays()
        way = np.array(person.position(self.place[person.id])) - rays[:, 0].mean(0)
        sight = rays[:, 1].mean(0)
        return math.degrees(
            math.acos(min(1.0, float(way @ sight) / float(np.linalg.norm(way) * np.linalg.norm(sight))))
        )

    def eye_rays(self) -> Array:
        """(2, 2, 3): origin and unit direction of the left and right line of sight [m]."""
        rays = []
        for side in ('left', 'right'):
            body = self.data.body(f'{side}_eye')
            rays.append([body.xpos.copy(), body.xmat.reshape(3, 3)[:, 0].copy()])
        return np.array(rays)

    def render(
        self, camera: str = 'head_camera', size: tuple[int, int] = IMAGE, rays: bool = False
    ) -> npt.NDArray[np.uint8]:
        """RGB image (H, W, 3) of a camera; `rays` draws the lines of sight."""
        renderer = self._renderers.get(size)
        if renderer is None:
            renderer = self._renderers[size] = self._mujoco.Renderer(self.model, size[1], size[0])
        renderer.update_scene(self.data, camera)
        if rays:
            self._draw_rays(renderer.scene)
        return np.asarray(renderer.render(), dtype=np.uint8).copy()

    def _draw_rays(self, scene: Any) -> None:
        mujoco = self._mujoco
        for origin, way in self.eye_rays():
            geom = scene.geoms[scene.ngeom]
            colour = np.array([1.0, 0.85, 0.1, 0.8], np.float32)
            mujoco.mjv_initGeom(
                geom, mujoco.mjtGeom.mjGEOM_CAPSULE, np.zeros(3), np.zeros(3), np.eye(3).ravel(), colour
            )
            mujoco.mjv_connector(geom, mujoco.mjtGeom.mjGEOM_CAPSULE, 0.004, origin + 0.03 * way, origin + 1.6 * way)
            scene.ngeom += 1

    def close(self) -> None:
        """Free the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
