"""What robots that plan for themselves tell each other, and what of it is believed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_STEPS = 1 << 31  # what a message can carry
MOST_AHEAD = 1000  # epochs; a note further ahead is no note of this fleet
OVERHEAD_BYTES = 108  # of a serialised note besides its embedding (CDR, map frame and names as usual)
HELLO = 0  # the step number of the first note of an epoch, which carries no preferences yet

Cell = tuple[int, int]


@dataclass(frozen=True)
class Note:
    """What one robot tells all others in one decision step.

    Attributes:
        robot: who.
        epoch: counts teams: it grows when a robot is lost or found.
        team: checksum of the names that take part in this epoch, 0 in a greeting.
        step: decision step in the epoch, HELLO for the greeting.
        cell: planned row and column.
        goal: row and column it wants to reach.
        executed: moves of this epoch that it has driven completely.
        frozen: it stays in this step whatever happens.
        priority: larger goes first.
        log_probs: (5,) float32 preferences over the actions; zeros in a greeting.
        embedding: (width,) float32 for the neighbours' next step.
    """

    robot: str
    epoch: int
    team: int
    step: int
    cell: Cell
    goal: Cell
    executed: int
    frozen: bool
    priority: float
    log_probs: NDArray[np.float32]
    embedding: NDArray[np.float32]

    @property
    def size_bytes(self) -> int:
        """What the note weighs on the radio."""
        return OVERHEAD_BYTES + 4 * len(self.embedding)


def check_note(note: Note, names: tuple[str, ...], grid: NDArray[np.bool_], width: int, epoch: int) -> None:
    """Refuse a note that no robot of this fleet can have sent.

    Args:
        note: what was received.
        names: robots of the fleet.
        grid: (H, W) True where an obstacle stands.
        width: length of an embedding.
        epoch: the receiver's.

    Raises:
        ValueError: naming the robot and what is wrong.
    """
    if note.robot not in names:
        raise ValueError(f'note from {note.robot!r}; this fleet is {names[0]} to {names[-1]}')
    sizes = note.log_probs.shape, note.embedding.shape
    if sizes != ((5,), (width,)):
        raise ValueError(f'note of {note.robot} has shapes {sizes}; do all robots use the same weights?')
    if not (np.isfinite(note.embedding).all() and np.isfinite(note.priority)) or np.isnan(note.log_probs).any():
        raise ValueError(f'note of {note.robot} holds a number that is not finite')
    height, columns = grid.shape
    for what, (row, column) in (('cell', note.cell), ('goal', note.goal)):
        if not (0 <= row < height and 0 <= column < columns) or grid[row, column]:
            raise ValueError(f'{what} of {note.robot} at ({row}, {column}) is not a free cell of this map')
    if not 0 <= note.step < MOST_STEPS or not 0 <= note.epoch < MOST_STEPS or note.epoch > epoch + MOST_AHEAD:
        raise ValueError(f'note of {note.robot} is of epoch {note.epoch} and step {note.step}; this is epoch {epoch}')
