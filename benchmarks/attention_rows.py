"""The rows of the attention table: problems, our calls, what libraries offer for the same problem."""

# Lambdas bind their tensors by default arguments, which mypy cannot type.
# mypy: disable-error-code="misc, no-any-return"
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch._functorch import config as functorch_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import normalize, scaled_dot_product_attention

from attn_robotics.kernels import dispatch
from attn_robotics.kernels import gravity as gravity_op
from attn_robotics.kernels import log_linear as log_linear_op
from attn_robotics.kernels import neighbour_block as block_op
from attn_robotics.kernels import neighbour_set as set_op
from attn_robotics.kernels import polynomial as polynomial_op
from attn_robotics.kernels import preference_sparse as sparse_op
from attn_robotics.kernels import random_feature as feature_op
from attn_robotics.kernels import relation as relation_op
from attn_robotics.kernels import svd as svd_op
from attn_robotics.kernels.distance import distance_bias, pairwise_distance
from attn_robotics.kernels.gravity.fused import gravity_forward
from attn_robotics.kernels.log_linear.fused import log_linear_step_fused
from attn_robotics.kernels.neighbour_block.fused import neighbour_block_forward
from attn_robotics.kernels.neighbour_set.fused import neighbour_set_forward
from attn_robotics.kernels.polynomial.fused import polynomial_step_fused
from attn_robotics.kernels.random_feature.fused import random_feature_forward
from attn_robotics.kernels.relation.backward import sets_backward
from attn_robotics.kernels.relation.flash import flash_forward
from attn_robotics.kernels.relation.fused import relation_forward
from attn_robotics.kernels.relation.sets import sets_forward
from attn_robotics.kernels.relation.walk import walk_forward
from attn_robotics.kernels.svd.fused import attend_fused, factorise_fused

Work = Callable[[], object]
functorch_config.donated_buffer = False  # compiled backward passes are replayed


@dataclass
class Row:
    """One line of the table.

    Attributes:
        name: kernel.
        shape: B,H,N,D and what else matters.
        ours: our call.
        gate: returns (our output, plain torch in the same precision, truth in float64), on a small or the same problem.
        baselines: name to call; one that raises is reported as refused.
        targets: baseline name (or 'best', 'copy', 'empty') to the factor the goal asks for.
        bytes_moved: compulsory traffic, padding included, for the share of the copy ceiling; 0 where it does not bind.
        eager: baselines that cannot be captured; trying would leave the random generator in capture mode.
        variants: other configurations of our kernel, tried by `--tune`.
        restore: puts back what calls change, so that configurations can be compared.
    """

    name: str
    shape: str
    ours: Work
    gate: Callable[[], tuple[Tensor, Tensor, Tensor]]
    baselines: dict[str, Work] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)
    bytes_moved: int = 0
    eager: tuple[str, ...] = ()
    variants: dict[str, Work] = field(default_factory=dict)
    restore: Work = lambda: None


def _random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device='cuda', dtype=dtype)


def _double(*values: Tensor | None) -> list[Tensor | None]:
    return [x.double() if x is not None and x.is_floating_point() else x for x in values]


def _gate(operator: Callable[..., Tensor], *values: Tensor | None, **options: object) -> tuple[Tensor, Tensor, Tensor]:
    """Ours, torch in the same precision and float64 truth of one call."""
    with dispatch.forcing('naive'):
        truth = operator(*_double(*values), **options)
        low = operator(*values, **options)
    with dispatch.forcing('fused'):
        return operator(*values, **options), low, truth


def _sdpa(
    backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Work:
    def work() -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)

    return work


def _libraries(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> dict[str, Work]:
    found = {
        'cudnn': _sdpa(SDPBackend.CUDNN_ATTENTION, q, k, v, mask, causal),
        'efficient': _sdpa(SDPBackend.EFFICIENT_ATTENTION, q, k, v, mask, causal),
    }
    if mask is None:
        found['flash'] = _sdpa(SDPBackend.FLASH_ATTENTION, q, k, v, None, causal)
    return found


def _flex(q: Tensor, k: Tensor, v: Tensor, score: Callable[..., Tensor], causal: bool = False) -> Work:
    """FlexAttention, compiled at the first call."""
    ready: list[Work] = []

    def work() -> object:
        if not ready:
            from torch.nn.attention.flex_attention import create_block_mask, flex_attention

            compiled = torch.compile(flex_attention, dynamic=False)
            mask = None
            if causal:
                mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, q.shape[2], k.shape[2], device='cuda')
            ready.append(lambda: compiled(q, k, v, score_mod=score, block_mask=mask))
        return ready[0]()

    return work


def _compiled(work: Work) -> Work:
    """torch.compile of a call on fixed tensors."""
    return torch.compile(work, dynamic=False)


def _backward(forward: Callable[..., Tensor], leaves: list[Tensor], rest: tuple[Tensor, ...], seed: Tensor) -> Work:
    """Gradients of `forward` at `leaves`; the forward pass runs once, on the stream of the first call."""
    ready: list[Tensor] = []

    def work() -> object:
        if not ready:
            ready.append(forward(*leaves, *rest))
        return torch.autograd.grad(ready[0], leaves, seed, retain_graph=True)

    return work


def _gradient_gate(
    operator: Callable[..., Tensor], leaves: list[Tensor], rest: tuple[Tensor, ...], seed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Like `_gate` for gradients: all in one vector, each in units of its size in float64."""
    found = []
    for path, wide in (('naive', True), ('naive', False), ('fused', False)):
        values = [(x.double() if wide else x).detach().requires_grad_() for x in leaves]
        with dispatch.forcing(path):
            out = operator(*values, *rest)
        found.append(torch.autograd.grad(out, values, seed.to(out.dtype)))
    size = [x.square().mean().sqrt() for x in found[0]]
    truth, low, ours = (torch.cat([(x.double() / s).flatten() for x, s in zip(y, size, strict=True)]) for y in found)
    return ours, low, truth


def _variants(forward: Callable[..., object], *configurations: object) -> dict[str, Work]:
    """`forward(config)` for every configuration, named after it."""
    return {str(config): (lambda c=config: forward(c)) for config in configurations}


def neighbour_sets() -> Iterator[Row]:
    """Neighbour sets with a metric bias and device-side lengths: throughput, then latency."""
    goals = {'copy': 0.85}
    first = {**goals, 'flex': 7.0, 'efficient': 18.0, 'cudnn': 40.0}
    for sets, heads, slots, width, targets in (
        (1024, 8, 16, 16, first),
        (8192, 8, 16, 16, goals),
        (4096, 8, 8, 32, goals),
        (1024, 4, 32, 64, goals),
        (128, 8, 16, 16, {'empty': 1.0}),
        (1, 8, 128, 32, {'empty': 1.0}),
    ):
        q, k, v = (_random(sets, heads, slots, width) for _ in range(3))
        positions = _random(sets, slots, 2, dtype=torch.float32)
        alpha, beta = (torch.rand(heads, device='cuda') + 0.2 for _ in range(2))
        lengths = torch.randint(slots // 2, slots + 1, (sets,), device='cuda', dtype=torch.int32)
        arguments = (q, k, v, positions, alpha, beta, lengths)
        bias = distance_bias(pairwise_distance(positions, positions), alpha, beta)
        keep = torch.arange(slots, device='cuda') < lengths[:, None]
        mask = bias.masked_fill(~keep[:, None, None, :], -torch.inf).to(q.dtype).contiguous()

        def score(s, b, h, i, j, p=positions, a=alpha, c=beta, n=lengths):  # type: ignore[no-untyped-def]  # flex's own
            x, y = p[b, i, 0] - p[b, j, 0], p[b, i, 1] - p[b, j, 1]
            biased = s - a[h] * torch.log1p(c[h] * torch.sqrt(x * x + y * y))
            return torch.where(j < n[b], biased, -float('inf'))

        baselines = _libraries(q, k, v, mask)
        if 'flex' in targets:  # it takes long to compile
            baselines['flex'] = _flex(q, k, v, score)
        yield Row(
            'neighbour sets',
            f'{sets},{heads},{slots},{width}',
            lambda a=arguments: set_op.neighbour_set_attention(*a),
            lambda a=arguments: _gate(set_op.neighbour_set_attention, *a),
            baselines,
            targets,
            sum(x.numel() * x.element_size() for x in (q, k, v, v, positions, lengths)),
            variants=_variants(
                lambda c, a=arguments, w=width: neighbour_set_forward(*a, law='power', scale=w**-0.5, config=c),
                *(
                    {
                        16: [(2, 16, 1), (2, 16, 2), (2, 16, 1, 1), (1, 16, 1, 1)],
                        8: [(4, 16, 1), (2, 16, 1, 1), (4, 16, 1, 1)],
                    }
                    | {32: [(1, 32, 2), (2, 32, 2, 1)], 128: [(1, 16, 2), (1, 16, 4)]}
                )[slots],
            ),
        )


RELATION_TRIED: dict[int, list[tuple[Callable[..., Tensor], list[tuple[int | None, ...]]]]] = {
    8: [(sets_forward, [(64, 4, 3, 2, None), (32, 4, 3, 3, 168), (16, 4, 3, 5, None)])],
    32: [(sets_forward, [(32, 4, 2, 4, 128), (32, 2, 2, 4, None), (64, 4, 2, 2, None)])],
    1024: [
        (flash_forward, [(32, 128, 8, 1), (16, 128, 4, 1), (64, 256, 8, 1)]),
        (walk_forward, [(32, 128, 8, 2), (32, 64, 4, 2)]),
    ],
    128: [
        (flash_forward, [(16, 128, 4, 1)]),
        (walk_forward, [(16, 128, 8, 1), (16, 64, 4, 1)]),
        (relation_forward, [(0, 16, 128, 8, 1)]),
    ],
}
# Gradients: rows of a tile, warps, stages, programs a processor (0: one for every tile) and registers of the passes
# over pairs and over rows; between them members and warps of the pass over debts.
BACKWARD_TRIED = {
    8: [
        ((64, 4, 2, 2, None), (16, 4), (128, 8, 2, 1, None)),
        ((64, 4, 1, 0, None), (16, 8), (128, 8, 3, 1, None)),
        ((64, 4, 2, 2, None), (16, 8), (128, 8, 3, 1, None)),
    ],
    32: [
        ((32, 4, 3, 3, 168), (8, 4), (32, 4, 2, 2, None)),
        ((32, 4, 3, 3, 168), (8, 4), (32, 4, 2, 3, 168)),
        ((32, 4, 3, 3, 168), (16, 8), (32, 4, 2, 3, 168)),
    ],
}


def relations() -> Iterator[Row]:
    """SPARC's relation attention, radius 40."""
    for sets, heads, slots, width, goal in (
        (4096, 4, 8, 64, 10),
        (1024, 4, 32, 64, 6),
        (1, 4, 1024, 64, 6),
        (1, 4, 128, 64, 4),
    ):
        q, k, v = (_random(sets, heads, slots, width) for _ in range(3))
        tables = [_random(41, heads, width) for _ in range(2)]
        cells = torch.randint(0, 40, (sets, slots, 2), device='cuda')
        apart = (cells[:, :, None] - cells[:, None]).abs().sum(-1)
        relation = torch.where(apart <= 40, apart, -1).to(torch.int16)
        scale = width**-0.5

        def ours(*a: Tensor) -> Tensor:
            return relation_op.relation_attention(*a)[0]

        def table(a=(q, k, v, *tables, relation), scale=scale) -> Tensor:  # type: ignore[no-untyped-def]
            return relation_op.table_relation_attention(*a, scale)[0]

        wide = relation.long()
        by_query = ((q + 0.0) @ tables[1].permute(1, 2, 0)) * scale
        by_key = ((k + 0.0) @ tables[0].permute(1, 2, 0)) * scale

        def score(s, b, h, i, j, r=wide, x=by_query, y=by_key):  # type: ignore[no-untyped-def]  # flex's own
            m = r[b, i, j]
            at = torch.where(m < 0, 0, m)
            return torch.where(m < 0, -float('inf'), s + x[b, h, i, at] + y[b, h, j, at])

        yield Row(
            'relation',
            f'{sets},{heads},{slots},{width}',
            lambda a=(q, k, v, *tables, relation): ours(*a),
            lambda a=(q, k, v, *tables, relation): _gate(ours, *a),
            {'compile': _compiled(table), 'flex': _flex(q, k, v, score)},
            {'best': goal},
            4 * q.numel() * 2 + relation.numel() * 2,
            variants={
                f'{kernel.__name__} {name}': work
                for kernel, tried in RELATION_TRIED[slots]
                for name, work in _variants(
                    lambda c, f=kernel, a=(q, k, v, *tables, relation), s=scale: f(*a, scale=s, config=c), *tried
                ).items()
            },
        )
        if slots > 32:
            continue
        leaves = [x.detach().requires_grad_() for x in (q, k, v, *tables)]
        seed = _random(*q.shape)

        def plain(*a: Tensor, scale=scale) -> Tensor:  # type: ignore[no-untyped-def]
            return relation_op.table_relation_attention(*a, scale)[0]

        yield Row(
            'relation backward',
            f'{sets},{heads},{slots},{width}',
            _backward(ours, leaves, (relation,), seed),
            lambda a=(leaves, (relation,), seed): _gradient_gate(ours, *a),
            {'compile': _backward(torch.compile(plain, dynamic=False), leaves, (relation,), seed)},
            {'best': 3},
            7 * q.numel() * 2 + relation.numel() * 2,
            variants=_variants(
                lambda c, a=(q, k, v, *tables, relation, seed), s=scale: sets_backward(*a, scale=s, config=c),
                *BACKWARD_TRIED[slots],
            ),
        )


def gravities() -> Iterator[Row]:
    """Flash attention with a power law of token or map distance."""
    heads = 8
    alpha = torch.linspace(0.25, 4.0, heads, device='cuda')
    beta = torch.ones(heads, device='cuda')
    q, k, v = (_random(1, heads, 32768, 64) for _ in range(3))

    def score(s, b, h, i, j):  # type: ignore[no-untyped-def]  # flex's own
        return s - alpha[h] * torch.log1p(beta[h] * (i - j).abs())

    def index_gate() -> tuple[Tensor, Tensor, Tensor]:
        small = [x[:, :, :8192] for x in (q, k, v)]
        return _gate(gravity_op.gravity_attention, *small, alpha, beta, causal=True)

    yield Row(
        'gravity 1-D causal',
        f'1,{heads},32768,64',
        lambda: gravity_op.gravity_attention(q, k, v, alpha, beta, causal=True),
        index_gate,
        {**_libraries(q, k, v, causal=True), 'flex': _flex(q, k, v, score, causal=True)},
        {'flex': 10.0, 'cudnn': 1 / 1.2},
        variants=_variants(
            lambda c: gravity_forward(
                q, k, v, alpha, beta, None, None, None,
                metric='index', causal=True, placement='logit', scale=0.125, config=c,
            ),
            (64, 64, 4, 3), (128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2),
        ),
    )  # fmt: skip
    cells = torch.stack(torch.meshgrid(torch.arange(40), torch.arange(40), indexing='ij'), -1).reshape(1, 1600, 2)
    positions = cells.to('cuda', torch.float32).expand(16, -1, -1).contiguous()
    x, y, z = (_random(16, heads, 1600, 32) for _ in range(3))
    stored = distance_bias(pairwise_distance(positions[:1], positions[:1]), alpha, beta).to(x.dtype)
    options = {'metric': 'euclidean', 'positions_q': positions, 'positions_k': positions}

    def map_score(s, b, h, i, j):  # type: ignore[no-untyped-def]  # flex's own
        dx, dy = positions[b, i, 0] - positions[b, j, 0], positions[b, i, 1] - positions[b, j, 1]
        return s - alpha[h] * torch.log1p(beta[h] * torch.sqrt(dx * dx + dy * dy))

    def map_gate() -> tuple[Tensor, Tensor, Tensor]:
        small = {**options, 'positions_q': positions[:2], 'positions_k': positions[:2]}
        return _gate(gravity_op.gravity_attention, x[:2], y[:2], z[:2], alpha, beta, **small)

    yield Row(
        'gravity 2-D map',
        f'16,{heads},1600,32',
        lambda: gravity_op.gravity_attention(x, y, z, alpha, beta, **options),  # type: ignore[arg-type]
        map_gate,
        {**_libraries(x, y, z, stored.expand(16, -1, -1, -1)), 'flex': _flex(x, y, z, map_score)},
        {'flex': 10.0, 'cudnn': 1.7},
        variants=_variants(
            lambda c: gravity_forward(
                x, y, z, alpha, beta, positions, positions, None,
                metric='euclidean', causal=False, placement='logit', scale=32**-0.5, config=c,
            ),
            (64, 64, 4, 2), (128, 64, 8, 2), (64, 128, 4, 3), (128, 64, 4, 2),
        ),
    )  # fmt: skip


def log_linears() -> Iterator[Row]:
    """Log-linear attention, forward and one step."""
    for sets, heads, tokens, goal in ((1, 4, 65536, 42.0), (64, 4, 1024, 13.0)):
        q, v = (_random(sets, heads, tokens, 64) for _ in range(2))
        k = normalize(_random(sets, heads, tokens, 64), dim=-1)
        g = -torch.rand(sets, heads, tokens, device='cuda') * 0.02
        lam = torch.rand(sets, heads, tokens, log_linear_op.levels_for(tokens), device='cuda', dtype=torch.bfloat16)

        def gate(a=(q, k, v, g, lam)) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[no-untyped-def]
            small = [x[:2, :, :2048].contiguous() for x in a]
            return _gate(log_linear_op.log_linear_attention, *small)

        def library(a=(q, k, v, g, lam)) -> Work:  # type: ignore[no-untyped-def]
            swapped = [x.transpose(1, 2).contiguous() for x in a]
            one_group = [swapped[0][:, :, :1].contiguous(), swapped[1][:, :, :1].contiguous(), *swapped[2:]]

            def work() -> object:
                from fla.ops.log_linear_attn import chunk_log_linear_attn

                return chunk_log_linear_attn(*one_group)[0]

            return work

        yield Row(
            'log-linear forward',
            f'{sets},{heads},{tokens},64',
            lambda a=(q, k, v, g, lam): log_linear_op.log_linear_attention(*a),
            gate,
            {'fla': library(), 'flash (softmax)': _sdpa(SDPBackend.FLASH_ATTENTION, q, k, v, causal=True)},
            {'fla': goal},
            sum(x.numel() * x.element_size() for x in (q, k, v, v, g, lam)),
            eager=('fla',),
        )
    streams, heads, levels = 256, 8, 17
    q, k, v = (_random(streams, heads, 64) for _ in range(3))
    g = -torch.rand(streams, heads, device='cuda') * 0.02
    lam = torch.rand(streams, heads, levels, device='cuda', dtype=torch.bfloat16)
    state = log_linear_op.empty_state(streams, heads, levels, 64, 64, 'cuda')
    state.step.copy_(torch.randint(2**14, 2**15, (streams, 1), device='cuda', dtype=torch.int32))
    level = torch.arange(levels - 1, device='cuda')
    active = ((state.step[..., None] - 1) >> level) & 1  # what the last token left in use
    state.levels.normal_().mul_(active[..., None, None])
    state.last_key.normal_()
    state.last_value.normal_()
    kept = state.clone()

    def restore() -> None:
        for mine, its in zip(vars(state).values(), vars(kept).values(), strict=True):
            mine.copy_(its)

    # Bytes of this step and the next ones: levels in use are read, the one the carry reaches is read or written.
    used = sum(bin(int(t)).count('1') for t in state.step[:, 0].tolist()) * heads
    row_bytes = 64 * 64 * 4

    def step_gate() -> tuple[Tensor, Tensor, Tensor]:
        outs = []
        steps = 4  # what one leaves behind is what the next one reads
        for path, dtype in (('fused', torch.float32), ('naive', torch.float32), ('naive', torch.float64)):
            copy = log_linear_op.LogLinearState(
                *(x.to(dtype) if x.is_floating_point() else x.clone() for x in vars(state.clone()).values())
            )
            with dispatch.forcing(path):
                values = [x.to(dtype) if dtype == torch.float64 else x for x in (q, k, v, g, lam)]
                tokens = [[x.roll(turn, 0) for x in values] for turn in range(steps)]
                outs.append(torch.stack([log_linear_op.log_linear_step(*token, copy) for token in tokens]))
        return outs[0], outs[1], outs[2]

    yield Row(
        'log-linear step',
        f'{streams},{heads},1,64',
        lambda: log_linear_op.log_linear_step(q, k, v, g, lam, state),
        step_gate,
        {},
        {'copy': 0.8},
        used * row_bytes + 2 * streams * heads * (64 + 64) * 4 + 4 * q.numel() * 2,
        variants=_variants(lambda c: log_linear_step_fused(q, k, v, g, lam, state, warps=c), 1, 2, 8),
        restore=restore,
    )


def polynomials() -> Iterator[Row]:
    """One step of polynomial mixing."""
    streams, features = 256, 8 * 256
    projected, gate = (_random(streams, features) for _ in range(2))
    state = torch.zeros(streams, features, device='cuda')
    count = torch.zeros(streams, device='cuda')

    def check() -> tuple[Tensor, Tensor, Tensor]:
        outs = []
        for path, dtype in (('fused', None), ('naive', None), ('naive', torch.float64)):
            values = [x if dtype is None else x.to(dtype) for x in (projected, gate)]
            with dispatch.forcing(path):
                start = torch.full_like(state, 0.1, dtype=dtype or torch.float32)
                seen = torch.full_like(count, 3.0, dtype=dtype or torch.float32)
                tokens = [[x.roll(turn, 0) for x in values] for turn in range(3)]
                found = [polynomial_op.polynomial_step(*token, start, seen) for token in tokens]
                outs.append(torch.stack([*found, start.to(found[0].dtype)]))
        return outs[0], outs[1], outs[2]

    yield Row(
        'polynomial step',
        f'{streams} streams x {features}',
        lambda: polynomial_op.polynomial_step(projected, gate, state, count),
        check,
        {},
        {'copy': 0.8},
        projected.numel() * (3 * 2 + 2 * 4),
        variants=_variants(lambda c: polynomial_step_fused(projected, gate, state, count, degree=2, warps=c), 2, 4, 16),
        restore=lambda: (state.zero_(), count.zero_()),
    )


def random_features() -> Iterator[Row]:
    """Random-feature attention, non-causal."""
    q, k, v = (_random(1, 8, 16384, 64) for _ in range(3))
    w = feature_op.draw_projections(256, 64, torch.Generator().manual_seed(0))[None].cuda()
    low = w.to(q.dtype)

    def gate() -> tuple[Tensor, Tensor, Tensor]:
        return _gate(feature_op.random_feature_attention, q[:, :, :4096], k[:, :, :4096], v[:, :, :4096], low)

    def plain() -> Tensor:
        from attn_robotics.kernels.random_feature.naive import random_feature_attention

        return random_feature_attention(q, k, v, low, None, None, causal=False, scale=64**-0.5)

    yield Row(
        'random features',
        '1,8,16384,64 m 256',
        lambda: feature_op.random_feature_attention(q, k, v, low),
        gate,
        {'compile': _compiled(plain), 'flash': _sdpa(SDPBackend.FLASH_ATTENTION, q, k, v)},
        {'compile': 5.0, 'flash': 35.0},
        4 * q.numel() * 2,
        variants=_variants(
            lambda c: random_feature_forward(q, k, v, low, None, None, scale=0.125, config=c),
            ((128, 64, 4, 4), (64, 4, 1, 3)), ((128, 128, 8, 3), (64, 4, 2, 2)), ((64, 64, 4, 3), (64, 4, 1, 2)),
            ((128, 128, 4, 2), (128, 8, 1, 1)),
        ),
    )  # fmt: skip


def factorisations() -> Iterator[Row]:
    """Singular-value attention with its factorisation."""
    history = _random(32, 12000, 64) * torch.logspace(0, -1, 64, device='cuda', dtype=torch.bfloat16)
    candidates = _random(32, 2048, 64)

    def ours() -> Tensor:
        tokens = svd_op.factorise(history, 32).tokens
        return svd_op.svd_attention(candidates, tokens)

    def eigen_solver() -> Tensor:
        with dispatch.forcing('naive'):
            return ours()

    def gate() -> tuple[Tensor, Tensor, Tensor]:
        with dispatch.forcing('naive'):
            truth = svd_op.svd_attention(candidates.double(), svd_op.factorise(history.double(), 32).tokens)
            low = ours()
        with dispatch.forcing('fused'):
            return ours(), low, truth

    yield Row(
        'svd with factorisation',
        '32 x 12000 x 64, rank 32',
        ours,
        gate,
        {
            'flash': _sdpa(SDPBackend.FLASH_ATTENTION, candidates[:, None], history[:, None], history[:, None]),
            'eigh': eigen_solver,
        },
        {'flash': 4.0, 'eigh': 100.0},
        history.numel() * 2,
        eager=('eigh',),
        variants=_variants(
            lambda c: attend_fused(
                candidates, *(factorise_fused(history, 32, None, warps=c[0]).tokens,) * 2, scale=0.125, rows=c[1]
            ),
            (2, 64), (8, 64), (4, 128),
        ),
    )  # fmt: skip


def preferences() -> Iterator[Row]:
    """Preference-sparse attention with its selection."""
    q, k, v = (_random(1, 8, 16384, 64) for _ in range(3))
    guide = normalize(_random(1, 16384, 32), dim=-1)

    def gate() -> tuple[Tensor, Tensor, Tensor]:
        values = [x[:, :, :4096] for x in (q, k, v)]
        return _gate(sparse_op.preference_block_attention, *values, guide[:, :4096].float(), guide[:, :4096].float())

    yield Row(
        'preference-sparse with selection',
        '1,8,16384,64 k 256',
        lambda: sparse_op.preference_block_attention(q, k, v, guide, guide),
        gate,
        _libraries(q, k, v, causal=True),
        {'cudnn': 3.0},
    )


def blocks() -> Iterator[Row]:
    """A whole neighbour block in one launch."""
    sets, members, width, heads = 1024, 16, 128, 4
    x = _random(sets, members, width)
    weights = (
        torch.ones(width, device='cuda', dtype=x.dtype),
        torch.zeros(width, device='cuda', dtype=x.dtype),
        _random(3 * width, width) * width**-0.5,
        _random(width, width) * width**-0.5,
        torch.zeros(width, device='cuda', dtype=x.dtype),
    )
    positions = _random(sets, members, 2, dtype=torch.float32)
    alpha, beta = (torch.rand(heads, device='cuda') + 0.2 for _ in range(2))
    lengths = torch.randint(members // 2, members + 1, (sets,), device='cuda', dtype=torch.int32)
    arguments = (x, *weights, positions, alpha, beta, lengths)

    def plain() -> Tensor:
        from attn_robotics.kernels.neighbour_block.naive import neighbour_block

        return neighbour_block(*arguments, heads=heads)

    yield Row(
        'neighbour block',
        f'{sets},{heads},{members},{width // heads} (C {width})',
        lambda: block_op.neighbour_block(*arguments, heads=heads),
        lambda: _gate(block_op.neighbour_block, *arguments, heads=heads),
        {'compile': _compiled(plain)},
        {'compile': 6.0},
        2 * x.numel() * 2,
        variants=_variants(
            lambda c: neighbour_block_forward(*arguments, heads=heads, eps=1e-5, config=c),
            (64, 4, 3), (64, 4, 1), (128, 8, 3),
        ),
    )  # fmt: skip


ROWS: dict[str, Callable[[], Iterator[Row]]] = {
    'neighbour': neighbour_sets,
    'relation': relations,
    'log_linear': log_linears,
    'gravity': gravities,
    'random_feature': random_features,
    'polynomial': polynomials,
    'preference_sparse': preferences,
    'neighbour_block': blocks,
    'svd': factorisations,
}
