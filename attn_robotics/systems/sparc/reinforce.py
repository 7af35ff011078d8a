"""MAPPO for the SPARC network: proximal policy optimisation of all robots with shared weights.

Recipe: SPARC (arXiv 2603.02845) with SCRIMP's auxiliary losses (arXiv 2303.00605). Rollouts keep what each decision
saw, the messages at the start of every window included, so that the update recomputes exactly the same
log-probabilities: importance ratios are 1 before the first optimiser step.

A robot's action is what it drew until a draw was executed: losers of a conflict draw again from their own policy, with
and without the shield, so the probability of an action is the product over those draws. What the rule makes of them
belongs to the environment. Episodes end between rollouts only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from attn_robotics.systems.sparc.actions import STAY
from attn_robotics.systems.sparc.fleet_rules import ONE_WINNER, SHIELD, find_blockers
from attn_robotics.systems.sparc.gridworld import Rewards
from attn_robotics.systems.sparc.lanes import DISCOUNT, Lane, Window, decide
from attn_robotics.systems.sparc.model import FORBIDDEN
from attn_robotics.training.graphs import Replayed

if TYPE_CHECKING:
    from attn_robotics.systems.sparc.imitation import Trainer


@dataclass(frozen=True)
class PpoConfig:
    """Settings of the update; the paper's unless said otherwise."""

    steps: int = 16  # rollout length, paper 256; a multiple of the trainer's window
    epochs: int = 2  # paper 4; the warm start needs no more
    clip: float = 0.2
    value_clip: float = 2.0  # in units of the return; paper 0.2 with smaller returns
    discount: float = DISCOUNT  # paper 0.99, SCRIMP 0.95
    trace: float = 0.95  # lambda of the advantage estimate
    value_weight: float = 0.5
    entropy_weight: float = 0.005  # paper 0.01
    valid_weight: float = 0.05  # SCRIMP 0.5: which moves are feasible, from the logits
    blocking_weight: float = 0.1  # SCRIMP 0.5
    imitation_weight: float = 0.1  # keeps the policy near the expert; 0 in the paper
    progress: float = 0.1  # reward per step gained towards the goal (published README)
    # A draw that lost costs no more than any other step: robots that never dare to enter contested cells block others.
    collision: float = -0.3  # paper -2
    shared: float = 0.5  # part of the reward that is the mean over the robots near by; 0 in the paper
    shared_radius: int = 5  # cells, Manhattan


class Batch(NamedTuple):
    """One window of W steps of one lane with A robots in rows of slots, to learn from."""

    states: Tensor  # (W, rows, slots, 4 + h) packed
    waited: Tensor  # (W, rows, slots) priorities
    start: Tensor  # (rows, slots, width) messages before the first decision
    order: Tensor  # (W, A, 5) actions as drawn
    taken: Tensor  # (W, A) how many of them were drawn until one was executed, less 1
    labels: Tensor  # (W, A) what the expert would have done
    blocking: Tensor  # (W, A) 1 blocks, 0 does not, -1 nobody looked
    log_probs: Tensor  # (W, A) of the draws
    values: Tensor  # (W, A) expected returns
    returns: Tensor  # (W, A) what the values should have been
    gains: Tensor  # (W, A) advantages over all robots, mean 0 and deviation 1


@dataclass
class Rollout:
    """What T steps of one lane saw and did, as in `Batch`."""

    states: Tensor
    waited: Tensor
    messages: Tensor  # (T / W, rows, slots, width) at the start of each window
    order: Tensor
    taken: Tensor
    labels: Tensor
    blocking: Tensor
    log_probs: Tensor
    values: Tensor  # (T + 1, A)
    rewards: Tensor  # (T, A)


def step_rewards(
    executed: NDArray[np.integer],
    refused: NDArray[np.bool_],
    gained: NDArray[np.floating],
    at_goal: NDArray[np.bool_],
    settings: PpoConfig,
) -> NDArray[np.float32]:
    """Reward of one step, blocking left out as SCRIMP does for large teams.

    Args:
        executed: (A,) actions.
        refused: (A,) whose first draw lost.
        gained: (A,) steps gained towards the goal.
        at_goal: (A,) whether each stands on its goal afterwards.
        settings: shaping.

    Returns:
        (A,) rewards.
    """
    worth = Rewards(collision=settings.collision)
    own = np.where(at_goal, worth.on_goal, np.where(executed == STAY, worth.stay_off_goal, worth.move))
    own = np.where(refused & ~at_goal, worth.collision, own) + settings.progress * gained
    rewards: NDArray[np.float32] = own.astype(np.float32)
    return rewards


def share_rewards(rewards: Tensor, cells: Tensor, fleet: Tensor, part: float, radius: int) -> Tensor:
    """Blend rewards (B, S) with their mean over robots of the same fleet (B, S) within `radius` cells (B, S, 2)."""
    apart = (cells[:, None] - cells[:, :, None]).abs().sum(-1)
    near = ((apart <= radius) & (fleet[:, None] == fleet[:, :, None])).float()
    mean = torch.einsum('bqk,bk->bq', near, rewards) / near.sum(-1)
    return (1 - part) * rewards + part * mean


def advantages(rewards: Tensor, values: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantage estimate of rewards (T, A) and values (T + 1, A) without episode ends inside."""
    estimate = torch.zeros_like(values[0])
    out = torch.empty_like(rewards)
    for step in range(len(rewards) - 1, -1, -1):
        surprise = rewards[step] + discount * values[step + 1] - values[step]
        estimate = surprise + discount * trace * estimate
        out[step] = estimate
    return out


def draw_log_probs(log_probs: Tensor, order: Tensor, taken: Tensor) -> Tensor:
    """Log-probability of drawing, without replacement, the first `taken` + 1 actions of an order.

    Args:
        log_probs: (..., 5) of the policy.
        order: (..., 5) actions as drawn.
        taken: (...) index of the last draw that was needed.

    Returns:
        (...) log-probabilities.
    """
    ranked = log_probs.gather(-1, order)
    left = ranked.flip(-1).logcumsumexp(-1).flip(-1)  # of what was still to be drawn
    counted = torch.arange(ranked.shape[-1], device=ranked.device) <= taken[..., None]
    return (ranked - left).masked_fill(~counted, 0.0).sum(-1)


class _Player:
    """Static tensors of one lane's decisions and updates, and the graphs that work on them."""

    def __init__(self, learner: Reinforcer, played: Window) -> None:
        trainer, lane = learner.trainer, played.lane
        state, waited = lane.pack()
        window, robots = trainer.window, lane.worlds.robots
        self.lane, self.learner = lane, learner
        self.state, self.waited = state, waited
        self.message, self.generator = played.message, played.generator
        self.uniform = torch.empty(robots, 5, device=lane.device)
        self.noisy, self.log_probs = torch.empty_like(self.uniform), torch.empty_like(self.uniform)
        self.value = torch.empty(robots, device=lane.device)

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(window, *shape, dtype=dtype, device=lane.device)

        self.batch = Batch(
            states=empty(*state.shape, dtype=state.dtype),
            waited=empty(*waited.shape),
            start=torch.zeros_like(self.message),
            order=empty(robots, 5, dtype=torch.int64),
            taken=empty(robots, dtype=torch.int64),
            labels=empty(robots, dtype=torch.int64),
            blocking=empty(robots),
            log_probs=empty(robots),
            values=empty(robots),
            returns=empty(robots),
            gains=empty(robots),
        )
        self.figures = torch.zeros(2, device=lane.device)
        self.decide = Replayed(self._decide, lane.device)
        self.learn = trainer.learner(self._backward)

    @torch.no_grad()
    def _decide(self) -> None:
        output = decide(self.learner.trainer.network, self.lane, self.state, self.waited, self.message)
        self.log_probs.copy_(output.log_probs.flatten(0, 1))
        noise = -torch.log(-torch.log(self.uniform.clamp(1e-10, 1 - 1e-7)))
        self.noisy.copy_(self.log_probs + noise)  # always drawn: the actions must follow the policy
        self.value.copy_(output.values[..., 0].flatten())
        self.message.copy_(output.message)

    def _backward(self) -> None:
        with torch.autocast(self.lane.device.type, torch.bfloat16, enabled=self.lane.device.type == 'cuda'):
            loss, _, agreement = self.learner.loss(self.lane, self.batch)
        loss.backward()
        self.figures.copy_(torch.stack([loss.detach(), agreement]))


class Reinforcer:
    """Takes the place of `Trainer.update`.

    Args:
        trainer: network, worlds and optimiser.
        settings: of the update.
        begin: give every fleet a rule to play by; off to go on with the worlds of a checkpoint.
    """

    def __init__(self, trainer: Trainer, settings: PpoConfig | None = None, *, begin: bool = True) -> None:
        self.trainer = trainer
        self.settings = settings or PpoConfig()
        if self.settings.steps % trainer.window:
            raise ValueError(f'steps must be a multiple of the window {trainer.window}, got {self.settings.steps}')
        trainer.drivers = {ONE_WINNER: 0.5, SHIELD: 0.5}
        if begin:
            trainer.begin_dagger()
        with trainer.on_stream():
            self.players = [_Player(self, window) for window in trainer.windows]

    @torch.no_grad()
    def collect(self, player: _Player) -> Rollout:
        """Play `steps` steps of one lane."""
        settings, lane, window = self.settings, player.lane, self.trainer.window
        worlds, state = lane.worlds, lane.worlds.state
        parts: dict[str, list[Tensor]] = {name: [] for name in Rollout.__dataclass_fields__}
        for step in range(settings.steps):
            packed, waited = lane.pack()
            player.state.copy_(packed)
            player.waited.copy_(waited)
            if step % window == 0:
                parts['messages'].append(player.message.clone())
            player.uniform.uniform_(generator=player.generator)
            player.decide()
            gained = worlds.steps_gained()
            labels = worlds.label().copy()
            blocking = find_blockers(worlds.state, worlds.canvas)
            order = player.noisy.argsort(1, descending=True)
            executed = worlds.step(player.noisy.cpu().numpy())
            chosen = torch.from_numpy(executed).to(lane.device)
            first = order[:, 0].cpu().numpy()
            own = step_rewards(
                executed,
                first != executed,
                gained[np.arange(len(executed)), executed],
                state.cells == state.goals,
                settings,
            )
            rewards = torch.from_numpy(own).to(lane.device).view_as(lane.fleet)
            rewards = share_rewards(rewards, packed[..., :2], lane.fleet, settings.shared, settings.shared_radius)
            taken = (order == chosen[:, None]).int().argmax(1)
            parts['states'].append(packed)
            parts['waited'].append(waited)
            parts['order'].append(order)
            parts['taken'].append(taken)
            parts['labels'].append(torch.from_numpy(labels).to(lane.device))
            parts['blocking'].append(torch.from_numpy(blocking).to(lane.device))
            parts['log_probs'].append(draw_log_probs(player.log_probs, order, taken))
            parts['values'].append(player.value.clone())
            parts['rewards'].append(rewards.flatten())
        last = decide(self.trainer.network, lane, *lane.pack(), player.message).values[..., 0].flatten().float()
        parts['values'].append(last)
        self.trainer.robot_steps += self.trainer.processes * settings.steps * worlds.robots
        return Rollout(**{name: torch.stack(tensors) for name, tensors in parts.items()})

    def cut(self, rollout: Rollout, gains: Tensor, returns: Tensor, window: int) -> Batch:
        """One window of a rollout with its advantages and returns (T, A)."""
        part = slice(window * self.trainer.window, (window + 1) * self.trainer.window)
        names = ('states', 'waited', 'order', 'taken', 'labels', 'blocking', 'log_probs', 'values')
        kept = {name: getattr(rollout, name)[part] for name in names}
        return Batch(start=rollout.messages[window], gains=gains[part], returns=returns[part], **kept)

    def loss(self, lane: Lane, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Decide again, gradients through the messages: loss, importance ratios (W, A), agreement with the expert."""
        settings, network = self.settings, self.trainer.network
        message = batch.start
        parts: dict[str, list[Tensor]] = {'log_probs': [], 'logits': [], 'values': [], 'blocking': []}
        for state, waited in zip(batch.states, batch.waited, strict=True):
            output = decide(network, lane, state, waited, message)
            assert output.logits is not None
            assert output.features is not None
            message = output.message
            parts['log_probs'].append(output.log_probs.flatten(0, 1))
            parts['logits'].append(output.logits.flatten(0, 1))
            # The value learns from the features without changing them, as during imitation.
            parts['values'].append(network.judge(output.features.detach())[..., 0].flatten().float())
            parts['blocking'].append(output.blocking.flatten().float())
        log_probs, logits, values, blocking = (torch.stack(tensors) for tensors in parts.values())
        ratio = (draw_log_probs(log_probs, batch.order, batch.taken) - batch.log_probs).exp()
        clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
        policy = -torch.minimum(ratio * batch.gains, clipped * batch.gains).mean()
        near = batch.values + (values - batch.values).clamp(-settings.value_clip, settings.value_clip)
        value = 0.5 * torch.maximum((values - batch.returns).square(), (near - batch.returns).square()).mean()
        entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
        imitation = -log_probs.gather(2, batch.labels[..., None]).mean()
        feasible = (log_probs > FORBIDDEN / 2).float()
        # A first draw that lost was not feasible either.
        lost = functional.one_hot(batch.order[..., 0], feasible.shape[-1]) * (batch.taken > 0)[..., None]
        valid = functional.binary_cross_entropy_with_logits(logits, feasible * (1 - lost))
        looked = (batch.blocking >= 0).float()
        blocks = functional.binary_cross_entropy_with_logits(blocking, batch.blocking.clamp(min=0), reduction='none')
        total = (
            policy
            + settings.value_weight * value
            - settings.entropy_weight * entropy
            + settings.imitation_weight * imitation
            + settings.valid_weight * valid
            + settings.blocking_weight * (blocks * looked).sum() / looked.sum().clamp(min=1)
        )
        return total, ratio, (log_probs.argmax(2) == batch.labels).float().mean()

    def update(self, rate: float) -> tuple[float, float]:
        """One rollout of every lane and its optimiser steps; returns mean loss and agreement with the expert."""
        settings, trainer = self.settings, self.trainer
        figures = []
        with trainer.on_stream():
            trainer.set_rate(rate)
            rollouts = [self.collect(player) for player in self.players]
            gains = [advantages(r.rewards, r.values, settings.discount, settings.trace) for r in rollouts]
            whole = torch.stack(gains)
            mean, scale = whole.mean(), whole.std() + 1e-6
            for _ in range(settings.epochs):
                for window in trainer.rng.permutation(settings.steps // trainer.window):
                    for player, rollout, gain in zip(self.players, rollouts, gains, strict=True):
                        batch = self.cut(rollout, (gain - mean) / scale, gain + rollout.values[:-1], int(window))
                        for static, part in zip(player.batch, batch, strict=True):
                            static.copy_(part)
                        player.learn()
                        trainer.step += 1
                        figures.append(player.figures.clone())
            for player in self.players:
                trainer.renew(player.lane)
            loss, agreement = torch.stack(figures).mean(0).tolist()
        return loss, agreement
