"""Drawn faces: textures that a Haar cascade takes for faces, made here so that nothing has to be fetched."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SIZE = 256


def draw_face(seed: int, size: int = SIZE, *, mouth_open: float = 0.0) -> npt.NDArray[np.uint8]:
    """A shaded frontal face (size, size, 3), RGB; tone, hair and spacing vary with the seed."""
    rng = np.random.default_rng([seed, 5])
    y, x = np.mgrid[-1.0 : 1.0 : complex(size), -1.0 : 1.0 : complex(size)]
    skin = np.array([225, 178, 150]) * rng.uniform(0.8, 1.05) * np.array([1, rng.uniform(0.95, 1.03), 1])
    hair = np.array([60, 45, 35]) * rng.uniform(0.5, 1.8)
    wide, gap, width = rng.uniform(0.6, 0.66), rng.uniform(0.25, 0.29), rng.uniform(0.11, 0.13)
    image = np.full((size, size, 3), 1.0) * np.array([120, 130, 140])
    head = _blob(x, y - 0.05, wide, 0.86)
    shade = (1.0 - 0.25 * (x / wide) ** 2 - 0.12 * y)[..., None]
    image = _over(image, hair, _blob(x, y + 0.2, wide * 1.15, 0.82))
    image = _over(image, skin * shade, head * _step(y + 0.55 - 0.12 * np.cos(2.5 * x)))
    for side in (-1, 1):
        u = x - side * gap
        image = _over(image, skin * 0.62, 0.75 * _blob(u, y + 0.12, 0.2, 0.13))  # eye socket
        image = _over(image, hair * 0.8, _blob(u, y + 0.27 + 0.08 * u * u, 0.19, 0.035))  # brow
        image = _over(image, np.array([240, 240, 240]), _blob(u, y + 0.1, width, 0.05))
        image = _over(image, np.array([40, 30, 25]), _blob(u, y + 0.1, 0.055, 0.055))
        image = _over(image, skin * 1.12, 0.6 * _blob(u * 0.9, y - 0.22, 0.17, 0.15))  # cheek
        image = _over(image, skin * 0.5, 0.8 * _blob(x - side * 0.06, y - 0.22, 0.03, 0.018))  # nostril
    image = _over(image, skin * 1.15, 0.7 * _blob(x, y - 0.05, 0.06, 0.24))  # bridge of the nose
    image = _over(image, skin * 0.7, 0.6 * _blob(x, y - 0.25, 0.13, 0.035))
    image = _over(image, np.array([150, 70, 70]), _blob(x, y - 0.48, 0.23, 0.05 + 0.07 * mouth_open))
    image = _over(image, np.array([60, 20, 20]), _blob(x, y - 0.48, 0.2, 0.012 + 0.06 * mouth_open))
    image = _over(image, skin * 0.75, 0.5 * _blob(x, y - 0.62, 0.14, 0.03))
    grain = rng.normal(0, 3, (size, size, 1))
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def _blob(x: np.ndarray, y: np.ndarray, width: float, height: float) -> np.ndarray:
    """Soft ellipse, 1 inside."""
    return _step((1.0 - np.hypot(x / width, y / height)) * min(width, height))


def _step(value: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(0.5 + value / 0.03, 0.0, 1.0))


def _over(image: np.ndarray, colour: np.ndarray, share: np.ndarray) -> np.ndarray:
    return np.asarray(image + share[..., None] * (colour - image))
