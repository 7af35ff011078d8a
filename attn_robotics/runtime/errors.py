"""Why the engine refuses, in one class: a reason to count by and one line to show."""

from __future__ import annotations

from typing import Literal, get_args

Reason = Literal[
    'bad_entry',  # the catalogue entry does not make sense
    'bad_weights',  # missing, corrupt, half-written, wrong checksum, or a pickle
    'unknown_model',
    'not_loaded',
    'bad_input',  # wrong name, dtype, shape, or a forbidden value
    'bad_segment',  # shared memory that can not be read here: gone, of another user, or of another host
    'too_large',
    'bad_stream',
    'queue_full',
    'displaced',  # pushed out of a full queue by a request of higher priority
    'overload',  # could not be answered before its deadline, refused on arrival
    'expired',  # its deadline passed while it waited
    'cancelled',
    'bad_output',  # the model answered with a forbidden value or an unexpected shape
    'out_of_memory',
    'backend',  # the model raised, or the remote server failed
    'stopped',
]
REASONS: tuple[Reason, ...] = get_args(Reason)


class EngineError(Exception):
    """A refusal: `reason` is counted, `str(error)` is one line naming the culprit and the fix.

    Attributes:
        reason: one of `REASONS`.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(one_line(message))
        self.reason: Reason = reason


def one_line(text: object, limit: int = 400) -> str:
    """Squeeze a message of foreign origin into one line of at most `limit` characters."""
    line = ' '.join(str(text).split())
    return line if len(line) <= limit else line[: limit - 3] + '...'
