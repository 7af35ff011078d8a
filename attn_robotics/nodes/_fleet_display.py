"""What a fleet node shows: its status, and who attends to whom for whoever looks."""

from __future__ import annotations

import numpy as np
from rclpy.node import Node

from attn_robotics.conversions import attention as attention_messages
from attn_robotics.conversions.stamps import to_stamp
from attn_robotics.nodes._attention_display import AttentionDisplay
from attn_robotics.runtime.metrics import Recent
from attn_robotics.systems.sparc.fleet import Decision, Fleet
from attn_robotics_interfaces.msg import FleetStatus


class FleetDisplay(AttentionDisplay):
    """Publishers of everything but velocities.

    Args:
        node: publishes.
        frame_id: frame of everything.

    Attributes:
        decisions_ms: durations of the last decisions.
    """

    def __init__(self, node: Node, frame_id: str) -> None:
        super().__init__(node, frame_id, prefix='~', image='~/attention_image')
        self.decisions_ms = Recent()

    def show(self, fleet: Fleet, decision: Decision, *, layer: int, top_k: int) -> None:
        """One decision: the status, and attention of a layer (-1 is the last) with `top_k` keys a row (0 for all)."""
        stamp = to_stamp(decision.proposal.seen_s)
        self.decisions_ms.observe(decision.duration_s * 1e3)
        planned = fleet.planned()
        status = FleetStatus(tick=fleet.tick, robot_ids=list(fleet.names), state=fleet.states().tobytes())
        status.header.stamp = stamp
        status.header.frame_id = self._frame_id
        status.rows, status.columns = planned[:, 0].tolist(), planned[:, 1].tolist()
        status.goal_rows, status.goal_columns = fleet.goals[:, 0].tolist(), fleet.goals[:, 1].tolist()
        status.lag = fleet.lag().tolist()
        status.decision_ms = decision.duration_s * 1e3
        status.decision_p50_ms, status.decision_p99_ms = self.decisions_ms.quantiles
        self._status.publish(status)
        if decision.attention:
            self._show_attention(fleet, decision, layer, top_k)

    def _show_attention(self, fleet: Fleet, decision: Decision, layer: int, top_k: int) -> None:
        layers = list(decision.attention)
        name = layers[min(layer, len(layers) - 1)]
        weights = decision.attention[name]
        xy = fleet.frame.to_xy(decision.proposal.cells)
        stamp, frame_id = to_stamp(decision.proposal.seen_s), self._frame_id
        if self._attention.get_subscription_count():
            message = attention_messages.to_attention_map(
                weights,
                fleet.names,
                fleet.names,
                mechanism='relation',
                layer=name,
                tick=fleet.tick,
                stamp=stamp,
                frame_id=frame_id,
                distances=np.linalg.norm(xy[:, None] - xy[None], axis=-1),
                top_k=top_k,
            )
            self._attention.publish(message)
        if self._markers.get_subscription_count():
            self._markers.publish(
                attention_messages.to_markers(weights, decision.proposal.poses[:, :2], frame_id=frame_id, stamp=stamp)
            )
        if self._image.get_subscription_count():
            self._image.publish(attention_messages.to_image(weights, frame_id=frame_id, stamp=stamp))
