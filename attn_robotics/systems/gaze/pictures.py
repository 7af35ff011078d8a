"""Pictures of results (matplotlib, written to files)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attn_robotics.systems.gaze.human import HORIZONTAL, VERTICAL, head_share_mean, peak_speed

if TYPE_CHECKING:
    from attn_robotics.systems.gaze.score import Score


def draw_score(score: Score, path: Path, title: str = '') -> None:
    """Main sequence, head share, skew and axes of one log as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    s = score.saccades
    figure = Figure(figsize=(9.6, 6.4), layout='constrained')
    FigureCanvasAgg(figure)
    (main, share), (skew, bars) = figure.subplots(2, 2)
    sizes = np.linspace(0.5, 80.0, 200)
    main.plot(s.amplitude, s.peak, '.', ms=3, alpha=0.5, label='log')
    main.plot(sizes, peak_speed(sizes), lw=1, label='law')
    for points, mark in ((HORIZONTAL, 's'), (VERTICAL, '^')):
        main.errorbar([p.amplitude for p in points], [p.peak for p in points], [p.sd for p in points], fmt=mark, c='k')
    main.set(xlabel='amplitude [deg]', ylabel='peak gaze speed [deg/s]', title='main sequence; people: mean and SD')
    main.legend()
    share.plot(s.offset, s.head_share, '.', ms=3, alpha=0.5)
    share.plot(sizes, head_share_mean(sizes), lw=1)
    share.set(xlabel='target re head [deg]', ylabel='head share', ylim=(-0.3, 1.3), title='head share')
    skew.hist(s.skew, bins=30, range=(0, 1))
    skew.set(xlabel='share of the duration before the peak', title='skew')
    bars.barh([axis.name for axis in score.axes], [axis.value for axis in score.axes])
    bars.set(xlim=(0, 1), title=f'{title} score {score.total:.2f}'.strip())
    figure.savefig(path, dpi=80)


def draw_table(values: dict[str, dict[str, float]], path: Path) -> None:
    """Axes of the score for several controllers as a picture of cells."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names, axes = list(values), list(next(iter(values.values())))
    cells = np.array([[values[name][axis] for axis in axes] for name in names])
    figure = Figure(figsize=(8.0, 0.5 * len(names) + 1.4), layout='constrained')
    FigureCanvasAgg(figure)
    plot = figure.subplots()
    plot.imshow(np.nan_to_num(cells), vmin=0, vmax=1, cmap='viridis', aspect='auto')
    plot.set_xticks(range(len(axes)), axes, rotation=20)
    plot.set_yticks(range(len(names)), names)
    for row, column in np.ndindex(*cells.shape):
        value = cells[row, column]
        text = '-' if np.isnan(value) else f'{value:.2f}'
        plot.text(column, row, text, ha='center', va='center', color='w' if value < 0.6 or np.isnan(value) else 'k')
    figure.savefig(path, dpi=80)
