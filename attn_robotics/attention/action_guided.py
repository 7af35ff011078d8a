"""Action-guided attention (AGA, arXiv 2603.01743): past predictions are queries and keys, only values are visual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attn_robotics.attention.heads import check_heads
from attn_robotics.kernels.masking import masked_softmax, zero_padding


@dataclass
class ActionGuidedState:
    """What a batch of streams remembers; oldest step first, zeros before the first step.

    Predictions and frames are kept as the keys and values that they become, so that each is projected once.

    Attributes:
        keys: (B, S, width) of the predictions of the last S steps.
        values: (B, S, width) of the frames of the last S steps.
        seen: (B, S) bool, True where a step is stored.
        average: (B, G) running mean of the guide, without the newest one.
        newest: (B, G) guide that the newest step left: its probabilities.
    """

    keys: Tensor
    values: Tensor
    seen: Tensor
    average: Tensor
    newest: Tensor


class ScaleNorm(nn.Module):
    """x over its length, times a learned gain per feature."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        unit: Tensor = x / x.norm(dim=-1, keepdim=True).clamp(min=self.eps)
        return self.gain * unit


class ActionGuidedAttention(nn.Module):
    """Retrieve from past frames what past actions say matters, and gate it with the current frame.

    Args:
        width: features of an embedded frame.
        classes: number of actions K.
        heads: number of heads; divides width.
        queue: steps S that are remembered.
        alpha: share of the newest prediction in the running query.
        compat_resoftmax: pass the running query through softmax again at every step, as the public code does; that
            erases its long memory and is only for weights trained so.
        dropout: in every projection.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        heads: int = 4,
        *,
        queue: int = 30,
        alpha: float = 0.8,
        compat_resoftmax: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        self.width, self.classes, self.heads, self.queue = width, classes, heads, queue
        self.alpha, self.compat_resoftmax = alpha, compat_resoftmax
        small = width // 4
        self.guide_width = self._guide_width()

        def encoder() -> nn.Sequential:
            return nn.Sequential(
                nn.LayerNorm(self.guide_width), nn.Dropout(dropout), nn.ReLU(), nn.Linear(self.guide_width, small)
            )

        self.encode_query, self.encode_key = encoder(), encoder()
        self.query = nn.Sequential(nn.RMSNorm(small, eps=1e-6), nn.Linear(small, width, bias=False))
        self.key = nn.Sequential(nn.RMSNorm(small, eps=1e-6), nn.Linear(small, width, bias=False))
        self.value = nn.Sequential(nn.RMSNorm(width, eps=1e-6), nn.Linear(width, width, bias=False))
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        self.feed_forward = nn.Sequential(
            nn.RMSNorm(width, eps=1e-6),
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width // 2, width),
            nn.Dropout(dropout),
        )
        self.retrieved_norm = ScaleNorm(width)
        self.gate = nn.Sequential(
            nn.Linear(2 * width, small), nn.ReLU(), nn.Dropout(dropout), nn.Linear(small, width), nn.Sigmoid()
        )
        self.classify = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, classes))

    def _guide_width(self) -> int:
        """Width of what queries and keys are made of; subclasses that are guided by something else override it."""
        return self.classes

    def open_state(
        self, streams: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> ActionGuidedState:
        """Begin streams; the running query starts from zeros."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(streams, *shape, device=device, dtype=dtype)

        return ActionGuidedState(
            zeros(self.queue, self.width),
            zeros(self.queue, self.width),
            torch.zeros(streams, self.queue, dtype=torch.bool, device=device),
            zeros(self.guide_width),
            zeros(self.guide_width),
        )

    def running_query(self, state: ActionGuidedState, alpha: Tensor | float | None = None) -> Tensor:
        """(B, G) mean of past guides, newest included; alpha: share of the newest, (B, 1) or one for all."""
        alpha = self.alpha if alpha is None else alpha
        past = state.average.softmax(-1) if self.compat_resoftmax else state.average
        return alpha * state.newest + (1.0 - alpha) * past

    def project_key(self, guide: Tensor) -> Tensor:
        """(..., G) logits to (..., width) keys."""
        projected: Tensor = self.key(self.encode_key(guide))
        return projected

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Retrieve (B, width) and the weights (B, heads, S) for a running query (B, G) and projected keys and values.

        With one-hot queries and `project_key` of one-hot candidates it answers "which past action precedes a".
        """
        q = self.query(self.encode_query(query)).unflatten(-1, (self.heads, -1))[:, :, None]  # (B, H, 1, D)
        k = keys.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, S, D)
        v = values.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        weights = masked_softmax(scores, seen[:, None, None, :])
        retrieved = self.out((weights @ v)[:, :, 0].flatten(1))
        return self.retrieved_norm(retrieved + self.feed_forward(retrieved)), weights[:, :, 0]

    def question(self, query: Tensor, frame: Tensor) -> Tensor:
        """(B, G) what the query is made of: the running query; the frame plays no part in it."""
        return query

    def guides(self, logits: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        """What a step leaves behind: what its key is made of, and what enters the running query."""
        return logits, logits.softmax(-1)

    def step(
        self,
        frame: Tensor,
        state: ActionGuidedState,
        *,
        alpha: Tensor | float | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, ActionGuidedState, dict[str, Tensor]]:
        """One frame of every stream.

        Args:
            frame: (B, width) embedded frame.
            state: of the streams; not modified.
            alpha: share of the newest prediction in the running query, (B, 1); the layer's own when None.
            keep: (B,) bool, False for streams without a frame now: their state stays and their logits are zero.

        Returns:
            (B, K) logits, the new state, and `weights` (B, heads, S) and `gate` (B, width) to look at. A stream
            without a past uses its frame alone. Gradients flow through stored predictions.
        """
        if keep is not None:
            frame = zero_padding(frame, keep)
        query = self.running_query(state, alpha)
        retrieved, weights = self.attend(self.question(query, frame), state.keys, state.values, state.seen)
        gate = self.gate(torch.cat([frame, retrieved], -1))
        has_past = state.seen.any(1, keepdim=True)
        gate = torch.where(has_past, gate, 0.0)
        mixed = gate * torch.where(has_past, retrieved, 0.0) + (1.0 - gate) * frame
        logits = self.classify(mixed)
        for_key, for_query = self.guides(logits, frame)
        new = ActionGuidedState(
            torch.cat([state.keys[:, 1:], self.project_key(for_key)[:, None]], 1),
            torch.cat([state.values[:, 1:], self.value(frame)[:, None]], 1),
            torch.cat([state.seen[:, 1:], torch.ones_like(state.seen[:, :1])], 1),
            query,
            for_query,
        )
        if keep is not None:
            logits = logits.masked_fill(~keep[:, None], 0.0)
            new = ActionGuidedState(
                *(
                    torch.where(keep.view(-1, *[1] * (after.dim() - 1)), after, before)
                    for after, before in zip(vars(new).values(), vars(state).values(), strict=True)
                )
            )
        return logits, new, {'weights': weights, 'gate': gate}

    def forward(self, frames: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, T, width) embedded frames to (B, T, K) logits, step by step from an empty memory.

        Args:
            frames: embedded frames.
            keep: (B, T) bool, False where a sequence has no frame.
        """
        state = self.open_state(frames.shape[0], frames.device, frames.dtype)
        found = []
        for t, frame in enumerate(frames.unbind(1)):
            logits, state, _ = self.step(frame, state, keep=None if keep is None else keep[:, t])
            found.append(logits)
        return torch.stack(found, 1)
