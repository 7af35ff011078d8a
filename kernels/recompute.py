"""Gradients for a fused forward pass by differentiating the definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Operator = Callable[..., Tensor]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fast: Operator, definition: Operator, *arguments: Tensor | None) -> Tensor:
        ctx.definition = definition
        ctx.save_for_backward(*arguments)
        return fast(*arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        arguments = [
            None if value is None else value.detach().requires_grad_(needed)
            for value, needed in zip(ctx.saved_tensors, wanted, strict=True)
        ]
        with torch.enable_grad():
            out = ctx.definition(*arguments)
        sources = [value for value, needed in zip(arguments, wanted, strict=True) if needed and value is not None]
        found = iter(torch.autograd.grad(out, sources, gradients[0], allow_unused=True))
        return None, None, *(next(found) if needed else None for needed in wanted)


def with_definition_gradient(fast: Operator, definition: Operator, *arguments: Tensor | None) -> Tensor:
    """Run `fast(*arguments)`; its gradient is that of `definition(*arguments)`, recomputed in the backward pass."""
    needs = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in arguments)
    if not needs:
        return fast(*arguments)
    out: Tensor = _Recomputed.apply(fast, definition, *arguments)
    return out
