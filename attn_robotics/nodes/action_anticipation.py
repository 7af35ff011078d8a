"""Anticipate actions: frame features in, the actions that probably begin next and the evidence for them out.

The model is AGA (systems/aga); what ships knows synthetic kitchens, see `kitchen_simulator`. Any number of streams
share the node; each has its state in the engine.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sensor_msgs.msg import Image

from attn_robotics.conversions.attention import to_image
from attn_robotics.conversions.features import from_features, to_anticipation, to_evidence
from attn_robotics.conversions.stamps import to_seconds
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import ConfigurationError, run_node
from attn_robotics.ros.parameters import param
from attn_robotics.ros.perception import PerceptionNode
from attn_robotics.runtime.errors import EngineError
from attn_robotics.systems.aga.processor import Anticipation, StreamClock, read_answer, read_labels
from attn_robotics_interfaces.msg import ActionAnticipation, AttentionMap, Features

SHOWN = 20  # steps on ~/attention_image


@dataclass(frozen=True)
class ActionAnticipationParams:
    """Tunables of action anticipation."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    model: str = param('aga', 'Model of the catalogue.', read_only=True)
    labels: str = param('', 'YAML file with a list `labels`; empty takes the words of what ships.', read_only=True)
    gap_s: float = param(10.0, 'After a longer silence a stream begins anew [s].', low=0.1, high=3600.0, read_only=True)
    least: float = param(0.0, 'Say nothing when even the most probable action is less probable.', low=0.0, high=1.0)
    say: bool = param(False, 'Log every answer in one line.')


class ActionAnticipationNode(PerceptionNode):
    """The `action_anticipation` node."""

    NAME = 'action_anticipation'
    INPUT = 'features'
    DEPTH = 64
    Params = ActionAnticipationParams
    params: ActionAnticipationParams

    def configure(self) -> None:
        """Load the model and connect."""
        p = self.params
        self.open_model(p.model)
        if [spec.name for spec in self.entry.inputs] != ['features', 'dt_s'] or not self.entry.state:
            raise ConfigurationError(f"parameter 'model': {p.model} is no action anticipation with state; use aga")
        self._labels = read_labels(Path(p.labels).expanduser() if p.labels else None)
        classes = next(spec.shape[1] for spec in self.entry.outputs if spec.name == 'probabilities')
        if len(self._labels) != classes:
            raise ConfigurationError(
                f"parameter 'labels': {len(self._labels)} labels for the {classes} actions of {p.model}; "
                'give a YAML file with one a class'
            )
        self._step_s = float(self.entry.config.get('step_s', 1.0))
        self._clock_of = StreamClock(self._step_s, p.gap_s, self.entry.stream_limit)
        self._rows: deque[np.ndarray] = deque(maxlen=SHOWN)
        self._shown = ''
        self._out = self.advertise(ActionAnticipation, 'anticipation', qos.STATE)
        self._attention = self.advertise(AttentionMap, '~/attention', qos.STATE)
        self._image = self.advertise(Image, '~/attention_image', qos.STATE)
        self.hear(Features, 'features', self.offer, qos.STATE)

    def activate(self) -> None:
        """Begin every stream anew."""
        super().activate()
        self._clock_of.clear()

    def process(self, message: Features) -> None:
        """Ask about one frame and publish."""
        features = from_features(message)
        turn = self._clock_of.turn(message.stream, to_seconds(message.header.stamp))
        if turn is None:
            self.drop('out of order', f'stream {message.stream!r} has a frame that is not later than the one before')
            return
        try:
            outputs = self.ask(
                {'features': features, 'dt_s': np.array([turn.dt_s], np.float32)},
                stream=f'{self.get_fully_qualified_name()}:{message.stream}',
                reset=turn.reset,
            )
        except EngineError:
            self._clock_of.forget(message.stream)  # its state has no such frame
            raise
        found = read_answer(outputs, self._labels)
        if found.probabilities[0] < self.params.least:
            return
        self._publish(found, message, turn.tick)

    def facts(self) -> Mapping[str, object]:
        """The newest answer."""
        return {'expects': self._shown}

    def _publish(self, found: Anticipation, message: Features, tick: int) -> None:
        answer = to_anticipation(found, message.header, message.stream, self._step_s)
        self._out.publish(answer)
        self._shown = answer.because
        if self.params.say:
            self.get_logger().info(f'{message.stream or "stream"}: expects {answer.because}')
        if self._attention.get_subscription_count():
            self._attention.publish(to_evidence(found, message.header, tick))
        row = np.zeros(SHOWN, np.float32)
        count = min(SHOWN, len(found.past))
        row[SHOWN - count :] = found.attention.mean(0)[len(found.past) - count :]
        self._rows.append(row)
        if self._image.get_subscription_count():
            rows = np.stack(self._rows)[None]
            self._image.publish(to_image(rows, frame_id=message.header.frame_id, stamp=message.header.stamp, size=200))


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(ActionAnticipationNode, args)


if __name__ == '__main__':
    sys.exit(main())
