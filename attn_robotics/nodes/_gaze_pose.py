"""Where a head is: from joint states, or from transforms."""

from __future__ import annotations

from collections.abc import Callable

from sensor_msgs.msg import JointState

from attn_robotics.conversions.frames import FrameError, FrameTree, direction_of
from attn_robotics.conversions.gaze import MessageError, from_joint_state
from attn_robotics.conversions.stamps import to_seconds
from attn_robotics.systems.gaze.bumpless import BumplessGaze, HeadPose


class PoseInput:
    """Takes measured poses to the gaze.

    Args:
        gaze: takes them.
        source: what tells of them, `joint_states` or `tf`.
        frames: transforms, where they come from there.
        neck_frame: fixed to the body.
        head_frame: turns with the head.
        now: seconds of the node's clock.
        drop: told of everything that is not used, by reason and detail.
    """

    def __init__(
        self,
        gaze: BumplessGaze,
        source: str,
        frames: FrameTree,
        neck_frame: str,
        head_frame: str,
        now: Callable[[], float],
        drop: Callable[[str, str], None],
    ) -> None:
        self._gaze, self._source, self._frames = gaze, source, frames
        self._neck_frame, self._head_frame, self._now, self._drop = neck_frame, head_frame, now, drop

    @property
    def missing(self) -> str:
        """What to say while no pose has come yet."""
        if self._source == 'tf':
            return f'no transform from {self._head_frame!r} to {self._neck_frame!r} on /tf yet; no command is sent'
        joints = self._gaze.core.profile.joints
        names = ', '.join(joints[axis].name for axis in ('neck_yaw', 'neck_pitch'))
        return f"no joint states of {names} on 'joint_states' yet; no command is sent"

    def on_joints(self, message: JointState) -> None:
        """Joint states of a robot, as a whole or in parts."""
        if self._source != 'joint_states':
            return
        try:
            stamp = to_seconds(message.header.stamp) or self._now()
            pose = from_joint_state(self._gaze.core.profile, message, stamp)
        except MessageError as error:
            self._drop('bad joint states', str(error))
            return
        if pose is not None:
            self._observe(pose)

    def look_up(self) -> None:
        """Take the newest transform of the head, once a tick."""
        if self._source != 'tf':
            return
        stamp = self._frames.newest(self._head_frame)
        if stamp is None or (self._gaze.pose is not None and stamp == self._gaze.pose.stamp):
            return
        try:
            turn, _ = self._frames.lookup(self._neck_frame, self._head_frame, stamp)
        except FrameError as error:
            self._drop('no head pose from transforms', str(error))
            return
        self._observe(HeadPose(stamp, direction_of(turn), (0.0, 0.0)))

    def _observe(self, pose: HeadPose) -> None:
        if refusal := self._gaze.observe(pose, self._now()):
            self._drop('head pose of another time', refusal)
