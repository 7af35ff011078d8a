"""Updates on CUDA as captured graphs: so small a network costs more to launch than to compute.

An update is one graph up to the log-probabilities, the CTC loss, whose lengths the host must know, and one graph for
the gradients and the optimiser. Shapes are rounded up, so that few graphs serve all batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attn_robotics.systems.pom_speech.data import from_bytes
from attn_robotics.systems.pom_speech.processor import BANDS

if TYPE_CHECKING:
    from attn_robotics.systems.pom_speech.model import SpeechEncoder
    from attn_robotics.systems.pom_speech.train import Feed

ROUND = 64  # tokens
BLOCKS = (8, 4, 8, 16)  # tokens, in turn; 8 is what streams use by default. Every size is a graph


@dataclass
class _Shape:
    """The buffers and graphs of one number of tokens and one block size."""

    tokens: Tensor
    hidden: tuple[Tensor, Tensor]
    keep: Tensor
    shift: Tensor
    log_probs: Tensor
    gradient: Tensor
    before: Any
    after: Any


def block_of(step: int, whole: float) -> int | None:
    """The block size of an update; None, a share `whole` of all, evenly spread, for whole utterances."""
    before = int(step * whole)
    return None if int((step + 1) * whole) > before else BLOCKS[(step - before) % len(BLOCKS)]


class GraphedUpdate:
    """Draws, masks and learns from one batch a call.

    Args:
        network: on CUDA.
        feed: where batches come from.
        rate: learning rate by step.
        loss: of log-probabilities, picked utterances and their lengths.
        hide: draws which bands (B, 80) and tokens (B, N) to mask, for B and N.
        whole: share of updates that mix whole utterances; may be changed between updates.
    """

    def __init__(
        self,
        network: SpeechEncoder,
        feed: Feed,
        rate: Callable[[int], float],
        loss: Callable[[Tensor, np.ndarray[Any, Any], list[int]], Tensor],
        hide: Callable[[int, int], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]],
        *,
        whole: float,
    ) -> None:
        self.network, self.feed = network, feed
        self._rate, self._loss, self._hide = rate, loss, hide
        self.whole = whole
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._device = self._parameters[0].device
        self.optimiser = torch.optim.AdamW(
            self._parameters,
            lr=torch.tensor(0.0, device=self._device),
            betas=(0.9, 0.98),
            weight_decay=0.01,
            capturable=True,
            foreach=True,
        )
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimiser.step()  # makes its state before any capture; at rate 0 it changes nothing
        self._shapes: dict[tuple[int, int | None], _Shape] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: int, picked: np.ndarray[Any, Any]) -> Tensor:
        """One update; gives its loss, on the device."""
        lengths = self.feed.corpus.lengths[picked]
        count = -(-int(lengths.max()) // ROUND) * ROUND
        key = (count, block_of(step, self.whole))
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = self._capture(len(picked), *key)
        self.feed.fill(shape.tokens, picked)
        for hidden, drawn in zip(shape.hidden, self._hide(len(picked), count), strict=True):
            hidden.copy_(torch.from_numpy(drawn), non_blocking=True)
        shape.keep.copy_(torch.arange(count) < torch.from_numpy(lengths)[:, None], non_blocking=True)
        shape.shift.normal_()
        self.optimiser.param_groups[0]['lr'].fill_(self._rate(step))
        shape.before.replay()
        log_probs = shape.log_probs.detach().requires_grad_()
        loss = self._loss(log_probs, picked, lengths.tolist())
        shape.gradient.copy_(torch.autograd.grad(loss, log_probs)[0])
        shape.after.replay()
        return loss.detach()

    def _capture(self, batch: int, count: int, block: int | None) -> _Shape:
        device = self._device
        tokens = torch.zeros(batch, count, 4, BANDS, dtype=torch.uint8, device=device)
        bands, moments = (torch.zeros(batch, size, dtype=torch.bool, device=device) for size in (BANDS, count))
        keep = torch.ones(batch, count, dtype=torch.bool, device=device)
        shift = torch.zeros(batch, 1, 1, 1, device=device)

        def forward() -> Tensor:
            hidden = (bands[:, None] | moments[:, :, None])[:, :, None]
            features = torch.where(hidden, self.network.feature_mean, from_bytes(tokens) + shift)
            # Without the cache: weights that were cast once would stay as they were at the capture.
            with torch.autocast('cuda', torch.bfloat16, cache_enabled=False):
                return self.network.log_probs(features, keep, block)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                out = forward()
                torch.autograd.grad(out, self._parameters, torch.zeros_like(out), allow_unused=True)
        torch.cuda.current_stream().wait_stream(stream)
        before, after = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(before, pool=self._pool):
            log_probs = forward()
        gradient = torch.zeros_like(log_probs)
        with torch.cuda.graph(after, pool=self._pool):
            gradients = torch.autograd.grad(log_probs, self._parameters, gradient, allow_unused=True)
            for parameter, found in zip(self._parameters, gradients, strict=True):
                parameter.grad = torch.zeros_like(parameter) if found is None else found
            torch.nn.utils.clip_grad_norm_(self._parameters, 5.0, foreach=True)
            self.optimiser.step()
        return _Shape(tokens, (bands, moments), keep, shift, log_probs, gradient, before, after)
