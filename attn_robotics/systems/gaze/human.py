"""Published figures of human gaze that the motor model aims at and the score compares with.

Degrees and seconds; yaw positive to the left, pitch positive up, everywhere in `systems/gaze`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PublishedPeak:
    """Mean peak speed of healthy people for one target step."""

    amplitude: float  # deg
    peak: float  # deg/s
    sd: float  # deg/s, between people


# Normative saccadometry, 100 people of 6 to 76 years at 220 Hz (PMC6143243).
HORIZONTAL: Final = (PublishedPeak(5, 213, 29), PublishedPeak(15, 352, 50), PublishedPeak(30, 455, 67))
VERTICAL: Final = (PublishedPeak(5, 208, 36), PublishedPeak(10, 303, 50), PublishedPeak(20, 391, 71))

# Collewijn, Erkelens and Steinman 1988.
UNDERSHOOT: Final = 0.5  # deg, visible targets of 10 to 70 deg
SATURATION: Final = 502.0  # deg/s from 40 deg on
DURATION_BASE: Final = 0.023  # s
DURATION_SLOPE: Final = 0.0027  # s/deg

ONSET_SPEED: Final = 30.0  # deg/s: gaze faster than this is a saccade
LATENCY_MEAN: Final = 0.20  # s
LATENCY_SD: Final = 0.05  # s, Gamma of shape 16 with that mean
EYE_RANGE: Final = 50.0  # deg, the dynamic range at rest
PUPIL_DISTANCE: Final = 0.063  # m
BLINK_RATE: Final = 16.0 / 60.0  # 1/s
FREEZE: Final = 0.08  # s before onset from which a saccade cannot be changed


def peak_speed(amplitude: Array | float, vertical: Array | float = 0.0) -> Array:
    """Main sequence: peak gaze speed.

    The customary 500 (1 - exp(-A / 10)) lies 0.7 SD above the published mean at 15 deg and 0.6 SD below it at 5 deg.
    Two exponentials pass through the published means and still refit to about 500 and 10 over 3 to 75 deg.
    Their constants are our least-squares fit to the tables above (amplitude less the undershoot).

    Args:
        amplitude: (...) gaze amplitude [deg].
        vertical: (...) 0 for a horizontal to 1 for a vertical movement (squared sine of its direction).

    Returns:
        (...) peak speed [deg/s].
    """
    size = np.asarray(amplitude, dtype=np.float64)
    part = np.asarray(vertical, dtype=np.float64)
    across = 508.0 * (1.0 - 0.22 * np.exp(-size / 1.2) - 0.78 * np.exp(-size / 14.0))
    along = 508.0 * (1.0 - 0.23 * np.exp(-size / 1.8) - 0.77 * np.exp(-size / 15.0))
    return np.asarray((1.0 - part) * across + part * along)


def saccade_duration(amplitude: Array | float) -> Array:
    """Duration of a saccade [s], linear in its amplitude [deg] (Collewijn et al. 1988; customary slope and base)."""
    return np.asarray(DURATION_BASE + DURATION_SLOPE * np.asarray(amplitude, dtype=np.float64))


def acceleration_share(amplitude: Array | float) -> Array:
    """Share of a saccade spent speeding up: 0.45 to 10 deg, 0.20 from 50 deg (Collewijn et al. 1988)."""
    return np.asarray(np.interp(np.asarray(amplitude, dtype=np.float64), [10.0, 50.0], [0.45, 0.20]))


def head_share_mean(amplitude: Array | float) -> Array:
    """Mean head share of a population against gaze amplitude [deg]: soft hinge on 0 to 75 deg.

    Figures of the reconstruction (3000 shifts, random people); the published shape is the soft hinge of the
    eye-head mover spectrum.
    """
    size = np.asarray(amplitude, dtype=np.float64)
    return np.asarray(np.interp(size, [5, 15, 25, 35, 45, 55, 68], [0.04, 0.10, 0.23, 0.34, 0.44, 0.52, 0.57]))


def blink_probability(amplitude: Array | float) -> Array:
    """Chance of a blink with a gaze shift of this amplitude [deg] (fit to Evinger 1994: 97 % beyond 33 deg)."""
    return np.asarray(1.0 / (1.0 + np.exp(-(np.asarray(amplitude, dtype=np.float64) - 25.0) / 3.0)))


def vergence_angle(distance: Array | float) -> Array:
    """Vergence [deg] for a target at this distance [m], not nearer than 0.15 m."""
    reach = np.maximum(np.asarray(distance, dtype=np.float64), 0.15)
    return np.asarray(np.degrees(2.0 * np.arctan(PUPIL_DISTANCE / (2.0 * reach))))
