"""Train the ship trajectory network: `python -m attn_robotics.systems.ship_trajectory.train --help`.

All seeds of all fusions are trained side by side in one program, by roll-out, without teacher forcing. Ctrl-C saves and
leaves; `--resume` goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attn_robotics.systems.ship_trajectory.config import FUSIONS, ShipConfig
from attn_robotics.systems.ship_trajectory.data import Scenes, Traffic, draw_scenes
from attn_robotics.systems.ship_trajectory.model import ShipNetwork
from attn_robotics.systems.ship_trajectory.processor import INPUTS, inputs_of_scenes
from attn_robotics.training.commands import find_device, run_fits, training_parser
from attn_robotics.training.fit import Fit, Run
from attn_robotics.training.replicas import Replicas

TRAINING, TEST, VALIDATION = 0, 1000, 2000  # seeds of the scenes are these plus the run's


@dataclass(frozen=True)
class Recipe:
    """How it is trained."""

    scenes: int = 4000
    epochs: int = 36
    batch: int = 250
    rate: float = 3e-3
    domain_rate: float = 2e-2
    smoothness: float = 1e-3  # of the total variation of the domain, fusion `interpolated` only
    held_out: int = 1000


def loss_of(network: nn.Module, *rows: Tensor) -> Tensor:
    """Mean distance between predicted and true positions, in units of the network, and what keeps D smooth."""
    assert isinstance(network, ShipNetwork)
    *inputs, truth = rows
    config = network.config
    error = (network(*inputs).paths - truth).square().sum(-1)
    mean: Tensor = (error / config.unit_m**2 + 1e-8).sqrt().mean()
    if network.domain is None or config.fusion != 'interpolated':
        return mean
    smooth: Tensor = mean + Recipe.smoothness * network.domain.roughness()
    return smooth


def stack_scenes(
    traffic: Traffic, config: ShipConfig, count: int, seeds: Sequence[int], *, hidden_fairways: bool
) -> tuple[list[Scenes], list[Tensor]]:
    """Scenes of every seed, and the network's inputs and truth stacked as (R, N, ...).

    Args:
        traffic: the rule.
        config: of the network.
        count: scenes N.
        seeds: R of them.
        hidden_fairways: hide the fairway in every other scene, so that the network can do without.
    """
    scenes = [draw_scenes(traffic, count, config.history + config.horizon + 1, seed) for seed in seeds]
    rows = []
    for drawn in scenes:
        inputs, truth = inputs_of_scenes(drawn, config)
        if hidden_fairways:
            inputs['fairway'][::2] = 0.0
        rows.append([*(inputs[name] for name in INPUTS), truth])
    return scenes, [torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True)]


def predict(replicas: Replicas, data: Sequence[Tensor], chunk: int = 250) -> NDArray[np.float32]:
    """(R, N, V, horizon, 2) predicted positions [m]; data: inputs as `stack_scenes` gives them."""
    replicas.eval()
    with torch.no_grad():
        parts = [
            replicas(lambda network, *rows: network(*rows).paths, *chunks)
            for chunks in zip(*(part.split(chunk, 1) for part in data), strict=True)
        ]
    found: NDArray[np.float32] = torch.cat(parts, 1).cpu().numpy()
    return found


def build_replicas(config: ShipConfig, seeds: Sequence[int]) -> Replicas:
    """Fresh networks, one a seed."""
    networks = []
    for seed in seeds:
        torch.manual_seed(seed)
        networks.append(ShipNetwork(config))
    return Replicas(networks)


def prepare(
    fusion: str,
    out: Path,
    *,
    seeds: Sequence[int],
    config: ShipConfig | None = None,
    traffic: Traffic | None = None,
    recipe: Recipe | None = None,
    device: torch.device | None = None,
    resume: bool = False,
) -> Fit:
    """One fusion with every seed, ready to be trained; leaves a checkpoint, curves.csv and curves.png in `out`.

    Raises:
        CheckpointError: nothing fitting to resume from.
    """
    config = replace(config or ShipConfig(), fusion=fusion)
    traffic, recipe, device = traffic or Traffic(), recipe or Recipe(), device or torch.device('cpu')
    _, data = stack_scenes(traffic, config, recipe.scenes, [TRAINING + seed for seed in seeds], hidden_fairways=True)
    replicas = build_replicas(config, seeds).to(device)
    radii = replicas.parameters_named('domain.radii')
    others = [parameter for parameter in replicas.parameters() if all(parameter is not other for other in radii)]
    groups = [{'params': others, 'lr': recipe.rate}]
    if radii:
        groups.append({'params': radii, 'lr': recipe.domain_rate})
    facts = {
        'fusion': fusion, 'seeds': list(seeds), 'config': config.to_dict(), 'recipe': asdict(recipe),
        'traffic': {**asdict(traffic), 'speed_m_s': list(traffic.speed_m_s)},
    }  # fmt: skip

    def clamp() -> None:
        with torch.no_grad():
            for parameter in radii:
                parameter.clamp_(min=0.0)

    run = Run(fusion, out, facts, recipe.epochs, recipe.batch, seed=seeds[0], resume=resume)
    data = [part.to(device) for part in data]
    return Fit(run, replicas, torch.optim.Adam(groups), loss_of, data, after_update=clamp)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 3 when the time was over before the end."""
    parser = training_parser(__doc__, seeds=5, epochs=Recipe.epochs, out=Path('runs/ship_trajectory'))
    parser.add_argument('--fusion', nargs='+', choices=FUSIONS, default=['interpolated'], help='what to train')
    options = parser.parse_args(arguments)
    device = find_device(parser, options.device)
    return run_fits(
        lambda: [
            prepare(
                fusion,
                options.out / fusion,
                seeds=range(options.seeds),
                recipe=replace(Recipe(), epochs=options.epochs),
                device=device,
                resume=options.resume,
            )
            for fusion in options.fusion
        ],
        options.seconds,
    )


if __name__ == '__main__':
    raise SystemExit(main())
