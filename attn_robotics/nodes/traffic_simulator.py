"""Play synthetic river traffic for `ship_trajectory`: tracks of vessels that give way by a known rule.

Nothing here was recorded on a river, see systems/ship_trajectory/data.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Header

from attn_robotics.conversions.stamps import to_stamp
from attn_robotics.conversions.tracks import to_tracks
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import run_node
from attn_robotics.ros.parameters import param
from attn_robotics.ros.simulation import PlayerNode
from attn_robotics.systems.ship_trajectory.data import Traffic
from attn_robotics.systems.ship_trajectory.player import RiverPlayer
from attn_robotics_interfaces.msg import Tracks


@dataclass(frozen=True)
class TrafficSimulatorParams:
    """Tunables of the traffic simulator."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    vessels: int = param(4, 'Vessels on the stretch of river.', low=1, high=64, read_only=True)
    bend: float = param(150.0, 'How far the river swings to both sides [m].', low=0.0, high=1000.0, read_only=True)
    seed: int = param(0, 'Of everything.', low=0, high=2**31 - 1, read_only=True)
    real_time_factor: float = param(20.0, 'Simulated seconds in a second.', low=0.1, high=200.0, read_only=True)
    with_fairway: bool = param(True, 'Tell where the fairway is.')
    frame_id: str = param('map', 'Frame of positions.', read_only=True)


class TrafficSimulator(PlayerNode):
    """The `traffic_simulator` node."""

    NAME = 'traffic_simulator'
    Params = TrafficSimulatorParams
    params: TrafficSimulatorParams

    def configure(self) -> None:
        """Put vessels on the river."""
        p = self.params
        self._player = RiverPlayer(replace(Traffic(), vessels=p.vessels), p.seed, bend_m=p.bend)
        self._out = self.create_publisher(Tracks, 'tracks', qos.STATE)
        self.wind_up(self._player.traffic.step_s, p.real_time_factor)

    def release(self) -> None:
        """Forget the river."""
        if hasattr(self, '_out'):
            self.deactivate()
            self.destroy_publisher(self._out)
            del self._out, self._player

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """How long it runs."""
        values = {'simulated time [s]': self.played_s}
        return DiagnosticStatus.OK, 'running', values

    def play(self, stamp_s: float) -> None:
        """Where the vessels have come to."""
        player = self._player
        player.step()
        axis = np.ascontiguousarray(player.axis) if self.params.with_fairway else None
        half = player.traffic.half_width_m if self.params.with_fairway else 0.0
        header = Header(stamp=to_stamp(stamp_s), frame_id=self.params.frame_id)
        self._out.publish(to_tracks(player.tracks(), header, axis, half))


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(TrafficSimulator, args)


if __name__ == '__main__':
    sys.exit(main())
