"""A fleet's decision on the GPU: one upload, one captured graph from observation to log-probabilities, one download.

Maps, path distances and messages stay on the device. What changes each step is a few numbers a robot (cell, goal,
priority, last actions); they travel in one pinned block, and so do the log-probabilities on their way back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from attn_robotics.kernels.dispatch import has_triton
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.processor_torch import observe_batch

if TYPE_CHECKING:
    from attn_robotics.systems.sparc.folded import FoldedNetwork

WARM_UP = 3  # runs before capture: libraries choose their kernels then


class CapturedDecision:
    """Decisions of N robots on one map; on a CPU the same without a graph.

    On a GPU with Triton, observation and network run in their fused form (`observation_kernel`, `folded`).

    Args:
        network: in evaluation mode, on its device.
        grid: (H, W) True where an obstacle stands.
        distances: (N, H, W) path distances.
        messages: (N, width) what the robots sent last.
    """

    def __init__(
        self,
        network: SparcNetwork,
        grid: NDArray[np.bool_],
        distances: NDArray[np.int16],
        messages: NDArray[np.float32],
    ) -> None:
        self._network = network
        self._device = next(network.parameters()).device
        self._history = network.config.history
        robots, is_cuda = len(distances), self._device.type == 'cuda'
        self._sent = torch.zeros(robots, 5 + self._history, pin_memory=is_cuda)
        self._received = torch.zeros(robots, 5, pin_memory=is_cuda)
        self._upload = self._sent.numpy()
        self._download = self._received.numpy()
        self._fleet = torch.zeros(1, robots, dtype=torch.int64, device=self._device)
        self._grids = torch.from_numpy(grid.copy())[None].to(self._device)
        self._fields = torch.from_numpy(np.array(distances))[None].to(self._device)
        self._messages = torch.from_numpy(messages.copy())[None].to(self._device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._folded: FoldedNetwork | None = None
        if is_cuda:
            if has_triton():
                from attn_robotics.systems.sparc.folded import FoldedNetwork, obstacle

                self._folded = None if obstacle(network.config) else FoldedNetwork(network)
            self._capture()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Robots, rows and columns: what another fleet must have to take this one's place."""
        robots, height, width = self._fields.shape[1:]
        return robots, height, width

    @property
    def messages(self) -> NDArray[np.float32]:
        """(N, width) what the robots sent last, as a copy."""
        return self._messages[0].cpu().numpy().copy()

    def set_messages(self, messages: NDArray[np.float32]) -> None:
        """Replace what the robots sent last: (N, width)."""
        self._messages.copy_(torch.from_numpy(messages)[None])

    def set_map(self, grid: NDArray[np.bool_]) -> None:
        """Replace obstacles: (H, W)."""
        self._grids.copy_(torch.from_numpy(grid)[None])

    def set_distances(self, distances: NDArray[np.int16], robots: NDArray[np.integer] | None = None) -> None:
        """Replace path distances (M, H, W) of some robots (M,), of all when None."""
        if robots is None:
            self._fields.copy_(torch.from_numpy(np.ascontiguousarray(distances))[None])
        else:
            whose = torch.as_tensor(np.asarray(robots, np.int64), device=self._device)
            self._fields[0, whose] = torch.from_numpy(np.ascontiguousarray(distances)).to(self._device)

    def step(
        self,
        cells: NDArray[np.integer],
        goals: NDArray[np.integer],
        waited: NDArray[np.floating],
        history: NDArray[np.integer],
        meanwhile: Callable[[], None] | None = None,
    ) -> NDArray[np.float32]:
        """Decide once.

        Args:
            cells: (N, 2) rows and columns.
            goals: (N, 2) rows and columns.
            waited: (N,) priorities.
            history: (N, A) last executed actions.
            meanwhile: called while the GPU decides.

        Returns:
            (N, 5) float32 log-probabilities.
        """
        self._upload[:, :2] = cells
        self._upload[:, 2:4] = goals
        self._upload[:, 4] = waited
        self._upload[:, 5:] = history
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()
        try:
            if meanwhile is not None:
                meanwhile()
        finally:
            if self._graph is not None:
                torch.cuda.current_stream(self._device).synchronize()
        return self._download.copy()

    def stages(self) -> dict[str, Callable[[], None]]:
        """The parts of a decision in their order; each reads what the one before left on the device."""
        return {
            'upload': self._send_up,
            'observation': self._observe,
            'network': self._decide,
            'download': self._bring_down,
        }

    @torch.inference_mode()
    def _run(self) -> None:
        for stage in self.stages().values():
            stage()

    def _send_up(self) -> None:
        # Whole numbers below 2^24 travel unharmed as float32.
        self._state = self._sent.to(self._device, non_blocking=True)[None]

    def _observe(self) -> None:
        state, network = self._state, self._network
        if self._folded is not None:
            from attn_robotics.systems.sparc.observation_kernel import observe_fleet

            self._seen = observe_fleet(state[0], self._grids[0], self._fields[0], network.config)
            return
        cells, goals = state[..., :2].long(), state[..., 2:4].long()
        image, vector = observe_batch(
            self._grids,
            self._fleet,
            cells,
            goals,
            self._fields,
            state[..., 4],
            state[..., 5:].long(),
            network.config.field_of_view,
        )
        self._seen = image, vector, network.neighbour_relation(cells, cells)

    def _decide(self) -> None:
        if self._folded is not None:
            self._log_probs, message = self._folded(*self._seen, self._messages[0])
            self._messages[0].copy_(message)
            return
        output = self._network(*self._seen, self._messages)
        self._messages.copy_(output.message)
        self._log_probs = output.log_probs[0]

    def _bring_down(self) -> None:
        self._received.copy_(self._log_probs, non_blocking=True)

    def _capture(self) -> None:
        before = self._messages.clone()
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode='thread_local'):
            self._run()
        self._graph = graph
        self._messages.copy_(before)
