"""Data-parallel training under `torchrun`: one process a device, gradients averaged, the first one keeps the files."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed
from torch import Tensor, nn


class Group:
    """The processes of one training; a single one without `torchrun`.

    Args:
        device: 'cuda', 'cpu', or one device for a single process.

    Attributes:
        rank: number of this process, 0 for the one that writes files and progress.
        size: number of processes.
        device: where this process works.
    """

    def __init__(self, device: str) -> None:
        self.rank, self.size = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
        self.device = torch.device(device)
        if self.size > 1:
            if self.device.type == 'cuda':
                self.device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', self.rank)))
                torch.cuda.set_device(self.device)
            torch.distributed.init_process_group('nccl' if self.device.type == 'cuda' else 'gloo')

    def copy_from_first(self, network: nn.Module) -> None:
        """Start everywhere with the parameters of the first process."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                torch.distributed.broadcast(tensor, 0)

    def share_gradients(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Give parameters zero gradients that lie side by side in one tensor, so that one message averages all.

        They must be kept: backward passes add to them, and zeroing means zeroing the tensor that is returned.
        """
        listed = list(parameters)
        sizes = [parameter.numel() for parameter in listed]
        flat = torch.zeros(sum(sizes), dtype=listed[0].dtype, device=listed[0].device)
        for parameter, gradient in zip(listed, flat.split(sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)
        return flat

    def average(self, tensor: Tensor) -> None:
        """Replace a tensor by its mean over the processes."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
            tensor /= self.size

    def from_first(self, value: float) -> float:
        """The first process's value, so that all of them change rates and leave together."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(shared, 0)
        return float(shared)

    def gather(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of all processes at the first one, named `rank.name`; empty at the others."""
        if self.size == 1:
            return {f'0.{name}': tensor for name, tensor in tensors.items()}
        parts: list[dict[str, Tensor] | None] = [None] * self.size
        moved = {name: tensor.cpu() for name, tensor in tensors.items()}
        torch.distributed.gather_object(moved, parts if self.rank == 0 else None)
        return {f'{rank}.{name}': tensor for rank, part in enumerate(parts) for name, tensor in (part or {}).items()}

    def close(self) -> None:
        """Leave."""
        if self.size > 1:
            torch.distributed.destroy_process_group()
