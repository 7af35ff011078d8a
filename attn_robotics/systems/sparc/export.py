"""ONNX form of the network, for robots without a GPU: `python -m attn_robotics.systems.sparc.export --help`."""

from __future__ import annotations

import argparse
import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from attn_robotics.systems.sparc.model import SparcNetwork, SparcOutput, legal_moves
from attn_robotics.systems.sparc.onnx_decider import INPUTS, OUTPUTS, attention_names
from attn_robotics.training.export import without_numbers, write_bytes


class Decision(nn.Module):
    """One decision of Q robots from K messages, without a batch dimension and without training-only heads."""

    def __init__(self, network: SparcNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, image: Tensor, vector: Tensor, cells: Tensor, key_cells: Tensor, own_message: Tensor, messages: Tensor
    ) -> tuple[Tensor, ...]:
        """Decide.

        Args:
            image: (Q, C, F, F).
            vector: (Q, V).
            cells: (Q, 2) int64.
            key_cells: (K, 2) int64, the Q robots among them.
            own_message: (Q, width).
            messages: (K, width).

        Returns:
            (Q, 5) log-probabilities, (Q, width) messages, and per layer (H, Q, K) attention weights: they are computed
            in any case, and cost nothing while nobody fetches them.
        """
        output = _decide(self.network, image, vector, cells, key_cells, own_message, messages, need_attention=True)
        return output.log_probs[0], output.message[0], *(weights[0] for weights in output.attention)


def decide(
    network: SparcNetwork,
    image: Tensor,
    vector: Tensor,
    cells: Tensor,
    key_cells: Tensor,
    own_message: Tensor,
    messages: Tensor,
) -> tuple[Tensor, Tensor]:
    """One decision; arguments and the first two results are those of `Decision.forward`."""
    output = _decide(network, image, vector, cells, key_cells, own_message, messages, need_attention=False)
    return output.log_probs[0], output.message[0]


def _decide(
    network: SparcNetwork,
    image: Tensor,
    vector: Tensor,
    cells: Tensor,
    key_cells: Tensor,
    own_message: Tensor,
    messages: Tensor,
    *,
    need_attention: bool,
) -> SparcOutput:
    relation = network.neighbour_relation(cells[None], key_cells[None])
    rows, _ = network.encode(image[None], vector[None])
    x, attention = network.communicate(rows, own_message[None], messages[None], relation, need_attention=need_attention)
    output = network.heads(rows, x, legal_moves(image)[None])
    output.attention = attention
    return output


def export_bytes(network: SparcNetwork, *, fold: bool = True) -> bytes:
    """ONNX model with free Q and K; `fold` computes ahead what depends on weights alone, which changes their names."""
    config = network.config
    if config.recurrent:
        raise ValueError('export needs a network without LSTM; set recurrent to False')
    queries, keys, side = 3, 5, config.field_of_view
    examples = (
        torch.zeros(queries, config.image_channels, side, side),
        torch.zeros(queries, config.vector_features),
        torch.zeros(queries, 2, dtype=torch.int64),
        torch.zeros(keys, 2, dtype=torch.int64),
        torch.zeros(queries, config.width),
        torch.zeros(keys, config.width),
    )
    attention = attention_names(config)
    free = {'image': 'Q', 'vector': 'Q', 'cells': 'Q', 'key_cells': 'K', 'own_message': 'Q', 'messages': 'K'}
    target = io.BytesIO()
    with warnings.catch_warnings():
        # The tracing exporter needs torch alone; its successor would add a dependency.
        warnings.simplefilter('ignore')
        torch.onnx.export(
            Decision(network).cpu().eval(),
            examples,
            target,  # type: ignore[arg-type]
            input_names=list(INPUTS),
            output_names=[*OUTPUTS, *attention],
            dynamic_axes={name: {0: size} for name, size in free.items()}
            | {name: {0: 'Q'} for name in OUTPUTS}
            | {name: {1: 'Q', 2: 'K'} for name in attention},
            opset_version=17,
            do_constant_folding=fold,
            dynamo=False,
        )
    return target.getvalue()


def graph_bytes(network: SparcNetwork, weights: Path, sha256: str) -> bytes:
    """The same model as a graph beside its weights, see `training.export.without_numbers`."""
    return without_numbers(export_bytes(network, fold=False), weights, sha256, 'network.')


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    from attn_robotics.systems.sparc.weights_file import read_weights

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--weights', type=Path, help='safetensors file, what ships when left out')
    parser.add_argument('--out', type=Path, default=Path('sparc.onnx'), help='file to write')
    options = parser.parse_args(arguments)
    network, _ = read_weights(options.weights)
    write_bytes(options.out, export_bytes(network))
    print(f'wrote {options.out}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
