"""The AGA network: over whole sequences for training, and one frame at a time with explicit state for robots."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_robotics.attention.action_guided import ActionGuidedAttention, ActionGuidedState, ScaleNorm
from attn_robotics.systems.aga.config import AgaConfig

BEST = 5  # classes told
STATE = ('keys', 'values', 'classes', 'ages_s', 'average', 'newest')


class VisualAttention(ActionGuidedAttention):
    """Baseline: the same layer, with frames instead of predictions for queries and keys."""

    def _guide_width(self) -> int:
        return self.width

    def question(self, query: Tensor, frame: Tensor) -> Tensor:
        """The current frame."""
        return frame

    def guides(self, logits: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        """The frame for the key; the running query is not used."""
        return frame, torch.zeros_like(frame)


class FrameEncoder(nn.Sequential):
    """(..., features) frames to (..., width) embeddings of learned length (AGA, encoder)."""

    def __init__(self, features: int, width: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(features), nn.ReLU(), nn.Dropout(dropout), nn.Linear(features, width), ScaleNorm(width)
        )


class AgaNetwork(nn.Module):
    """Encoder and action-guided layer.

    Args:
        config: shape of the network.
    """

    def __init__(self, config: AgaConfig) -> None:
        super().__init__()
        self.config = config
        self.encode = FrameEncoder(config.features, config.width, config.dropout)
        layer = ActionGuidedAttention if config.guide == 'actions' else VisualAttention
        self.guided = layer(
            config.width,
            config.classes,
            config.heads,
            queue=config.queue,
            alpha=config.alpha,
            compat_resoftmax=config.compat_resoftmax,
            dropout=config.dropout,
        )

    def forward(self, frames: Tensor, keep: Tensor | None = None) -> Tensor:
        """Anticipate at every step of whole sequences.

        Args:
            frames: (B, T, features) one frame a step.
            keep: (B, T) bool, False where a sequence has no frame; padding may hold anything.

        Returns:
            (B, T, K) logits of the action one step later.
        """
        if keep is not None:
            frames = frames.masked_fill(~keep[..., None], 0.0)
        logits: Tensor = self.guided(self.encode(frames), keep)
        return logits

    def gates(self, frames: Tensor) -> Tensor:
        """(B, T) mean gate at every step: 1 takes history alone, 0 the current frame alone."""
        state = self.guided.open_state(frames.shape[0], frames.device, frames.dtype)
        gates = []
        for frame in self.encode(frames).unbind(1):
            _, state, seen = self.guided.step(frame, state)
            gates.append(seen['gate'].mean(-1))
        return torch.stack(gates, 1)

    def evidence_table(self) -> Tensor:
        """Forward analysis: (K, K) attention of a query that expects action b, row, on a past prediction of a, column.

        Queries and keys are one-hot, weights are the mean over heads (AGA, interpretability).
        """
        guided = self.guided
        one_hot = torch.eye(self.config.classes, device=next(self.parameters()).device)
        keys = guided.project_key(one_hot).expand(len(one_hot), -1, -1)
        seen = torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device)
        return guided.attend(one_hot, keys, torch.zeros_like(keys), seen)[1].mean(1)


class AgaStream(nn.Module):
    """One frame of each of N streams, with everything a stream remembers passed in and out.

    Args:
        network: guided by actions.
    """

    def __init__(self, network: AgaNetwork) -> None:
        super().__init__()
        if network.config.guide != 'actions':
            raise ValueError("only guide 'actions' runs as a stream; the visual one is a baseline")
        self.network = network

    def forward(
        self,
        features: Tensor,
        dt_s: Tensor,
        keys: Tensor,
        values: Tensor,
        classes: Tensor,
        ages_s: Tensor,
        average: Tensor,
        newest: Tensor,
    ) -> dict[str, Tensor]:
        """Anticipate. All-zero state is a stream without a past.

        The share of the newest prediction in the running query follows the time since the last frame,
        1 - (1 - alpha) ** (dt / step) (ours, for irregular frame rates), so that memory fades with time, not frames.

        Args:
            features: (N, features) the frame.
            dt_s: (N,) time since the stream's last frame [s].
            keys: (N, S, width) of past predictions, oldest first.
            values: (N, S, width) of past frames.
            classes: (N, S) int64, 1 + most probable class of each past prediction, 0 where there is none.
            ages_s: (N, S) how long before the last frame each past frame was [s].
            average: (N, K) running mean of past predictions.
            newest: (N, K) probabilities of the last prediction.

        Returns:
            `probabilities` (N, K) of the action one step later; `best` (N, 5) int64 and `best_probabilities`;
            `gate` (N,) mean share of history; `attention` (N, heads, S) on the past steps, whose `past` (N, S) int64
            tells what was anticipated then (-1: no step) and `past_s` (N, S) how long ago [s]; and the new state.
        """
        config = self.network.config
        seen = classes > 0
        alpha = 1.0 - (1.0 - config.alpha) ** (dt_s.clamp(min=0.0)[:, None] / config.step_s)
        state = ActionGuidedState(keys, values, seen, average, newest)
        logits, new, look = self.network.guided.step(self.network.encode(features), state, alpha=alpha)
        probabilities = logits.softmax(-1)
        best_probabilities, best = probabilities.topk(BEST, -1)
        past_s = torch.where(seen, ages_s + dt_s[:, None], 0.0)
        return {
            'probabilities': probabilities,
            'best': best,
            'best_probabilities': best_probabilities,
            'gate': look['gate'].mean(-1),
            'attention': look['weights'],
            'past': classes - 1,
            'past_s': past_s,
            'keys': new.keys,
            'values': new.values,
            'classes': torch.cat([classes[:, 1:], best[:, :1] + 1], 1),
            'ages_s': torch.cat([past_s[:, 1:], torch.zeros_like(past_s[:, :1])], 1),
            'average': new.average,
            'newest': new.newest,
        }
