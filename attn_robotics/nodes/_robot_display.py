"""What a robot node shows: its row of the fleet's status and of the attention map."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.node import Node

from attn_robotics.conversions.attention import to_attention_map, to_image, to_markers
from attn_robotics.nodes._attention_display import AttentionDisplay
from attn_robotics.systems.sparc.fleet import ACTIVE, ARRIVED, WAITING
from attn_robotics.systems.sparc.robot import RobotAgent
from attn_robotics_interfaces.msg import FleetStatus


class RobotDisplay(AttentionDisplay):
    """Publishers of everything but velocity and notes.

    Args:
        node: publishes.
        robot: whose topics.
        frame_id: frame of everything.
    """

    def __init__(self, node: Node, robot: str, frame_id: str) -> None:
        super().__init__(node, frame_id, prefix='sparc', image=f'{robot}/attention_image')

    def show(self, agent: RobotAgent, stamp: Time) -> None:
        """One row of fleet status and of the attention map."""
        if agent.planned is None or agent.goal is None:
            return
        state = WAITING if not agent.team else ARRIVED if agent.has_arrived else ACTIVE
        status = FleetStatus(tick=agent.step, robot_ids=[agent.name], state=bytes([state]))
        status.header.stamp, status.header.frame_id = stamp, self._frame_id
        status.rows, status.columns = [agent.planned[0]], [agent.planned[1]]
        status.goal_rows, status.goal_columns = [agent.goal[0]], [agent.goal[1]]
        status.lag = [agent.lag]
        status.decision_ms = agent.decision_ms
        status.decision_p50_ms, status.decision_p99_ms = agent.decisions_ms.quantiles
        self._status.publish(status)
        if not agent.attention:
            return
        layer, weights = list(agent.attention.items())[-1]
        xy = agent.frame.to_xy(agent.heard_cells)
        place = agent.team.index(agent.name)
        frame_id = self._frame_id
        if self._attention.get_subscription_count():
            gaps = np.linalg.norm(xy - xy[place], axis=-1)[None]
            self._attention.publish(
                to_attention_map(
                    weights, [agent.name], agent.team, mechanism='relation', layer=layer, tick=agent.step,
                    stamp=stamp, frame_id=frame_id, distances=gaps,
                )
            )  # fmt: skip
        if self._markers.get_subscription_count():
            row = np.zeros((weights.shape[0], len(agent.team), len(agent.team)), np.float32)
            row[:, place] = weights[:, 0]
            self._markers.publish(to_markers(row, xy, frame_id=frame_id, stamp=stamp, namespace=agent.name))
        if self._image.get_subscription_count():
            self._image.publish(to_image(weights, frame_id=frame_id, stamp=stamp))
