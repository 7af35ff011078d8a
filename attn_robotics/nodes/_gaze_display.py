"""What a gaze node shows: its state, the frame at what is looked at, attention weights and markers."""

from __future__ import annotations

from rclpy.node import Node
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from attn_robotics.conversions import gaze as messages
from attn_robotics.ros import qos
from attn_robotics.systems.gaze.command import Command
from attn_robotics.systems.gaze.core import CoreResult, GazeCore
from attn_robotics.systems.gaze.selector import AttentionSelector
from attn_robotics_interfaces.msg import AttentionMap, GazeState

SHOW_EVERY = 5  # ticks between attention, markers and the target's transform


class Display:
    """Publishers of everything but the command.

    Args:
        node: publishes.
        core: whose scene and selector are shown.
        neck_frame: frame of everything.
        target_frame: name of the frame at what is looked at.
        mechanism: name of the attention.
    """

    def __init__(self, node: Node, core: GazeCore, neck_frame: str, target_frame: str, mechanism: str) -> None:
        self._node, self._core = node, core
        self._neck_frame, self._target_frame, self._mechanism = neck_frame, target_frame, mechanism
        self._state = node.create_publisher(GazeState, '~/state', qos.STATE)
        self._attention = node.create_publisher(AttentionMap, '~/attention', qos.STATE)
        self._markers = node.create_publisher(MarkerArray, '~/markers', qos.STATE)
        self._tf = node.create_publisher(TFMessage, '/tf', qos.TRANSFORMS)
        self._ticks, self._shown = 0, ''

    def show(self, command: Command, result: CoreResult | None, stamp: messages.Time) -> None:
        """One tick's state; every few ticks the rest too."""
        self._ticks += 1
        self._state.publish(messages.to_gaze_state(command, stamp, self._neck_frame))
        target, scene, frame = result.target if result is not None else None, self._core.scene, self._neck_frame
        name = command.target_id
        if target is not None and (self._ticks % SHOW_EVERY == 0 or name != self._shown):
            point = messages.target_point(self._core.profile, command, target)
            transform = messages.to_point_transform(point, stamp, frame, self._target_frame)
            self._tf.publish(TFMessage(transforms=[transform]))
        self._shown = name
        if self._ticks % SHOW_EVERY or result is None or scene is None:
            return
        ray = messages.gaze_ray(self._core.profile, command, target.distance if target is not None else 1.0)
        if not (self._attention.get_subscription_count() or self._markers.get_subscription_count()):
            return
        selector = self._core.selector
        weights = selector.attention if isinstance(selector, AttentionSelector) else None
        shares = messages.attention_shares(result.scores, weights)
        if shares:
            self._attention.publish(messages.to_attention(shares, self._mechanism, self._ticks, stamp, frame))
        self._markers.publish(messages.to_markers(ray, scene.entities, shares, stamp, frame))

    def close(self) -> None:
        """Show no more."""
        for publisher in (self._state, self._attention, self._markers, self._tf):
            self._node.destroy_publisher(publisher)
