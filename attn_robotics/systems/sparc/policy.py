"""The policy as robots use it: weights in, cells in, log-probabilities out."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.onnx_decider import Answer, OnnxDecider, Question
from attn_robotics.systems.sparc.processor import NO_ACTION, Observation, observe
from attn_robotics.systems.sparc.shield import Priorities
from attn_robotics.systems.sparc.weights_card import verify_weights

if TYPE_CHECKING:
    from attn_robotics.systems.sparc.captured import CapturedDecision

BACKENDS = ('torch', 'onnxruntime')


@dataclass(frozen=True)
class Heard:
    """What one robot has received when it decides alone: one row per sender, its own message among them.

    Attributes:
        cells: (K, 2) where the senders stand now.
        goals: (K, 2) where they want to go.
        embeddings: (K, width) what they sent after their last decision.
    """

    cells: NDArray[np.int32]
    goals: NDArray[np.int32]
    embeddings: NDArray[np.float32]


class Decider(Protocol):
    """Runs the network.

    Attributes:
        config: of the network.
        backend: its name among `BACKENDS`.
        device: where it runs.
    """

    config: SparcConfig
    backend: str
    device: str

    def decide(self, question: Question, *, need_attention: bool) -> Answer:
        """Run the network once; attention weights only where they are needed."""

    def capture(
        self, grid: NDArray[np.bool_], distances: NDArray[np.int16], messages: NDArray[np.float32]
    ) -> CapturedDecision | None:
        """A whole decision on one map (H, W) with fields (N, H, W) and messages (N, width) as one graph, on a GPU."""


class SparcPolicy:
    """Decides for one fleet, or for one robot of it, step by step.

    The state between steps is small and explicit: what each robot sent last (`messages`), its last actions and its
    priority. `step` decides for the whole fleet in one batch; `step_alone` decides for a single robot from what it has
    heard, with the same result.

    Args:
        decider: runs the network.

    Attributes:
        decider: the same.
        config: of its network.
        priorities: (N,) float64, PIBT's priorities, larger goes first; the network sees the own one.
    """

    def __init__(self, decider: Decider) -> None:
        if decider.config.recurrent:
            raise ValueError('the policy keeps no LSTM state; use weights trained with recurrent=False')
        self.decider = decider
        self.config = decider.config
        self._grid: NDArray[np.bool_] | None = None
        self._attention: dict[str, NDArray[np.float32]] = {}
        self._offset: NDArray[np.int64] | None = None
        self._messages = np.zeros((0, self.config.width), np.float32)
        self._captured: CapturedDecision | None = None  # on a GPU, once the fleet has decided there

    @classmethod
    def load(
        cls, weights: Path | None = None, device: str = 'cpu', backend: str = 'auto', *, threads: int | None = None
    ) -> SparcPolicy:
        """Load weights, the ones that ship when None; raises WeightsError, see `read_weights`.

        Args:
            weights: safetensors file with its card.
            device: 'cpu' or 'cuda'.
            backend: 'torch', 'onnxruntime' (on the CPU, several times faster than torch there), or 'auto': the faster
                one of those that are there.
            threads: cores that ONNX Runtime uses; None for what OMP_NUM_THREADS says, 2 where that is not set.

        Raises:
            ValueError: a device that this machine does not have, or a backend that can't use it.
        """
        if backend not in ('auto', *BACKENDS):
            raise ValueError(f'backend must be auto, {" or ".join(BACKENDS)}, got {backend!r}')
        if backend == 'auto':
            has_runtime = importlib.util.find_spec('onnxruntime') is not None
            backend = 'onnxruntime' if device == 'cpu' and has_runtime else 'torch'
        if backend == 'onnxruntime' and device != 'cpu':
            raise ValueError(f"backend 'onnxruntime' decides on the CPU; use torch on {device}, or device cpu")
        found = verify_weights(weights)
        if backend == 'onnxruntime':
            return cls(OnnxDecider.load(found, threads or int(os.environ.get('OMP_NUM_THREADS', '2'))))
        from attn_robotics.systems.sparc.torch_decider import TorchDecider
        from attn_robotics.systems.sparc.weights_file import read_network

        return cls(TorchDecider(read_network(found), device, threads))

    def twin(self) -> SparcPolicy:
        """Another policy with the same network, and nothing else in common."""
        return SparcPolicy(self.decider)

    @property
    def robots(self) -> int:
        """Number of robots."""
        return len(self.goals)

    @property
    def messages(self) -> NDArray[np.float32]:
        """(N, width) float32, what each robot sent after its last decision; zeros before the first."""
        return self._messages if self._captured is None else self._captured.messages

    @messages.setter
    def messages(self, messages: NDArray[np.float32]) -> None:
        self._messages = messages
        if self._captured is not None and len(messages) == self._captured.shape[0]:
            self._captured.set_messages(messages)
        else:
            self._captured = None

    @property
    def captured(self) -> CapturedDecision | None:
        """What decides on a GPU, once it has decided for this fleet."""
        return self._captured

    @property
    def priorities(self) -> NDArray[np.float64]:
        """(N,) priorities for the coming decision."""
        return self._waited + self._fraction

    def reset(
        self,
        grid: NDArray[np.bool_],
        goals: NDArray[np.integer],
        distances: NDArray[np.int16] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """Start on a map: forget messages, actions and priorities.

        Args:
            grid: (H, W) True where an obstacle stands.
            goals: (N, 2) rows and columns.
            distances: (N, H, W) path distances to the goals, computed when None.
            seed: of the priorities' random fractions.
        """
        robots = len(goals)
        self._grid = np.ascontiguousarray(grid, np.bool_)
        self.goals = np.array(goals, np.int32)
        self.distances = distance_fields(self._grid, self.goals) if distances is None else distances
        self._owns_distances = distances is None
        if self._captured is not None and self._captured.shape == self.distances.shape:
            self._captured.set_map(self._grid)
            self._captured.set_distances(self.distances)
        else:
            self._captured = None
        self.messages = np.zeros((robots, self.config.width), np.float32)
        self.history = np.full((robots, self.config.history), NO_ACTION, np.int64)
        self._fraction = Priorities(robots, seed).values
        self._waited = np.zeros(robots, np.int64)
        self._cells: NDArray[np.int32] | None = None
        self._attention = {}

    def set_goals(
        self,
        goals: NDArray[np.integer],
        distances: NDArray[np.int16] | None = None,
        robots: NDArray[np.integer] | None = None,
    ) -> None:
        """Give new goals in mid-run.

        Args:
            goals: (M, 2) rows and columns.
            distances: (M, H, W) path distances, computed when None.
            robots: (M,) whose goals these are; everybody's when None.

        Raises:
            ValueError: a goal off the map, or in an obstacle unless the caller knows distances to it.
        """
        grid = self._map
        self._check_goals(np.asarray(goals), may_be_walled=distances is not None)
        whose = np.arange(self.robots) if robots is None else np.asarray(robots)
        fields = distance_fields(grid, np.asarray(goals, np.int32)) if distances is None else distances
        self.goals[whose] = goals
        if not self._owns_distances:
            self.distances = self.distances.copy()  # the caller's array stays as it is
            self._owns_distances = True
        self.distances[whose] = fields
        if self._captured is not None:
            self._captured.set_distances(fields, whose)

    def change_map(self, grid: NDArray[np.bool_], distances: NDArray[np.int16]) -> None:
        """Take over obstacles that came or went, and the path distances that follow; nothing else is forgotten.

        Args:
            grid: (H, W) of the size given to `reset`.
            distances: (N, H, W).

        Raises:
            ValueError: another size.
        """
        if grid.shape != self._map.shape or distances.shape != self.distances.shape:
            raise ValueError(
                f'map of {self._map.shape} changed to {grid.shape}, path distances {self.distances.shape} to '
                f'{distances.shape}; reset the policy for another map or fleet'
            )
        self._grid = np.ascontiguousarray(grid, np.bool_)
        self.distances = distances
        if self._captured is not None:
            self._captured.set_map(self._grid)
            self._captured.set_distances(distances)

    def add_robots(self, goals: NDArray[np.integer], *, seed: int = 0) -> None:
        """Take robots into the fleet, after the present ones: goals (M, 2); raises ValueError like `set_goals`."""
        count = len(goals)
        self._check_goals(np.asarray(goals))
        added = np.asarray(goals, np.int32)
        self.distances = np.concatenate([self.distances, distance_fields(self._map, added)])
        self._owns_distances = True
        self.goals = np.concatenate([self.goals, added])
        self.messages = np.pad(self.messages, ((0, count), (0, 0)))
        self.history = np.pad(self.history, ((0, count), (0, 0)), constant_values=NO_ACTION)
        self._fraction = np.concatenate([self._fraction, np.random.default_rng(seed).random(count)])
        self._waited = np.pad(self._waited, (0, count))
        self._cells = None

    def _check_goals(self, goals: NDArray[np.integer], *, may_be_walled: bool = False) -> None:
        height, width = self._map.shape
        for row, column in goals.tolist():
            if not (0 <= row < height and 0 <= column < width):
                raise ValueError(f'goal at ({row}, {column}) is off the {height} x {width} map')
            if self._map[row, column] and not may_be_walled:
                raise ValueError(f'goal at ({row}, {column}) is inside an obstacle; send the robot to a free cell')

    def remove_robots(self, robots: NDArray[np.integer]) -> None:
        """Take robots out of the fleet: (M,) indices; the others keep their order and state."""
        keep = np.setdiff1d(np.arange(self.robots), robots)
        self.distances, self.goals = self.distances[keep], self.goals[keep]
        self._owns_distances = True
        self.messages, self.history = self.messages[keep], self.history[keep]
        self._fraction, self._waited = self._fraction[keep], self._waited[keep]
        self._cells = None if self._cells is None else self._cells[keep]

    def set_priority(self, robot: int, priority: float) -> None:
        """Set one robot's priority: whole steps since it was last on its goal, plus the fraction that breaks ties."""
        self._waited[robot] = int(priority)
        self._fraction[robot] = priority - int(priority)

    def step(
        self,
        cells: NDArray[np.integer],
        last_actions: NDArray[np.integer] | None = None,
        *,
        need_attention: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> NDArray[np.float32]:
        """Decide once for the whole fleet.

        Args:
            cells: (N, 2) where the robots stand now.
            last_actions: (N,) what they executed since the last call; read off the cells when None.
            need_attention: keep the weights for `attention`.
            meanwhile: called once priorities have moved on, while a GPU decides: the CPU's work for what follows.

        Returns:
            (N, 5) float32 log-probabilities of up, down, left, right, stay; about -1e4 for moves into obstacles.

        Raises:
            ValueError: `reset` was not called, or the cells do not fit it.
        """
        cells = self._accept(cells, last_actions)
        if self._captured is None and not need_attention:
            self._captured = self.decider.capture(self._map, self.distances, self._messages)
        if self._captured is not None and not need_attention:
            return self._captured.step(cells, self.goals, self.priorities, self.history, meanwhile)
        if meanwhile is not None:
            meanwhile()
        seen = observe(
            self._map, cells, self.goals, self.distances, self.priorities, self.history, self.config.field_of_view
        )
        return self._ask(seen, cells, cells, self.messages, need_attention)

    def step_alone(
        self,
        cell: NDArray[np.integer],
        heard: Heard,
        last_action: int | None = None,
        *,
        need_attention: bool = False,
    ) -> NDArray[np.float32]:
        """Decide for one robot (after a `reset` with its goal alone) from the messages it has heard.

        Args:
            cell: (2,) where it stands now.
            heard: last messages of its neighbours and of itself; senders beyond the mask radius are ignored.
            last_action: what it executed since the last call.
            need_attention: keep the weights for `attention`.

        Returns:
            (5,) float32 log-probabilities, equal to its row of `step`; `messages[0]` is what it sends next.
        """
        cells = self._accept(np.asarray(cell)[None], None if last_action is None else np.array([last_action], np.int64))
        seen = observe(
            self._map, cells, self.goals, self.distances, self.priorities, self.history, self.config.field_of_view,
            (heard.cells, heard.goals),
        )  # fmt: skip
        row: NDArray[np.float32] = self._ask(seen, cells, heard.cells, heard.embeddings, need_attention)[0]
        return row

    def attention(self) -> dict[str, NDArray[np.float32]]:
        """Weights of the last step that was asked to keep them: layer name -> (H, N, K), rows sum to 1."""
        return self._attention

    def pair_distances(self) -> NDArray[np.int64]:
        """Manhattan distances [cells] that go with `attention`: (N, K)."""
        if self._offset is None:
            raise ValueError('no attention kept; call step(..., need_attention=True) first')
        distances: NDArray[np.int64] = np.abs(self._offset).sum(-1)
        return distances

    @property
    def _map(self) -> NDArray[np.bool_]:
        if self._grid is None:
            raise ValueError('the policy has no map yet; call reset first')
        return self._grid

    def _accept(self, cells: NDArray[np.integer], last: NDArray[np.integer] | None) -> NDArray[np.int32]:
        """Check cells and move history and priorities on."""
        height, width = self._map.shape
        if cells.shape != (self.robots, 2):
            raise ValueError(f'cells must be ({self.robots}, 2), got {cells.shape}; call reset for another fleet')
        outside = ((cells < 0) | (cells >= (height, width))).any(-1)
        if outside.any():
            robot = int(outside.argmax())
            raise ValueError(f'cell of robot {robot} at {cells[robot].tolist()} is off the {height} x {width} map')
        here = np.array(cells, np.int32)
        if self._cells is not None:
            if last is None:
                moved = here - self._cells
                last = (moved[:, None] == MOVES[None]).all(-1).argmax(-1)
            self.history = np.concatenate([np.asarray(last, np.int64)[:, None], self.history[:, :-1]], 1)
            self._waited = np.where((here == self.goals).all(-1), 0, self._waited + 1)
        self._cells = here
        return here

    def _ask(
        self,
        seen: Observation,
        cells: NDArray[np.integer],
        key_cells: NDArray[np.integer],
        messages: NDArray[np.float32],
        need_attention: bool,
    ) -> NDArray[np.float32]:
        """Run the network, take over what it sends, and keep its attention until the next comes."""
        question = Question(
            seen.image, seen.vector, cells.astype(np.int64), key_cells.astype(np.int64), self.messages, messages
        )
        answer = self.decider.decide(question, need_attention=need_attention)
        self.messages = answer.message
        if answer.attention:
            self._attention = {f'communication.{layer}': weights for layer, weights in enumerate(answer.attention)}
            self._offset = question.key_cells[None] - question.cells[:, None]
        return answer.log_probs
