"""What a robot node shows: its row of the fleet's status and of the attention map."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.node import Node
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from attn_robotics.conversions.attention import to_attention_map, to_image, to_markers
from attn_robotics.ros import qos
from attn_robotics.systems.sparc.fleet import ACTIVE, ARRIVED, WAITING
from attn_robotics.systems.sparc.robot import RobotAgent
from attn_robotics_interfaces.msg import AttentionMap, FleetStatus


class RobotDisplay:
    """Publishers of everything but velocity and notes.

    Args:
        node: publishes.
        robot: whose topics.
        frame_id: frame of everything.
    """

    def __init__(self, node: Node, robot: str, frame_id: str) -> None:
        self._node, self._frame_id = node, frame_id
        self._status = node.create_publisher(FleetStatus, 'sparc/status', qos.STATE)
        self._attention = node.create_publisher(AttentionMap, 'sparc/attention', qos.STATE)
        self._markers = node.create_publisher(MarkerArray, 'sparc/attention_markers', qos.STATE)
        self._image = node.create_publisher(Image, f'{robot}/attention_image', qos.SENSOR)

    def close(self) -> None:
        """Give the publishers back."""
        for publisher in (self._status, self._attention, self._markers, self._image):
            self._node.destroy_publisher(publisher)

    @property
    def is_looked_at(self) -> bool:
        """Whether somebody wants to see attention."""
        publishers = (self._attention, self._markers, self._image)
        return any(publisher.get_subscription_count() for publisher in publishers)

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
        status.decision_ms, (status.decision_p50_ms, status.decision_p99_ms) = agent.decision_ms, agent.percentiles_ms
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
