"""The training loop of the SPARC network: imitation of the expert on states that the expert or the policy gets into."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.data import FleetWorlds, TeamMix
from attn_robotics.systems.sparc.fleet_rules import EXPERT, ONE_WINNER, SHIELD, SHIELD_SWAP
from attn_robotics.systems.sparc.lanes import Lane, Window
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.validation import RULE_NAMES
from attn_robotics.training.distributed import Group
from attn_robotics.training.graphs import Replayed

# How often a new episode is driven by each rule once the policy drives (DAgger).
DRIVERS = {EXPERT: 0.1, SHIELD: 0.35, ONE_WINNER: 0.45, SHIELD_SWAP: 0.1}
EPISODE_STEPS = 256
# Part of the rows that teams of 32 robots on structured maps have; few rows have none.
STRUCTURED = {'lanes': 0.03, 'corridor': 0.02, 'warehouse': 0.03}
STUCK_STEPS = 24  # a fleet that nobody moved in for so long is renewed: its state has been labelled often enough


def team_mix(rows: int) -> tuple[TeamMix, ...]:
    """The training distribution in `rows` rows of 128 slots: about half of the robots in teams of 128."""
    shares = {64: 0.17, 32: 0.1, 16: 0.08, 8: 0.08}
    counts = {robots: max(1, round(rows * share)) for robots, share in shares.items()}
    structured = {family: round(rows * share) for family, share in STRUCTURED.items()}
    dense = max(1, rows - sum(counts.values()) - sum(structured.values()))
    hard = max(1, dense * 2 // 3)
    crowded = hard // 3
    mix = [TeamMix(128, hard - crowded, (36, 40), (0.24, 0.34))]
    if crowded:  # as dense as 256 robots on 40 x 40
        mix.append(TeamMix(128, crowded, (28, 35), (0.2, 0.32)))
    if dense > hard:
        mix.append(TeamMix(128, dense - hard, (26, 40), (0.0, 0.3)))
    sides = {64: (20, 40), 32: (14, 40), 16: (10, 40), 8: (8, 40)}
    mix += [TeamMix(robots, count, sides[robots], (0.0, 0.35)) for robots, count in counts.items()]
    mix += [TeamMix(32, count, (15, 40), family=family) for family, count in structured.items() if count]
    return tuple(mix)


class Trainer:
    """Network, worlds and optimiser, and one update after the other.

    Args:
        config: network.
        rows: rows of 128 robots per lane.
        window: steps between updates, through which gradients flow.
        seed: of everything.
        device: torch device.
        threads: CPU threads for worlds and expert.
        peak_rate: highest learning rate.
        lanes: sets of worlds that are played at the same time, so that CPU and GPU both have work.
        group: processes that train together; this one alone when None.
    """

    def __init__(
        self,
        config: SparcConfig,
        *,
        rows: int,
        window: int,
        seed: int,
        device: torch.device,
        threads: int,
        peak_rate: float,
        lanes: int = 2,
        group: Group | None = None,
    ) -> None:
        if config.recurrent:
            raise ValueError('training keeps no LSTM state yet; set recurrent to False')
        torch.manual_seed(seed)
        self.group = group
        self.processes = group.size if group else 1
        self.network = SparcNetwork(config).to(device)
        if group:
            group.copy_from_first(self.network)
            seed += 1_000_003 * group.rank
        on_gpu = device.type == 'cuda'
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=torch.tensor(peak_rate, device=device) if on_gpu else peak_rate,  # a captured graph reads it anew
            betas=(0.9, 0.98),
            eps=1e-8,
            weight_decay=1e-4,
            fused=on_gpu,
            capturable=on_gpu,
        )
        self.seed = seed
        self.window = window
        self.peak_rate = peak_rate
        self.device = device
        self.rng = np.random.default_rng(seed)
        self.lanes = [
            Lane(FleetWorlds(team_mix(rows), seed=seed + lane, threads=threads, history=config.history), device)
            for lane in range(lanes)
        ]
        self.step = 0
        self.robot_steps = 0
        self.dagger = False
        self.drivers = DRIVERS
        self.solved: dict[str, list[float]] = defaultdict(list)
        # Everything of one training happens on one stream, so that several trainings can share a GPU.
        self._stream = torch.cuda.Stream(device) if on_gpu else None
        self._pool = ThreadPoolExecutor(lanes)
        self._shared = group.share_gradients(self.network.parameters()) if group and self.processes > 1 else None
        self._apply = Replayed(self._apply_once, device)
        self._learn = self.learner(self._backward)
        self._figures = torch.zeros(3, device=device)
        for lane in self.lanes:
            # Episodes in different phases from the first update on.
            lane.worlds.state.steps[:] = self.rng.integers(0, 128, len(lane.worlds.state.steps))
        self.windows = [Window(self.network, lane, window, seed + index) for index, lane in enumerate(self.lanes)]
        if on_gpu:
            torch.cuda.synchronize(device)  # what was made on the default stream is used on another

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Work on this training's stream inside."""
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            yield

    def _play(self, window: Window) -> None:
        with self.on_stream():
            window.play()

    def learner(self, backward: Callable[[], None]) -> Callable[[], None]:
        """One optimiser step on the gradients of `backward`, whose tensors stay where they are.

        A captured graph; with several processes two of them, round the exchange of gradients.
        """

        def whole() -> None:
            self.optimiser.zero_grad(set_to_none=True)
            backward()
            self._apply_once()

        if self._shared is None:
            return Replayed(whole, self.device)
        shared, group = self._shared, self.group
        assert group is not None

        def begin() -> None:
            shared.zero_()
            backward()

        first = Replayed(begin, self.device)

        def parts() -> None:
            first()
            group.average(shared)
            self._apply()

        return parts

    def _backward(self) -> None:
        # One block of mixed precision: weights are cast once a window, not once a step.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == 'cuda'):
            figures = torch.stack([torch.stack(window.replay()) for window in self.windows]).mean(0)
        (figures[0] + figures[2]).backward()
        self._figures.copy_(figures.detach())

    def _apply_once(self) -> None:
        """Clip gradients, those of the values apart, which can be much larger, and step."""
        values = list(self.network.value.parameters())
        others = [p for name, p in self.network.named_parameters() if not name.startswith('value.')]
        for parameters in (values, others):
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimiser.step()

    def renew(self, lane: Lane, solved: NDArray[np.bool_] | None = None) -> None:
        """Book the fleets whose episodes are over, and give them new problems; solved: (F,), read off when None."""
        state = lane.worlds.state
        done = state.arrived == state.size if solved is None else solved
        over = np.flatnonzero(done | (state.steps >= EPISODE_STEPS) | (state.idle >= STUCK_STEPS))
        if len(over):
            for fleet in over:
                self.solved[f'{RULE_NAMES[int(state.rule[fleet])]}/{state.size[fleet]}'].append(float(done[fleet]))
            self._assign(lane, over)
            lane.worlds.renew(over)
            lane.refresh(over)

    def _assign(self, lane: Lane, fleets: NDArray[np.int64]) -> None:
        rules, shares = list(self.drivers), list(self.drivers.values())
        drawn = self.rng.choice(rules, p=shares, size=len(fleets)) if self.dagger else EXPERT
        lane.worlds.state.rule[fleets] = drawn
        # The shield is mostly used with the policy's own order, the bare rule always draws.
        cool = (lane.worlds.state.rule != ONE_WINNER) & (np.arange(len(lane.worlds.state.rule)) % 2 == 0)
        heat = np.where(cool, 0.1, 1.0).astype(np.float32)
        lane.temperature.copy_(torch.from_numpy(heat[lane.worlds.fleet][:, None]))

    def begin_dagger(self) -> None:
        """Let the policy drive from now on."""
        self.dagger = True
        with self.on_stream():
            for lane in self.lanes:
                self._assign(lane, np.arange(len(lane.worlds.state.rule)))

    def update(self, rate: float) -> tuple[float, float]:
        """One window of steps and one optimiser step; returns loss and agreement with the expert."""
        # Nothing else may use the stream while graphs are captured.
        alone = len(self.windows) == 1 or not all(window.is_settled for window in self.windows)
        if alone:
            for window in self.windows:
                self._play(window)
        else:
            list(self._pool.map(self._play, self.windows))
        with self.on_stream():
            self.set_rate(rate)
            self._learn()
            for window in self.windows:
                self.robot_steps += self.processes * self.window * window.lane.worlds.robots
                self.renew(window.lane, window.solved)
            loss, agreement, _ = self._figures.tolist()
        self.step += 1
        return loss, agreement

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()
        for lane in self.lanes:
            lane.worlds.close()

    def set_rate(self, rate: float) -> None:
        """Learning rate from now on; call it on the training's stream."""
        for group in self.optimiser.param_groups:
            if isinstance(group['lr'], Tensor):
                group['lr'].fill_(rate)
            else:
                group['lr'] = rate

    def keep(self) -> dict[str, Tensor]:
        """Worlds under way, so that a resumed training goes on exactly from here."""
        return {f'{lane}.{name}': x for lane, window in enumerate(self.windows) for name, x in window.keep().items()}

    def restore(self, kept: dict[str, Tensor]) -> None:
        """Go on with the worlds of `keep`; raises ValueError when they do not fit."""
        with self.on_stream():
            for lane, window in enumerate(self.windows):
                part = {name.split('.', 1)[1]: x for name, x in kept.items() if name.startswith(f'{lane}.')}
                if not part:
                    raise ValueError('the kept worlds have fewer lanes')
                window.restore(part)

    def generators(self) -> dict[str, np.random.Generator]:
        """Random states outside of torch, by name."""
        return {'trainer': self.rng} | {f'worlds.{i}': lane.worlds.rng for i, lane in enumerate(self.lanes)}
