"""Action-guided attention (AGA, arXiv 2603.01743): past predictions are queries and keys, only values are visual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attn_robotics.attention.heads import check_heads
from attn_robotics.kernels.masking import masked_softmax


@dataclass
class ActionGuidedState:
    """What a batch of streams remembers; oldest step first.

    Attributes:
        logits: (B, S, K) predictions of the last S steps.
        embeddings: (B, S, width) frames of the last S steps.
        seen: (B, S) bool, True where a step is stored.
        average: (B, K) running mean of predicted probabilities.
    """

    logits: Tensor
    embeddings: Tensor
    seen: Tensor
    average: Tensor


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

        def encoder() -> nn.Sequential:
            return nn.Sequential(nn.LayerNorm(classes), nn.Dropout(dropout), nn.ReLU(), nn.Linear(classes, small))

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

    def open_state(
        self, streams: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> ActionGuidedState:
        """Begin streams; the running query starts from zeros."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(streams, *shape, device=device, dtype=dtype)

        seen = torch.zeros(streams, self.queue, dtype=torch.bool, device=device)
        return ActionGuidedState(
            zeros(self.queue, self.classes), zeros(self.queue, self.width), seen, zeros(self.classes)
        )

    def attend(self, average: Tensor, logits: Tensor, embeddings: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Retrieve (B, width) and the weights (B, heads, S); used alone it answers "which past action precedes a"."""
        q = self.query(self.encode_query(average)).unflatten(-1, (self.heads, -1))[:, :, None]  # (B, H, 1, D)
        k = self.key(self.encode_key(logits)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, S, D)
        v = self.value(embeddings).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        weights = masked_softmax(scores, seen[:, None, None, :])
        retrieved = self.out((weights @ v)[:, :, 0].flatten(1))
        return self.retrieved_norm(retrieved + self.feed_forward(retrieved)), weights[:, :, 0]

    def step(self, frame: Tensor, state: ActionGuidedState) -> tuple[Tensor, ActionGuidedState, dict[str, Tensor]]:
        """One frame of every stream.

        Args:
            frame: (B, width) embedded frame.
            state: of the streams; not modified.

        Returns:
            (B, K) logits, the new state, and `weights` (B, heads, S) and `gate` (B, width) to look at. A stream
            without a past uses its frame alone. Gradients flow through stored predictions.
        """
        retrieved, weights = self.attend(state.average, state.logits, state.embeddings, state.seen)
        gate = self.gate(torch.cat([frame, retrieved], -1))
        has_past = state.seen.any(1, keepdim=True)
        gate = torch.where(has_past, gate, 0.0)
        mixed = gate * torch.where(has_past, retrieved, 0.0) + (1.0 - gate) * frame
        logits = self.classify(mixed)
        past = state.average.softmax(-1) if self.compat_resoftmax else state.average
        average = self.alpha * logits.softmax(-1) + (1.0 - self.alpha) * past
        new = ActionGuidedState(
            torch.cat([state.logits[:, 1:], logits[:, None]], 1),
            torch.cat([state.embeddings[:, 1:], frame[:, None]], 1),
            torch.cat([state.seen[:, 1:], torch.ones_like(state.seen[:, :1])], 1),
            average,
        )
        return logits, new, {'weights': weights, 'gate': gate}

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, width) embedded frames to (B, T, K) logits, step by step from an empty memory."""
        state = self.open_state(frames.shape[0], frames.device, frames.dtype)
        found = []
        for frame in frames.unbind(1):
            logits, state, _ = self.step(frame, state)
            found.append(logits)
        return torch.stack(found, 1)
