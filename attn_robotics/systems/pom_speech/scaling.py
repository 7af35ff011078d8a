"""How time and memory of a mixer grow with the number of tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attn_robotics.attention.polynomial import PolynomialMixer
from attn_robotics.systems.pom_speech.baselines import AttentionMixer, SummaryMixer
from attn_robotics.training.results import Row

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
FITTED_FROM = 1024  # below, launches and constant parts hide the growth
REPEATS = 9  # at most; long ones on the CPU are measured three times
WIDTHS = {'cuda': 512, 'cpu': 128}  # that of the target, and the shipped one


class PlainAttention(AttentionMixer):
    """Attention that writes its N x N weights to memory, as a framework without a fused kernel does."""

    def mix(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """Softmax over all tokens."""
        q, k, v = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        out: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return out


def make_mixers(width: int, heads: int = 8) -> dict[str, nn.Module]:
    """The mixers that are compared."""
    return {
        'pom_k2': PolynomialMixer(width, degree=2, expansion=2),
        'summary': SummaryMixer(width),
        'mha_fused': AttentionMixer(width, heads, rotary=False),
        'mha_plain': PlainAttention(width, heads, rotary=False),
    }


@dataclass(frozen=True)
class Point:
    """One measurement: seconds (median) and bytes allocated beyond weights and input (0 on the CPU: not measured)."""

    tokens: int
    seconds: float
    bytes: int


@torch.inference_mode()
def measure(mixer: nn.Module, width: int, tokens: int, device: torch.device, kind: torch.dtype) -> Point:
    """Time one mixer on one sequence."""
    x = torch.randn(1, tokens, width, device=device, dtype=kind)

    def call() -> Any:
        return mixer(x)

    if device.type == 'cuda':
        seconds, held = _measure_cuda(call, device)
        return Point(tokens, seconds, held)
    call()
    times: list[float] = []
    while len(times) < 3 or (len(times) < REPEATS and sum(times) < 1.0):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return Point(tokens, float(np.median(times)), 0)


def _measure_cuda(call: Callable[[], Any], device: torch.device) -> tuple[float, int]:
    """Median time of a captured graph, and the peak of memory of one plain call."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize()
    held = torch.cuda.max_memory_allocated(device) - before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    times = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(5):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e-3 / 5)
    return float(np.median(times)), held


def slope(points: Sequence[Point], what: Callable[[Point], float]) -> float:
    """Exponent of the growth with N: least squares on logarithms, from `FITTED_FROM` tokens on."""
    used = [point for point in points if point.tokens >= FITTED_FROM and what(point) > 0]
    x, y = np.log([point.tokens for point in used]), np.log([what(point) for point in used])
    return float(np.polyfit(x, y, 1)[0]) if len(used) > 1 else float('nan')


def scaling_rows(device: torch.device, picture: Path | None = None) -> list[Row]:
    """Measure all mixers; print nothing, draw a picture where one is wanted."""
    width = WIDTHS[device.type]
    kind = torch.bfloat16 if device.type == 'cuda' else torch.float32
    mixers = {name: mixer.to(device, kind).eval() for name, mixer in make_mixers(width).items()}
    rows, curves = [], {}
    for name, mixer in mixers.items():
        points = []
        for tokens in LENGTHS:
            if name == 'mha_plain' and device.type == 'cpu' and tokens > 4096:
                continue  # 8192^2 weights of 8 heads are 2 GB
            points.append(measure(mixer, width, tokens, device, kind))
            row = Row(f'time/{name}/{device.type}/{tokens}', 1e3 * points[-1].seconds, 'ms', REPEATS)
            if name == 'pom_k2' and tokens == 2048 and device.type == 'cuda':
                row = Row(row.name, row.value, 'ms', REPEATS, target=0.2, below=True)
            rows.append(row)
            if points[-1].bytes:
                rows.append(Row(f'memory/{name}/{device.type}/{tokens}', points[-1].bytes / 2**20, 'MiB'))
        rows.append(Row(f'time_exponent/{name}/{device.type}', slope(points, lambda point: point.seconds)))
        if device.type == 'cuda':
            rows.append(Row(f'memory_exponent/{name}/{device.type}', slope(points, lambda point: float(point.bytes))))
        curves[name] = points
    if picture is not None:
        draw(curves, device.type, width, picture)
    return rows


def draw(curves: dict[str, list[Point]], device: str, width: int, path: Path) -> None:
    """Time, and memory where it was measured, against tokens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with_memory = any(point.bytes for points in curves.values() for point in points)
    figure = Figure(figsize=(9 if with_memory else 5, 3.6), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if with_memory else 1, squeeze=False)[0]
    for name, points in curves.items():
        tokens = [point.tokens for point in points]
        panels[0].loglog(tokens, [1e3 * point.seconds for point in points], 'o-', label=name, markersize=3)
        if with_memory:
            panels[1].loglog(tokens, [point.bytes / 2**20 for point in points], 'o-', label=name, markersize=3)
    for panel, label in zip(panels, ('time [ms]', 'memory [MiB]'), strict=False):
        panel.set_xlabel('tokens (40 ms each)')
        panel.set_ylabel(label)
        panel.grid(alpha=0.3, which='both')
        panel.legend(fontsize=8)
    figure.suptitle(f'one mixer, width {width}, batch 1, {device}', fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    figure.savefig(partial, format='png', dpi=110)
    partial.replace(path)
