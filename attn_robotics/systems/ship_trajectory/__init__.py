"""Ship trajectories with a learned ship domain: who influences whom can be read from a table in metres."""

from attn_robotics.systems.ship_trajectory.config import ShipConfig

__all__ = ['ShipConfig']
