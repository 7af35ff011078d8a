"""What robots tell each other, as messages."""

from __future__ import annotations

import array

import numpy as np
from builtin_interfaces.msg import Time

from attn_robotics.systems.sparc.note import Note
from attn_robotics_interfaces.msg import RobotMessage

MAX_EMBEDDING = 4096


def to_robot_message(note: Note, stamp: Time, frame_id: str, instance: int = 0) -> RobotMessage:
    """Convert a note; `instance` tells the sending process from others under the same id."""
    message = RobotMessage(
        robot_id=note.robot,
        instance=instance,
        epoch=note.epoch,
        team=note.team,
        sequence=note.step,
        row=note.cell[0],
        column=note.cell[1],
        goal_row=note.goal[0],
        goal_column=note.goal[1],
        executed=note.executed,
        frozen=note.frozen,
        priority=note.priority,
    )
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    message.preferences = note.log_probs.astype(np.float32)
    message.embedding = array.array('f', note.embedding.astype(np.float32).tobytes())
    return message


def from_robot_message(message: RobotMessage) -> Note:
    """Convert a message; sizes and numbers are checked by whoever takes the note.

    Raises:
        ValueError: an embedding that is too long to be one.
    """
    if len(message.embedding) > MAX_EMBEDDING:
        raise ValueError(f'embedding of {message.robot_id!r} has {len(message.embedding)} numbers')
    return Note(
        message.robot_id,
        message.epoch,
        message.team,
        message.sequence,
        (message.row, message.column),
        (message.goal_row, message.goal_column),
        message.executed,
        message.frozen,
        message.priority,
        np.array(message.preferences, np.float32),
        np.frombuffer(message.embedding, np.float32).copy(),
    )
