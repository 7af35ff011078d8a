"""The five actions, in the order of the published code: up, down, left, right, stay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UP, DOWN, LEFT, RIGHT, STAY = range(5)
NAMES = ('up', 'down', 'left', 'right', 'stay')
# (5, 2) change of row and column; row 0 is the top of the map.
MOVES: NDArray[np.int32] = np.array([(-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)], dtype=np.int32)
# The action that undoes each action.
REVERSE: NDArray[np.int8] = np.array([DOWN, UP, RIGHT, LEFT, STAY], dtype=np.int8)
