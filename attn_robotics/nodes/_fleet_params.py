"""Parameters of the fleet node."""

from __future__ import annotations

from dataclasses import dataclass

from attn_robotics.nodes._planner import PlannerParams
from attn_robotics.ros.parameters import param


@dataclass(frozen=True)
class SparcFleetParams(PlannerParams):
    """Tunables of the fleet node."""

    horizon: int = param(6, 'Decisions a robot may be ahead of its wheels.', low=1, high=16, read_only=True)
    lost_s: float = param(
        2.0, 'Without a pose for this long a robot is an obstacle [s].', low=0.2, high=60.0, read_only=True
    )
    start_s: float = param(
        30.0,
        'Start without robots that were never heard for this long, where their odometry begins is an obstacle '
        '[s of wall time].',
        low=0.5,
        high=600.0,
        read_only=True,
    )
    stale_s: float = param(
        0.3, 'With a pose older than this a robot waits for a newer one [s].', low=0.05, high=60.0, read_only=True
    )
    stall_s: float = param(
        3.0, 'Without progress for this long a robot is planned around [s].', low=0.5, high=60.0, read_only=True
    )
    attention_top_k: int = param(0, 'Keys of each row on ~/attention; 0 sends all.', low=0, high=1024)
    attention_layer: int = param(-1, 'Communication layer to show; -1 is the last.', low=-1, high=63)
    seed: int = param(0, 'Of priorities and random ties.', low=0, high=2**31 - 1, read_only=True)
