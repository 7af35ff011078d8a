"""Clients who want a head to look somewhere: a topic, a service, and the pointing actions of the ecosystem."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock

from geometry_msgs.msg import PointStamped

from attn_robotics.conversions.frames import FrameError
from attn_robotics.conversions.gaze import MessageError, gaze_error, to_target
from attn_robotics.nodes._gaze_actions import PointAction, installed_actions
from attn_robotics.nodes._gaze_percepts import Percepts
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import AttnNode
from attn_robotics.systems.gaze.arbitration import Request
from attn_robotics.systems.gaze.command import Command
from attn_robotics.systems.gaze.core import CoreResult, GazeCore
from attn_robotics_interfaces.msg import GazeTarget
from attn_robotics_interfaces.srv import LookAt


class Clients:
    """Takes wishes to the arbiter, and tells actions how it went.

    Args:
        node: serves.
        core: has the arbiter.
        percepts: knows where a point in another frame is.
        now: seconds of the node's clock.
        timeout: life of a wish that names none [s].
        lock: held while the core is touched.
    """

    def __init__(
        self,
        node: AttnNode,
        core: GazeCore,
        percepts: Percepts,
        now: Callable[[], float],
        timeout: Callable[[], float],
        lock: RLock,
    ) -> None:
        self._node, self._core, self._percepts = node, core, percepts
        self._now, self._timeout, self._lock = now, timeout, lock
        self._subscription = node.create_subscription(GazeTarget, '~/look_at', self._on_message, qos.STATE)
        self._service = node.create_service(LookAt, '~/look_at', self._serve)
        self._actions = [
            PointAction(node, kind, name, read, self._look_at_point, self._withdraw)
            for kind, name, read in installed_actions()
        ]

    def update(self, now: float, command: Command, result: CoreResult | None) -> None:
        """Once a tick, for actions under way."""
        if self._actions:
            error = gaze_error(command, result.target if result is not None else None)
            client = result.client if result is not None else ''
            for action in self._actions:
                action.update(now, client, error)

    def close(self) -> None:
        """Serve no more."""
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_service(self._service)
        for action in self._actions:
            action.close()

    def _on_message(self, message: GazeTarget) -> None:
        if refusal := self._look_at(message):
            self._node.drop('look-at refused', refusal)

    def _serve(self, request: LookAt.Request, response: LookAt.Response) -> LookAt.Response:
        client = request.target.client
        if request.cancel:
            response.success = self._withdraw(client)
            response.message = '' if response.success else f'client {client!r} has no request'
            return response
        refusal = self._look_at(request.target)
        response.success, response.message = not refusal, refusal
        return response

    def _withdraw(self, client: str) -> bool:
        with self._lock:
            return self._core.arbiter.withdraw(client)

    def _look_at(self, message: GazeTarget) -> str:
        """Take a client's wish; returns why it was refused, or nothing."""
        with self._lock:
            try:
                target = to_target(message.id or 'look_at', self._percepts.point(message))
            except (MessageError, FrameError) as error:
                return str(error)
            life = message.timeout.sec + message.timeout.nanosec * 1e-9
            weight = float(message.weight) or 1.0  # a message that nobody filled has 0
            request = Request(message.client, target, int(message.priority), weight, life or self._timeout())
            return self._core.request(request, self._now()) or ''

    def _look_at_point(self, client: str, point: PointStamped) -> str:
        """An action's wish; see `_look_at`."""
        message = GazeTarget(header=point.header, id=client, point=point.point, client=client)
        refusal = self._look_at(message)
        if refusal:
            self._node.drop('look-at refused', refusal)
        return refusal
