"""Pictures of results: errors, domains as polar plots, distances by bin, one predicted scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attn_robotics.systems.ship_trajectory.data import Scenes
from attn_robotics.systems.ship_trajectory.model import ShipNetwork
from attn_robotics.systems.ship_trajectory.plausibility import Plausibility, mean_of, run
from attn_robotics.systems.ship_trajectory.processor import inputs_of_scenes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    partial = path.with_name(path.name + '.partial')
    figure.savefig(partial, format='png', dpi=90)
    partial.replace(path)


def draw_errors(path: Path, errors: Mapping[str, Array], encounters: NDArray[np.bool_], step_s: float) -> None:
    """Mean error over time, of all vessels and of those in an encounter; errors (R, N, V, horizon) by method [m]."""
    figure = _figure(9.0, 3.8)
    for panel, (title, chosen) in zip(
        figure.subplots(1, 2), {'all vessels': None, 'in an encounter': encounters}.items(), strict=True
    ):
        for name, found in errors.items():
            rows = found.reshape(-1, found.shape[-1]) if chosen is None else found[chosen]
            minutes = step_s / 60.0 * np.arange(1, found.shape[-1] + 1)
            panel.plot(minutes, rows.mean(0), label=name, linewidth=1.3)
        panel.set_title(title)
        panel.set_xlabel('time ahead [min]')
        panel.set_ylabel('mean displacement error [m]')
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    _save(figure, path)


def draw_domains(path: Path, found: Sequence[Plausibility]) -> None:
    """One polar plot for every class of relative heading: thin lines are seeds, the thick one is their mean."""
    bins = len(found[0].radii_m)
    figure = _figure(11.0, 6.0)
    angles = 2.0 * np.pi * np.arange(bins + 1) / bins
    mean = mean_of(found)
    for number in range(bins):
        panel = figure.add_subplot(2, bins // 2, number + 1, projection='polar')
        panel.set_theta_zero_location('N')  # type: ignore[attr-defined]
        for one in found:
            column = one.radii_m[:, number]
            panel.plot(angles, np.append(column, column[0]), color='C0', linewidth=0.6, alpha=0.6)
        panel.plot(angles, np.append(mean[:, number], mean[0, number]), color='C3', linewidth=1.6)
        panel.set_rmax(1.1 * float(np.max([one.radii_m for one in found])))  # type: ignore[attr-defined]
        panel.tick_params(labelsize=6)
        panel.set_title(f'other heads {360 * number // bins} deg to the left', fontsize=8)
    figure.suptitle('ship domain [m] by bearing; ahead is up, port is left')
    _save(figure, path)


def draw_distances(path: Path, found: Sequence[Plausibility]) -> None:
    """Histogram of distances in every bin with the learned radius: where no data reaches D, D is a gain, no radius."""
    bins = len(found[0].radii_m)
    figure = _figure(11.0, 9.0)
    panels = figure.subplots(bins, bins, sharex=True)
    radii = mean_of(found)
    edges = np.linspace(0.0, 3000.0, 31)
    for m in range(bins):
        for n in range(bins):
            panel = panels[m, n]
            distances = np.concatenate([one.distances_m[m, n] for one in found])
            panel.hist(distances, edges, color='C0')
            panel.axvline(radii[m, n], color='C3', linewidth=1.2)
            panel.set_yticks([])
            panel.tick_params(labelsize=6)
            panel.text(0.97, 0.8, f'n {len(distances)}', transform=panel.transAxes, ha='right', fontsize=6)
            if m == 0:
                panel.set_title(f'heading {360 * n // bins}', fontsize=7)
            if n == 0:
                panel.set_ylabel(f'{360 * m // bins}', fontsize=7)
    figure.suptitle('distances [m] by bearing (rows, degrees to the left of ahead) and relative heading; red: radius D')
    _save(figure, path)


def draw_scene(path: Path, network: ShipNetwork, scenes: Scenes, chosen: int) -> None:
    """One scene: past, truth (dotted) and prediction of every vessel, and who influences whom."""
    config = network.config
    inputs, truth = inputs_of_scenes(scenes, config)
    one = {name: value[chosen : chosen + 1] for name, value in inputs.items()}
    found = run(network, one)
    paths, past = found.paths[0].numpy(), one['positions'][0]
    weights = found.influence[0].mean(0).numpy()
    figure = _figure(11.0, 4.0)
    above, below = figure.subplots(1, 2, width_ratios=(3, 1))
    for vessel in range(len(paths)):
        colour = f'C{vessel}'
        above.plot(*past[vessel].T, color=colour, linewidth=1)
        above.plot(*truth[chosen, vessel].T, color=colour, linestyle=':', linewidth=2)
        above.plot(*paths[vessel].T, color=colour, marker='.', linewidth=1, label=f'vessel {vessel}')
    above.axhline(scenes.half_width_m, color='grey')
    above.axhline(-scenes.half_width_m, color='grey')
    above.set_xlabel('along the river [m]')
    above.set_ylabel('across [m]')
    above.set_title('past and prediction (dots), truth (dotted); simulated')
    above.legend(fontsize=7)
    shown = below.imshow(weights, cmap='viridis')
    below.set_xticks(range(len(paths)))
    below.set_yticks(range(len(paths)))
    below.set_xlabel('influence of vessel')
    below.set_ylabel('on vessel')
    figure.colorbar(shown, ax=below)
    _save(figure, path)
