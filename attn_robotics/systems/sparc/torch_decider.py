"""The network by torch, on any of its devices."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from attn_robotics.systems.sparc.captured import CapturedDecision
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.onnx_decider import Answer, Question
from attn_robotics.systems.sparc.policy import SparcPolicy


class TorchDecider:
    """Decides by the network itself; see `policy.Decider`.

    Args:
        network: in evaluation mode.
        device: torch device.
        threads: cores that torch uses from now on in the whole process; None leaves that as it is.

    Raises:
        ValueError: a device that this machine does not have.
    """

    backend = 'torch'

    def __init__(self, network: SparcNetwork, device: str = 'cpu', threads: int | None = None) -> None:
        if device != 'cpu' and not (device.startswith('cuda') and torch.cuda.is_available()):
            raise ValueError(f"device '{device}' is not available here; use cpu, or cuda where torch sees a GPU")
        if threads:
            torch.set_num_threads(threads)
        self.network = network.to(device)
        self.config = network.config
        self.device = device

    def decide(self, question: Question, *, need_attention: bool) -> Answer:
        """See `policy.Decider`."""
        image, vector, cells, key_cells, own, heard = (torch.from_numpy(x)[None].to(self.device) for x in question)
        with torch.inference_mode():
            relation = self.network.neighbour_relation(cells, key_cells)
            output = self.network(image, vector, relation, own, heard, need_attention=need_attention)
        attention = [weights[0].float().cpu().numpy() for weights in output.attention]
        return Answer(output.log_probs[0].cpu().numpy(), output.message[0].float().cpu().numpy(), attention)

    def capture(
        self, grid: NDArray[np.bool_], distances: NDArray[np.int16], messages: NDArray[np.float32]
    ) -> CapturedDecision | None:
        """On a GPU, the whole decision as one graph."""
        is_cuda = torch.device(self.device).type == 'cuda'
        return CapturedDecision(self.network, grid, distances, messages) if is_cuda else None


def network_of(policy: SparcPolicy) -> SparcNetwork:
    """The network of a policy that decides by torch; raises ValueError for others."""
    if not isinstance(policy.decider, TorchDecider):
        raise ValueError(f"this needs a policy loaded with backend 'torch', not {policy.decider.backend}")
    return policy.decider.network
