"""Log-linear attention (arXiv 2506.04761): dense, chunked, recurrent and one-step definitions.

Position s <= t lies in bucket level(t, s) = bit_length(t XOR s) of the Fenwick partition of t's past; the output weighs
bucket l by lambda_t^(l). Both published gatings are here: a scalar decay (Mamba-2), and decay with the delta rule
(Gated DeltaNet) when `beta` is given. Shapes: q, k (B, H, T, Dk), v (B, H, T, Dv), log decay g (B, H, T), level
weights lam (B, H, T, L), beta (B, H, T).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def levels_for(tokens: int) -> int:
    """Number of levels that `tokens` positions need."""
    return max(tokens - 1, 0).bit_length() + 1


def level_table(tokens: int, device: torch.device | None = None) -> Tensor:
    """(T, T) int64 level of each pair, symmetric; the causal half is the one of use."""
    t = torch.arange(tokens, device=device)
    apart = t[:, None] ^ t[None, :]
    bits = torch.arange(levels_for(tokens), device=device)
    return (apart[..., None] >> bits).ne(0).sum(-1)  # bit_length without floating point


def dense(q: Tensor, k: Tensor, v: Tensor, g: Tensor, lam: Tensor, beta: Tensor | None = None) -> Tensor:
    """O(T^2): interaction times decay mask times hierarchical mask."""
    tokens = q.shape[2]
    weights, _ = _interaction(q, k, g, beta)
    index = level_table(tokens, q.device).expand(*q.shape[:2], tokens, tokens)
    return _product(weights * lam.gather(-1, index), v)


def _interaction(q: Tensor, k: Tensor, g: Tensor, beta: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(.., T, T) causal weights of values in outputs, and the delta rule's (.., T, T) inverse, None without it."""
    tokens = q.shape[-2]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()
    total = g.cumsum(-1)
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(~causal, -torch.inf).exp()
    weights = (q @ k.transpose(-1, -2)).masked_fill(~causal, 0.0)
    inverse = None
    if beta is not None:
        wide = torch.promote_types(k.dtype, torch.float32)
        eye = torch.eye(tokens, dtype=wide, device=k.device)
        lower = (beta[..., None] * (k @ k.transpose(-1, -2))).to(wide).tril(-1)
        inverse = torch.linalg.solve_triangular(eye + lower, torch.diag_embed(beta.to(wide)), upper=False)
        weights = _product(weights, inverse.to(k.dtype))
    return weights * decay, inverse


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in the type of `right`: decays are float32 beside operands of half precision."""
    return left.to(right.dtype) @ right


def chunked(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, lam: Tensor, beta: Tensor | None = None, *, chunk: int = 64
) -> Tensor:
    """O(T log T): dense inside chunks, a binary counter of states between them; chunk is a power of two."""
    tokens, width = q.shape[2], k.shape[-1]
    padding = -tokens % chunk
    if padding:
        q, k, v, lam = (torch.nn.functional.pad(x, (0, 0, 0, padding)) for x in (q, k, v, lam))
        g = torch.nn.functional.pad(g, (0, padding))
        beta = None if beta is None else torch.nn.functional.pad(beta, (0, padding))
    base = levels_for(chunk)  # levels inside a chunk
    # A sequence shorter than a chunk has fewer levels; the pairs that would need the others are padding.
    inside = level_table(chunk, q.device).clamp(max=lam.shape[-1] - 1).expand(*q.shape[:2], chunk, chunk)
    eye = torch.eye(width, dtype=k.dtype, device=k.device)
    states: list[Tensor | None] = [None] * (levels_for((tokens + padding) // chunk) + 1)
    out = []
    for index in range((tokens + padding) // chunk):
        at = slice(index * chunk, (index + 1) * chunk)
        q_c, k_c, v_c, g_c, lam_c = q[:, :, at], k[:, :, at], v[:, :, at], g[:, :, at], lam[:, :, at]
        if index:
            target = (index & -index).bit_length()  # one above the lowest set bit
            merged = [state for state in states[:target] if state is not None]
            states[: target + 1] = [None] * target + [torch.stack(merged).sum(0)]
        weights, inverse = _interaction(q_c, k_c, g_c, None if beta is None else beta[:, :, at])
        total = g_c.cumsum(-1)
        rest = (total[..., -1:] - total).exp()  # decay from each token to the chunk's end
        o_c = _product(weights * lam_c.gather(-1, inside), v_c)
        reach, carry = q_c, eye
        keys = k_c.transpose(-1, -2)
        if inverse is not None:
            inverse = inverse.to(k_c.dtype)
            reach = q_c - _product(_product((q_c @ keys).tril(), inverse), k_c)
            keys = _product(keys, inverse)
            carry = eye - keys @ k_c
        reach = reach * total.exp()[..., None]
        for level, state in enumerate(states):
            if state is not None:
                o_c = o_c + lam_c[..., base + level - 1, None] * _product(reach, state)
                states[level] = (total[..., -1].exp()[..., None, None] * (carry @ state)).to(v.dtype)
        states[0] = _product(keys * rest[..., None, :], v_c)
        out.append(o_c.to(v.dtype))
    return torch.cat(out, 2)[:, :, :tokens]


@dataclass
class LogLinearState:
    """Everything one stream remembers; copy its tensors to take a snapshot.

    Attributes:
        levels: (B, H, L - 1, Dk, Dv) float32, levels 1 and up.
        log_decay: (B, H, L) float32 decay that its level still owes.
        last_key: (B, H, Dk) float32, level 0 is the outer product of these two.
        last_value: (B, H, Dv) float32.
        step: (B, H) int32 tokens seen.
    """

    levels: Tensor
    log_decay: Tensor
    last_key: Tensor
    last_value: Tensor
    step: Tensor

    def clone(self) -> LogLinearState:
        """Take a snapshot that later steps do not touch."""
        return LogLinearState(*(x.clone() for x in vars(self).values()))


def empty_state(
    streams: int,
    heads: int,
    levels: int,
    key_width: int,
    value_width: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> LogLinearState:
    """Begin `streams` streams of at most 2^(levels - 1) tokens; later tokens pile up in the oldest level."""
    return LogLinearState(
        torch.zeros(streams, heads, levels - 1, key_width, value_width, device=device, dtype=dtype),
        torch.zeros(streams, heads, levels, device=device, dtype=dtype),
        torch.zeros(streams, heads, key_width, device=device, dtype=dtype),
        torch.zeros(streams, heads, value_width, device=device, dtype=dtype),
        torch.zeros(streams, heads, device=device, dtype=torch.int32),
    )


def step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, lam: Tensor, state: LogLinearState, beta: Tensor | None = None
) -> Tensor:
    """Push one token into every stream; updates `state` in place and returns (B, H, Dv).

    q, k (B, H, Dk), v (B, H, Dv), g (B, H), lam (B, H, L), beta (B, H). Streams may be at different steps.
    """
    wide = state.levels.dtype
    q, k, v, g, lam = (x.to(wide) for x in (q, k, v, g, lam))
    count = lam.shape[-1]
    level = torch.arange(1, count, device=q.device)
    seen = state.step[..., None].long()  # (B, H, 1)
    target = torch.where(seen > 0, _lowest_bit(seen) + 1, 0).clamp(max=count - 1)  # 0: nothing to carry yet
    present = state.levels * state.log_decay[..., 1:, None, None].exp()
    source = (level < target)[..., None, None]
    merged = torch.where(source, present, 0.0).sum(2) + state.last_key[..., :, None] * state.last_value[..., None, :]
    arrives = (level == target)[..., None, None]
    present = torch.where(source, 0.0, present) + torch.where(arrives, merged[:, :, None], 0.0)
    present = present * g.exp()[..., None, None, None]
    new_key = k
    if beta is not None:
        b = beta.to(wide)[..., None]
        seen_by_key = torch.einsum('bhk,bhlkv->bhlv', k, present)
        present = present - (b * k)[:, :, None, :, None] * seen_by_key[..., None, :]
        new_key = b * k
    read = torch.einsum('bhk,bhlkv->bhlv', q, present)
    out = (lam[..., 1:, None] * read).sum(2) + lam[..., :1] * (q * new_key).sum(-1, keepdim=True) * v
    state.levels.copy_(present)
    state.log_decay.zero_()
    state.last_key.copy_(new_key)
    state.last_value.copy_(v)
    state.step += 1
    return out


def _lowest_bit(number: Tensor) -> Tensor:
    """Index of the lowest set bit of positive integers."""
    bits = torch.arange(31, device=number.device)
    isolated = (number & -number)[..., None]
    return (isolated >> bits).gt(1).sum(-1)


def recurrent(q: Tensor, k: Tensor, v: Tensor, g: Tensor, lam: Tensor, beta: Tensor | None = None) -> Tensor:
    """O(T log T) token by token, through `step`; not differentiable."""
    wide = torch.promote_types(q.dtype, torch.float32)
    state = empty_state(q.shape[0], q.shape[1], lam.shape[-1], k.shape[-1], v.shape[-1], device=q.device, dtype=wide)
    rows = []
    with torch.no_grad():
        for t in range(q.shape[2]):
            q_t, k_t, v_t, g_t, lam_t = (x[:, :, t] for x in (q, k, v, g, lam))
            rows.append(step(q_t, k_t, v_t, g_t, lam_t, state, None if beta is None else beta[:, :, t]))
    return torch.stack(rows, 2).to(v.dtype) if rows else v.clone()
