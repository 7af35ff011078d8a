"""Audio blocks, transcripts, and a picture of what a speech model hears and how its gates stand."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from attn_robotics_interfaces.msg import AudioBlock, Transcript

ENCODINGS: dict[str, tuple[np.dtype[Any], float]] = {
    'S16LE': (np.dtype('<i2'), 32768.0),
    'F32LE': (np.dtype('<f4'), 1.0),
}
MAX_CHANNELS = 256


class AudioError(ValueError):
    """A block that can not be read; the message names the field and what it must be."""


def from_audio_block(message: AudioBlock) -> NDArray[np.float32]:
    """Samples of a block: (frames, channels) from -1 to 1.

    Raises:
        AudioError: unknown encoding, no channels, bytes that are no whole frames, or values that are not finite.
    """
    if message.encoding not in ENCODINGS:
        raise AudioError(f'encoding must be {" or ".join(ENCODINGS)}, got {message.encoding[:40]!r}')
    kind, scale = ENCODINGS[message.encoding]
    if not 1 <= message.channels <= MAX_CHANNELS:
        raise AudioError(f'channels must be from 1 to {MAX_CHANNELS}, got {message.channels}')
    frame = kind.itemsize * message.channels
    if len(message.samples) % frame:
        raise AudioError(f'{len(message.samples)} bytes are no whole frames of {frame} bytes')
    samples = np.frombuffer(message.samples, kind).reshape(-1, message.channels).astype(np.float32) / np.float32(scale)
    if not np.isfinite(samples).all():
        raise AudioError('samples hold NaN or infinity')
    return samples


def to_audio_block(
    samples: NDArray[np.floating[Any]], header: Header, sequence: int, sample_rate: int, encoding: str = 'S16LE'
) -> AudioBlock:
    """A block of (frames, channels) samples from -1 to 1; what lies outside is cut off in S16LE."""
    kind, scale = ENCODINGS[encoding]
    values = np.asarray(samples, np.float64) * scale
    if kind.kind == 'i':
        values = np.clip(np.rint(values), -scale, scale - 1)
    return AudioBlock(
        header=header,
        sequence=sequence,
        sample_rate=sample_rate,
        channels=samples.shape[1],
        encoding=encoding,
        samples=array.array('B', np.ascontiguousarray(values, kind).tobytes()),
    )


def to_transcript(header: Header, text: str, confidence: float, locale: str, *, is_final: bool) -> Transcript:
    """What was understood; a final text also ends the incremental one."""
    return Transcript(
        header=header, incremental=text, final=text if is_final else '', confidence=confidence, locale=locale
    )


def to_gate_image(
    features: NDArray[np.float32], gates: NDArray[np.float32], header: Header, *, low: float, high: float
) -> Image:
    """Sound above, gates below, as mono8; time runs to the right, one column a log-mel frame (10 ms).

    Args:
        features: (K, 4, 80) log-mel tokens, oldest first.
        gates: (K, layers, groups) from 0 (closed) to 1 (open, white); the first layer is on top.
        header: of the newest input.
        low, high: log-mel values shown as black and white.
    """
    sound = features.reshape(-1, features.shape[2]).T[::-1]  # low bands at the bottom
    shade = np.clip((sound - low) / (high - low), 0.0, 1.0)
    rows = gates.reshape(len(gates), -1).T
    opened = np.kron(np.clip(rows, 0.0, 1.0), np.ones((3, features.shape[1])))
    pixels = (255 * np.concatenate([shade, np.zeros((2, shade.shape[1])), opened])).astype(np.uint8)
    message = Image(header=header, height=pixels.shape[0], width=pixels.shape[1], encoding='mono8')
    message.step = pixels.shape[1]
    message.data = array.array('B', pixels.tobytes())
    return message
