"""Play synthetic kitchens for `action_anticipation`: frame features of somebody who cooks by a grammar.

Nothing here is a camera: features are random directions, see systems/aga/data.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import String

from attn_robotics.conversions.features import to_features
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import run_node
from attn_robotics.ros.parameters import param
from attn_robotics.ros.simulation import PlayerNode
from attn_robotics.systems.aga.data import ACTIONS, Kitchens, Player
from attn_robotics_interfaces.msg import ActionAnticipation, Features


@dataclass(frozen=True)
class KitchenSimulatorParams:
    """Tunables of the kitchen simulator."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    streams: int = param(1, 'People who cook at once, each a stream.', low=1, high=64, read_only=True)
    kitchen: int = param(
        100, 'Number of the first kitchen; 0 to 3 were used in training.', low=0, high=10_000, read_only=True
    )
    shift: float = param(0.5, 'How much kitchens differ, in lengths of an action.', low=0.0, high=4.0, read_only=True)
    noise: float = param(Kitchens.noise, 'Standard deviation of every feature.', low=0.0, high=4.0, read_only=True)
    seed: int = param(0, 'Of what is cooked.', low=0, high=2**31 - 1, read_only=True)
    step_s: float = param(1.0, 'Time between frames by their stamps [s].', low=0.02, high=10.0, read_only=True)
    real_time_factor: float = param(1.0, 'Seconds of the stamps in a second.', low=0.05, high=50.0, read_only=True)
    frame_id: str = param('camera', 'Frame of the pretended camera.', read_only=True)


class KitchenSimulator(PlayerNode):
    """The `kitchen_simulator` node."""

    NAME = 'kitchen_simulator'
    Params = KitchenSimulatorParams
    params: KitchenSimulatorParams

    def configure(self) -> None:
        """Begin to cook."""
        p = self.params
        world = Kitchens(shift=p.shift, noise=p.noise)
        self._players = {
            f'person_{number}': Player(world, p.kitchen + number, p.seed + number, p.step_s)
            for number in range(p.streams)
        }
        self._expected: dict[str, tuple[int, ...]] = {}
        self._before: dict[str, int] = {}
        self._hits, self._asked = 0, 0
        self._features = self.create_publisher(Features, 'features', qos.STATE)
        self._actions = self.create_publisher(String, '~/action', qos.STATE)
        self._heard = self.create_subscription(ActionAnticipation, 'anticipation', self._on_anticipation, qos.STATE)
        self.wind_up(p.step_s, p.real_time_factor)

    def release(self) -> None:
        """Forget everything."""
        if hasattr(self, '_features'):
            self.deactivate()
            self.destroy_publisher(self._features)
            self.destroy_publisher(self._actions)
            self.destroy_subscription(self._heard)
            del self._features

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """How often what began next was among the five expected."""
        values = {'frames': self.played, 'new actions': self._asked, 'expected among five': self._hits}
        if self.played > 10 and not self._expected:
            return DiagnosticStatus.WARN, "nothing heard on 'anticipation'; is action_anticipation running?", values
        return DiagnosticStatus.OK, 'running', values

    def _on_anticipation(self, message: ActionAnticipation) -> None:
        self._expected[message.stream] = tuple(message.class_ids)

    def play(self, stamp_s: float) -> None:
        """Everybody's next frame."""
        for stream, player in self._players.items():
            action, frame = player.step()
            if stream in self._expected and action != self._before.get(stream, action):
                self._asked += 1
                self._hits += action in self._expected[stream]
            self._before[stream] = action
            self._features.publish(to_features(np.ascontiguousarray(frame), stream, stamp_s, self.params.frame_id))
            self._actions.publish(String(data=f'{stream}: {ACTIONS[action]}'))


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(KitchenSimulator, args)


if __name__ == '__main__':
    sys.exit(main())
