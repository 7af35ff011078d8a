"""Several clients want the one gaze: priority, preemption, shared attention by weight, and time-out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from attn_robotics.systems.gaze.command import Target

MAX_CLIENTS = 64
DWELL = 1.5  # s of one round among equals, shared in proportion to weight


@dataclass(frozen=True)
class Request:
    """What one client wants."""

    client: str
    target: Target
    priority: int = 0  # larger wins at once
    weight: float = 1.0  # share of time among equal priorities
    timeout: float = 2.0  # s after which the request lapses unless renewed


@dataclass(frozen=True)
class _Held:
    request: Request
    until: float
    used: float  # s of attention per weight


class Arbiter:
    """Keeps the newest request of each client and says whose turn it is.

    The highest priority always wins, at once. Among equals, attention goes by weight: whoever has had the least
    attention for its weight is next, after a dwell of 1.5 s, so that nobody is starved and nothing flickers.
    """

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._current = ''
        self._since = -math.inf
        self._last = -math.inf

    def submit(self, request: Request, now: float) -> str | None:
        """Take a request; returns why it was refused, or None."""
        if not request.target.is_valid:
            return f'target of client {request.client!r} is not finite'
        if not (math.isfinite(request.weight) and request.weight > 0.0):
            return f'weight of client {request.client!r} must be positive, got {request.weight}'
        if not (math.isfinite(request.timeout) and request.timeout > 0.0):
            return f'timeout of client {request.client!r} must be positive, got {request.timeout}'
        if request.client not in self._held and len(self._held) >= MAX_CLIENTS:
            return f'more than {MAX_CLIENTS} clients; {request.client!r} must wait until one lapses'
        old = self._held.get(request.client)
        # A newcomer starts level with the others: neither owed the past nor pushed behind.
        level = min((held.used for held in self._held.values()), default=0.0)
        self._held[request.client] = _Held(request, now + request.timeout, old.used if old else level)
        return None

    def withdraw(self, client: str) -> bool:
        """Forget a client's request; whether there was one."""
        return self._held.pop(client, None) is not None

    def choose(self, now: float) -> Request | None:
        """The request to follow now, or None."""
        dt = min(max(now - self._last, 0.0), 0.1) if math.isfinite(self._last) else 0.0
        self._last = now
        # A clock set back must not keep requests alive for longer than they asked.
        self._held = {
            name: replace(held, until=min(held.until, now + held.request.timeout))
            for name, held in self._held.items()
            if held.until > now
        }
        if not self._held:
            self._current = ''
            return None
        top = max(held.request.priority for held in self._held.values())
        equals = {name: held for name, held in self._held.items() if held.request.priority == top}
        current = equals.get(self._current)
        if current is not None:
            current = replace(current, used=current.used + dt / current.request.weight)
            self._held[self._current] = equals[self._current] = current
        least = min(equals, key=lambda name: (equals[name].used, name))
        is_due = now - self._since >= DWELL or now < self._since
        if current is None or (is_due and least != self._current and equals[least].used < current.used):
            self._current, self._since = least, now
        return equals[self._current].request
