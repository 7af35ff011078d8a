"""Measure ship trajectories: `python -m attn_robotics.systems.ship_trajectory.evaluate --help`.

Without --runs the weights that ship are measured; with --runs a folder of `train`, and fusions are compared over all
seeds. Errors are displacements after every minute (ADE: mean over the horizon, FDE: at its end), for all vessels, those
in an encounter (closer than 120 m to another one within the horizon) and those sailing free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attn_robotics.systems.ship_trajectory.baselines import constant_velocity
from attn_robotics.systems.ship_trajectory.config import ShipConfig
from attn_robotics.systems.ship_trajectory.data import Scenes, Traffic
from attn_robotics.systems.ship_trajectory.model import ShipNetwork
from attn_robotics.systems.ship_trajectory.pictures import draw_distances, draw_domains, draw_errors, draw_scene
from attn_robotics.systems.ship_trajectory.plausibility import Plausibility, examine
from attn_robotics.systems.ship_trajectory.processor import read_card, read_network
from attn_robotics.systems.ship_trajectory.train import TEST, build_replicas, predict, stack_scenes
from attn_robotics.training import checkpoint
from attn_robotics.training.checkpoint import CheckpointError
from attn_robotics.training.commands import run_evaluation
from attn_robotics.training.replicas import Replicas
from attn_robotics.training.results import Row, over_seeds

Array = NDArray[np.float64]
EXAMINED = 300  # scenes of the plausibility report of every seed
WITH_DOMAIN = ('table', 'table_normalised', 'ellipse', 'interpolated')


def read_traffic(values: Mapping[str, Any]) -> Traffic:
    """The traffic that a run was trained on, from its facts."""
    return Traffic(**{**values, 'speed_m_s': tuple(values['speed_m_s'])})


def errors_of(replicas: Replicas, data: Sequence[torch.Tensor], device: torch.device) -> Array:
    """(R, N, V, horizon) displacement errors [m]."""
    predicted = predict(replicas, [part.to(device) for part in data[:-1]])
    found: Array = np.linalg.norm(predicted - data[-1].numpy(), axis=-1).astype(np.float64)
    return found


def error_rows(name: str, errors: Array, encounters: NDArray[np.bool_], config: ShipConfig) -> list[Row]:
    """Rows of one method: errors (R, N, V, horizon), encounters (R, N, V)."""
    rows = []
    parts = {
        'all': np.ones_like(encounters),
        'encounter': encounters,
        'free': ~encounters,
    }
    for part, chosen in parts.items():
        mean = [float(e[c][:, -1].mean()) for e, c in zip(errors, chosen, strict=True)]
        rows.append(over_seeds(f'fde/{name}/{part}', mean, 'm'))
        every = [float(e[c].mean()) for e, c in zip(errors, chosen, strict=True)]
        rows.append(over_seeds(f'ade/{name}/{part}', every, 'm'))
    rows.append(over_seeds(f'fde_median/{name}/all', [float(np.median(e[..., -1])) for e in errors], 'm'))
    for minute in range(1, 6):
        step = round(60.0 * minute / config.step_s) - 1
        if step < config.horizon:
            values = [float(e[..., step].mean()) for e in errors]
            rows.append(over_seeds(f'error_after/{name}/{minute} min', values, 'm'))
    return rows


def plausibility_rows(name: str, found: Sequence[Plausibility]) -> list[Row]:
    """Rows of the plausibility report, over seeds."""
    rows = [
        over_seeds(f'domain_sector/{name}/{sector}', [one.sectors_m[sector] for one in found], 'm')
        for sector in found[0].sectors_m
    ]
    differences = [one.ahead_over_astern_m for one in found]
    rows.append(over_seeds(f'plausible/{name}/meeting ahead minus overtaking astern', differences, 'm', target=0.0))
    for field, unit in (
        ('tcpa_share', ''), ('tcpa_rank', ''), ('truth_rank', ''), ('removal_rank', ''), ('removal_m', 'm'),
        ('true_removal_m', 'm'),
    ):  # fmt: skip
        rows.append(over_seeds(f'plausible/{name}/{field}', [getattr(one, field) for one in found], unit))
    return rows


def compare(runs: Path, device: torch.device, pictures: Path | None) -> tuple[list[Row], Sequence[int]]:
    """Rows of every fusion in a folder of `train`, their relations and the plausibility report."""
    folders = sorted(path.parent for path in runs.glob('*/checkpoint.json'))
    if not folders:
        raise CheckpointError(
            f'no trained fusions in {runs}; run attn_robotics.systems.ship_trajectory.train --out {runs}'
        )
    rows: list[Row] = []
    errors: dict[str, Array] = {}
    reports: dict[str, list[Plausibility]] = {}
    facts: dict[str, Any] = {}
    scenes: list[Scenes] = []
    data: list[torch.Tensor] = []
    encounters = np.zeros(0, np.bool_)
    for folder in folders:
        tensors, facts = checkpoint.read_network(folder)
        name, seeds, config = facts['fusion'], facts['seeds'], ShipConfig.from_dict(facts['config'])
        traffic = read_traffic(facts['traffic'])
        if not scenes:
            count = facts['recipe']['held_out']
            scenes, data = stack_scenes(traffic, config, count, [TEST + s for s in seeds], hidden_fairways=False)
            encounters = np.stack([one.encounters(config.history) for one in scenes])
            straight = constant_velocity(data[0].flatten(0, 1), config.horizon).unflatten(0, data[0].shape[:2])
            errors['constant_velocity'] = np.linalg.norm((straight - data[-1]).numpy(), axis=-1).astype(np.float64)
            rows += error_rows('constant_velocity', errors['constant_velocity'], encounters, config)
        replicas = build_replicas(config, seeds).to(device)
        replicas.load_state_dict(tensors)
        errors[name] = errors_of(replicas, data, device)
        rows += error_rows(name, errors[name], encounters, config)
        if name in WITH_DOMAIN:
            reports[name] = []
            for index, seed in enumerate(seeds):
                network = ShipNetwork(config).eval()
                network.load_state_dict({key: value.cpu() for key, value in replicas.state_of(index).items()})
                reports[name].append(examine(network, traffic, EXAMINED, TEST + seed))
            rows += plausibility_rows(name, reports[name])
    rows.append(Row('encounter_share/test', float(encounters.mean()), '', encounters.size))
    rows += relations(errors, encounters)
    if pictures is not None:
        draw_errors(pictures / 'errors.png', errors, encounters, ShipConfig.from_dict(facts['config']).step_s)
        for name, found in reports.items():
            draw_domains(pictures / f'domain_{name}.png', found)
            draw_distances(pictures / f'distances_{name}.png', found)
    return rows, facts['seeds']


def relations(errors: Mapping[str, Array], encounters: NDArray[np.bool_]) -> list[Row]:
    """What must hold between fusions, as ratios of FDE, paired by seed; targets as the task states them."""
    rows = []

    def fde(name: str, chosen: NDArray[np.bool_] | None = None) -> Array:
        last = errors[name][..., -1]
        if chosen is None:
            return np.array([one.mean() for one in last])
        return np.array([one[part].mean() for one, part in zip(last, chosen, strict=True)])

    def ratio(first: str, second: str, case: str, target: float, chosen: NDArray[np.bool_] | None = None) -> None:
        if first in errors and second in errors:
            values = fde(first, chosen) / fde(second, chosen)
            name = f'relation/fde of {first} over {second}, {case}'
            rows.append(over_seeds(name, list(values), '', target=target, below=True))

    ratio('table', 'none', 'all', 0.75)
    ratio('table', 'mean', 'all', 0.8)
    ratio('table', 'none', 'encounter', 0.8, encounters)
    ratio('table', 'table_normalised', 'all', 1.0)
    ratio('interpolated', 'table', 'all', 1.02)
    for name in ('softmax', 'softmax_or_none'):
        if name in errors and 'table' in errors:
            ratios = fde(name) / fde('table')
            row = f'relation/{name} from table, share of fde'
            over = {f'{name} over table': float(ratios.mean())}
            rows.append(over_seeds(row, list(np.abs(ratios - 1.0)), '', target=0.1, below=True, reference=over))
    return rows


def measure_shipped(device: torch.device, pictures: Path | None) -> tuple[list[Row], Sequence[int]]:
    """Rows of the weights that ship."""
    card = read_card()
    network = read_network()
    config, traffic, seed = network.config, read_traffic(card['traffic']), int(card['seed'])
    scenes, data = stack_scenes(traffic, config, 1000, [TEST + seed], hidden_fairways=False)
    encounters = scenes[0].encounters(config.history)[None]
    one = Replicas([read_network().to(device)])
    rows = error_rows('shipped', errors_of(one, data, device), encounters, config)
    data[3] = torch.zeros_like(data[3])
    unknown = errors_of(one, data, device)
    rows.append(Row('fde/shipped without fairway/all', float(unknown[..., -1].mean()), 'm', unknown[..., -1].size))
    report = [examine(network, traffic, EXAMINED, TEST + seed)]
    rows += plausibility_rows('shipped', report)
    if pictures is not None:
        draw_domains(pictures / 'domain_shipped.png', report)
        chosen = int(np.flatnonzero(encounters[0].sum(1) >= 2)[0])
        draw_scene(pictures / 'scene.png', network, scenes[0], chosen)
    return rows, [seed]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run_evaluation(
        __doc__, 'attn_robotics.systems.ship_trajectory.evaluate', compare, measure_shipped, arguments
    )


if __name__ == '__main__':
    raise SystemExit(main())
