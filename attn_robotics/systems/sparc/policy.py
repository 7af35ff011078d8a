"""The policy as robots use it: weights in, cells in, log-probabilities out."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.captured import CapturedDecision
from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.processor import NO_ACTION, observe
from attn_robotics.systems.sparc.shield import Priorities

DEFAULT_WEIGHTS = Path(__file__).parent / 'weights' / 'sparc.safetensors'
FORMAT = '1'
BACKENDS = ('torch', 'onnxruntime')


class WeightsError(RuntimeError):
    """Weights that can not be used; the message names the file and the fix."""


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


def read_weights(weights: Path | None = None) -> tuple[SparcNetwork, dict[str, Any]]:
    """Load and verify weights.

    Args:
        weights: safetensors file with its card (same name, `.yaml`) beside it; what ships when None.

    Returns:
        The network in evaluation mode, float32 on the CPU, and the card.

    Raises:
        WeightsError: a file is missing or damaged, the checksum differs, or the weights belong to another version.
    """
    path = weights or DEFAULT_WEIGHTS
    card_path = path.with_suffix('.yaml')
    for part in (path, card_path):
        if not part.is_file():
            raise WeightsError(f'no weights at {part}; restore the file or train with systems.sparc.train')
    try:
        card = yaml.safe_load(card_path.read_text())
    except yaml.YAMLError:
        raise WeightsError(f'{card_path} is no YAML; restore the card that came with {path.name}') from None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not isinstance(card, dict) or digest != card.get('sha256'):
        raise WeightsError(f'checksum of {path} differs from its card; restore both files from the same version')
    try:
        with safe_open(path, framework='pt') as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f'{path} is no safetensors file ({error}); restore it') from None
    if facts.get('format') != FORMAT:
        raise WeightsError(f'{path} has weights format {facts.get("format")}, this version reads {FORMAT}')
    try:
        network = SparcNetwork(SparcConfig.from_dict(json.loads(facts['config'])))
        network.load_state_dict(tensors)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f'{path} does not fit the network: {str(error).splitlines()[0]}') from None
    return network.eval(), card


class SparcPolicy:
    """Decides for one fleet, or for one robot of it, step by step.

    The state between steps is small and explicit: what each robot sent last (`messages`), its last actions and its
    priority. `step` decides for the whole fleet in one batch; `step_alone` decides for a single robot from what it has
    heard, with the same result.

    Args:
        network: in evaluation mode.
        device: torch device.
        backend: 'torch', or 'onnxruntime' with a session.
        session: ONNX Runtime session of `export`.

    Attributes:
        priorities: (N,) float64, PIBT's priorities, larger goes first; the network sees the own one.
    """

    def __init__(
        self, network: SparcNetwork, *, device: str = 'cpu', backend: str = 'torch', session: Any = None
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f'backend must be one of {", ".join(BACKENDS)}, got {backend!r}')
        if network.config.recurrent:
            raise ValueError('the policy keeps no LSTM state; use weights trained with recurrent=False')
        self.network = network.to(device)
        self.config = network.config
        self.backend = backend
        self._device = torch.device(device)
        self._session = session
        self._grid: NDArray[np.bool_] | None = None
        self._attention: dict[str, NDArray[np.float32]] = {}
        self._offset: NDArray[np.int64] | None = None
        self._messages = np.zeros((0, self.config.width), np.float32)
        self._captured: CapturedDecision | None = None  # on a GPU, once the fleet has decided there

    @classmethod
    def load(
        cls, weights: Path | None = None, device: str = 'cpu', backend: str = 'auto', *, threads: int = 2
    ) -> SparcPolicy:
        """Load weights, the ones that ship when None; raises WeightsError, see `read_weights`.

        Args:
            weights: safetensors file with its card.
            device: 'cpu' or 'cuda'.
            backend: 'torch', 'onnxruntime' (on the CPU, several times faster than torch there), or 'auto': the faster
                one of those that are there.
            threads: cores that ONNX Runtime uses.

        Raises:
            ValueError: a device that this machine does not have, or a backend that can't use it.
        """
        if device != 'cpu' and not (device.startswith('cuda') and torch.cuda.is_available()):
            raise ValueError(f"device '{device}' is not available here; use cpu, or cuda where torch sees a GPU")
        if backend == 'auto':
            has_runtime = importlib.util.find_spec('onnxruntime') is not None
            backend = 'onnxruntime' if device == 'cpu' and has_runtime else 'torch'
        if backend == 'onnxruntime' and device != 'cpu':
            raise ValueError(f"backend 'onnxruntime' decides on the CPU; use torch on {device}, or device cpu")
        network, _ = read_weights(weights)
        session = None
        if backend == 'onnxruntime':
            from attn_robotics.systems.sparc.export import open_session

            session = open_session(network, threads)
        return cls(network, device=device, backend=backend, session=session)

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
        """
        grid = self._map
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
        """
        self._grid = np.ascontiguousarray(grid, np.bool_)
        self.distances = distances
        if self._captured is not None:
            self._captured.set_map(self._grid)
            self._captured.set_distances(distances)

    def add_robots(self, goals: NDArray[np.integer], *, seed: int = 0) -> None:
        """Take robots into the fleet, after the present ones: goals (M, 2)."""
        count = len(goals)
        added = np.asarray(goals, np.int32)
        self.distances = np.concatenate([self.distances, distance_fields(self._map, added)])
        self._owns_distances = True
        self.goals = np.concatenate([self.goals, added])
        self.messages = np.pad(self.messages, ((0, count), (0, 0)))
        self.history = np.pad(self.history, ((0, count), (0, 0)), constant_values=NO_ACTION)
        self._fraction = np.concatenate([self._fraction, np.random.default_rng(seed).random(count)])
        self._waited = np.pad(self._waited, (0, count))
        self._cells = None

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
    ) -> NDArray[np.float32]:
        """Decide once for the whole fleet.

        Args:
            cells: (N, 2) where the robots stand now.
            last_actions: (N,) what they executed since the last call; read off the cells when None.
            need_attention: keep the weights for `attention`.

        Returns:
            (N, 5) float32 log-probabilities of up, down, left, right, stay; about -1e4 for moves into obstacles.

        Raises:
            ValueError: `reset` was not called, or the cells do not fit it.
        """
        cells = self._accept(cells, last_actions)
        if self._device.type == 'cuda' and self.backend == 'torch' and not need_attention:
            if self._captured is None:
                self._captured = CapturedDecision(self.network, self._map, self.distances, self._messages)
            return self._captured.step(cells, self.goals, self.priorities, self.history)
        seen = observe(
            self._map, cells, self.goals, self.distances, self.priorities, self.history, self.config.field_of_view
        )
        log_probs, messages = self._run(
            seen.image, seen.vector, cells, cells, self.messages, self.messages, need_attention
        )
        self.messages = messages
        return log_probs

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
        log_probs, messages = self._run(
            seen.image, seen.vector, cells, heard.cells, self.messages, heard.embeddings, need_attention
        )
        self.messages = messages
        row: NDArray[np.float32] = log_probs[0]
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

    def _run(
        self,
        image: NDArray[np.float32],
        vector: NDArray[np.float32],
        cells: NDArray[np.integer],
        key_cells: NDArray[np.integer],
        own: NDArray[np.float32],
        heard: NDArray[np.float32],
        need_attention: bool,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self.backend == 'onnxruntime':
            from attn_robotics.systems.sparc.export import OUTPUTS, attention_names

            names = attention_names(self.config) if need_attention else ()
            log_probs, messages, *attention = self._session.run(
                [*OUTPUTS, *names],
                {
                    'image': image,
                    'vector': vector,
                    'cells': cells.astype(np.int64),
                    'key_cells': key_cells.astype(np.int64),
                    'own_message': own,
                    'messages': heard,
                },
            )
            self._keep(attention, cells, key_cells)
            return log_probs, messages
        device = self._device
        with torch.inference_mode():
            relation = self.network.neighbour_relation(
                torch.from_numpy(cells.astype(np.int64))[None].to(device),
                torch.from_numpy(key_cells.astype(np.int64))[None].to(device),
            )
            output = self.network(
                torch.from_numpy(image)[None].to(device),
                torch.from_numpy(vector)[None].to(device),
                relation,
                torch.from_numpy(own)[None].to(device),
                torch.from_numpy(heard)[None].to(device),
                need_attention=need_attention,
            )
        self._keep([weights[0].float().cpu().numpy() for weights in output.attention], cells, key_cells)
        return output.log_probs[0].cpu().numpy(), output.message[0].float().cpu().numpy()

    def _keep(
        self, attention: list[NDArray[np.float32]], cells: NDArray[np.integer], key_cells: NDArray[np.integer]
    ) -> None:
        """Keep weights (H, Q, K) of every layer, if there are any, until the next ones come."""
        if attention:
            self._attention = {f'communication.{layer}': weights for layer, weights in enumerate(attention)}
            self._offset = key_cells[None].astype(np.int64) - cells[:, None]
