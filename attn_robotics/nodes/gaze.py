"""Decide where a head looks and move eyes, neck and lids there as people do.

Listens to images, people, sounds and clients who want it to look somewhere; publishes joint trajectories at 100 Hz.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PointStamped
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Bool
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

import attn_robotics.systems.gaze as gaze_system
from attn_robotics.conversions import gaze as messages
from attn_robotics.conversions.frames import FrameError, direction_of
from attn_robotics.conversions.gaze import HeadPose, MessageError
from attn_robotics.conversions.stamps import to_seconds, to_stamp
from attn_robotics.nodes._gaze_actions import PointAction, installed_actions
from attn_robotics.nodes._gaze_faces import FaceInput
from attn_robotics.nodes._gaze_percepts import Percepts
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import AttnNode, ConfigurationError, run_node
from attn_robotics.ros.parameters import param
from attn_robotics.systems.gaze.arbitration import Request
from attn_robotics.systems.gaze.command import Command
from attn_robotics.systems.gaze.core import STALE_JOINTS, CoreResult, GazeCore
from attn_robotics.systems.gaze.entities import Entity, SceneMemory
from attn_robotics.systems.gaze.learned import MotionModel
from attn_robotics.systems.gaze.learned_shift import LearnedSource
from attn_robotics.systems.gaze.motor import plan_shift
from attn_robotics.systems.gaze.planner import GazePlanner
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics.systems.gaze.selection import RuleSelector, Selector
from attn_robotics.systems.gaze.selector import AttentionSelector
from attn_robotics.systems.gaze.vlm import VlmSelector
from attn_robotics_interfaces.msg import AttentionMap, GazeState, GazeTarget
from attn_robotics_interfaces.srv import LookAt

CONTROL_PERIOD_S = 0.01
SHOW_EVERY = 5  # ticks between attention, markers and the target's transform
OTHER_CLOCK_S = 2.0  # a stamp that is so far from now belongs to another clock
PATIENCE_S = (2.0, 16.0)  # before a head that did not follow is tried again: at first, and at most
VLM_IMAGE_S = 1.0  # between images for the vision-language model
KEY_VARIABLE = 'ATTN_GAZE_VLM_KEY'  # a key does not belong into parameters, which everybody can read


@dataclass(frozen=True)
class GazeParams:
    """Tunables of the gaze node."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    profile: str = param('eyes_neck_lids', 'Robot profile: a shipped name or a YAML path.', read_only=True)
    selection: str = param(
        'attention', 'Who chooses the target.', choices=('rules', 'attention', 'vlm'), read_only=True
    )
    motion: str = param('analytic', 'Who draws the movement.', choices=('analytic', 'learned'), read_only=True)
    vlm_url: str = param('', 'OpenAI-compatible server for selection vlm, as http://host:port/v1.', read_only=True)
    vlm_model: str = param('', 'Name of the model on that server.', read_only=True)
    faces: bool = param(True, 'Look for faces in `image`; off where `people` come from elsewhere.', read_only=True)
    humans: bool = param(False, 'Take people from REP-155 `/humans` topics; needs hri_msgs.', read_only=True)
    head_pose: str = param(
        'joint_states', 'What tells where the head is.', choices=('joint_states', 'tf'), read_only=True
    )
    neck_frame: str = param('neck_base', 'Body-fixed frame where both neck axes meet, x forward, z up.', read_only=True)
    head_frame: str = param('head', 'Frame that turns with the head, x forward; for head_pose tf.', read_only=True)
    camera_frame: str = param('', 'Frame that images must have; empty takes that of camera_info.', read_only=True)
    target_frame: str = param('gaze_target', 'Frame published at what is looked at.', read_only=True)
    request_timeout: float = param(2.0, 'Life of a look-at request that names none [s].', low=0.1, high=60.0)
    idle: bool = param(True, 'Blink, scan faces and break mutual gaze now and then.', read_only=True)
    eyes_follow_encoders: bool = param(
        False, 'Eyes make up for the measured neck instead of the commanded one, for necks that lag.'
    )
    seed: int = param(0, 'Of everything random.', low=0, high=2**31 - 1, read_only=True)


class Gaze(AttnNode):
    """The `gaze` node: percepts and requests in, joint commands out."""

    NAME = 'gaze'
    Params = GazeParams
    params: GazeParams

    def configure(self) -> None:
        """Load profile and weights, start the face detector, connect."""
        p = self.params
        humans = self._ids_list() if p.humans else None
        self._profile = load_profile(p.profile)
        self._selector = self._make_selector()
        source = plan_shift
        if p.motion == 'learned':
            weights = Path(gaze_system.__file__).with_name('motion.safetensors')
            source = LearnedSource(MotionModel(weights), seed=p.seed)
        planner = GazePlanner(self._profile, seed=p.seed, idle=p.idle, source=source)
        self._core = GazeCore(self._profile, planner, self._selector)
        self._percepts = Percepts(self._core, p.neck_frame, self._now_s, self.drop)
        self._frames = self._percepts.frames
        self._shown_at = -np.inf
        self._pose: HeadPose | None = None
        self._result: CoreResult | None = None
        self._rivals: list[str] = []
        self._must_start = True  # from the measured pose, before the next command
        self._retry_at, self._patience = -np.inf, PATIENCE_S[0]
        self._lost_at = -np.inf
        self._is_speaking = False
        self._ticks = 0
        self._last_tick: float | None = None
        self._work_ms: deque[float] = deque(maxlen=1000)
        self._late_ms: deque[float] = deque(maxlen=1000)
        self._faces = FaceInput(self.drop, p.camera_frame) if p.faces else None
        on = self.create_subscription
        self._held = [
            on(JointState, 'joint_states', self._on_joints, qos.SENSOR),
            on(TFMessage, '/tf', self._on_transforms, qos.TRANSFORMS),
            on(TFMessage, '/tf_static', self._on_static, qos.TRANSFORMS_STATIC),
            on(GazeTarget, 'people', self._percepts.on_person, qos.STATE),
            on(GazeTarget, 'targets', self._percepts.on_target, qos.STATE),
            on(GazeTarget, '~/look_at', self._on_look_at, qos.STATE),
            on(Bool, 'speaking', self._on_speaking, qos.STATE),
        ]
        if self._faces is not None:
            self._held += [
                on(CameraInfo, 'camera_info', self._faces.on_camera_info, qos.SENSOR),
                on(Image, 'image', self._on_image, qos.SENSOR),
            ]
        if humans is not None:
            self._held.append(on(humans, '/humans/faces/tracked', self._on_humans, qos.STATE))
        self._actions = [
            PointAction(self, kind, name, read, self._look_at_point, self._core.arbiter.withdraw)
            for kind, name, read in installed_actions()
        ]
        self._service = self.create_service(LookAt, '~/look_at', self._serve_look_at)
        self._state = self.create_publisher(GazeState, '~/state', qos.STATE)
        self._attention = self.create_publisher(AttentionMap, '~/attention', qos.STATE)
        self._markers = self.create_publisher(MarkerArray, '~/markers', qos.STATE)
        self._tf = self.create_publisher(TFMessage, '/tf', qos.TRANSFORMS)
        self._trajectory: Publisher | None = None
        self._timer = self.create_timer(CONTROL_PERIOD_S, self._tick, autostart=False)
        self._watch = self.create_timer(0.5, self._look_around, clock=self._wall)
        self.get_logger().info(f'head {self._profile.name}, {p.selection} selects, {p.motion} motion')

    def _ids_list(self) -> type[Any]:
        try:
            from hri_msgs.msg import IdsList
        except ImportError as error:
            raise ConfigurationError('humans needs hri_msgs; type: sudo apt install ros-jazzy-hri-msgs') from error
        return cast('type[Any]', IdsList)

    def _make_selector(self) -> Selector:
        p = self.params
        if p.selection == 'rules':
            return RuleSelector()
        # For so small a network, waiting for other threads costs more than they save: on two busy cores, 90 ms a tick.
        torch.set_num_threads(1)
        if p.selection == 'attention':
            return self._warm(AttentionSelector())
        if not p.vlm_url or not p.vlm_model:
            raise ConfigurationError('selection vlm needs vlm_url (as http://host:port/v1) and vlm_model')
        fallback = self._warm(AttentionSelector())
        return VlmSelector(p.vlm_url, p.vlm_model, fallback, api_key=os.environ.get(KEY_VARIABLE, ''))

    @staticmethod
    def _warm(selector: AttentionSelector) -> AttentionSelector:
        """Let the first use, which is slow, happen before the loop runs."""
        for count in range(3):
            selector.score(SceneMemory().observe(0.0, [Entity(str(k)) for k in range(count)]))
        return selector

    def activate(self) -> None:
        """Start to command; from where the head is."""
        # Only now: whoever counts commanders shall not count one that is silent.
        self._trajectory = self.create_publisher(JointTrajectory, 'joint_trajectory', qos.COMMAND)
        self._must_start = True
        self._last_tick = None
        self._timer.reset()

    def deactivate(self) -> None:
        """Fall silent; the controller holds the last pose."""
        self._timer.cancel()
        if self._trajectory is not None:
            self.destroy_publisher(self._trajectory)
        self._trajectory, self._rivals = None, []

    def release(self) -> None:
        """End the detector, forget everything."""
        if not hasattr(self, '_held'):
            return
        if self._faces is not None:
            self._faces.close()
        if isinstance(self._selector, VlmSelector):
            self._selector.close()
        for subscription in self._held:
            self.destroy_subscription(subscription)
        for publisher in (self._state, self._attention, self._markers, self._tf):
            self.destroy_publisher(publisher)
        for timer in (self._timer, self._watch):
            self.destroy_timer(timer)
        self.destroy_service(self._service)
        for action in self._actions:
            action.close()
        del self._held, self._core, self._selector, self._faces

    # Inputs: convert and hand over.
    def _on_joints(self, message: JointState) -> None:
        if self.params.head_pose != 'joint_states':
            return
        try:
            pose = messages.from_joint_state(self._profile, message, to_seconds(message.header.stamp) or self._now_s())
        except MessageError as error:
            self.drop('bad joint states', str(error))
            return
        if pose is not None:
            self._observe(pose)

    def _observe(self, pose: HeadPose) -> None:
        if abs(self._now_s() - pose.stamp) > OTHER_CLOCK_S:
            self.drop(
                'head pose of another time',
                f'{self._now_s() - pose.stamp:.1f} s from now; is use_sim_time the same everywhere?',
            )
            return
        if self._pose is not None and not 0.0 <= pose.stamp - self._pose.stamp <= STALE_JOINTS:
            self._must_start = True  # nobody knows where the head has been meanwhile
        self._pose = pose
        self._core.observe_head(pose.stamp, *pose.head, *pose.eye)

    def _on_transforms(self, message: TFMessage) -> None:
        if broken := self._frames.take(message):
            self.drop('broken transform', f'{broken} on /tf')

    def _on_static(self, message: TFMessage) -> None:
        self._frames.take(message, is_static=True)

    def _on_image(self, message: Image) -> None:
        assert self._faces is not None
        now = self._now_s()
        self._faces.on_image(message, now)
        if isinstance(self._selector, VlmSelector) and abs(now - self._shown_at) > VLM_IMAGE_S:
            self._shown_at = now
            try:
                self._selector.show(messages.to_jpeg(messages.from_image(message)))
            except MessageError as error:
                self.drop('bad image', str(error))

    def _on_speaking(self, message: Bool) -> None:
        self._is_speaking = message.data

    def _on_humans(self, message: Any) -> None:
        self._percepts.on_humans(message.ids)

    # Clients.
    def _on_look_at(self, message: GazeTarget) -> None:
        if refusal := self._look_at(message):
            self.drop('look-at refused', refusal)

    def _serve_look_at(self, request: LookAt.Request, response: LookAt.Response) -> LookAt.Response:
        client = request.target.client
        if request.cancel:
            response.success = self._core.arbiter.withdraw(client)
            response.message = '' if response.success else f'client {client!r} has no request'
            return response
        refusal = self._look_at(request.target)
        response.success, response.message = not refusal, refusal
        return response

    def _look_at(self, message: GazeTarget) -> str:
        """Take a client's wish; returns why it was refused, or nothing."""
        try:
            target = messages.to_target(message.id or 'look_at', self._percepts.point(message))
        except (MessageError, FrameError) as error:
            return str(error)
        life = message.timeout.sec + message.timeout.nanosec * 1e-9
        request = Request(
            message.client,
            target,
            int(message.priority),
            float(message.weight) or 1.0,  # a message that nobody filled has 0
            life or self.params.request_timeout,
        )
        return self._core.request(request, self._now_s()) or ''

    def _look_at_point(self, client: str, point: PointStamped) -> str:
        """An action's wish; see `_look_at`."""
        message = GazeTarget(header=point.header, id=client, point=point.point, client=client)
        refusal = self._look_at(message)
        if refusal:
            self.drop('look-at refused', refusal)
        return refusal

    # The loop.
    def _tick(self) -> None:
        begun = time.perf_counter()
        now = self._now_s()
        if self._last_tick is not None:
            self._late_ms.append(abs(now - self._last_tick - CONTROL_PERIOD_S) * 1e3)
        self._last_tick = now
        self._ticks += 1
        self._take_faces(now)
        if self.params.humans and self._ticks % SHOW_EVERY == 0:
            self._percepts.look_up_humans()
        if self.params.head_pose == 'tf':
            self._observe_transform()
        if self._pose is None or self._rivals:
            return  # a command without knowing where the head is, or against another one, would be a jump
        if self._must_start or now < self._retry_at:
            self._core.start_at(self._pose.head, self._pose.eye)
            self._must_start = False
        command = self._core.planner.step(now, None) if now < self._retry_at else self._decide(now)
        self._send(command, to_stamp(now))
        for action in self._actions:
            error = messages.gaze_error(command, self._result.target if self._result is not None else None)
            action.update(now, self._result.client if self._result is not None else '', error)
        self._work_ms.append((time.perf_counter() - begun) * 1e3)

    def _decide(self, now: float) -> Command:
        p, pose = self.params, self._pose
        measured = pose.head if p.eyes_follow_encoders and pose is not None else None
        result = self._core.step(now, speaking=self._is_speaking, head_measured=measured)
        self._result = result
        for warning in result.warnings:
            self.get_logger().warning(warning, throttle_duration_sec=5.0, throttle_time_source_type=self._wall)
        if not result.is_followed:
            # Wait where the head is: a controller that comes back must find its command there.
            short, long = PATIENCE_S
            self._patience = min(2.0 * self._patience, long) if now - self._lost_at < 4.0 * long else short
            self._lost_at, self._retry_at = now, now + self._patience
        return result.command

    def _take_faces(self, now: float) -> None:
        if self._faces is None:
            return
        for stamp, tracked in self._faces.poll(now):
            self._percepts.on_faces(stamp, tracked)

    def _observe_transform(self) -> None:
        p = self.params
        stamp = self._frames.newest(p.head_frame)
        if stamp is None or (self._pose is not None and stamp == self._pose.stamp):
            return
        try:
            turn, _ = self._frames.lookup(p.neck_frame, p.head_frame, stamp)
        except FrameError as error:
            self.drop('no head pose from transforms', str(error))
            return
        self._observe(HeadPose(stamp, direction_of(turn), (0.0, 0.0)))

    def _look_around(self) -> None:
        """Twice a second of wall time: who else commands this head, and does the detector live."""
        if self._faces is not None:
            self._faces.revive(time.monotonic())
        if self._trajectory is None:
            return
        names = [
            f'{info.node_namespace.rstrip("/")}/{info.node_name}'
            for info in self.get_publishers_info_by_topic(self._trajectory.topic_name)
        ]
        own = self.get_fully_qualified_name()
        if own in names:
            names.remove(own)
        if names and not self._rivals:
            self.get_logger().error(f'{self._rivalry(names)}; silent until it has stopped')
        if self._rivals and not names:
            self._must_start = True
            self.get_logger().info('alone again: going on from where the head is')
        self._rivals = names

    def _rivalry(self, names: list[str]) -> str:
        topic = self._trajectory.topic_name if self._trajectory is not None else ''
        return f'{", ".join(sorted(set(names)))} commands this head too, on {topic}'

    # Outputs.
    def _send(self, command: Command, stamp: messages.Time) -> None:
        assert self._trajectory is not None
        self._trajectory.publish(messages.to_trajectory(self._profile, command, stamp))
        self._state.publish(messages.to_gaze_state(command, stamp, self.params.neck_frame))
        if self._ticks % SHOW_EVERY == 0:
            self._show(command, stamp)

    def _show(self, command: Command, stamp: messages.Time) -> None:
        p, result, scene = self.params, self._result, self._core.scene
        if result is None or scene is None:
            return
        target = result.target
        ray = messages.gaze_ray(self._profile, command, target.distance if target is not None else 1.0)
        if target is not None:
            transform = messages.to_point_transform(ray[1], stamp, p.neck_frame, p.target_frame)
            self._tf.publish(TFMessage(transforms=[transform]))
        if not (self._attention.get_subscription_count() or self._markers.get_subscription_count()):
            return
        weights = self._selector.attention if isinstance(self._selector, AttentionSelector) else None
        shares = messages.attention_shares(result.scores, weights)
        if shares:
            self._attention.publish(
                messages.to_attention(shares, f'gaze_{p.selection}', self._ticks, stamp, p.neck_frame)
            )
        self._markers.publish(messages.to_markers(ray, scene.entities, shares, stamp, p.neck_frame))

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """Say what is missing, who disturbs, or what is looked at."""
        now, result = self._now_s(), self._result
        values: dict[str, object] = {f'dropped: {k}': v for k, v in self._core.dropped.items() if v}
        for name, series in (('control work', self._work_ms), ('control lateness', self._late_ms)):
            if series:
                values[f'{name} p99 [ms]'] = f'{np.percentile(series, 99):.2f}'
        if self._faces is not None:
            values |= {'images searched': self._faces.images, 'images passed over': self._faces.skipped}
        if isinstance(self._selector, VlmSelector):
            values |= {f'vlm {k}': v for k, v in self._selector.counts.items()}
        if self._rivals:
            return DiagnosticStatus.ERROR, self._rivalry(self._rivals), values
        if self._pose is None:
            return DiagnosticStatus.WARN, self._waiting_for(), values
        if now < self._retry_at:
            text = 'the head does not follow its commands; holding where it is. Is the trajectory controller active?'
            return DiagnosticStatus.ERROR, text, values
        silent = now - self._pose.stamp
        if silent > STALE_JOINTS:
            return DiagnosticStatus.ERROR, f'no head pose for {silent:.1f} s: holding, then back to rest', values
        if self._faces is not None and self._faces.problem:
            return DiagnosticStatus.WARN, self._faces.problem, values
        if result is None:
            return DiagnosticStatus.OK, 'starting', values
        values |= {'client': result.client, 'reason': result.reason}
        return DiagnosticStatus.OK, f'{result.command.phase.name.lower()} {result.command.target_id}'.strip(), values

    def _waiting_for(self) -> str:
        p = self.params
        if p.head_pose == 'tf':
            return f'no transform from {p.head_frame!r} to {p.neck_frame!r} on /tf yet; no command is sent'
        names = ', '.join(self._profile.joints[axis].name for axis in ('neck_yaw', 'neck_pitch'))
        return f"no joint states of {names} on 'joint_states' yet; no command is sent"


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(Gaze, args)


if __name__ == '__main__':
    sys.exit(main())
