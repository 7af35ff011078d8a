"""Codebook size, levels, cumulative loss, temperature and the baselines, all trained alike and side by side.

`python -m attn_robotics.systems.gaze.ablation --seconds 190 --out FOLDER --json ablation.json`

Every network sees the same shifts, takes the same number of equally large steps, and has the same width, so that a row
tells what its own change does. On a GPU each step is one CUDA graph on a stream of its own: networks share the card.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm

from attn_robotics.systems.gaze.fidelity import compare_model
from attn_robotics.systems.gaze.learned import save_model
from attn_robotics.systems.gaze.networks import MotionConfig
from attn_robotics.systems.gaze.results import Row, write_results
from attn_robotics.systems.gaze.train import Run, make_data, rate_factor

# name: what differs from the shipped model, which is 256x2
VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = {
    '256x2': {},
    'mlp': {'kind': 'mlp'},
    'cvae_beta0.02': {'kind': 'cvae', 'beta': 0.02},
    'cvae_beta0.1': {'kind': 'cvae', 'beta': 0.1},
    '256x1': {'levels': 1},
    '16x1': {'levels': 1, 'codes': 16},
    '64x1': {'levels': 1, 'codes': 64},
    '1024x1': {'levels': 1, 'codes': 1024},
    '64x2': {'codes': 64},
    '256x2_no_cumulative': {'cumulative': 0.0},
    '256x1_no_cumulative': {'levels': 1, 'cumulative': 0.0},
}
TEMPERATURES: Final = (0.0, 0.5, 0.7, 1.0, 1.3)
TOLD: Final = {'frechet': '', 'min_ade10': 'deg', 'diversity_ratio': '', 'end_error_p95': 'deg', 'saccade_share': ''}


def train_all(
    configs: Mapping[str, MotionConfig],
    data: tuple[torch.Tensor, torch.Tensor],
    *,
    seconds: float,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    eager: bool = False,
) -> tuple[dict[str, Run], int]:
    """Train every configuration, in step with each other; returns the runs and the steps that each one took.

    The schedule ends after `steps` steps, or after `seconds` if that is earlier; both ends are the same for all.
    """
    runs = {name: Run(config, data, batch=batch, seed=seed) for name, config in configs.items()}
    on_gpu = data[0].is_cuda
    if on_gpu and not eager:
        for run in runs.values():
            run.set_rate(rate * rate_factor(0.0))
            run.capture()
    begun = time.perf_counter()
    done, progress = 0, 0.0
    with tqdm(total=steps, desc='steps of each', mininterval=10.0) as bar:
        while progress < 1.0:
            for run in runs.values():
                run.set_rate(rate * rate_factor(progress))
            # Streams must see the new rate; a short piece at a time also keeps the host from running far ahead.
            _wait(on_gpu)
            piece = min(50, steps - done)
            for _ in range(piece):
                for run in runs.values():
                    run.random_step()
            _wait(on_gpu)
            done += piece
            bar.update(piece)
            progress = max(done / steps, (time.perf_counter() - begun) / seconds)
    return runs, done


def _wait(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()


def evaluate(jobs: list[tuple[str, Path, float, int]], workers: int) -> dict[tuple[str, float], dict[str, float]]:
    """Fidelity of (name, weights, temperature, situations) each, in processes of their own."""
    calls = [(path, warmth, n) for _, path, warmth, n in jobs]
    if workers == 1:
        figures = [compare_model(*call) for call in calls]
    else:
        with multiprocessing.get_context('spawn').Pool(workers) as pool:
            figures = pool.starmap(compare_model, calls, chunksize=1)
    return {(name, warmth): f for (name, _, warmth, _), f in zip(jobs, figures, strict=True)}


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='folder for the weights of every variant')
    parser.add_argument('--json', type=Path, help='write the results here')
    parser.add_argument('--only', nargs='+', choices=VARIANTS, default=list(VARIANTS), help='variants to train')
    parser.add_argument('--sequences', type=int, default=100_000, help='teacher shifts')
    parser.add_argument('--seconds', type=float, default=float('inf'), help='end the schedule after so long at most')
    parser.add_argument('--steps', type=int, default=60_000, help='updates of each network')
    parser.add_argument('--batch', type=int, default=1024)
    parser.add_argument('--rate', type=float, default=2e-3, help='peak learning rate')
    parser.add_argument('--width', type=int, default=512)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='cpu or cuda')
    parser.add_argument('--eager', action='store_true', help='no CUDA graphs: slower, for looking into trouble')
    parser.add_argument('--situations', type=int, default=300, help='held-out, ten draws each; 0: train only')
    parser.add_argument('--workers', type=int, default=min(8, os.cpu_count() or 1), help='processes that evaluate')
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    begun = time.perf_counter()
    data = make_data(args.sequences, args.seed, MotionConfig().chunk, torch.device(args.device))
    print(f'{data[0].shape[0]} chunks after {time.perf_counter() - begun:.0f} s', flush=True)
    configs = {name: MotionConfig(**{'width': args.width, **VARIANTS[name]}) for name in args.only}
    runs, steps = train_all(
        configs,
        data,
        seconds=args.seconds,
        steps=args.steps,
        batch=args.batch,
        rate=args.rate,
        seed=args.seed,
        eager=args.eager,
    )
    for name, run in runs.items():
        # `sums` holds three warm-up steps too, which a mean over tens of thousands does not show.
        facts = {part: float(value) / steps for part, value in run.sums.items()}
        told = {'sequences': args.sequences, 'steps': steps, 'batch': args.batch, 'seed': args.seed, **facts}
        save_model(args.out / f'{name}.safetensors', run.model.state_dict(), asdict(run.config), told)
        print(name, json.dumps(facts), flush=True)
    print(
        f'trained {len(runs)} networks for {steps} steps of {args.batch}: {time.perf_counter() - begun:.0f} s',
        flush=True,
    )
    del runs, data
    if args.situations < 1:
        return
    jobs = [(name, args.out / f'{name}.safetensors', 1.0, args.situations) for name in args.only]
    warm = [name for name in ('256x2', '256x1') if name in args.only]
    jobs += [(n, args.out / f'{n}.safetensors', t, args.situations) for n in warm for t in TEMPERATURES if t != 1.0]
    rows = []
    for (name, warmth), figures in evaluate(jobs, args.workers).items():
        for figure, unit in TOLD.items():
            row = Row(f'ablation_{figure}/{name}/t{warmth:g}', figures[figure], unit, args.situations)
            rows.append(row)
            print(f'{row.name:56}{row.value:11.4g} {row.unit}', flush=True)
    if args.json:
        command = f'ablation: {steps} steps of {args.batch} chunks, {args.sequences} shifts, width {args.width}'
        write_results(args.json, rows, command, [args.seed])


if __name__ == '__main__':
    main()
