"""Copies of one network side by side, one a seed, in one program: a small network leaves a device idle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


class Replicas(nn.Module):
    """R networks of one shape with stacked parameters.

    Args:
        networks: R modules that differ in their values only; they are copied.

    Attributes:
        template: one of them without values, for its code.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self._names = [name for name, _ in networks[0].named_parameters()]
        if any(True for _ in networks[0].buffers()):
            raise ValueError('replicas carry no buffers; use a network without them')
        rows = [dict(network.named_parameters()) for network in networks]
        self.values = nn.ParameterDict(
            {self._key(name): nn.Parameter(torch.stack([row[name].detach() for row in rows])) for name in self._names}
        )
        self.template = [deepcopy(networks[0]).to('meta')]  # in a list: not a child, its parameters are not trained

    @staticmethod
    def _key(name: str) -> str:
        return name.replace('.', '/')

    @property
    def count(self) -> int:
        """R."""
        return len(next(iter(self.values.values())))

    def parameters_named(self, *endings: str) -> list[nn.Parameter]:
        """Stacked parameters whose names end so."""
        return [self.values[self._key(name)] for name in self._names if name.endswith(endings)]

    def forward(self, call: Callable[..., Any], *inputs: Tensor) -> Any:
        """Run `call(network, *inputs)` for every replica.

        Args:
            call: uses the network it is given as a function; it may return nested tensors.
            inputs: (R, ...) one row a replica.

        Returns:
            What the calls return, stacked along axis 0.
        """
        template = self.template[0]
        template.train(self.training)
        wrapped = _Call(template, call)
        stacked = {f'network.{name}': self.values[self._key(name)] for name in self._names}
        return vmap(lambda values, *rows: functional_call(wrapped, values, rows), randomness='different')(
            stacked, *inputs
        )

    def state_of(self, replica: int) -> dict[str, Tensor]:
        """State dictionary of one network."""
        return {name: self.values[self._key(name)][replica].detach() for name in self._names}


class _Call(nn.Module):
    """A function of a network as a module, which `functional_call` needs."""

    def __init__(self, network: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self._call = call

    def forward(self, *inputs: Tensor) -> Any:
        return self._call(self.network, *inputs)


def clip_each(replicas: Replicas, largest: float) -> None:
    """Clip the length of every replica's gradient by itself, in place."""
    gradients = [p.grad for p in replicas.values.values() if p.grad is not None]
    length = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    factor = (largest / length.clamp(min=1e-12)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))
