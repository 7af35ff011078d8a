"""From tracks to the network's inputs and back: resampling, units, fairways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from attn_robotics.systems.ship_trajectory.config import ShipConfig
from attn_robotics.systems.ship_trajectory.data import Scenes

if TYPE_CHECKING:
    from attn_robotics.systems.ship_trajectory.model import ShipNetwork, ShipService

Array = NDArray[np.float64]
WEIGHTS = Path(__file__).parent / 'weights' / 'ship_trajectory.safetensors'
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


class TrackError(ValueError):
    """Tracks that can not be used; the message names the culprit and the fix."""


@dataclass(frozen=True)
class Track:
    """What is known of one vessel.

    Attributes:
        id: its name.
        ages_s: (P,) how long before the common moment each position was measured, oldest first [s].
        xy: (P, 2) positions [m].
        heading: at present, counter-clockwise from the x axis [rad]; NaN takes the course.
        length: [m], 0 where unknown.
        beam: [m], 0 where unknown.
    """

    id: str
    ages_s: Array
    xy: Array
    heading: float = float('nan')
    length: float = 0.0
    beam: float = 0.0


@dataclass(frozen=True)
class Scale:
    """Metres and seconds of the model in one of the tracks': 1 on rivers, perhaps 300 and 150 in corridors."""

    length: float = 1.0
    time: float = 1.0


class Fairway:
    """A river's axis and width: positions along and across it, and back.

    Args:
        axis: (M, 2) points of a line in the middle, any direction [m]; the finer, the smoother.
        half_width_m: from the axis to either edge.

    Raises:
        TrackError: fewer than two different points, or no width.
    """

    def __init__(self, axis: Array, half_width_m: float) -> None:
        parts = np.diff(np.asarray(axis, np.float64).reshape(-1, 2), axis=0)
        lengths = np.linalg.norm(parts, axis=1)
        if not np.isfinite(axis).all() or not (lengths > 0).any() or not np.isfinite(half_width_m) or half_width_m <= 0:
            raise TrackError('a fairway needs an axis of two or more different points and a half width above 0')
        used = lengths > 0
        self._start = np.asarray(axis, np.float64).reshape(-1, 2)[:-1][used]
        self._unit = parts[used] / lengths[used, None]
        self._length = lengths[used]
        self._s = np.concatenate([[0.0], np.cumsum(self._length)[:-1]])
        self.half_width_m = float(half_width_m)

    def to_river(self, xy: Array) -> tuple[Array, Array]:
        """(..., 2) positions to (..., 2) along and across (left positive) [m], and the axis' direction there [rad]."""
        flat = xy.reshape(-1, 1, 2) - self._start  # (P, M, 2)
        along = (flat * self._unit).sum(-1)
        # The outermost parts go on for ever.
        low = np.where(np.arange(len(self._s)) == 0, -np.inf, 0.0)
        high = np.where(np.arange(len(self._s)) == len(self._s) - 1, np.inf, self._length)
        held = np.clip(along, low, high)
        apart = np.linalg.norm(flat - held[..., None] * self._unit, axis=-1)
        part = apart.argmin(1)
        row = np.arange(len(part))
        unit = self._unit[part]
        chosen = flat[row, part]
        across = unit[:, 0] * chosen[:, 1] - unit[:, 1] * chosen[:, 0]
        river = np.stack([self._s[part] + held[row, part], across], -1).reshape(xy.shape)
        return river, np.arctan2(unit[:, 1], unit[:, 0]).reshape(xy.shape[:-1])

    def to_map(self, river: Array) -> tuple[Array, Array]:
        """The inverse of `to_river`, with the axis' direction [rad]."""
        part = np.clip(np.searchsorted(self._s, river[..., 0], side='right') - 1, 0, len(self._s) - 1)
        unit = self._unit[part]
        normal = np.stack([-unit[..., 1], unit[..., 0]], -1)
        along = (river[..., 0] - self._s[part])[..., None]
        return self._start[part] + along * unit + river[..., 1:] * normal, np.arctan2(unit[..., 1], unit[..., 0])


@dataclass(frozen=True)
class Prediction:
    """What the model says of V vessels, in the tracks' frame and units.

    Attributes:
        ids: V names.
        paths: (V, horizon, 2) positions [m].
        headings: (V, horizon) courses there [rad].
        deviation: (V, horizon, 2) standard deviation of held-out errors along and across the present course [m].
        times_s: (horizon,) after the common moment [s].
        influence: (V, V) of vessel j on vessel i, in the model's unit.
        shares: (V, V) the same, rows summing to one, or zero.
        radius: (V, V) domain radius of i towards j [m]; 0 on the diagonal.
        distance: (V, V) [m].
        neighbour: (V,) index of who mattered most, -1 for nobody.
        positions: (V, 2) at the common moment [m].
        present_headings: (V,) [rad].
    """

    ids: tuple[str, ...]
    paths: Array
    headings: Array
    deviation: Array
    times_s: Array
    influence: Array
    shares: Array
    radius: Array
    distance: Array
    neighbour: NDArray[np.int64]
    positions: Array
    present_headings: Array

    def because(self, vessel: int) -> str:
        """One line: who mattered most to a vessel, how far it is and how far its domain reaches there."""
        other = int(self.neighbour[vessel])
        if other < 0:
            return f'{self.ids[vessel]}: nobody within its domain'
        share, apart, radius = (part[vessel, other] for part in (self.shares, self.distance, self.radius))
        return (
            f'{self.ids[vessel]}: {self.ids[other]} matters most ({100 * share:.0f} %), {apart:.4g} m away, '
            f'domain reaches {radius:.4g} m there'
        )


class TrackProcessor:
    """Tracks in, the network's inputs out; its answers in, predictions out.

    Args:
        config: of the network.
        scale: of the tracks' units.
        max_age_s: vessels whose newest position is older are left out [s of the tracks].
    """

    def __init__(self, config: ShipConfig, scale: Scale | None = None, max_age_s: float = 60.0) -> None:
        self.config = config
        self.scale = scale or Scale()
        self.max_age_s = max_age_s
        self.step_s = config.step_s / self.scale.time

    def check(self, track: Track) -> str:
        """Why a track can not be used, in one line; empty when it can."""
        if len(track.ages_s) < 2 or track.xy.shape != (len(track.ages_s), 2):
            return f'track {track.id!r} needs two or more positions with an age each'
        if not (np.isfinite(track.xy).all() and np.isfinite(track.ages_s).all()):
            return f'track {track.id!r} holds NaN or infinity'
        if np.abs(track.xy).max() > 1e9:
            return f'track {track.id!r} has positions beyond 1e9 m'
        if (np.diff(track.ages_s) >= 0).any():
            return f'track {track.id!r} must be oldest first, with no age twice'
        if track.ages_s[-1] < 0:
            return f'track {track.id!r} has a position from the future'
        if track.ages_s[-1] > self.max_age_s:
            return f'track {track.id!r} ends {track.ages_s[-1]:.0f} s ago, allowed are {self.max_age_s:g} s'
        if not (track.length >= 0 and track.beam >= 0):
            return f'track {track.id!r} must have length and beam of at least 0'
        return ''

    def inputs(self, tracks: Sequence[Track], fairway: Fairway | None = None) -> dict[str, NDArray[np.generic]]:
        """One scene of V vessels, by name, ready for the model.

        Positions are interpolated at the model's moments; beyond either end of a track the nearest velocity goes on.

        Raises:
            TrackError: a track that `check` refuses.
        """
        for track in tracks:
            if problem := self.check(track):
                raise TrackError(problem)
        ages = self.step_s * np.arange(self.config.history, -1, -1.0)
        xy = np.stack([_at(track, ages) for track in tracks])  # (V, history + 1, 2)
        moved = xy[:, -1] - xy[:, -2]
        given = np.array([track.heading for track in tracks])
        headings = np.where(np.isfinite(given), given, np.arctan2(moved[:, 1], moved[:, 0]))
        edges = np.zeros((len(tracks), self.config.history, 3))
        if fairway is not None:
            xy, turned = fairway.to_river(xy)
            headings = headings - turned[:, -1]
            across = xy[:, 1:, 1] * np.where(np.cos(headings) >= 0, 1.0, -1.0)[:, None]
            half = fairway.half_width_m
            edges = np.stack([half - across, half + across, np.ones_like(across)], -1)
        # Moved so that float32 does not lose centimetres in map coordinates.
        origin = xy[:, -1].mean(0)
        scale = self.scale.length
        sizes = np.array([(track.length, track.beam) for track in tracks])
        return {
            'positions': (scale * (xy - origin))[None].astype(np.float32),
            'headings': np.arctan2(np.sin(headings), np.cos(headings))[None].astype(np.float32),
            'sizes': (scale * sizes)[None].astype(np.float32),
            'fairway': (edges * [scale, scale, 1.0])[None].astype(np.float32),
            'present': np.ones((1, len(tracks)), np.bool_),
        }

    def prediction(
        self, tracks: Sequence[Track], outputs: dict[str, NDArray[np.generic]], fairway: Fairway | None = None
    ) -> Prediction:
        """Turn the model's answer for `inputs` of the same tracks into the tracks' frame and units."""
        ages = np.array([self.step_s, 0.0])
        now = np.stack([_at(track, ages) for track in tracks])
        moved = now[:, 1] - now[:, 0]
        present = np.array([track.heading for track in tracks])
        present = np.where(np.isfinite(present), present, np.arctan2(moved[:, 1], moved[:, 0]))
        place = now[:, 1] if fairway is None else fairway.to_river(now[:, 1])[0]
        scale = self.scale.length
        paths = outputs['paths'][0].astype(np.float64) / scale + place.mean(0)
        if fairway is not None:
            paths, _ = fairway.to_map(paths)
        steps = np.diff(np.concatenate([now[:, 1:], paths], 1), axis=1)
        courses = np.arctan2(steps[..., 1], steps[..., 0])
        slow = np.linalg.norm(steps, axis=-1) < 1e-3 * self.config.unit_m / scale
        influence = outputs['influence'][0].astype(np.float64)
        total = influence.sum(1, keepdims=True)
        return Prediction(
            ids=tuple(track.id for track in tracks),
            paths=paths,
            headings=np.where(slow, present[:, None], courses),
            deviation=outputs['deviation'][0].astype(np.float64) / scale,
            times_s=self.step_s * np.arange(1.0, paths.shape[1] + 1.0),
            influence=influence,
            shares=np.divide(influence, total, out=np.zeros_like(influence), where=total > 0),
            radius=outputs['radius'][0].astype(np.float64) / scale,
            distance=outputs['distance'][0].astype(np.float64) / scale,
            neighbour=outputs['neighbour'][0].astype(np.int64),
            positions=now[:, 1],
            present_headings=present,
        )


def _at(track: Track, ages: Array) -> Array:
    """(len(ages), 2) positions of a track at ages, oldest first; beyond its ends the nearest velocity goes on."""
    times, wanted = -track.ages_s, -ages
    part = np.clip(np.searchsorted(times, wanted, side='right') - 1, 0, len(times) - 2)
    share = (wanted - times[part]) / (times[part + 1] - times[part])
    found: Array = track.xy[part] + share[:, None] * (track.xy[part + 1] - track.xy[part])
    return found


def read_card() -> dict[str, Any]:
    """The card of the weights that ship.

    Raises:
        ValueError: no such file, or no mapping in it.
    """
    path = WEIGHTS.with_suffix('.yaml')
    try:
        content = yaml.safe_load(path.read_text('utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f'can not read {path}: {" ".join(str(error).split())[:200]}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} must be a mapping')
    return content


def read_network() -> ShipNetwork:
    """The network of `read_service`."""
    return read_service().network


def read_service() -> ShipService:
    """What the engine runs, with the weights that ship, checked against their card.

    Raises:
        EngineError: the file is missing or damaged.
    """
    from attn_robotics.runtime.weights import load_into, read_verified
    from attn_robotics.systems.ship_trajectory.model import ShipNetwork, ShipService

    card = read_card()
    service = ShipService(ShipNetwork(ShipConfig.from_dict(card['config'])))
    load_into(service, read_verified(WEIGHTS, card['sha256']), WEIGHTS)
    return service.eval()
