"""MAPPO for the SPARC network: proximal policy optimisation of all robots with shared weights.

Recipe: SPARC (arXiv 2603.02845) with SCRIMP's settings where the paper is silent. Rollouts keep what each decision saw,
the messages at the start of every window included, so that the update recomputes exactly the same log-probabilities:
importance ratios are 1 before the first optimiser step.

A robot's action is its wish, the first choice of its drawn order; what the conflict rule makes of the wishes belongs to
the environment. Episodes end between rollouts only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attn_robotics.systems.sparc.actions import STAY
from attn_robotics.systems.sparc.data import ONE_WINNER
from attn_robotics.systems.sparc.gridworld import Rewards
from attn_robotics.systems.sparc.lanes import Lane, decide, gumbel_like

if TYPE_CHECKING:
    from attn_robotics.systems.sparc.train import Trainer


@dataclass(frozen=True)
class PpoConfig:
    """Settings of the update; the paper's unless said otherwise."""

    steps: int = 16  # rollout length; a multiple of the trainer's window
    epochs: int = 2  # paper 4; the warm start needs no more
    clip: float = 0.2
    discount: float = 0.99
    trace: float = 0.95  # lambda of the advantage estimate
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    imitation_weight: float = 0.1  # keeps the policy near the expert; 0 in the paper
    progress: float = 0.1  # reward per step gained towards the goal (published README)
    shared: float = 0.3  # part of the reward that is the team's mean; 0 in the paper


@dataclass
class Rollout:
    """What T steps of one lane saw and did; A robots in rows of slots."""

    states: list[Tensor]  # T packed states
    waited: list[Tensor]  # T priorities
    messages: list[Tensor]  # at the start of each window
    wishes: Tensor  # (T, A) first choices
    labels: Tensor  # (T, A) what the expert would have done
    log_probs: Tensor  # (T, A) of the wishes
    values: Tensor  # (T + 1, A)
    rewards: Tensor  # (T, A)


def step_rewards(
    wishes: NDArray[np.integer],
    executed: NDArray[np.integer],
    gained: NDArray[np.floating],
    at_goal: NDArray[np.bool_],
    fleet: NDArray[np.integer],
    settings: PpoConfig,
    worth: Rewards | None = None,
) -> NDArray[np.float32]:
    """Reward of one step, blocking left out as SCRIMP does for large teams.

    Args:
        wishes: (A,) what robots wanted.
        executed: (A,) what the conflict rule let them do; a difference counts as a collision.
        gained: (A,) steps gained towards the goal.
        at_goal: (A,) whether each stands on its goal afterwards.
        fleet: (A,) which fleet each belongs to.
        settings: shaping and sharing.
        worth: reward table, the paper's when None.

    Returns:
        (A,) rewards.
    """
    worth = worth or Rewards()
    own = np.where(at_goal, worth.on_goal, np.where(executed == STAY, worth.stay_off_goal, worth.move))
    own = np.where(wishes != executed, worth.collision, own) + settings.progress * gained
    mean = np.bincount(fleet, own) / np.bincount(fleet)
    rewards: NDArray[np.float32] = ((1 - settings.shared) * own + settings.shared * mean[fleet]).astype(np.float32)
    return rewards


def advantages(rewards: Tensor, values: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantage estimate of rewards (T, A) and values (T + 1, A) without episode ends inside."""
    estimate = torch.zeros_like(values[0])
    out = torch.empty_like(rewards)
    for step in range(len(rewards) - 1, -1, -1):
        surprise = rewards[step] + discount * values[step + 1] - values[step]
        estimate = surprise + discount * trace * estimate
        out[step] = estimate
    return out


class Reinforcer:
    """Takes the place of `Trainer.update`.

    Args:
        trainer: network, worlds and optimiser.
        settings: of the update.
    """

    def __init__(self, trainer: Trainer, settings: PpoConfig | None = None) -> None:
        self.trainer = trainer
        self.settings = settings or PpoConfig()
        if self.settings.steps % trainer.window:
            raise ValueError(f'steps must be a multiple of the window {trainer.window}, got {self.settings.steps}')
        trainer.drivers = {ONE_WINNER: 1.0}
        trainer.begin_dagger()

    @torch.no_grad()
    def collect(self, lane: Lane) -> Rollout:
        """Play `steps` steps."""
        trainer, state = self.trainer, lane.worlds.state
        if lane.message is None:
            lane.message = trainer.network.empty_message(*lane.fleet.shape)
        parts: dict[str, list[Tensor]] = {
            name: [] for name in ('states', 'waited', 'messages', 'wishes', 'labels', 'log_probs', 'values', 'rewards')
        }
        for step in range(self.settings.steps):
            packed, waited = lane.pack()
            if step % trainer.window == 0:
                parts['messages'].append(lane.message)
            output = decide(trainer.network, lane, packed, waited, lane.message)
            log_probs = output.log_probs.flatten(0, 1)
            noisy = log_probs + gumbel_like(log_probs)  # always drawn: the wishes must follow the policy
            wishes = noisy.argmax(1)
            gained = lane.worlds.steps_gained()
            parts['labels'].append(torch.from_numpy(lane.worlds.label().copy()))
            executed = lane.worlds.step(noisy.cpu().numpy())
            rewards = step_rewards(
                wishes.cpu().numpy(),
                executed,
                gained[np.arange(len(executed)), executed],
                state.cells == state.goals,
                lane.worlds.fleet,
                self.settings,
            )
            parts['states'].append(packed)
            parts['waited'].append(waited)
            parts['wishes'].append(wishes)
            parts['log_probs'].append(log_probs.gather(1, wishes[:, None])[:, 0])
            parts['values'].append(output.values[..., 0].flatten().float())
            parts['rewards'].append(torch.from_numpy(rewards).to(lane.device))
            lane.message = output.message
        last = decide(trainer.network, lane, *lane.pack(), lane.message).values[..., 0].flatten().float()
        solved = torch.from_numpy((state.arrived == state.size)[lane.worlds.fleet]).to(lane.device)
        parts['values'].append(last.masked_fill(solved, 0.0))
        trainer.robot_steps += self.settings.steps * lane.worlds.robots
        return Rollout(
            states=parts['states'],
            waited=parts['waited'],
            messages=parts['messages'],
            wishes=torch.stack(parts['wishes']),
            labels=torch.stack(parts['labels']).to(lane.device),
            log_probs=torch.stack(parts['log_probs']),
            values=torch.stack(parts['values']),
            rewards=torch.stack(parts['rewards']),
        )

    def replay(self, lane: Lane, rollout: Rollout, window: int) -> tuple[Tensor, Tensor]:
        """Decide again in one window, gradients through its messages: (W, A, 5) log-probabilities, (W, A) values."""
        length = self.trainer.window
        message = rollout.messages[window]
        log_probs, values = [], []
        for step in range(window * length, (window + 1) * length):
            output = decide(self.trainer.network, lane, rollout.states[step], rollout.waited[step], message)
            message = output.message
            log_probs.append(output.log_probs.flatten(0, 1))
            values.append(output.values[..., 0].flatten().float())
        return torch.stack(log_probs), torch.stack(values)

    def loss(self, lane: Lane, rollout: Rollout, gains: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of one window, its importance ratios (W, A), and agreement with the expert."""
        settings, length = self.settings, self.trainer.window
        part = slice(window * length, (window + 1) * length)
        log_probs, values = self.replay(lane, rollout, window)
        chosen = log_probs.gather(2, rollout.wishes[part][..., None])[..., 0]
        ratio = (chosen - rollout.log_probs[part]).exp()
        gain = gains[part]
        scaled = (gain - gains.mean()) / (gains.std() + 1e-6)
        clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
        policy = -torch.minimum(ratio * scaled, clipped * scaled).mean()
        before = rollout.values[:-1][part]
        wanted = gain + before
        near = before + (values - before).clamp(-settings.clip, settings.clip)
        value = 0.5 * torch.maximum((values - wanted).square(), (near - wanted).square()).mean()
        entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
        labels = rollout.labels[part]
        imitation = -log_probs.gather(2, labels[..., None]).mean()
        total = (
            policy
            + settings.value_weight * value
            - settings.entropy_weight * entropy
            + settings.imitation_weight * imitation
        )
        return total, ratio, (log_probs.argmax(2) == labels).float().mean()

    def update(self, rate: float) -> tuple[float, float]:
        """One rollout of every lane and its optimiser steps; returns mean loss and agreement with the expert."""
        settings, trainer = self.settings, self.trainer
        losses, hits = [], []
        rollouts = [self.collect(lane) for lane in trainer.lanes]
        for _ in range(settings.epochs):
            for lane, rollout in zip(trainer.lanes, rollouts, strict=True):
                gains = advantages(rollout.rewards, rollout.values, settings.discount, settings.trace)
                for window in trainer.rng.permutation(settings.steps // trainer.window):
                    loss, _, agreement = self.loss(lane, rollout, gains, int(window))
                    trainer.descend(loss, rate)
                    losses.append(loss.detach())
                    hits.append(agreement)
        for lane in trainer.lanes:
            trainer.renew(lane)
        return float(torch.stack(losses).mean()), float(torch.stack(hits).mean())
