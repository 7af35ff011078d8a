"""Parameters of the gaze node."""

from __future__ import annotations

from dataclasses import dataclass

from attn_robotics.ros.parameters import param


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
    priority: int = param(
        0, 'Real-time priority (SCHED_FIFO) of the control thread; 0 asks for none.', low=0, high=99, read_only=True
    )
    seed: int = param(0, 'Of everything random.', low=0, high=2**31 - 1, read_only=True)
