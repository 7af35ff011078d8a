"""Picture of evaluation results: `python -m attn_robotics.systems.sparc.figure RESULT.json ... --out PICTURE.png`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attn_robotics.systems.sparc import suites

PANELS = (('success_rate', 'success rate'), ('mean_steps', 'steps until all have arrived (solved instances)'))


def collect(paths: Sequence[Path]) -> dict[str, dict[str, dict[str, Mapping[str, Any]]]]:
    """Read rows named `metric/method/case`: metric -> case -> method -> row.

    Raises:
        ValueError: a file holds no results.
    """
    found: dict[str, dict[str, dict[str, Mapping[str, Any]]]] = {metric: {} for metric, _ in PANELS}
    for path in paths:
        try:
            rows = json.loads(path.read_text(encoding='utf-8'))['rows']
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f'{path} holds no results ({error}); give files that `evaluate --json` wrote') from None
        for row in rows:
            metric, method, case = row['name'].split('/', 2)
            if metric in found and row['value'] is not None:
                found[metric].setdefault(case, {})[method] = row
    if not found['success_rate']:
        raise ValueError('no success rates in these files; give files that `evaluate --json` wrote')
    return found


def draw(found: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]], path: Path) -> None:
    """Bars by case and method with 95 % intervals, one panel a metric."""
    import matplotlib as mpl

    mpl.use('Agg')
    import matplotlib.pyplot as plt

    cases = list(found['success_rate'])
    present = [name for case in found['success_rate'].values() for name in case]
    order = list(dict.fromkeys([*suites.PAPER, *suites.ABLATION, *present]))
    methods = [name for name in order if name in present]
    # A method has the same colour in every picture.
    colours = [plt.get_cmap('tab20')(order.index(name) % 20) for name in methods]
    width = 0.85 / len(methods)
    size = (max(6.0, 1.1 + 0.16 * len(methods) * len(cases)), 6.2)
    figure, panels = plt.subplots(len(PANELS), 1, figsize=size, sharex=True, layout='constrained')
    for (metric, label), axes in zip(PANELS, panels, strict=True):
        for place, method in enumerate(methods):
            rows = [found[metric].get(case, {}).get(method) for case in cases]
            x = np.arange(len(cases)) + (place - (len(methods) - 1) / 2) * width
            height = np.array([np.nan if row is None else row['value'] for row in rows])
            ends = [row['ci95'] if row and row['ci95'] else (h, h) for row, h in zip(rows, height, strict=True)]
            spread = np.abs(np.array(ends).T - height)
            axes.bar(x, height, 0.9 * width, yerr=spread, color=colours[place], label=method, error_kw={'lw': 0.7})
        axes.set_ylabel(label)
        axes.grid(axis='y', alpha=0.3)
    panels[0].set_ylim(0, 1.02)
    panels[-1].set_xticks(range(len(cases)), cases, rotation=20, ha='right', fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, ncols=6, loc='outside upper left')
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog='python -m attn_robotics.systems.sparc.figure', description=__doc__)
    parser.add_argument('results', type=Path, nargs='+', help='files that `evaluate --json` wrote')
    parser.add_argument('--out', type=Path, required=True, help='picture to write')
    args = parser.parse_args(arguments)
    try:
        draw(collect(args.results), args.out)
    except ValueError as error:
        print(f'figure: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
