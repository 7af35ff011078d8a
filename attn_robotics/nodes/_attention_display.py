"""What fleet and robot nodes have in common in what they show: a status, and who attends to whom in three forms."""

from __future__ import annotations

from rclpy.node import Node
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from attn_robotics.ros import qos
from attn_robotics_interfaces.msg import AttentionMap, FleetStatus


class AttentionDisplay:
    """Publishers of status and attention.

    Args:
        node: publishes.
        frame_id: frame of everything.
        prefix: of the topics `status`, `attention` and `attention_markers`.
        image: topic of the attention image.
    """

    def __init__(self, node: Node, frame_id: str, *, prefix: str, image: str) -> None:
        self._node, self._frame_id = node, frame_id
        self._status = node.create_publisher(FleetStatus, f'{prefix}/status', qos.STATE)
        self._attention = node.create_publisher(AttentionMap, f'{prefix}/attention', qos.STATE)
        self._markers = node.create_publisher(MarkerArray, f'{prefix}/attention_markers', qos.STATE)
        self._image = node.create_publisher(Image, image, qos.SENSOR)

    def close(self) -> None:
        """Give the publishers back."""
        for publisher in (self._status, self._attention, self._markers, self._image):
            self._node.destroy_publisher(publisher)

    @property
    def is_looked_at(self) -> bool:
        """Whether somebody wants to see attention."""
        publishers = (self._attention, self._markers, self._image)
        return any(publisher.get_subscription_count() for publisher in publishers)
