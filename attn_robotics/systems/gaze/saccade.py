"""Time course of one saccade: v(x) ~ x^a (1 - x)^b with published peak, duration and skew."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit
from scipy.special import betainc, betaln

from attn_robotics.systems.gaze.human import ONSET_SPEED, Array, acceleration_share, peak_speed, saccade_duration

# Amplitudes and vertical shares of the table that `shape_at` reads.
_SIZES = np.concatenate([[0.05, 0.2, 0.5], np.arange(1.0, 10.0), np.arange(10.0, 100.0, 2.5)])
_VERTICAL = np.array([0.0, 0.5, 1.0])


def _order(ratio: Array, share: Array) -> Array:
    """Solve a + b such that peak over mean speed is `ratio` when a / (a + b) is `share` (bisection)."""
    low, high = np.full(ratio.shape, 0.3), np.full(ratio.shape, 60.0)
    for _ in range(50):
        middle = 0.5 * (low + high)
        a, b = middle * share, middle * (1.0 - share)
        peak = np.exp(a * np.log(share) + b * np.log1p(-share) - betaln(a + 1.0, b + 1.0))
        low, high = np.where(peak < ratio, middle, low), np.where(peak < ratio, high, middle)
    return np.asarray(0.5 * (low + high))


@lru_cache(maxsize=1)
def _table() -> tuple[Array, Array, Array]:
    """Duration, a and b on the grid (sizes, vertical).

    Published durations and skews were read where speed crosses a threshold, so the full movement is slightly longer
    than its law: a few rounds make the part above `ONSET_SPEED` obey both laws.
    """
    size, vertical = np.meshgrid(_SIZES, _VERTICAL, indexing='ij')
    peak = peak_speed(size, vertical)
    wanted, skew = saccade_duration(size), acceleration_share(size)
    duration, share = wanted.copy(), skew.copy()
    x = np.linspace(0.0, 1.0, 2001)[1:-1]
    for _ in range(25):
        n = _order(np.maximum(peak * duration / size, 1.25), share)
        a, b = (n * share)[..., None], (n * (1.0 - share))[..., None]
        speed = np.exp(a * np.log(x) + b * np.log1p(-x) - betaln(a + 1.0, b + 1.0)) * (size / duration)[..., None]
        above = speed > np.minimum(ONSET_SPEED, 0.3 * peak)[..., None]
        first, last = x[above.argmax(-1)], x[x.size - 1 - above[..., ::-1].argmax(-1)]
        duration += 0.5 * (np.clip(wanted / (last - first), wanted, 1.6 * wanted) - duration)
        share += 0.5 * (np.clip(first + skew * (last - first), 0.08, 0.5) - share)
    n = _order(np.maximum(peak * duration / size, 1.25), share)
    return duration, n * share, n * (1.0 - share)


def shapes() -> tuple[Array, Array, Array, Array]:
    """Amplitudes of the table, and duration, a and b on it; for `shape_at`."""
    return (_SIZES, *_table())


@njit(cache=True)
def shape_at(
    amplitude: float, vertical: float, tables: tuple[Array, Array, Array, Array]
) -> tuple[float, float, float]:
    """Full duration [s] and exponents a and b of a saccade: bilinear interpolation in the table, for compiled loops.

    Args:
        amplitude: of gaze [deg].
        vertical: 0 horizontal to 1 vertical.
        tables: what `shapes()` gives.
    """
    sizes, durations, first, second = tables
    size = min(max(amplitude, sizes[0]), sizes[-1])
    row = min(max(np.searchsorted(sizes, size) - 1, 0), sizes.size - 2)
    u = (size - sizes[row]) / (sizes[row + 1] - sizes[row])
    columns = durations.shape[1]
    place = min(max(vertical, 0.0), 1.0) * (columns - 1)
    column = min(int(place), columns - 2)
    w = place - column
    return (
        _between(durations, row, u, column, w),
        _between(first, row, u, column, w),
        _between(second, row, u, column, w),
    )


@njit(cache=True)
def _between(grid: Array, row: int, u: float, column: int, w: float) -> float:
    low = (1.0 - w) * grid[row, column] + w * grid[row, column + 1]
    high = (1.0 - w) * grid[row + 1, column] + w * grid[row + 1, column + 1]
    return float((1.0 - u) * low + u * high)


def progress(x: Array, a: Array, b: Array) -> Array:
    """Share of the way covered after the share x of the time, 0 before and 1 after (regularised incomplete beta)."""
    return np.asarray(betainc(a + 1.0, b + 1.0, np.clip(x, 0.0, 1.0)))
