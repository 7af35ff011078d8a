"""Train a motion network on shifts of the motor model: `python -m attn_robotics.systems.gaze.train --help`.

A run goes on where it stopped: state is saved after every epoch, in safetensors, and an epoch depends only on the seed
and its number.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from attn_robotics.systems.gaze.learned import save_model
from attn_robotics.systems.gaze.networks import MotionConfig, MotionNetwork
from attn_robotics.systems.gaze.style import Style
from attn_robotics.systems.gaze.teacher import Conditions, chunks, play, style_features


def make_data(sequences: int, seed: int, chunk: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Chunks of `sequences` random shifts by random people: conditions and increments, float32 on `device`."""
    inputs, outputs = [], []
    for start in range(0, sequences, 5000):
        rng = np.random.default_rng([seed, start])
        n = min(5000, sequences - start)
        style, conditions = Style.draw(rng, n), Conditions.draw(rng, n)
        given, wanted = chunks(play(conditions, style, rng), conditions.target, style_features(style, n), chunk)
        inputs.append(torch.from_numpy(given))
        outputs.append(torch.from_numpy(wanted))
    return torch.cat(inputs).to(device), torch.cat(outputs).to(device)


def rate_factor(progress: float) -> float:
    """Learning rate relative to its peak: rises over the first 5 % of a training, then falls as a cosine."""
    return max(min(progress / 0.05, 0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0))), 1e-3)


class Run:
    """One network in training.

    Args:
        config: network.
        data: conditions and increments of `make_data`.
        batch: chunks a step.
        seed: of the weights.
    """

    def __init__(self, config: MotionConfig, data: tuple[Tensor, Tensor], *, batch: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.config, self.batch = config, batch
        self.condition, self.wanted = data
        device = self.condition.device
        self.model = MotionNetwork(config).to(device)
        on_gpu = device.type == 'cuda'
        # On a GPU rate and step count live there, so that a captured step can follow them.
        self.rate = torch.zeros((), device=device)
        rate = self.rate if on_gpu else 0.0
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=rate, capturable=on_gpu, fused=on_gpu)
        self.sums: dict[str, Tensor] = {}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None

    def set_rate(self, rate: float) -> None:
        """Learning rate of the next steps."""
        self.rate.fill_(rate)
        if not self.condition.is_cuda:
            for group in self.optimizer.param_groups:
                group['lr'] = rate

    def step(self, rows: Tensor) -> None:
        """One update on these chunks; adds the loss's parts to `sums`."""
        loss, parts = self.model.loss(self.condition[rows], self.wanted[rows])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        for name, value in parts.items():
            if name in self.sums:
                self.sums[name].add_(value)
            else:
                self.sums[name] = value.clone()

    def random_step(self) -> None:
        """One update on random chunks: queued on a stream of its own, as one CUDA graph, where there is a GPU."""
        if self._graph is not None:
            with torch.cuda.stream(self._stream):
                self._graph.replay()
        else:
            self.step(torch.randint(self.condition.shape[0], (self.batch,), device=self.condition.device))

    def capture(self) -> None:
        """Record `random_step` as a CUDA graph, after a few steps that warm up."""
        self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(3):
                self.random_step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, stream=self._stream):
            self.random_step()
        self._graph = graph


def _save_state(path: Path, model: MotionNetwork, optimizer: torch.optim.Adam, epoch: int, command: str) -> None:
    state = {f'model.{name}': value.contiguous() for name, value in model.state_dict().items()}
    for i, entry in optimizer.state_dict()['state'].items():
        state |= {f'optimizer.{i}.{name}': value for name, value in entry.items()}
    part = path.with_suffix('.part')
    save_file(state, part, metadata={'epoch': str(epoch), 'settings': command})
    part.replace(path)


def _load_state(path: Path, model: MotionNetwork, optimizer: torch.optim.Adam, settings: str) -> int:
    """Restore a run; returns the next epoch. Refuses a state of other settings."""
    from safetensors import safe_open

    with safe_open(path, 'pt') as file:
        meta = file.metadata()
    if meta['settings'] != settings:
        raise ValueError(f'{path} belongs to other settings; use another --out or remove it')
    state = load_file(path)
    model.load_state_dict({k.removeprefix('model.'): v for k, v in state.items() if k.startswith('model.')})
    packed = optimizer.state_dict()
    packed['state'] = {}
    for name, value in state.items():
        if name.startswith('optimizer.'):
            _, index, key = name.split('.')
            packed['state'].setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(packed)
    return int(meta['epoch'])


def train(
    config: MotionConfig,
    out: Path,
    *,
    sequences: int,
    epochs: int,
    batch: int,
    rate: float,
    seed: int,
    device: torch.device,
    time_limit: float = float('inf'),
    show: bool = True,
) -> dict[str, float]:
    """Train and save weights with a card to `out` (.safetensors and .json); returns the last epoch's facts.

    Args:
        config: network.
        out: path of the weights; `<out>.state` beside it makes the run resumable.
        sequences: number of teacher shifts.
        epochs: passes over them.
        batch: chunks a step.
        rate: peak learning rate; rises over 5 % of the steps, then falls as a cosine.
        seed: of data, weights and order.
        device: where.
        time_limit: shorten the schedule to this many seconds (the result then depends on the machine's speed).
        show: progress bar.
    """
    run = Run(config, make_data(sequences, seed, config.chunk, device), batch=batch, seed=seed)
    model, optimizer, condition = run.model, run.optimizer, run.condition
    settings = json.dumps([asdict(config), sequences, epochs, batch, rate, seed])
    state_path = out.with_suffix('.state')
    first = _load_state(state_path, model, optimizer, settings) if state_path.is_file() else 0
    per_epoch = max(1, condition.shape[0] // batch)
    total = epochs * per_epoch
    facts: dict[str, float] = {}
    begun = time.perf_counter()
    bar = tqdm(range(first, epochs), initial=first, total=epochs, disable=not show, desc=config.kind)
    for epoch in bar:
        torch.manual_seed(seed * 100003 + epoch)
        order = torch.randperm(condition.shape[0], device=device)
        run.sums.clear()
        for k in range(per_epoch):
            progress = max((epoch * per_epoch + k) / total, (time.perf_counter() - begun) / time_limit)
            run.set_rate(rate * rate_factor(progress))
            run.step(order[k * batch : (k + 1) * batch])
        facts = {name: float(value) / per_epoch for name, value in run.sums.items()}
        bar.set_postfix(facts)
        _save_state(state_path, model, optimizer, epoch + 1, settings)
        if time.perf_counter() - begun > time_limit:
            break
    save_model(out, model.state_dict(), asdict(config), {'sequences': sequences, 'seed': seed, **facts})
    return facts


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='weights to write, ending in .safetensors')
    parser.add_argument('--sequences', type=int, default=6000, help='teacher shifts')
    parser.add_argument('--epochs', type=int, default=40)
    parser.add_argument('--batch', type=int, default=512)
    parser.add_argument('--rate', type=float, default=2e-3, help='peak learning rate')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument(
        '--time-limit', type=float, default=float('inf'), help='shorten the schedule to this many seconds'
    )
    defaults = MotionConfig()
    for item in fields(MotionConfig):
        value = getattr(defaults, item.name)
        parser.add_argument(f'--{item.name.replace("_", "-")}', type=type(value), default=value)
    args = parser.parse_args(argv)
    if args.out.suffix != '.safetensors':
        parser.error('--out must end in .safetensors')
    config = MotionConfig(**{item.name: getattr(args, item.name) for item in fields(MotionConfig)})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        facts = train(
            config,
            args.out,
            sequences=args.sequences,
            epochs=args.epochs,
            batch=args.batch,
            rate=args.rate,
            seed=args.seed,
            device=torch.device(args.device),
            time_limit=args.time_limit,
        )
    except KeyboardInterrupt:
        raise SystemExit('stopped; the same command goes on from the last finished epoch') from None
    print(json.dumps(facts))


if __name__ == '__main__':
    main()
