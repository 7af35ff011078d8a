"""Decide where a head looks and move eyes, neck and lids there as people do.

Listens to images, people, sounds and clients who want it to look somewhere; publishes joint trajectories at 100 Hz.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Bool
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory

import attn_robotics.systems.gaze as gaze_system
from attn_robotics.conversions import gaze as messages
from attn_robotics.conversions.stamps import to_stamp
from attn_robotics.nodes._gaze_clients import Clients
from attn_robotics.nodes._gaze_display import Display
from attn_robotics.nodes._gaze_faces import FaceInput
from attn_robotics.nodes._gaze_params import GazeParams
from attn_robotics.nodes._gaze_percepts import Percepts, ids_list
from attn_robotics.nodes._gaze_pose import PoseInput
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import AttnNode, run_node
from attn_robotics.ros.loop import ControlLoop
from attn_robotics.ros.rivals import other_publishers
from attn_robotics.systems.gaze.bumpless import BumplessGaze
from attn_robotics.systems.gaze.core import GazeCore
from attn_robotics.systems.gaze.learned import MotionModel
from attn_robotics.systems.gaze.learned_shift import LearnedSource
from attn_robotics.systems.gaze.motor import plan_shift
from attn_robotics.systems.gaze.planner import PERIOD, GazePlanner
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics.systems.gaze.selectors import make_selector
from attn_robotics.systems.gaze.vlm import VlmSelector
from attn_robotics_interfaces.msg import GazeTarget

VLM_IMAGE_S = 1.0  # between images for the vision-language model
KEY_VARIABLE = 'ATTN_GAZE_VLM_KEY'  # a key does not belong into parameters, which everybody can read


class Gaze(AttnNode):
    """The `gaze` node: percepts and requests in, joint commands out.

    The control loop has a thread of its own; `_lock` guards the core, which callbacks and loop share.
    """

    NAME = 'gaze'
    Params = GazeParams
    params: GazeParams

    def configure(self) -> None:
        """Load profile and weights, start the face detector, connect."""
        p = self.params
        humans = ids_list() if p.humans else None
        key = os.environ.get(KEY_VARIABLE, '')
        selector = make_selector(p.selection, vlm_url=p.vlm_url, vlm_model=p.vlm_model, vlm_key=key)
        self._core = GazeCore(profile := load_profile(p.profile), self._make_planner(), selector)
        self._gaze = BumplessGaze(self._core)
        self._percepts = Percepts(self._core, p.neck_frame, self._now_s, self.drop)
        self._frames = self._percepts.frames
        self._pose = PoseInput(
            self._gaze, p.head_pose, self._frames, p.neck_frame, p.head_frame, self._now_s, self.drop
        )
        self._faces = FaceInput(self.drop, p.camera_frame) if p.faces else None
        self._lock = threading.RLock()
        self._rivals: list[str] = []
        self._shown_at = -np.inf
        self._is_speaking = False
        self._connect(humans)
        self._wishes = Clients(
            self, self._core, self._percepts, self._now_s, lambda: self.params.request_timeout, self._lock
        )
        self._display = Display(self, self._core, p.neck_frame, p.target_frame, f'gaze_{p.selection}')
        self._trajectory: Publisher | None = None
        self._loop = ControlLoop(self, PERIOD, self._tick, priority=p.priority)
        self._watch = self.create_timer(0.5, self._look_around, clock=self._wall)
        self.get_logger().info(f'head {profile.name}, {p.selection} selects, {p.motion} motion')

    def _make_planner(self) -> GazePlanner:
        p, source = self.params, plan_shift
        if p.motion == 'learned':
            source = LearnedSource(MotionModel(Path(gaze_system.__file__).with_name('motion.safetensors')), seed=p.seed)
        return GazePlanner(load_profile(p.profile), seed=p.seed, idle=p.idle, source=source)

    def _connect(self, humans: type[Any] | None) -> None:
        """Subscribe; what touches the core waits for the tick under way."""

        def on(
            kind: type[Any], topic: str, callback: Callable[[Any], None], quality: Any, *, guarded: bool = True
        ) -> None:
            def take(message: Any) -> None:
                with self._lock:
                    callback(message)

            self._held.append(self.create_subscription(kind, topic, take if guarded else callback, quality))

        self._held: list[Any] = []
        on(JointState, 'joint_states', self._pose.on_joints, qos.SENSOR)
        on(TFMessage, '/tf', self._on_transforms, qos.TRANSFORMS)
        on(TFMessage, '/tf_static', self._on_static, qos.TRANSFORMS_STATIC)
        on(GazeTarget, 'people', self._percepts.on_person, qos.STATE)
        on(GazeTarget, 'targets', self._percepts.on_target, qos.STATE)
        on(Bool, 'speaking', self._on_speaking, qos.STATE)
        if humans is not None:
            on(humans, '/humans/faces/tracked', lambda message: self._percepts.on_humans(message.ids), qos.STATE)
        if self._faces is not None:
            on(CameraInfo, 'camera_info', self._faces.on_camera_info, qos.SENSOR, guarded=False)
            on(Image, 'image', self._on_image, qos.SENSOR, guarded=False)

    def activate(self) -> None:
        """Start to command; from where the head is."""
        # Only now: whoever counts commanders shall not count one that is silent.
        self._trajectory = self.create_publisher(JointTrajectory, 'joint_trajectory', qos.COMMAND)
        self._gaze.restart()
        self._loop.start()

    def deactivate(self) -> None:
        """Fall silent; the controller holds the last pose."""
        self._loop.stop()
        if self._trajectory is not None:
            self.destroy_publisher(self._trajectory)
        self._trajectory, self._rivals = None, []

    def release(self) -> None:
        """End the detector, forget everything."""
        if not hasattr(self, '_watch'):
            return
        self._loop.close()
        self.destroy_timer(self._watch)
        self._wishes.close()
        self._display.close()
        for subscription in self._held:
            self.destroy_subscription(subscription)
        if self._faces is not None:
            self._faces.close()
        if isinstance(self._core.selector, VlmSelector):
            self._core.selector.close()
        del self._watch, self._core, self._gaze, self._faces

    # Inputs: convert and hand over.
    def _on_transforms(self, message: TFMessage) -> None:
        if broken := self._frames.take(message):
            self.drop('broken transform', f'{broken} on /tf')

    def _on_static(self, message: TFMessage) -> None:
        self._frames.take(message, is_static=True)

    def _on_speaking(self, message: Bool) -> None:
        self._is_speaking = message.data

    def _on_image(self, message: Image) -> None:
        now, selector = self._now_s(), self._core.selector
        if self._faces is not None:
            self._faces.on_image(message, now)
        if isinstance(selector, VlmSelector) and abs(now - self._shown_at) > VLM_IMAGE_S:
            self._shown_at = now
            try:
                selector.show(messages.to_jpeg(messages.from_image(message)))
            except messages.MessageError as error:
                self.drop('bad image', str(error))

    # The loop.
    def _tick(self) -> None:
        with self._lock:
            now = self._now_s()
            if self._faces is not None:
                for stamp, tracked in self._faces.poll(now):
                    self._percepts.on_faces(stamp, tracked)
            self._percepts.look_up_humans()
            self._pose.look_up()
            if self._rivals or self._trajectory is None:
                return
            encoders = self.params.eyes_follow_encoders
            command = self._gaze.step(now, speaking=self._is_speaking, follow_encoders=encoders)
            if command is None:
                return  # a command without knowing where the head is would be a jump
            stamp = to_stamp(now)
            self._trajectory.publish(messages.to_trajectory(self._core.profile, command, stamp))
            result = self._gaze.result
            for warning in result.warnings if result is not None else ():
                self.get_logger().warning(warning, throttle_duration_sec=5.0, throttle_time_source_type=self._wall)
            self._display.show(command, result, stamp)
            self._wishes.update(now, command, result)

    def _look_around(self) -> None:
        """Twice a second of wall time: who else commands this head, and does the detector live."""
        if self._faces is not None:
            self._faces.revive(time.monotonic())
        if self._trajectory is None:
            return
        names = other_publishers(self, self._trajectory)
        with self._lock:
            if names and not self._rivals:
                self.get_logger().error(f'{self._rivalry(names)}; silent until it has stopped')
            if self._rivals and not names:
                self._gaze.restart()
                self.get_logger().info('alone again: going on from where the head is')
            self._rivals = names

    def _rivalry(self, names: list[str]) -> str:
        topic = self._trajectory.topic_name if self._trajectory is not None else ''
        return f'{", ".join(names)} commands this head too, on {topic}'

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """Say what is missing, who disturbs, or what is looked at."""
        now, result, faces, selector = self._now_s(), self._gaze.result, self._faces, self._core.selector
        values: dict[str, object] = {f'dropped: {k}': v for k, v in self._core.dropped.items() if v}
        values |= self._loop.values()
        if faces is not None:
            values |= faces.values()
        if isinstance(selector, VlmSelector):
            values |= {f'vlm {k}': v for k, v in selector.counts.items()}
        if self._rivals:
            return DiagnosticStatus.ERROR, self._rivalry(self._rivals), values
        if self._gaze.pose is None:
            return DiagnosticStatus.WARN, self._pose.missing, values
        if self._gaze.is_waiting(now):
            text = 'the head does not follow its commands; holding where it is. Is the trajectory controller active?'
            return DiagnosticStatus.ERROR, text, values
        if silent := self._gaze.silence(now):
            return DiagnosticStatus.ERROR, f'no head pose for {silent:.1f} s: holding, then back to rest', values
        if faces is not None and faces.problem:
            return DiagnosticStatus.WARN, faces.problem, values
        if result is None:
            return DiagnosticStatus.OK, 'starting', values
        values |= {'client': result.client, 'reason': result.reason}
        return DiagnosticStatus.OK, f'{result.command.phase.name.lower()} {result.command.target_id}'.strip(), values


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(Gaze, args)


if __name__ == '__main__':
    sys.exit(main())
