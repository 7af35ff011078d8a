"""Compile what the launchers launch for compute capability 9.0, without a GPU: started by test_kernels_compile.py.

The launchers run on tensors without memory, with the shapes and settings that ship; instead of being launched, a kernel
is compiled. Prints one line of JSON a case: its name, kernels with their shared memory and barriers, or the error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from attn_robotics.kernels import launch

TARGET = GPUTarget('cuda', 90, 32)
TYPES = {
    torch.bfloat16: 'bf16', torch.float16: 'fp16', torch.float32: 'fp32', torch.int8: 'i8', torch.int16: 'i16',
    torch.int32: 'i32', torch.int64: 'i64', torch.uint8: 'u8', torch.bool: 'i1',
}  # fmt: skip
OPTIONS = ('num_warps', 'num_stages', 'num_ctas', 'maxnreg', 'launch_pdl')
compiled: list[dict[str, Any]] = []


def compile_instead(self: Any, *arguments: Any, grid: Any, warmup: bool = False, **named: Any) -> None:
    """Stand in for JITFunction.run."""
    options = {key: named.pop(key) for key in OPTIONS if key in named}
    values = dict(zip(self.arg_names, arguments, strict=False)) | named
    assert set(values) == set(self.arg_names), set(values) ^ set(self.arg_names)
    fixed = {parameter.name for parameter in self.params if parameter.is_constexpr}
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, name in enumerate(self.arg_names):
        value = values[name]
        if name in fixed or value is None or (isinstance(value, int) and not isinstance(value, bool) and value == 1):
            signature[name], constants[index,] = 'constexpr', value
            continue
        if isinstance(value, Tensor):
            signature[name] = f'*{TYPES[value.dtype]}'
        else:
            signature[name] = 'fp32' if isinstance(value, float) else 'i1' if isinstance(value, bool) else 'i32'
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[index,] = [['tt.divisibility', 16]]
    found = triton.compile(ASTSource(self, signature, constants, attributes), target=TARGET, options=options)
    order = [('load', 'ld.global'), ('store', 'st.global'), ('barrier', 'bar.sync'), ('barrier', 'barrier.sync')]
    events = [kind for line in found.asm['ptx'].splitlines() for kind, sign in order if sign in line]
    compiled.append({'name': self.__name__, 'shared': found.metadata.shared, 'events': ''.join(e[0] for e in events)})


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor without memory."""
    return torch.empty(*shape, dtype=dtype, device='meta')


def single(*shape: int) -> Tensor:
    """The same in float32."""
    return empty(*shape, dtype=torch.float32)


def neighbour_set() -> None:
    from attn_robotics.kernels.neighbour_set.fused import neighbour_set_forward as forward

    for sets, heads, slots, width in ((4096, 8, 8, 32), (1024, 4, 32, 64)):
        q = empty(sets, heads, slots, width)
        lengths = empty(sets, dtype=torch.int32)
        forward(q, q, q, single(sets, slots, 2), single(heads), single(heads), lengths, law='power', scale=0.25)


def neighbour_block() -> None:
    from attn_robotics.kernels.neighbour_block.fused import neighbour_block_forward as forward

    width, heads = 128, 4
    weights = (empty(width), empty(width), empty(3 * width, width), empty(width, width), empty(width))
    field = (single(1024, 16, 2), single(heads), single(heads), empty(1024, dtype=torch.int32))
    forward(empty(1024, 16, width), *weights, *field, heads=heads, eps=1e-5)


def relation(sets: int, slots: int, heads: int = 4, width: int = 64, rows: int = 41) -> tuple[Tensor, ...]:
    q, table = empty(sets, heads, slots, width), empty(rows, heads, width)
    return q, q, q, table, table, empty(sets, slots, slots, dtype=torch.int16)


def relation_sets() -> None:
    from attn_robotics.kernels.relation.fused import relation_forward

    relation_forward(*relation(4096, 8), scale=0.125)


def relation_tiles() -> None:
    from attn_robotics.kernels.relation.fused import relation_forward

    relation_forward(*relation(16, 96), scale=0.125)


def relation_flash() -> None:
    from attn_robotics.kernels.relation.flash import flash_forward

    flash_forward(*relation(1, 1024), scale=0.125)


def relation_walk() -> None:
    from attn_robotics.kernels.relation.walk import walk_forward

    walk_forward(*relation(1, 1024), scale=0.125)


def relation_backward() -> None:
    from attn_robotics.kernels.relation.backward import sets_backward

    for sets, slots in ((4096, 8), (1024, 32)):
        arguments = relation(sets, slots)
        sets_backward(*arguments, arguments[0], scale=0.125)


def gravity_index() -> None:
    from attn_robotics.kernels.gravity.fused import gravity_forward

    q = empty(1, 8, 32768, 64)
    options = {'metric': 'index', 'causal': True, 'placement': 'logit', 'scale': 0.125}
    gravity_forward(q, q, q, single(8), single(8), None, None, None, **options)


def gravity_map() -> None:
    from attn_robotics.kernels.gravity.fused import gravity_forward

    q, places = empty(16, 8, 1600, 32), single(16, 1600, 2)
    options = {'metric': 'euclidean', 'causal': False, 'placement': 'gate', 'scale': 0.18}
    gravity_forward(q, q, q, single(8), single(8), places, places, empty(16, dtype=torch.int32), **options)


def log_linear() -> None:
    from attn_robotics.kernels.log_linear.fused import log_linear_forward

    q = empty(64, 4, 1024, 64)
    log_linear_forward(q, q, q, single(64, 4, 1024), empty(64, 4, 1024, 11))


def log_linear_step() -> None:
    from attn_robotics.kernels.log_linear import empty_state
    from attn_robotics.kernels.log_linear.fused import log_linear_step_fused

    q = empty(256, 8, 64)
    state = empty_state(256, 8, 17, 64, 64, 'meta')
    log_linear_step_fused(q, q, q, single(256, 8), empty(256, 8, 17), state)


def polynomial_step() -> None:
    from attn_robotics.kernels.polynomial.fused import polynomial_step_fused

    rows = empty(256, 2048)
    polynomial_step_fused(rows, rows, single(256, 2048), single(256), degree=2)


def random_feature() -> None:
    from attn_robotics.kernels.random_feature.fused import random_feature_forward

    q = empty(1, 8, 16384, 64)
    random_feature_forward(q, q, q, single(8, 256, 64), single(8, 64, 64), empty(1, 16384).bool(), scale=0.125)


def preference_sparse() -> None:
    from attn_robotics.kernels.preference_sparse.fused import preference_block_forward

    q, blocks = empty(1, 8, 16384, 64), empty(1, 256, 4, dtype=torch.int32)
    preference_block_forward(q, q, q, blocks, query_block=64, key_block=64, scale=0.125)


def svd() -> None:
    from attn_robotics.kernels.svd.fused import factorise_fused

    factorise_fused(empty(32, 12000, 64), 32, empty(32, 12000).bool())


def svd_attention() -> None:
    from attn_robotics.kernels.svd.fused import attend_fused

    tokens = single(32, 32, 64)
    attend_fused(empty(32, 2048, 64), tokens, tokens, scale=0.125)


def sparc_folded() -> None:
    from attn_robotics.systems.sparc.config import SparcConfig
    from attn_robotics.systems.sparc.folded import FoldedNetwork
    from attn_robotics.systems.sparc.model import SparcNetwork

    config = SparcConfig()
    robots, side = 128, config.field_of_view
    network = FoldedNetwork(SparcNetwork(config).to('meta').eval())
    relation = empty(robots, robots, dtype=torch.int32)
    with torch.inference_mode():
        network(
            single(robots, 8, side, side),
            single(robots, config.vector_features),
            relation,
            single(robots, config.width),
        )


def sparc_observation() -> None:
    from attn_robotics.systems.sparc.config import SparcConfig
    from attn_robotics.systems.sparc.observation_kernel import observe_fleet

    config = SparcConfig()
    grid = empty(40, 40, dtype=torch.bool)
    with torch.device('meta'):  # where what it returns is made
        observe_fleet(single(128, 5 + config.history), grid, empty(128, 40, 40, dtype=torch.int16), config)


CASES: dict[str, Callable[[], None]] = {
    case.__name__: case
    for case in (
        neighbour_set, neighbour_block, relation_sets, relation_tiles, relation_flash, relation_walk,
        relation_backward,
        gravity_index, gravity_map, log_linear, log_linear_step, polynomial_step, random_feature, preference_sparse,
        svd, svd_attention, sparc_folded, sparc_observation,
    )
}  # fmt: skip


def main() -> None:
    """Compile the cases named on the command line."""
    JITFunction.run = compile_instead
    launch.starts_early = lambda tensor: True  # as on the target; before the kernels' modules take it over
    for name in sys.argv[1:]:
        compiled.clear()
        error = None
        try:
            CASES[name]()
        except Exception as problem:
            error = f'{type(problem).__name__}: {problem}'
        print(json.dumps({'case': name, 'kernels': compiled, 'error': error}), flush=True)


if __name__ == '__main__':
    main()
