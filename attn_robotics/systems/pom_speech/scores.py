"""Character and word error rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Levenshtein's: fewest insertions, deletions and substitutions."""
    row = np.arange(len(other) + 1)
    for i, item in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, wanted in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (item != wanted))
    return int(row[-1])


def error_rates(said: Sequence[str], heard: Sequence[str]) -> tuple[float, float]:
    """Character and word error rate of texts: all edits over all characters (words) that were said."""
    characters = sum(edit_distance(a, b) for a, b in zip(said, heard, strict=True))
    words = sum(edit_distance(a.split(), b.split()) for a, b in zip(said, heard, strict=True))
    return characters / max(1, sum(map(len, said))), words / max(1, sum(len(text.split()) for text in said))


def bootstrap_interval(
    said: Sequence[str], heard: Sequence[str], rng: np.random.Generator, trials: int = 1000
) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % intervals of both rates over drawings of the utterances with replacement, as the paper does."""
    pairs = [
        (edit_distance(a, b), len(a), edit_distance(a.split(), b.split()), len(a.split()))
        for a, b in zip(said, heard, strict=True)
    ]
    counts = np.array(pairs, np.float64)
    drawn = counts[rng.integers(len(counts), size=(trials, len(counts)))].sum(1)
    rates = drawn[:, [0, 2]] / np.maximum(1.0, drawn[:, [1, 3]])
    (c_low, w_low), (c_high, w_high) = np.quantile(rates, [0.025, 0.975], axis=0)
    return (float(c_low), float(c_high)), (float(w_low), float(w_high))
