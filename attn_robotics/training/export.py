"""ONNX form of the modules that the engine runs, for robots without torch."""

from __future__ import annotations

import io
import json
import struct
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn


class _InOrder(nn.Module):
    """A module that returns a dictionary as one that returns a tuple."""

    def __init__(self, module: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.outputs = tuple(outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found: Mapping[str, Tensor] = self.module(*inputs)
        return tuple(found[name] for name in self.outputs)


class _SpelledNorm(nn.Module):
    """RMSNorm in operations that every exporter knows."""

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps or 0.0

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight
        return scaled


def _spell_out(module: nn.Module) -> nn.Module:
    """A copy of a module with its RMSNorms spelled out."""
    copied = deepcopy(module).cpu().eval()
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.RMSNorm):
                setattr(parent, name, _SpelledNorm(child))
    return copied


def export_bytes(
    module: nn.Module,
    examples: Mapping[str, Tensor],
    outputs: Sequence[str],
    state: Sequence[str] = (),
    axes: Mapping[str, Mapping[int, str]] | None = None,
    *,
    fold: bool = True,
) -> bytes:
    """Trace a module.

    Args:
        module: takes the examples in their order, returns outputs and state by name.
        examples: inputs, state among them, by name.
        outputs: names, without the state.
        state: names; new state `x` leaves the graph as `x_out`, since no two values of a graph share a name.
        axes: by input or output name, free axes and what they are called.
        fold: compute ahead what depends on weights alone, which changes their names.

    Returns:
        The ONNX file.
    """
    names = [*outputs, *state]
    target = io.BytesIO()
    with warnings.catch_warnings():
        # The tracing exporter needs torch alone; its successor would add a dependency.
        warnings.simplefilter('ignore')
        torch.onnx.export(
            _InOrder(_spell_out(module), names),
            tuple(examples.values()),
            target,  # type: ignore[arg-type]
            input_names=list(examples),
            output_names=[*outputs, *(f'{name}_out' for name in state)],
            dynamic_axes={name: dict(free) for name, free in (axes or {}).items()},
            opset_version=18,
            do_constant_folding=fold,
            dynamo=False,
        )
    return target.getvalue()


def without_numbers(model: bytes, weights: Path, sha256: str, prefix: str = '') -> bytes:
    """A graph that reads its numbers from the half-precision safetensors file that it lies beside.

    Args:
        model: ONNX, traced without folding constants, so that its initializers have the names of parameters.
        weights: the safetensors file.
        sha256: its checksum, kept in the graph as `weights`, so that one can tell whether both belong together.
        prefix: of those names, which the file's tensors do not have.

    Returns:
        The ONNX file; it must be opened by its path.
    """
    import onnx

    with weights.open('rb') as file:
        start = 8 + struct.unpack('<Q', file.read(8))[0]  # a length and a header of that length come first
        header = json.loads(file.read(start - 8))
    found = onnx.load_from_string(model)
    casts = []
    for constant in found.graph.initializer:
        name = constant.name.removeprefix(prefix)
        if name not in header:
            continue
        begin, end = header[name]['data_offsets']
        half = f'{name}.half'
        casts.append(onnx.helper.make_node('Cast', [half], [constant.name], to=onnx.TensorProto.FLOAT))
        place = {'location': weights.name, 'offset': str(start + begin), 'length': str(end - begin)}
        constant.CopyFrom(
            onnx.TensorProto(
                name=half,
                data_type=onnx.TensorProto.FLOAT16,
                dims=constant.dims,
                data_location=onnx.TensorProto.EXTERNAL,
                external_data=[onnx.StringStringEntryProto(key=key, value=value) for key, value in place.items()],
            )
        )
    nodes = [*casts, *found.graph.node]
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    onnx.helper.set_model_props(found, {'weights': sha256})
    content: bytes = found.SerializeToString()
    return content


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    partial.write_bytes(content)
    partial.replace(path)
