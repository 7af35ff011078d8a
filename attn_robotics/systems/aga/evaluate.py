"""Measure AGA: `python -m attn_robotics.systems.aga.evaluate --help`.

Without --runs the weights that ship are measured; with --runs a folder of `train`, and AGA is compared with its
baselines: mean top-5 recall (MT5R) of the last step in kitchens seen in training and in others, over all seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from attn_robotics.systems.aga.config import AgaConfig
from attn_robotics.systems.aga.data import Kitchens, adjacent_pairs, word_groups
from attn_robotics.systems.aga.fresh import Sets
from attn_robotics.systems.aga.model import AgaNetwork
from attn_robotics.systems.aga.pictures import draw_comparison, draw_stream, draw_table
from attn_robotics.systems.aga.processor import mean_top5_recall, read_card, read_network, sum_groups
from attn_robotics.systems.aga.train import (
    TEST,
    TEST_KITCHENS,
    TRAIN_KITCHENS,
    VALIDATION,
    Case,
    build_replicas,
    last_logits,
    recalls,
    worlds_of,
)
from attn_robotics.training import checkpoint
from attn_robotics.training.checkpoint import CheckpointError
from attn_robotics.training.commands import run_evaluation
from attn_robotics.training.replicas import Replicas
from attn_robotics.training.results import Row, over_seeds

PAIRS_TARGET = 80.0  # % of adjacent pairs


@dataclass(frozen=True)
class Scores:
    """Of one variant: MT5R [%], (cases, seeds) each."""

    validation: NDArray[np.float64]
    test: NDArray[np.float64]


def held_out(
    seeds: Sequence[int], cases: Sequence[Case], recipe: Mapping[str, Any], device: torch.device
) -> tuple[Sets, Sets]:
    """Sequences of the training's kitchens, and of unseen ones."""
    worlds = worlds_of(seeds, cases)
    count, steps = recipe['held_out'], recipe['steps']
    return (
        Sets.draw(worlds, count, steps, TRAIN_KITCHENS, VALIDATION).to(device),
        Sets.draw(worlds, count, steps, TEST_KITCHENS, TEST).to(device),
    )


def adjacent_share(network: AgaNetwork) -> float:
    """Forward analysis: in how many adjacent pairs a -> b the attention of query b on a is above b's median [%]."""
    with torch.no_grad():
        table = network.evidence_table().cpu().numpy()
    medians = np.median(table, axis=1)
    return 100.0 * float(np.mean([table[b, a] > medians[b] for a, b in adjacent_pairs()]))


@dataclass(frozen=True)
class Inside:
    """What is seen inside R networks.

    Attributes:
        values: (R, 4) share of adjacent pairs [%]; mean gate at steps that show the same action as the step before,
            a new one, and background (NaN without any).
    """

    values: NDArray[np.float64]

    def rows(self, which: str) -> list[Row]:
        """Rows over seeds; background only where there is some."""
        pairs, same, new, background = self.values.T
        rows = [
            over_seeds(f'evidence_pairs/{which}', list(pairs), '%', target=PAIRS_TARGET),
            over_seeds(f'gate_same_action/{which}', list(same)),
            over_seeds(f'gate_new_action/{which}', list(new)),
            over_seeds(f'gate_difference/{which}', list(new - same)),
        ]
        if np.isfinite(background).all():
            rows.append(over_seeds(f'gate_background/{which}', list(background)))
            rows.append(over_seeds(f'gate_background_difference/{which}', list(background - (same + new) / 2)))
        return rows


def analyse(
    replicas: Replicas, sets: Sets, config: AgaConfig, chosen: Mapping[int, Kitchens], count: int = 500
) -> Inside:
    """Look into replicas, each with the world that `sets` were drawn from; steps of background stand apart."""
    found = []
    for replica, world in chosen.items():
        frames, labels = sets.frames[replica], sets.labels[replica].cpu().numpy()
        network = AgaNetwork(config).eval().to(frames.device)
        network.load_state_dict(replicas.state_of(replica))
        hidden = world.hides(frames.shape[0], frames.shape[1], TEST)[:count, 1:]
        with torch.no_grad():
            gates = network.gates(frames[:count]).cpu().numpy()[:, 1:]
        stays = (labels[:, 1:-1] == labels[:, :-2])[:count]
        parts = (stays & ~hidden, ~stays & ~hidden, hidden)
        means = [float(gates[part].mean()) if part.any() else np.nan for part in parts]
        found.append((adjacent_share(network), *means))
    return Inside(np.array(found))


def compare(runs: Path, device: torch.device, pictures: Path | None) -> tuple[list[Row], Sequence[int]]:
    """Rows of every variant in a folder of `train`, and their relations."""
    folders = sorted(path.parent for path in runs.glob('*/checkpoint.json'))
    if not folders:
        raise CheckpointError(f'no trained variants in {runs}; run attn_robotics.systems.aga.train --out {runs}')
    scores: dict[str, Scores] = {}
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    drawn: dict[str, tuple[Sets, Sets]] = {}  # of runs with the same worlds
    for folder in folders:
        tensors, facts = checkpoint.read_network(folder)
        name, seeds, cases = facts['variant'], facts['seeds'], [tuple(case) for case in facts['cases']]
        config = AgaConfig.from_dict(facts['config'])
        replicas = build_replicas(name, config, seeds, cases).to(device)
        replicas.load_state_dict(tensors)
        worlds = json.dumps([seeds, cases, facts['recipe']['held_out'], facts['recipe']['steps']])
        if worlds not in drawn:
            drawn[worlds] = held_out(seeds, cases, facts['recipe'], device)
        validation, test = drawn[worlds]
        shape = (len(cases), len(seeds))
        scores[name] = Scores(
            np.array(recalls(replicas, validation)).reshape(shape), np.array(recalls(replicas, test)).reshape(shape)
        )
        for index, case in enumerate(cases):
            which = f'{name}/{words(case)}'
            rows.append(over_seeds(f'mt5r_seen/{which}', list(scores[name].validation[index]), '%'))
            rows.append(over_seeds(f'mt5r_unseen/{which}', list(scores[name].test[index]), '%'))
            drop = scores[name].test[index] - scores[name].validation[index]
            rows.append(over_seeds(f'mt5r_drop/{which}', list(drop), '%'))
            if name == 'aga':
                of_case = range(index * len(seeds), (index + 1) * len(seeds))
                known = dict(zip(of_case, worlds_of(seeds, [case]), strict=True))
                rows += analyse(replicas, test, config, known).rows(which)
    cases, seeds = [tuple(case) for case in facts['cases']], facts['seeds']
    for index, case in enumerate(cases):
        rows += relations(scores, index, words(case))
    if pictures is not None:
        for noise in sorted({case[1] for case in cases}):
            chosen = [index for index, case in enumerate(cases) if case[1] == noise and not any(case[2:])]
            chosen.sort(key=lambda index: cases[index][0])
            kinds = {name: (one.validation[chosen].mean(1), one.test[chosen]) for name, one in scores.items()}
            draw_comparison(pictures / f'comparison_{noise:g}.png', [cases[i][0] for i in chosen], kinds)
    return rows, seeds


def words(case: Case) -> str:
    """A case in row names."""
    names = ('shift', 'noise', 'background')
    return ' '.join(f'{name} {value:g}' for name, value in zip(names, case, strict=False))


def relations(scores: Mapping[str, Scores], index: int, case: str) -> list[Row]:
    """What must hold between variants in one case; targets as the task states them, paired by seed."""
    test = {name: found.test[index] for name, found in scores.items()}
    drop = {name: -(found.test[index] - found.validation[index]) for name, found in scores.items()}
    rows = []

    def compare_rows(
        name: str, first: str, second: str, values: Mapping[str, NDArray[np.float64]], **more: Any
    ) -> None:
        if first in values and second in values:
            rows.append(over_seeds(f'relation/{name}/{case}', list(values[first] - values[second]), '%', **more))

    compare_rows('aga minus visual, unseen', 'aga', 'visual', test, target=1.0)
    compare_rows('visual minus frame, unseen', 'visual', 'frame', test, target=-1.0)  # visual + 1 above frame
    compare_rows('aga minus frame, unseen', 'aga', 'frame', test)
    compare_rows('drop of aga minus drop of visual', 'aga', 'visual', drop, target=0.0, below=True)
    compare_rows('true average minus code variant, unseen', 'aga', 'aga_code', test, target=0.0)
    compare_rows('no average minus visual, unseen', 'aga_no_average', 'visual', test, target=0.0)
    compare_rows('aga minus no average, unseen', 'aga', 'aga_no_average', test)
    compare_rows('aga minus gru, unseen', 'aga', 'gru', test)
    compare_rows('aga minus transformer, unseen', 'aga', 'transformer', test)
    return rows


def measure_shipped(device: torch.device, pictures: Path | None) -> tuple[list[Row], Sequence[int]]:
    """Rows of the weights that ship."""
    network = read_network().to(device)
    card = read_card()
    recipe, seed = card['recipe'], int(card['seed'])
    rows = []
    home = tuple(recipe['case'])
    for shift in (0.25, 0.5, 1.0):
        case = (shift, *home[1:])
        validation, test = held_out([seed], [case], recipe, device)
        one = Replicas([network])
        rows.append(Row(f'mt5r_seen/shipped/{words(case)}', recalls(one, validation)[0], '%', recipe['held_out']))
        rows.append(Row(f'mt5r_unseen/shipped/{words(case)}', recalls(one, test)[0], '%', recipe['held_out']))
        if case == home:
            chances = special.softmax(last_logits(one, test)[0], axis=1)
            truth = test.labels[0, :, -1].cpu().numpy()
            for part, kind in enumerate(('verb', 'noun')):
                words_of, groups = word_groups(part)
                recall = 100.0 * mean_top5_recall(sum_groups(chances, groups), groups[truth])
                name = f'mt5r_unseen_{kind}/shipped/{words(case)}'
                rows.append(Row(name, recall, '%', recipe['held_out'], reference={'words': len(words_of)}))
            rows += analyse(one, test, network.config, {0: worlds_of([seed], [case])[0]}).rows('shipped')
            if pictures is not None:
                draw_stream(pictures / 'stream.png', network.cpu(), test.frames[0, 0].cpu(), test.labels[0, 0].cpu())
                draw_table(pictures / 'evidence.png', network.cpu())
    return rows, [seed]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run_evaluation(__doc__, 'attn_robotics.systems.aga.evaluate', compare, measure_shipped, arguments)


if __name__ == '__main__':
    raise SystemExit(main())
