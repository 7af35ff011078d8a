"""Backward analysis: what would have had to be expected in the past for another answer (AGA, interpretability)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from attn_robotics.systems.aga.model import AgaNetwork


@dataclass(frozen=True)
class Counterfactual:
    """A past that leads to another answer.

    Attributes:
        logits: (S, K) optimised past predictions, oldest first.
        before: probability of the wanted action with the real past.
        after: and with the optimised one.
        attention: (S,) weights on the optimised past, mean over heads.
    """

    logits: Tensor
    before: float
    after: float
    attention: Tensor


def counterfactual_past(
    network: AgaNetwork, frames: Tensor, wanted: int, *, steps: int = 100, rate: float = 0.5
) -> Counterfactual:
    """Optimise the past predictions of the last step by gradient descent; weights and frames stay as they are.

    Args:
        network: guided by actions, in evaluation mode.
        frames: (T, features) one sequence; at least two steps, of which the last `queue` before the final one count.
        wanted: number of the action that should be expected after the last frame.
        steps: of Adam.
        rate: of Adam.

    Raises:
        ValueError: fewer than two frames.
    """
    if len(frames) < 2:
        raise ValueError(f'a past needs two frames or more, got {len(frames)}')
    guided = network.guided
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        encoded = network.encode(frames[None])[0]
        everything = guided(encoded[None, :-1])[0]
        older, past = everything[: -guided.queue], everything[-guided.queue :]  # (S, K)
        values = guided.value(encoded[:-1][-guided.queue :])[None]

        def answer(logits: Tensor) -> tuple[Tensor, Tensor]:
            average = torch.zeros_like(logits[:1])
            for row in torch.cat([older, logits]).softmax(-1):
                average = guided.alpha * row + (1.0 - guided.alpha) * average
            seen = torch.ones(1, len(logits), dtype=torch.bool, device=logits.device)
            retrieved, weights = guided.attend(average, guided.project_key(logits)[None], values, seen)
            frame = encoded[-1:]
            gate = guided.gate(torch.cat([frame, retrieved], -1))
            return guided.classify(gate * retrieved + (1.0 - gate) * frame), weights[0].mean(0)

        target = torch.tensor([wanted], device=frames.device)
        before = float(answer(past)[0].softmax(-1)[0, wanted])
        changed = past.clone().requires_grad_()
        optimiser = torch.optim.Adam([changed], lr=rate)
        for _ in range(steps):
            optimiser.zero_grad()
            functional.cross_entropy(answer(changed)[0], target).backward()
            optimiser.step()
        with torch.no_grad():
            logits, weights = answer(changed)
        return Counterfactual(changed.detach(), before, float(logits.softmax(-1)[0, wanted]), weights)
    finally:
        for parameter in parameters:
            parameter.requires_grad_()
