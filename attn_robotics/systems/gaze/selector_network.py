"""The network of the trained selector: entity tokens, two encoder layers, a robot-state query that attends to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from attn_robotics.systems.gaze.entities import N_FEATURES
from attn_robotics.systems.gaze.selector import INPUTS, N_STATE, OUTPUTS
from attn_robotics.training.export import export_bytes, without_numbers


class AttentionSelectorNetwork(nn.Module):
    """Tokens (B, N, 14 + 1) and robot state (B, 3) to logits over N entities and idle.

    The extra column tells which entity gaze is on. Padded rows are masked; a scene without entities gives idle.
    """

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(N_FEATURES + 1, width)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, 'gelu', batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.query = nn.Linear(N_STATE, width)
        self.idle = nn.Parameter(torch.zeros(1, 1, width))
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mix = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, tokens: Tensor, state: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, N + 1), idle last, and attention weights (B, N + 1).

        Args:
            tokens: (B, N, 15).
            state: (B, 3).
            mask: (B, N) True for real entities.
        """
        x = torch.cat([self.embed(tokens), self.idle.expand(tokens.shape[0], -1, -1)], 1)  # (B, N + 1, W)
        real = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        x = self.encoder(x, src_key_padding_mask=~real)
        query = self.query(state)[:, None]
        seen, weights = self.cross(query, x, x, key_padding_mask=~real)
        around = (seen + query).expand(-1, x.shape[1], -1)
        logits = self.mix(torch.cat([x, around, x * around], 2))[..., 0]
        return logits.masked_fill(~real, -1e9), weights[:, 0]


class _Spelled(nn.Module):
    """The same network in operations whose sizes stay free when it is traced, with its outputs by name."""

    def __init__(self, network: AttentionSelectorNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, state: Tensor, mask: Tensor) -> dict[str, Tensor]:
        n = self.network
        x = torch.cat([n.embed(tokens), n.idle + torch.zeros_like(tokens[:, :1, :1])], 1)
        real = torch.cat([mask, torch.ones_like(tokens[:, :1, 0], dtype=torch.bool)], 1)
        for layer in n.encoder.layers:
            rows = layer.norm1(x)
            x = x + _attend(layer.self_attn, rows, rows, real)[0]
            x = x + layer.linear2(functional.gelu(layer.linear1(layer.norm2(x))))
        assert n.encoder.norm is not None
        x = n.encoder.norm(x)
        query = n.query(state)[:, None]
        seen, weights = _attend(n.cross, query, x, real)
        around = (seen + query) + torch.zeros_like(x)
        logits = n.mix(torch.cat([x, around, x * around], 2))[..., 0].masked_fill(~real, -1e9)
        return dict(zip(OUTPUTS, (logits.log_softmax(1), weights.mean(1)[:, 0]), strict=True))


def _attend(attention: nn.MultiheadAttention, rows: Tensor, keys: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of rows (B, Q, W) to keys (B, K, W) where real (B, K): (B, Q, W) and weights (B, H, Q, K)."""
    weight, bias = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (
        functional.linear(x, w, b).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
        for x, w, b in zip((rows, keys, keys), weight, bias, strict=True)
    )
    scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    weights = scores.masked_fill(~real[:, None, None], float('-inf')).softmax(3)
    return attention.out_proj((weights @ v).transpose(1, 2).flatten(2)), weights


def read_network(path: Path) -> AttentionSelectorNetwork:
    """The network of a safetensors file, in evaluation mode."""
    network = AttentionSelectorNetwork()
    network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return network.eval()


def graph_bytes(path: Path) -> bytes:
    """ONNX graph of the network with free numbers of scenes and entities, to lie beside its weights."""
    examples = (torch.zeros(2, 3, N_FEATURES + 1), torch.zeros(2, N_STATE), torch.ones(2, 3, dtype=torch.bool))
    axes: dict[str, Any] = {name: {0: 'scenes', 1: 'entities'} for name in ('tokens', 'mask')}
    axes |= {'state': {0: 'scenes'}} | {name: {0: 'scenes', 1: 'choices'} for name in OUTPUTS}
    network = _Spelled(read_network(path))
    model = export_bytes(network, dict(zip(INPUTS, examples, strict=True)), OUTPUTS, axes=axes, fold=False)
    card = json.loads(path.with_suffix('.json').read_text(encoding='utf-8'))
    return without_numbers(model, path, card['sha256'], 'module.network.')
