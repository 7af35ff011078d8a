"""Pictures of results: variants over the shift, one stream with its evidence, the forward-analysis table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attn_robotics.systems.aga.data import ACTIONS, adjacent_pairs
from attn_robotics.systems.aga.model import AgaNetwork

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    partial = path.with_name(path.name + '.partial')
    figure.savefig(partial, format='png', dpi=100)
    partial.replace(path)


def draw_comparison(
    path: Path,
    shifts: Sequence[float],
    kinds: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> None:
    """MT5R over the shift: solid in unseen kitchens (bars: standard deviation over seeds), dotted in seen ones.

    Args:
        path: PNG file.
        shifts: of the kitchens.
        kinds: by variant, (shifts,) means in seen kitchens and (shifts, seeds) in unseen ones [%].
    """
    figure = _figure(6.4, 4.0)
    panel = figure.subplots()
    for number, (name, (seen, unseen)) in enumerate(kinds.items()):
        colour = f'C{number}'
        panel.errorbar(shifts, unseen.mean(1), unseen.std(1), label=name, color=colour, capsize=3, marker='o', ms=4)
        panel.plot(shifts, seen, color=colour, linestyle=':', linewidth=1)
    panel.set_xlabel('length of what differs between kitchens [length of an action vector]')
    panel.set_ylabel('mean top-5 recall [%]')
    panel.set_title('unseen kitchens (solid) and seen ones (dotted)')
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    _save(figure, path)


def draw_stream(path: Path, network: AgaNetwork, frames: Tensor, labels: Tensor) -> None:
    """One sequence: what was shown, what was expected, and on which past step each answer rests.

    Args:
        path: PNG file.
        network: guided by actions.
        frames: (T, features).
        labels: (T + 1,) actions.
    """
    guided, steps = network.guided, len(frames)
    state = guided.open_state(1)
    weights, gates, expected = np.zeros((steps, steps)), [], []
    with torch.no_grad():
        for t, frame in enumerate(network.encode(frames[:, None]).unbind(0)):
            logits, state, look = guided.step(frame, state)
            count = min(t, guided.queue)
            if count:
                weights[t, t - count : t] = look['weights'][0].mean(0)[-count:].numpy()
            gates.append(float(look['gate'].mean()))
            expected.append(int(logits[0].argmax()))
    figure = _figure(9.5, 6.0)
    left, right = figure.subplots(1, 2, width_ratios=(4, 1))
    left.imshow(weights / np.maximum(weights.max(1, keepdims=True), 1e-9), cmap='viridis', aspect='auto')
    left.set_xticks(range(steps), [ACTIONS[number] for number in expected], rotation=90, fontsize=7)
    left.set_xlabel('what was expected at the past step')
    rows = [f'{ACTIONS[int(labels[t])]} | {ACTIONS[expected[t]]} | {ACTIONS[int(labels[t + 1])]}' for t in range(steps)]
    left.set_yticks(range(steps), rows, fontsize=7)
    left.set_title('shown now | expected next | came next; attention on past steps (row maximum 1)')
    right.barh(range(steps), gates)
    right.set_ylim(steps - 0.5, -0.5)
    right.set_xlim(0, 1)
    right.set_title('share of history')
    right.set_yticks([])
    _save(figure, path)


def draw_table(path: Path, network: AgaNetwork) -> None:
    """Forward analysis: attention of an expected action, row, on a past prediction, column; dots: adjacent pairs."""
    with torch.no_grad():
        table = network.evidence_table().numpy()
    figure = _figure(9.0, 8.5)
    panel = figure.subplots()
    panel.imshow(table, cmap='viridis')
    pairs = np.array(adjacent_pairs())
    panel.scatter(pairs[:, 0], pairs[:, 1], s=5, color='white')
    panel.set_xticks(range(len(ACTIONS)), ACTIONS, rotation=90, fontsize=7)
    panel.set_yticks(range(len(ACTIONS)), ACTIONS, fontsize=7)
    panel.set_xlabel('past prediction')
    panel.set_ylabel('expected action')
    panel.set_title('which past prediction an expected action attends to (dots: one follows the other in a task)')
    _save(figure, path)
