"""Frame features and anticipated actions as messages."""

from __future__ import annotations

import array

import numpy as np
from numpy.typing import NDArray
from std_msgs.msg import Header

from attn_robotics.conversions.attention import to_attention_map
from attn_robotics.conversions.stamps import to_stamp
from attn_robotics.conversions.tensors import from_tensor, to_tensor
from attn_robotics.systems.aga.processor import Anticipation
from attn_robotics_interfaces.msg import ActionAnticipation, AttentionMap, Features


def to_features(features: NDArray[np.float32], stream: str, stamp_s: float, frame_id: str) -> Features:
    """One frame; features: (F,), stamp_s: of the frame [s]."""
    header = Header(stamp=to_stamp(stamp_s), frame_id=frame_id)
    return Features(header=header, stream=stream, features=to_tensor('features', features))


def from_features(message: Features) -> NDArray[np.float32]:
    """The frame as (1, F) float32 of its own.

    Raises:
        EngineError: a tensor that is broken, or no vector of floats.
    """
    found = from_tensor(message.features)
    return np.array(found, np.float32).reshape(1, -1)


def to_anticipation(found: Anticipation, header: Header, stream: str, horizon_s: float) -> ActionAnticipation:
    """Write what one stream expects."""
    return ActionAnticipation(
        header=header,
        stream=stream,
        horizon_s=horizon_s,
        class_ids=array.array('i', found.classes),
        labels=list(found.labels),
        probabilities=array.array('f', found.probabilities),
        history=found.gate,
        because=found.because(),
    )


def to_evidence(found: Anticipation, header: Header, tick: int) -> AttentionMap:
    """The weights behind an answer: the expected action is the query, what was expected at past steps the keys."""
    keys = [f'{label} {age:.1f} s ago' for label, age in zip(found.past, found.past_s, strict=True)]
    return to_attention_map(
        found.attention[:, None, :],
        [found.labels[0]],
        keys,
        mechanism='action_guided',
        layer='guided',
        tick=tick,
        stamp=header.stamp,
        frame_id=header.frame_id,
    )
