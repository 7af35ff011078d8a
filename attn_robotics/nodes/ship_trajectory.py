"""Predict where vessels, or robots, will be: tracks in, paths and who influences whom out.

The model is an LSTM with a learned ship domain (systems/ship_trajectory); what ships was trained on synthetic river
traffic, see `traffic_simulator`. Other lengths and speeds are scaled by parameters.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from nav_msgs.msg import Path
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from attn_robotics.conversions.tracks import (
    from_tracks,
    to_domain_markers,
    to_influence,
    to_path,
    to_track_predictions,
)
from attn_robotics.ros import qos
from attn_robotics.ros.deferred import Deferred, DeferredService
from attn_robotics.ros.lifecycle import ConfigurationError, run_node
from attn_robotics.ros.parameters import param
from attn_robotics.ros.perception import PerceptionNode
from attn_robotics.runtime.errors import EngineError
from attn_robotics.systems.ship_trajectory.config import ShipConfig
from attn_robotics.systems.ship_trajectory.domain import bin_edges_deg
from attn_robotics.systems.ship_trajectory.processor import (
    Fairway,
    Prediction,
    Scale,
    Track,
    TrackError,
    TrackProcessor,
)
from attn_robotics_interfaces.msg import AttentionMap, Tracks
from attn_robotics_interfaces.srv import GetShipDomain, PredictTracks


@dataclass(frozen=True)
class ShipTrajectoryParams:
    """Tunables of trajectory prediction."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    model: str = param('ship_trajectory', 'Model of the catalogue.', read_only=True)
    length_scale: float = param(
        1.0, "The model's metres in a metre of the tracks: 1 on rivers, larger for smaller worlds.", low=1e-3, high=1e5,
        read_only=True,
    )  # fmt: skip
    time_scale: float = param(
        1.0, "The model's seconds in a second of the tracks; predictions reach 300 s / time_scale.", low=1e-3, high=1e5,
        read_only=True,
    )  # fmt: skip
    max_age_s: float = param(
        60.0, 'Tracks that ended longer ago are left out [s].', low=0.01, high=3600.0, read_only=True
    )
    markers_heading: int = param(180, 'Relative heading whose domain is drawn [deg].', low=0, high=359)
    marker_width: float = param(4.0, 'Width of drawn lines [m].', low=0.001, high=1000.0)
    say: bool = param(False, 'Log who mattered most to whom.')


class ShipTrajectoryNode(PerceptionNode):
    """The `ship_trajectory` node."""

    NAME = 'ship_trajectory'
    INPUT = 'tracks'
    Params = ShipTrajectoryParams
    EXPECTED = (*PerceptionNode.EXPECTED, TrackError)
    params: ShipTrajectoryParams

    def configure(self) -> None:
        """Load the model, look at its domain, connect."""
        p = self.params
        self.open_model(p.model)
        names = [spec.name for spec in self.entry.outputs]
        if 'paths' not in names or 'domain' not in names:
            raise ConfigurationError(f"parameter 'model': {p.model} predicts no tracks; use ship_trajectory")
        self._config = ShipConfig.from_dict(dict(self.entry.config))
        self._processor = TrackProcessor(self._config, Scale(p.length_scale, p.time_scale), p.max_age_s)
        self._limit = self.entry.dims['V'][1]
        still = Track('', np.array([self._processor.step_s, 0.0]), np.array([[-1.0, 0.0], [0.0, 0.0]]))
        domain = self.ask(self._processor.inputs([still]), deadline_s=30.0)['domain'][0]
        self._domain_m = domain.astype(np.float64) / p.length_scale
        self._paths: dict[str, Any] = {}
        self._gone: deque[Any] = deque()  # publishers of vessels that left
        self._tick = 0
        self._shown = ''
        self._attention = self.advertise(AttentionMap, '~/attention', qos.STATE)
        self._markers = self.advertise(MarkerArray, '~/markers', qos.STATE)
        self.held.callback(self._forget_paths)
        self.hear(Tracks, 'tracks', self._on_tracks, qos.STATE)
        # Answers are made here: neither the executor nor the engine's threads wait for them.
        self._pool = ThreadPoolExecutor(1, self.NAME)
        self.held.callback(self._pool.shutdown)
        for kind, name, callback in (
            (PredictTracks, 'predict', self._on_predict),
            (GetShipDomain, 'get_ship_domain', self._on_domain),
        ):
            service = DeferredService(self, kind, f'~/{name}', callback, _refusal)
            self.held.callback(service.close, 'the node is being cleaned up')

    def process(self, message: Tracks) -> None:
        """Predict one scene and publish."""
        try:
            tracks, fairway = from_tracks(message)
        except TrackError as error:
            self.drop('bad tracks', str(error))
            return
        used = []
        for track in tracks:
            if problem := self._processor.check(track):
                self.drop('bad track', problem)
            else:
                used.append(track)
        if len(used) > self._limit:
            self.drop('too many tracks', f'{len(used)} tracks, {self._limit} are allowed; the last ones are left out')
            used = used[: self._limit]
        present = {track.id for track in used}
        self._gone.extend(self._paths.pop(name) for name in set(self._paths) - present)
        if not used:
            self._attention.publish(AttentionMap(header=message.header, mechanism='ship_domain', layer='decoder'))
            return
        self._publish(self._predict(used, fairway), message.header)

    def facts(self) -> Mapping[str, object]:
        """The newest reasons."""
        return {'vessels': len(self._paths), 'newest': self._shown}

    def _predict(self, tracks: list[Track], fairway: Fairway | None) -> Prediction:
        outputs = self.ask(self._processor.inputs(tracks, fairway))
        return self._processor.prediction(tracks, outputs, fairway)

    def _publish(self, found: Prediction, header: Header) -> None:
        for vessel, name in enumerate(found.ids):
            if name not in self._paths:
                self._paths[name] = self.create_publisher(Path, f'paths/{topic_name(name)}', qos.STATE)
            self._paths[name].publish(to_path(found, vessel, header))
        if self._attention.get_subscription_count():
            self._attention.publish(to_influence(found, header, self._tick))
        if self._markers.get_subscription_count():
            bins = len(self._domain_m)
            heading = round(self.params.markers_heading * bins / 360) % bins
            self._markers.publish(
                to_domain_markers(
                    found, self._domain_m, heading, header, width_m=self.params.marker_width, lifetime_s=10.0
                )
            )
        self._tick += 1
        reasons = [found.because(vessel) for vessel in range(len(found.ids)) if found.neighbour[vessel] >= 0]
        self._shown = '; '.join(reasons)
        if self.params.say:
            for reason in reasons:
                self.get_logger().info(reason)

    def _on_tracks(self, message: Tracks) -> None:
        self._destroy_gone()
        self.offer(message)

    def _destroy_gone(self) -> None:
        """Remove the topics of vessels that left: in the executor's thread, which waits on them."""
        while self._gone:
            self.destroy_publisher(self._gone.popleft())

    def _forget_paths(self) -> None:
        self._gone.extend(self._paths.values())
        self._paths.clear()
        self._destroy_gone()

    # Services.
    def _on_predict(self, request: PredictTracks.Request, deferred: Deferred) -> None:
        try:
            tracks, fairway = from_tracks(request.tracks)
            if not self.is_active:
                raise TrackError('the node is not active; activate it first')
            if not 0 < len(tracks) <= self._limit:
                raise TrackError(f'a scene has 1 to {self._limit} tracks, got {len(tracks)}')
            future = self.engine.submit(self.params.model, self._processor.inputs(tracks, fairway))
        except (TrackError, EngineError) as error:
            deferred.answer(_refusal(deferred.response, str(error)))
            return

        def hand_over(settled: Future[Any]) -> None:
            with suppress(RuntimeError):  # the pool was shut down: the service refuses what is open
                self._pool.submit(self._answer, settled, deferred, tracks, fairway, request.tracks.header)

        future.add_done_callback(hand_over)

    def _answer(
        self, future: Future[Any], deferred: Deferred, tracks: list[Track], fairway: Fairway | None, header: Header
    ) -> None:
        response = deferred.response
        try:
            found = self._processor.prediction(tracks, future.result().outputs, fairway)
            response.predictions = to_track_predictions(found, header)
            response.attention = to_influence(found, header, 0)
            response.influence = found.influence.astype(np.float32).reshape(-1).tolist()
            response.success = True
            deferred.answer(response)
        except EngineError as error:
            deferred.answer(_refusal(response, str(error)))
        except Exception as error:  # a defect; its client must not wait for ever
            self._defect(error)
            deferred.answer(_refusal(response, f'{type(error).__name__}: {error}'))

    def _on_domain(self, request: GetShipDomain.Request, deferred: Deferred) -> None:
        response = deferred.response
        edges = bin_edges_deg(len(self._domain_m))
        response.bearing_edges_deg = response.heading_edges_deg = edges
        response.radii = self._domain_m.astype(np.float32).reshape(-1).tolist()
        response.interpolated = self._config.fusion == 'interpolated'
        response.success = True
        deferred.answer(response)


def _refusal(response: Any, why: str) -> Any:
    response.success, response.message = False, why
    return response


def topic_name(name: str) -> str:
    """A vessel's name as a part of a topic: letters, digits and underscores, not beginning with a digit."""
    clean = re.sub(r'\W', '_', name, flags=re.ASCII)
    return clean if clean and not clean[0].isdigit() else f'id_{clean}'


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(ShipTrajectoryNode, args)


if __name__ == '__main__':
    sys.exit(main())
