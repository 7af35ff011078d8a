"""Is the learned domain nautically plausible? Accuracy does not say; these figures do.

Everything is measured on simulated traffic, where it is known who reacts to whom (`data.RiverState.attention`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from attn_robotics.systems.ship_trajectory.config import ShipConfig
from attn_robotics.systems.ship_trajectory.data import Scenes, Traffic, draw_scenes
from attn_robotics.systems.ship_trajectory.model import Rollout, ShipNetwork
from attn_robotics.systems.ship_trajectory.processor import INPUTS, inputs_of_scenes

Array = NDArray[np.float64]
SECTORS = ('ahead', 'port', 'astern', 'starboard')
MIN_EFFECT_M = 1.0  # a neighbour whose removal truly changes less is no cause


@dataclass(frozen=True)
class Plausibility:
    """What one network's domain looks like.

    Attributes:
        radii_m: (M, M) table by bearing and relative heading.
        sectors_m: by sector and encounter (`meeting`, `overtaking`), mean radius.
        distances_m: by (bearing bin, heading bin), distances of the pairs that fell there.
        tcpa_share: of the attention on the neighbour with the smallest time to closest approach, where there is one.
        tcpa_rank: rank correlation of the weights with 1 / TCPA, over pairs that come closer.
        truth_rank: rank correlation of the weights with how much the simulator really reacts.
        removal_rank: rank correlation, over pairs, of how far the final position moves when the neighbour is removed
            from the model's input, and from the simulator.
        removal_m: mean shift of the final position in the model, for neighbours whose removal changes nothing truly.
        true_removal_m: mean shift in the model for neighbours whose removal truly matters.
    """

    radii_m: Array
    sectors_m: dict[str, float]
    distances_m: dict[tuple[int, int], Array]
    tcpa_share: float
    tcpa_rank: float
    truth_rank: float
    removal_rank: float
    removal_m: float
    true_removal_m: float

    @property
    def ahead_over_astern_m(self) -> float:
        """Mean radius ahead for opposite headings less that astern for the same heading: plausible when positive."""
        return self.sectors_m['meeting/ahead'] - self.sectors_m['overtaking/astern']


def sector_means(radii_m: Array) -> dict[str, float]:
    """Mean radius ahead, to port, astern and to starboard, for opposite headings and for the same one."""
    bins = len(radii_m)
    found = {}
    for kind, heading in (('meeting', bins // 2), ('overtaking', 0)):
        for number, sector in enumerate(SECTORS):
            centre = number * bins / 4
            apart = np.abs((np.arange(bins) - centre + bins / 2) % bins - bins / 2)
            inside = apart <= bins / 8
            found[f'{kind}/{sector}'] = float(radii_m[inside, heading].mean())
    return found


def time_to_approach(positions: Array, step_s: float) -> Array:
    """(N, V, V) time to the closest approach from the last two positions [s]; infinite for pairs that part.

    Args:
        positions: (N, V, T, 2) [m].
        step_s: between them [s].
    """
    velocity = (positions[:, :, -1] - positions[:, :, -2]) / step_s
    apart = positions[:, None, :, -1] - positions[:, :, None, -1]
    relative = velocity[:, None] - velocity[:, :, None]
    closing = -(apart * relative).sum(-1)
    speed = (relative**2).sum(-1)
    found: Array = np.where((closing > 0) & (speed > 1e-6), closing / np.maximum(speed, 1e-6), np.inf)
    return found


def truth_now(positions: Array, traffic: Traffic) -> Array:
    """(N, V, V) how much vessel i reacts to vessel j at the last position, by the simulator's rule."""
    s = positions[:, :, -1, 0]
    along = s - positions[:, :, -2, 0]
    ds = s[:, None, :] - s[:, :, None]
    closing = ds * (along[:, None, :] - along[:, :, None]) < 0
    found: Array = np.where(closing, np.exp(-((ds / traffic.reach_m) ** 2)), 0.0)
    return found


def run(network: ShipNetwork, inputs: dict[str, NDArray[np.generic]]) -> Rollout:
    """The network on numpy inputs, without gradients."""
    with torch.no_grad():
        found: Rollout = network(*(torch.from_numpy(inputs[name]) for name in INPUTS))
    return found


def examine(network: ShipNetwork, traffic: Traffic, scenes: int, seed: int) -> Plausibility:
    """Measure one network with a domain (fusions table, table_normalised, ellipse, interpolated).

    Args:
        network: in evaluation mode, on the CPU.
        traffic: the rule that it was trained on.
        scenes: how many to look at.
        seed: of the scenes, one that training did not see.
    """
    config = network.config
    if network.domain is None:
        raise ValueError(f'fusion {config.fusion!r} has no domain to examine')
    moments = config.history + config.horizon + 1
    drawn = draw_scenes(traffic, scenes, moments, seed)
    inputs, _ = inputs_of_scenes(drawn, config)
    past = drawn.positions[:, :, : config.history + 1]
    found = run(network, inputs)
    weights = found.influence.mean(1).numpy()
    with torch.no_grad():
        radii = config.domain_unit_m * network.domain.table().numpy().astype(np.float64)
    others = ~np.eye(traffic.vessels, dtype=np.bool_)[None].repeat(scenes, 0)
    tcpa = time_to_approach(past, config.step_s)
    first = np.where(others, tcpa, np.inf).argmin(-1)
    comes = np.isfinite(tcpa.min(-1)) & (weights.sum(-1) > 0)
    shares = np.take_along_axis(weights, first[..., None], -1)[..., 0][comes] / weights.sum(-1)[comes]
    near = others & np.isfinite(tcpa)
    model_shift, true_shift = _removals(network, traffic, drawn, inputs, found, seed)
    pairs = others
    is_cause = true_shift > MIN_EFFECT_M
    return Plausibility(
        radii_m=radii,
        sectors_m=sector_means(radii),
        distances_m=_distances(past, inputs['headings'], config, others),
        tcpa_share=float(shares.mean()) if len(shares) else float('nan'),
        tcpa_rank=_rank(weights[near], 1.0 / np.maximum(tcpa[near], 1.0)),
        truth_rank=_rank(weights[pairs], truth_now(past, traffic)[pairs]),
        removal_rank=_rank(model_shift[pairs], true_shift[pairs]),
        removal_m=float(model_shift[pairs & ~is_cause].mean()),
        true_removal_m=float(model_shift[pairs & is_cause].mean()),
    )


def _rank(one: Array, other: Array) -> float:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float('nan')
    return float(spearmanr(one, other).statistic)


def _removals(
    network: ShipNetwork,
    traffic: Traffic,
    drawn: Scenes,
    inputs: dict[str, NDArray[np.generic]],
    found: Rollout,
    seed: int,
) -> tuple[Array, Array]:
    """(N, V, V) how far vessel i's final position moves without vessel j, in the model and in the simulator [m]."""
    config = network.config
    moments, last = config.history + config.horizon + 1, drawn.positions[:, :, -1]
    final = found.paths[:, :, -1].numpy()
    model, truth = np.zeros((2, *final.shape[:2], traffic.vessels))
    for vessel in range(traffic.vessels):
        without = dict(inputs)
        without['present'] = inputs['present'].copy()
        without['present'][:, vessel] = False  # type: ignore[call-overload]
        model[:, :, vessel] = np.linalg.norm(run(network, without).paths[:, :, -1].numpy() - final, axis=-1)
        other = draw_scenes(
            traffic, len(final), moments, seed, unseen=vessel, unseen_from=config.history
        ).positions[:, :, -1]  # fmt: skip
        truth[:, :, vessel] = np.linalg.norm(other - last, axis=-1)
    return model, truth


def _distances(
    past: Array, headings: NDArray[np.generic], config: ShipConfig, others: NDArray[np.bool_]
) -> dict[tuple[int, int], Array]:
    """Distances of pairs by (bearing bin, relative heading bin) [m]."""
    now = past[:, :, -1]
    apart = now[:, None] - now[:, :, None]
    angles = headings.astype(np.float64)
    bearing = np.arctan2(apart[..., 1], apart[..., 0]) - angles[:, :, None]
    turned = angles[:, None] - angles[:, :, None]
    bins = config.bins

    def number(angle: Array) -> NDArray[np.int64]:
        return np.mod(np.floor(angle * bins / (2.0 * np.pi) + 0.5), bins).astype(np.int64)

    at, to, distance = number(bearing)[others], number(turned)[others], np.linalg.norm(apart, axis=-1)[others]
    return {(m, n): distance[(at == m) & (to == n)] for m in range(bins) for n in range(bins)}


def mean_of(found: Sequence[Plausibility]) -> Array:
    """(M, M) mean radii over networks [m]."""
    table: Array = np.mean([one.radii_m for one in found], axis=0)
    return table
