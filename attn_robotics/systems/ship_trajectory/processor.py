"""From tracks to the network's inputs and back: resampling, units, fairways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attn_robotics.systems.ship_trajectory.config import ShipConfig
from attn_robotics.systems.ship_trajectory.data import Scenes

Array = NDArray[np.float64]
INPUTS = ('positions', 'headings', 'sizes', 'fairway', 'present')


def inputs_of_scenes(scenes: Scenes, config: ShipConfig) -> tuple[dict[str, NDArray[np.generic]], NDArray[np.float32]]:
    """The network's inputs, by name, and the true future (N, V, horizon, 2) [m] of simulated scenes."""
    past = scenes.positions[:, :, : config.history + 1]
    moved = past[:, :, -1] - past[:, :, -2]
    headings = np.arctan2(moved[..., 1], moved[..., 0])
    is_up = np.where(np.cos(headings) >= 0, 1.0, -1.0)[:, :, None]
    across = past[:, :, 1:, 1] * is_up
    half = scenes.half_width_m
    fairway = np.stack([half - across, half + across, np.ones_like(across)], -1)
    inputs: dict[str, NDArray[np.generic]] = {
        'positions': past.astype(np.float32),
        'headings': headings.astype(np.float32),
        'sizes': scenes.sizes.astype(np.float32),
        'fairway': fairway.astype(np.float32),
        'present': np.ones(past.shape[:2], np.bool_),
    }
    return inputs, scenes.positions[:, :, config.history + 1 :].astype(np.float32)
