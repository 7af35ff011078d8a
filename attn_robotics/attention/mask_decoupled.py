"""Mask-decoupled attention (MDMA of FlexiMMT, arXiv 2603.01000): a motion touches only its object.

The mask is structured: each token has a kind and a set of objects (bits), never a dense matrix kept in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_robotics.attention.heads import check_heads, join, split
from attn_robotics.kernels.masking import masked_softmax

TEXT, MOTION, VIDEO = 0, 1, 2


def allowed_pairs(kind: Tensor, objects: Tensor, *, training: bool = False) -> Tensor:
    """Who may attend to whom.

    Args:
        kind: (N,) or (B, N) one of TEXT, MOTION, VIDEO.
        objects: like kind, int64 bit set: the objects a text or motion token belongs to (0: none), or those whose
            mask covers a video token.
        training: motion tokens see each other (as in the published training), not at inference.

    Returns:
        (N, N) or (B, N, N) bool, symmetric. Rules (query, key):
        text without an object sees all text and all video; a motion word sees text without an object, its own
        object's words, motion tokens and video tokens; a motion token sees its object's words and video tokens; video
        tokens see all video, text without an object, and words and motions of the objects that cover them. A token
        left with nothing sees itself.
    """
    shape = kind.shape

    def pair(condition: Tensor, other: Tensor) -> Tensor:
        return condition[..., :, None] & other[..., None, :]

    text, motion, video = (kind == value for value in (TEXT, MOTION, VIDEO))
    free, word = text & (objects == 0), text & (objects != 0)
    share = (objects[..., :, None] & objects[..., None, :]) != 0
    allowed = pair(free, free) | pair(video, video)
    for one, other in ((free, word), (free, video)):
        allowed = allowed | pair(one, other) | pair(other, one)
    for one, other in ((word, motion), (word, video), (motion, video)):
        allowed = allowed | ((pair(one, other) | pair(other, one)) & share)
    allowed = allowed | (pair(word, word) & share)
    if training:
        allowed = allowed | (pair(motion, motion) & share)
    alone = ~allowed.any(-1)
    eye = torch.eye(shape[-1], dtype=torch.bool, device=kind.device)
    return allowed | (alone[..., None] & eye)


class MaskDecoupledAttention(nn.Module):
    """Multi-head attention under the rules of `allowed_pairs`.

    Args:
        width: features.
        heads: number of heads; divides width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, kind: Tensor, objects: Tensor) -> Tensor:
        """Mix tokens (B, N, width) of the given kinds and object bits, (N,) or (B, N); returns (B, N, width)."""
        q, k, v = (split(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        allowed = allowed_pairs(kind, objects, training=self.training)
        keep = allowed if allowed.ndim == 2 else allowed[:, None]
        scores = q @ k.transpose(-1, -2) * k.shape[-1] ** -0.5
        out: Tensor = self.out(join(masked_softmax(scores, keep) @ v))
        return out


def word_masks(queries: Tensor, keys: Tensor) -> Tensor:
    """Where an object's words look: (B, H, W, D) queries and (B, H, T, P, D) video keys to (B, T, P) bool.

    Scores are averaged over heads and words and cut at each frame's mean (DMEM, training half).
    """
    scores = torch.einsum('bhwd,bhtpd->btp', queries, keys)
    return scores > scores.mean(-1, keepdim=True)


def propagate_masks(current: Tensor, anchors: Tensor, anchor_masks: Tensor, *, nearest: int = 15) -> Tensor:
    """Carry object masks to a new frame by feature similarity (RMPM).

    Args:
        current: (B, P, D) features of the new frame's patches.
        anchors: (B, A, D) features of anchor patches (first frame and the last two).
        anchor_masks: (B, K, A) float or bool masks of K objects there.
        nearest: anchor patches that vote for a patch.

    Returns:
        (B, K, P) bool.
    """
    similarity = torch.nn.functional.normalize(current, dim=-1) @ torch.nn.functional.normalize(
        anchors, dim=-1
    ).transpose(-1, -2)
    best, index = similarity.topk(min(nearest, similarity.shape[-1]), -1)  # (B, P, n)
    votes = anchor_masks.to(best.dtype)[:, :, None, :].expand(-1, -1, index.shape[1], -1)
    score = (votes.gather(-1, index[:, None].expand(-1, votes.shape[1], -1, -1)) * best[:, None]).sum(-1)
    return score > score.mean(-1, keepdim=True)
