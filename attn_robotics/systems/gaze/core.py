"""Everything behind a gaze node but ROS: percepts and requests in, commands out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attn_robotics.systems.gaze.arbitration import Arbiter, Request
from attn_robotics.systems.gaze.command import Command, Target
from attn_robotics.systems.gaze.entities import PERSON, SOUND, Entity, Scene, SceneMemory
from attn_robotics.systems.gaze.human import Array
from attn_robotics.systems.gaze.planner import GazePlanner
from attn_robotics.systems.gaze.pose_history import PoseHistory, angles, rotate, vector
from attn_robotics.systems.gaze.profile import Profile
from attn_robotics.systems.gaze.selection import Hysteresis, RuleSelector, Selector
from attn_robotics.systems.gaze.tracker import TrackedFace

FORGET = 1.0  # s until an unseen entity is no longer offered to the selector
STALE_JOINTS = 0.5  # s without joint states that is worth a warning
ASTRAY = 15.0  # deg between commanded and measured head ...
ASTRAY_TIME = 1.0  # s ... for this long: the controller does not follow


@dataclass(frozen=True)
class CoreResult:
    """One tick."""

    command: Command
    target: Target | None
    client: str  # who got the gaze: a client's name, or "attention" for the robot's own selection
    reason: str
    scores: Mapping[str, float]
    warnings: tuple[str, ...] = ()  # the planner's and the core's
    is_followed: bool = True  # the measured head goes where it is sent


class GazeCore:
    """One robot's gaze. All methods from one thread, except that `percepts` may be prepared elsewhere.

    Call `observe_head` whenever joint states arrive, `observe_faces` and `observe_entities` with percepts, `request`
    for clients, and `step` at 100 Hz. Times are seconds of one clock; selection runs inside `step`, at most at 20 Hz.
    """

    def __init__(self, profile: Profile, planner: GazePlanner, selector: Selector | None = None) -> None:
        self.profile = profile
        self.planner = planner
        self.selector = selector or RuleSelector()
        self.arbiter = Arbiter()
        self.memory = SceneMemory()
        self.scene: Scene | None = None
        self._history = PoseHistory()
        self._hysteresis = Hysteresis()
        self._entities: dict[str, tuple[float, Entity]] = {}
        self._head = np.zeros(2)  # deg, last command
        self._joints_at = self._followed_at = math.nan  # s, unknown until the first joint state
        self._current = ''
        self._reason = 'nobody is there'
        self._scores: Mapping[str, float] = {}
        self._selected_at = -math.inf
        self.dropped: dict[str, int] = {'image without head pose': 0, 'entity not finite': 0, 'request refused': 0}

    def observe_head(
        self, stamp: float, yaw: float, pitch: float, eye_yaw: float = 0.0, eye_pitch: float = 0.0
    ) -> None:
        """Measured joints [deg]; eyes count only where they carry the camera."""
        head_yaw, head_pitch = yaw, pitch
        if self.profile.camera_on == 'eyes':
            yaw, pitch = yaw + eye_yaw, pitch + eye_pitch
        elif self.profile.camera_on == 'body':
            yaw = pitch = 0.0
        self._history.add(stamp, yaw, pitch)
        if not math.isfinite(stamp):
            return
        self._joints_at = stamp
        if math.hypot(head_yaw - self._head[0], head_pitch - self._head[1]) < ASTRAY:
            self._followed_at = stamp

    def observe_faces(
        self, stamp: float, faces: Sequence[TrackedFace], cues: Mapping[str, Entity] | None = None
    ) -> int:
        """Tracked faces of the image taken at `stamp`, placed with the head pose of that time.

        Args:
            stamp: of the image [s].
            faces: bearings from the camera axis.
            cues: what else is known of a face, by its id (speaking, looking, waving).

        Returns:
            How many could be placed; none when the head pose of that time is unknown.
        """
        placed = 0
        for face in faces:
            way = self.place(face, stamp)
            if way is None:
                self.dropped['image without head pose'] += 1
                continue
            known = (cues or {}).get(face.id, Entity(face.id, looks_at_robot=0.5))
            entity = replace(
                known, id=face.id, kind=PERSON, azimuth=float(way[0]), elevation=float(way[1]), distance=face.distance,
                face_visible=face.age <= 0.0,
            )  # fmt: skip
            self._entities[face.id] = (stamp, entity)
            placed += 1
        return placed

    def place(self, face: TrackedFace, stamp: float) -> Array | None:
        """Body-frame yaw and pitch (2,) of a face in the image taken at `stamp`, None when the pose is unknown."""
        pose = self._history.at(stamp)
        if pose is None or not all(map(math.isfinite, (face.yaw, face.pitch, face.distance))):
            return None
        offset = np.array(self.profile.camera_offset)
        return angles(rotate(pose, offset + face.distance * vector(face.yaw, face.pitch)))

    def observe_entities(self, stamp: float, entities: Sequence[Entity]) -> None:
        """Entities already in the body frame (sounds by their direction, people from another package)."""
        for entity in entities:
            if entity.is_valid and math.isfinite(stamp):
                self._entities[entity.id] = (stamp, entity)
            else:
                self.dropped['entity not finite'] += 1

    def request(self, request: Request, now: float) -> str | None:
        """A client's wish; returns why it was refused, or None."""
        refusal = self.arbiter.submit(request, now)
        self.dropped['request refused'] += refusal is not None
        return refusal

    def step(
        self, now: float, *, speaking: bool = False, head_measured: tuple[float, float] | None = None
    ) -> CoreResult:
        """One 100 Hz tick."""
        if math.isfinite(now) and (now - self._selected_at >= 0.05 - 1e-6 or now < self._selected_at):
            self._select(now, speaking)
        wish = self.arbiter.choose(now) if math.isfinite(now) else None
        client, target = '', None
        if wish is not None:
            client, target = wish.client, self._from_eyes(wish.target) if wish.target.from_neck else wish.target
        elif self._current in self._entities:
            client, target = 'attention', self._as_target(self._entities[self._current][1])
        warnings = self._watch_joints(now)
        if warnings:
            client, target = '', None  # hold, then rest: chasing targets blindly would end in a jump
        command = self.planner.step(now, target, speaking=speaking, head_measured=head_measured)
        self._head = command.head
        return CoreResult(
            command,
            target,
            client,
            self._reason,
            self._scores,
            (*command.warnings, *warnings),
            not self._joints_at - self._followed_at > ASTRAY_TIME,
        )

    def _watch_joints(self, now: float) -> list[str]:
        """Complaints about the joints: silent, or not where they were sent."""
        warnings = []
        if now - self._joints_at > STALE_JOINTS:
            warnings.append(f'no joint states for {now - self._joints_at:.1f} s; images cannot be placed')
        elif self._joints_at - self._followed_at > ASTRAY_TIME:
            warnings.append('the head does not follow its commands; is the trajectory controller active?')
        return warnings

    def _select(self, now: float, speaking: bool) -> None:
        self._selected_at = now
        # A stamp from the future (a clock set back) is as useless as an old one.
        self._entities = {k: v for k, v in self._entities.items() if abs(now - v[0]) <= FORGET}
        present = [entity for _, entity in self._entities.values()]
        self.scene = self.memory.observe(now, present, current=self._current, speaking=speaking)
        choice = self.selector.score(self.scene)
        self._current = self._hysteresis.settle(self.scene, choice)
        self._reason, self._scores = choice.reason, choice.scores

    def _as_target(self, e: Entity) -> Target:
        heard = e.kind == SOUND and not e.face_visible
        modality = 'auditory' if heard else 'visual'
        return self._from_eyes(
            Target(e.id, e.azimuth, e.elevation, e.distance, modality, e.kind == PERSON, e.looks_at_robot > 0.5)
        )

    def _from_eyes(self, target: Target) -> Target:
        # Entities are seen from the neck, gaze starts at the eyes, which move with the head.
        origin = rotate(self._head, np.array(self.profile.eye_offset))
        way = angles(max(target.distance, 0.2) * vector(target.yaw, target.pitch) - origin)
        return replace(target, yaw=float(way[0]), pitch=float(way[1]), from_neck=False)

    def start_at(self, head: tuple[float, float], eye: tuple[float, float] = (0.0, 0.0)) -> None:
        """Go on from a measured pose [deg]: at the start, and after somebody else has moved the head."""
        self.planner.start_at(head, eye)
        self._head = self.planner.head
        self._followed_at = self._joints_at
