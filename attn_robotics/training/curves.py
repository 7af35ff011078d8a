"""Training curves: rows of numbers, kept as CSV and drawn as PNG."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from attn_robotics.training.checkpoint import write_atomically


class Curves:
    """Rows of named numbers; names may appear later than others.

    Args:
        path: CSV file to write; rows already in it are continued.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        if path.is_file():
            with path.open(newline='') as file:
                self.rows = [
                    {name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)
                ]

    def add(self, values: Mapping[str, float]) -> None:
        """Append one row."""
        self.rows.append(dict(values))

    def write(self) -> None:
        """Write the CSV, atomically."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = StringIO()
        writer = csv.DictWriter(text, names, restval='')
        writer.writeheader()
        writer.writerows({name: f'{value:.6g}' for name, value in row.items()} for row in self.rows)
        write_atomically(self.path, text.getvalue())

    def draw(self, path: Path, x: str, groups: Mapping[str, Sequence[str]]) -> None:
        """Draw one panel per group of names against column `x`."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.5 * len(groups), 3.4), layout='constrained')
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(groups), squeeze=False)[0]
        for panel, (title, names) in zip(panels, groups.items(), strict=True):
            for name in names:
                points = [(row[x], row[name]) for row in self.rows if x in row and name in row]
                if points:
                    panel.plot(*zip(*points, strict=True), label=name, linewidth=1.2)
            panel.set_title(title)
            panel.set_xlabel(x)
            panel.grid(alpha=0.3)
            if panel.lines:
                panel.legend(fontsize=7)
        partial = path.with_name(path.name + '.partial')
        figure.savefig(partial, format='png', dpi=110)
        partial.replace(path)
