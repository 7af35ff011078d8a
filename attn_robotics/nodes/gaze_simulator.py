"""Simulate a head with eyes, lids and neck in MuJoCo, and people around it who talk by script.

Publishes /clock, joint states, transforms, camera images, voices and the truth about people; follows joint trajectories
and, at the end, writes the joint log, the Gaze Naturalness Score and a video.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo, Image, JointState
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory

from attn_robotics.conversions import gaze as messages
from attn_robotics.conversions.attention import from_attention_map
from attn_robotics.conversions.frames import turned
from attn_robotics.conversions.gaze import MessageError
from attn_robotics.conversions.stamps import to_seconds, to_stamp
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import run_node
from attn_robotics.ros.parameters import param
from attn_robotics.ros.simulation import SimulationNode
from attn_robotics.systems.gaze.head_world import CAMERA
from attn_robotics.systems.gaze.human import Array
from attn_robotics.systems.gaze.joint_log import TARGET_FRAME, write_log
from attn_robotics.systems.gaze.profile import AXES, load_profile
from attn_robotics.systems.gaze.results import Row, write_results
from attn_robotics.systems.gaze.score import score_log
from attn_robotics.systems.gaze.stage import FRAME_RATE, Stage, VideoFile
from attn_robotics_interfaces.msg import AttentionMap, GazeState, GazeTarget

PERIOD_S = 0.01
SAY_S = 10.0  # between lines of progress
BIRTH_S = 1.0  # simulated time begins here: a stamp of 0 means "none" to many
EVERY_VOICE, EVERY_TRUTH, EVERY_TRANSFORM = 5, 5, 2  # ticks
EVERY_FRAME = round(1.0 / (FRAME_RATE * PERIOD_S))
CAMERA_FRAME, HEAD_FRAME = 'head_camera', 'head'


@dataclass(frozen=True)
class GazeSimulatorParams:
    """Tunables of the gaze simulator."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    profile: str = param('eyes_neck_lids', 'Robot profile: a shipped name or a YAML path.', read_only=True)
    people: int = param(3, 'People around the head.', low=2, high=4, read_only=True)
    seconds: float = param(120.0, 'Length of the conversation [simulated s]; 0 is for ever.', low=0.0, high=1e5)
    seed: int = param(0, 'Of places, turns and faces.', low=0, high=2**31 - 1, read_only=True)
    render: bool = param(True, 'Render the camera; off tells of people on `people` instead.', read_only=True)
    real_time_factor: float = param(
        1.0, 'Simulated seconds a second at most; 0 runs as fast as the machine can.', low=0.0, high=100.0
    )
    wait_s: float = param(0.25, "Wait so long for each tick's command [s].", low=0.0, high=10.0)
    start_s: float = param(60.0, 'Give up when nobody commands for this long [s].', low=1.0, high=3600.0)
    neck_frame: str = param('neck_base', 'Frame of the body where both neck axes meet.', read_only=True)
    freeze_at_s: float = param(0.0, 'When the joints stop to follow [s of the conversation].', low=0.0, high=1e5)
    freeze_for_s: float = param(0.0, 'For how long; 0 is never.', low=0.0, high=1e5)
    out: str = param('', 'Folder for gaze.mp4, joints.npz and score.json; empty writes nothing.', read_only=True)


class GazeSimulator(SimulationNode):
    """The `gaze_simulator` node."""

    NAME = 'gaze_simulator'
    PERIOD_S = PERIOD_S
    Params = GazeSimulatorParams
    params: GazeSimulatorParams

    def configure(self) -> None:
        """Build the scene; nothing moves yet."""
        p = self.params
        self._profile = load_profile(p.profile)
        self._out = Path(p.out).expanduser() if p.out else None
        if self._out is not None:
            self._out.mkdir(parents=True, exist_ok=True)
        self._stage = Stage(p.people, seed=p.seed, render=p.render)
        self._row = np.zeros(len(AXES))
        self._shares: dict[str, float] = {}
        self._looked_at = ''
        self._clock_s = BIRTH_S
        self._begun_s: float | None = None
        self._inbox: tuple[Array, Array] | None = None
        self._news = threading.Condition()
        self._changes: list[float] = []
        self._aims: list[tuple[float, Array]] = []
        self._missed = 0  # ticks without a command
        out = self.create_publisher
        self.open_clock()
        self._joints = out(JointState, 'joint_states', qos.SENSOR)
        self._tf = out(TFMessage, '/tf', qos.TRANSFORMS)
        self._tf_static = out(TFMessage, '/tf_static', qos.TRANSFORMS_STATIC)
        self._image = out(Image, 'image', qos.SENSOR)
        self._camera_info = out(CameraInfo, 'camera_info', qos.SENSOR)
        self._sounds = out(GazeTarget, 'targets', qos.STATE)
        self._people = out(GazeTarget, 'people', qos.STATE)
        self._truth = out(GazeTarget, '~/people', qos.STATE)
        self._held = [
            self.create_subscription(JointTrajectory, 'joint_trajectory', self._on_trajectory, qos.COMMAND),
            self.create_subscription(GazeState, 'gaze/state', self._on_state, qos.STATE),
            self.create_subscription(TFMessage, '/tf', self._on_transforms, qos.TRANSFORMS),
            self.create_subscription(AttentionMap, 'gaze/attention', self._on_attention, qos.STATE),
        ]

    def release(self) -> None:
        """Forget the scene."""
        if not hasattr(self, '_held'):
            return
        for subscription in self._held:
            self.destroy_subscription(subscription)
        for publisher in (
            self._joints, self._tf, self._tf_static, self._image, self._camera_info, self._sounds,
            self._people, self._truth,
        ):  # fmt: skip
            self.destroy_publisher(publisher)
        self.close_clock()
        del self._held, self._stage

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """Report time and what is missing."""
        values = {'simulated time [s]': f'{self._clock_s:.1f}', 'ticks without a command': self._missed}
        if self._begun_s is None:
            return DiagnosticStatus.WARN, "no command on 'joint_trajectory' yet; the conversation waits", values
        if self._stage.problem:
            return DiagnosticStatus.OK, f'not rendered: {self._stage.problem}', values
        return DiagnosticStatus.OK, 'running', values

    # Inputs.
    def _on_trajectory(self, message: JointTrajectory) -> None:
        try:
            times, points = messages.from_trajectory(self._profile, message)
        except MessageError as error:
            self.drop('bad trajectory', str(error))
            return
        if len(points):
            with self._news:
                self._inbox = times, points
                self._news.notify()

    def _on_state(self, message: GazeState) -> None:
        if message.target_id != self._looked_at:
            self._looked_at = message.target_id
            self._changes.append(to_seconds(message.header.stamp))

    def _on_transforms(self, message: TFMessage) -> None:
        for item in message.transforms:
            if item.child_frame_id == TARGET_FRAME and item.header.frame_id == self.params.neck_frame:
                t = item.transform.translation
                self._aims.append((to_seconds(item.header.stamp), np.array([t.x, t.y, t.z])))

    def _on_attention(self, message: AttentionMap) -> None:
        try:
            weights = from_attention_map(message)
        except ValueError as error:
            self.drop('bad attention map', str(error))
            return
        self._shares = dict(zip(message.key_ids, weights.mean(axis=(0, 1)).tolist(), strict=True))

    # Time.
    def simulate(self) -> None:
        """Tell the time, wait for the answer, move, tell what is seen, until the conversation is over."""
        try:
            view = self._stage.view()  # in this thread, which is the one that draws
            if view is None:
                self.get_logger().warning(f"{self._stage.problem}; people are told on 'people' instead of shown")
            self._video = None if self._out is None or view is None else VideoFile(self._out / 'gaze.mp4')
            self._said_s, self._waits_since = 0.0, time.perf_counter()
            self._tell_frames()
            super().simulate()
            if self._video is not None:
                self._video.close()
            if self.is_running and self._begun_s is not None:
                self._finish()
        finally:
            self._stage.close()

    def speed(self) -> float:
        """The factor, which may be set at run time."""
        return self.params.real_time_factor

    def step(self, number: int) -> bool:
        """One moment of the conversation."""
        p, talk_s = self.params, 0.0 if self._begun_s is None else self._clock_s - self._begun_s
        if p.seconds and talk_s >= p.seconds:
            return False
        if self._begun_s is None and time.perf_counter() - self._waits_since > p.start_s:
            self.get_logger().error(f"no command on 'joint_trajectory' for {p.start_s:g} s; is a gaze node running?")
            self.exit_code, self.is_done = 1, True
            return False
        if talk_s >= self._said_s + SAY_S:
            self._said_s = talk_s
            whole = f' of {p.seconds:g}' if p.seconds else ''
            seen = self._looked_at or 'nobody'
            self.get_logger().info(f'{talk_s:.0f}{whole} s of the conversation, looking at {seen}')
        self._stage.move(talk_s)
        self._tell(number, self._video)
        self.tell_time(self._clock_s)
        self._advance(talk_s)
        return True

    def _advance(self, talk_s: float) -> None:
        """Follow this tick's command, if it comes in time, for one period."""
        p = self.params
        with self._news:
            if self._inbox is None:
                self._news.wait(p.wait_s if self._begun_s is not None else 0.02)
            command, self._inbox = self._inbox, None
        if command is not None:
            self._begun_s = self._clock_s if self._begun_s is None else self._begun_s
            is_frozen = p.freeze_for_s > 0.0 and p.freeze_at_s <= talk_s < p.freeze_at_s + p.freeze_for_s
            times, points = command
            if not is_frozen:
                self._row = points[-1]
                self._stage.apply(talk_s, times, points)
        elif self._begun_s is not None:
            self._missed += 1
        while self._changes:
            self._stage.note_change(self._changes.pop(0) - (self._begun_s or 0.0))
        while self._aims:
            stamp, point = self._aims.pop(0)
            self._stage.note_aim(stamp - (self._begun_s or 0.0), point)
        # In whole nanoseconds, or rounding would make timers miss ticks.
        self._clock_s = round((self._clock_s + PERIOD_S) * 100) / 100

    # Outputs.
    def _tell(self, tick: int, video: VideoFile | None) -> None:
        """What sensors say at this time."""
        p, stage, stamp = self.params, self._stage, to_stamp(self._clock_s)
        self._joints.publish(messages.to_joint_state(self._profile, self._row, stamp))
        if tick % EVERY_TRANSFORM == 0:
            head = messages.to_point_transform(np.zeros(3), stamp, p.neck_frame, HEAD_FRAME)
            head.transform.rotation = turned(float(self._row[0]), float(self._row[1]))
            self._tf.publish(TFMessage(transforms=[head]))
        if tick % EVERY_VOICE == 0 and self._begun_s is not None:
            # A small array of microphones tells azimuth only.
            azimuth = stage.sim.true_direction(stage.speaker)[0]
            self._sounds.publish(
                messages.to_gaze_target(
                    'voice', (azimuth, 0.0), 1.5, stamp, p.neck_frame, modality='auditory', weight=0.9
                )
            )
        if tick % EVERY_TRUTH == 0:
            for person in stage.people:
                target = messages.to_gaze_target(
                    person.id, stage.sim.true_direction(person), person.distance, stamp, p.neck_frame, modality='visual'
                )
                self._truth.publish(target)
                if stage.problem:
                    self._people.publish(target)
        if tick % EVERY_FRAME == 0 and (view := stage.view()) is not None:
            self._camera_info.publish(messages.to_camera_info(stage.camera, stamp, CAMERA_FRAME))
            self._image.publish(messages.to_image(view, stamp, CAMERA_FRAME))
            if video is not None and self._begun_s is not None:
                video.write(stage.picture(view, self._shares))

    def _tell_frames(self) -> None:
        stamp = to_stamp(self._clock_s)
        camera = messages.to_point_transform(np.array(CAMERA), stamp, HEAD_FRAME, CAMERA_FRAME)
        q = camera.transform.rotation  # optical frame: z ahead, x to the right
        q.x, q.y, q.z, q.w = -0.5, 0.5, -0.5, 0.5
        self._tf_static.publish(TFMessage(transforms=[camera]))

    def _finish(self) -> None:
        """Score the log and end the process."""
        log = self._stage.log()
        if log.t.size < 100:
            self.get_logger().error('too little motion to score; was the gaze node alive?')
            self.exit_code, self.is_done = 1, True
            return
        score = score_log(log)
        line = f'score {score.total:.3f} from {score.saccades.onset.size} saccades, '
        line += f'gaze on the speaker {100 * self._stage.on_speaker:.0f} % of the time'
        if self._missed:
            line += f', {self._missed} ticks without a command'
        if self._out is not None:
            write_log(self._out / 'joints.npz', log)
            rows = [Row(f'launch_naturalness_axis/{axis.name}', axis.value, n=axis.n) for axis in score.axes]
            rows += [
                Row('launch_naturalness/ours', score.total, n=score.saccades.onset.size),
                Row('launch_on_speaker/ours', self._stage.on_speaker),
            ]
            write_results(self._out / 'score.json', rows, 'gaze_sim.launch.py', [self.params.seed])
            line += f'; written to {self._out}'
        self.get_logger().info(line)
        self.is_done = True


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(GazeSimulator, args)


if __name__ == '__main__':
    sys.exit(main())
