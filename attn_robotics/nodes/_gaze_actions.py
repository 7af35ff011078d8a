"""Pointing actions of the ecosystem, served where their packages are installed: PointHead and LookAt."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import PointStamped
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from rclpy.task import Future

REACHED_DEG = 2.0  # two degrees are a foveated target, with the human undershoot
GIVE_UP_S = 4.0
RENEW_S = 0.5

# package, action, name below the node, where its goal says what to look at
KNOWN = (
    ('control_msgs', 'PointHead', '~/point_head', lambda goal: goal.target),
    ('hri_actions_msgs', 'LookAt', '~/look_at', lambda goal: goal.look_goal),
)


def installed_actions() -> list[tuple[Any, str, Callable[[Any], PointStamped]]]:
    """Type, name and reader of every action in `KNOWN` whose package is there."""
    found = []
    for package, action, name, read in KNOWN:
        try:
            found.append((getattr(importlib.import_module(f'{package}.action'), action), name, read))
        except ImportError:
            continue
    return found


class PointAction:
    """One action server: a goal lasts until gaze has arrived, is cancelled, replaced, or four seconds are over.

    Args:
        node: serves it.
        kind: type of the action.
        name: of the action.
        read: the point of a goal.
        look: asks for gaze on behalf of a client; returns why it was refused, or nothing.
        stop: takes the wish back.
    """

    def __init__(
        self,
        node: Node,
        kind: Any,
        name: str,
        read: Callable[[Any], PointStamped],
        look: Callable[[str, PointStamped], str],
        stop: Callable[[str], object],
    ) -> None:
        self._kind, self._read, self._look, self._stop = kind, read, look, stop
        self.client = f'action {name.removeprefix("~/")}'
        self._active: tuple[Any, Future, PointStamped] | None = None
        self._begun = self._renewed = 0.0
        self._server = ActionServer(
            node, kind, name, self._execute, goal_callback=self._judge, cancel_callback=lambda _: CancelResponse.ACCEPT
        )

    def update(self, now: float, client: str, error_deg: float) -> None:
        """Once a tick: who has gaze, and how far it is from its target."""
        if self._active is None:
            return
        handle, done, point = self._active
        self._begun = self._begun or now
        if handle.is_cancel_requested:
            self._stop(self.client)
            self._end('canceled')
        elif client == self.client and error_deg < REACHED_DEG:
            self._end('succeed')
        elif now - self._begun > GIVE_UP_S:
            self._stop(self.client)
            self._end('abort')
        elif now - self._renewed > RENEW_S:
            self._renewed = now
            self._look(self.client, point)

    def close(self) -> None:
        """End the goal under way and the server."""
        self._end('abort')
        self._server.destroy()

    def _judge(self, goal: Any) -> GoalResponse:
        # A goal that cannot be looked at is refused at once; whoever sent it reads why in the node's log.
        return GoalResponse.REJECT if self._look(self.client, self._read(goal)) else GoalResponse.ACCEPT

    def _end(self, how: str) -> None:
        if self._active is not None:
            (_, done, _), self._active = self._active, None
            done.set_result(how)

    async def _execute(self, handle: Any) -> Any:
        self._end('abort')
        done: Future = Future()
        self._active, self._begun, self._renewed = (handle, done, self._read(handle.request)), 0.0, 0.0
        getattr(handle, await done)()
        return self._kind.Result()
