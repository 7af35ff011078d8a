"""Gradients for a fused forward pass by differentiating the definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, fast: Operator, gradient: Callable[..., tuple[Tensor | None, ...]], *arguments: Tensor
    ) -> Tensor:
        ctx.gradient = gradient
        ctx.save_for_backward(*arguments)
        return fast(*arguments)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.gradient(*ctx.saved_tensors, gradients[0])
        return None, None, *found, *(None for _ in range(len(ctx.saved_tensors) - len(found)))


def with_gradient(fast: Operator, gradient: Callable[..., tuple[Tensor | None, ...]], *arguments: Tensor) -> Tensor:
    """Run `fast(*arguments)`, whose gradients are `gradient(*arguments, gradient of the output)`, first ones first."""
    if not torch.is_grad_enabled() or not any(value.requires_grad for value in arguments):
        return fast(*arguments)
    out: Tensor = _WithGradient.apply(fast, gradient, *arguments)
    return out
