"""Relation-enhanced multi-head attention (RMHA): scores see the spatial relation of each pair.

Source: SPARC (arXiv 2603.02845). `score_ij = (o_i + d_ij) W_q^T W_k (o_j + d_ji)`, with d the projected embedding of
the relation between robots i and j, evaluated for every pair. Values carry no relation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_robotics.kernels.relation import relation_attention


class DistanceRelation(nn.Module):
    """Number each pair by its Manhattan distance, clipped: the relation of the paper."""

    def __init__(self, clip: int = 200) -> None:
        super().__init__()
        self.clip = clip
        self.rows = clip + 1

    def forward(self, offset: Tensor) -> Tensor:
        """Map (..., 2) int cell offsets (key minus query) to (...) int64 rows."""
        return offset.abs().sum(-1).clamp(max=self.clip).long()

    def reverse(self) -> Tensor:
        """(rows,) the row of the opposite direction: distance is symmetric."""
        return torch.arange(self.rows)


class OffsetRelation(nn.Module):
    """Number nearby pairs by their exact offset, others by clipped Manhattan distance.

    A refinement of the paper's relation, which cannot tell a robot ahead from one behind.
    """

    def __init__(self, window: int = 5, clip: int = 200) -> None:
        super().__init__()
        self.window = window
        self.clip = clip
        self.side = 2 * window + 1
        self.rows = self.side**2 + clip + 1

    def forward(self, offset: Tensor) -> Tensor:
        """Map (..., 2) int cell offsets (key minus query) to (...) int64 rows."""
        far = self.side**2 + offset.abs().sum(-1).clamp(max=self.clip)
        near = (offset[..., 0] + self.window) * self.side + offset[..., 1] + self.window
        return torch.where((offset.abs() <= self.window).all(-1), near, far).long()

    def reverse(self) -> Tensor:
        """(rows,) the row of the opposite direction."""
        near = torch.arange(self.side**2).flip(0)
        return torch.cat([near, torch.arange(self.side**2, self.rows)])


class RelationAttention(nn.Module):
    """Multi-head attention of robots over neighbours.

    Args:
        width: features of queries, memory and output.
        heads: number of heads; divides width.
        relation: how pairs are numbered; fixes the number of embedding rows.
        embedding: features of one relation's embedding.
        content_only: ablation, drop the relation term from the score (neighbour sets stay).
    """

    reverse: Tensor

    def __init__(
        self,
        width: int,
        heads: int,
        relation: DistanceRelation | OffsetRelation,
        *,
        embedding: int = 64,
        content_only: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f'width must be a multiple of heads, got {width} and {heads}')
        self.heads = heads
        self.content_only = content_only
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.embedding = nn.Parameter(torch.randn(relation.rows, embedding) * embedding**-0.5)
        self.query_relation = nn.Linear(embedding, width, bias=False)
        self.key_relation = nn.Linear(embedding, width, bias=False)
        self.register_buffer('reverse', relation.reverse(), persistent=False)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Relation tables of the query and key side, (M, H, D) each."""
        query = self.query(self.query_relation(self.embedding))
        key = self.key(self.key_relation(self.embedding[self.reverse]))
        if self.content_only:
            query, key = query * 0.0, key * 0.0
        return query.unflatten(-1, (self.heads, -1)), key.unflatten(-1, (self.heads, -1))

    def forward(
        self, x: Tensor, memory: Tensor, relation: Tensor, *, need_weights: bool = False, path: str = 'auto'
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            x: (B, Q, width) queries.
            memory: (B, K, width) what neighbours sent; x itself for plain self-attention.
            relation: (B, Q, K) integer rows, negative where the key is no neighbour.
            need_weights: return the weights as well.
            path: see `kernels.relation.relation_attention`.

        Returns:
            (B, Q, width) and (B, H, Q, K) weights or None.
        """
        q, k, v = (
            layer(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, rows in ((self.query, x), (self.key, memory), (self.value, memory))
        )  # (B, H, ., D)
        query_table, key_table = self.tables()
        out, weights = relation_attention(
            q, k, v, query_table, key_table, relation, path=path, need_weights=need_weights
        )
        return self.out(out.transpose(1, 2).flatten(2)), weights
