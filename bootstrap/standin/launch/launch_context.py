"""The state of a launch: configurations, environment, event handlers and what is still running."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Coroutine, MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from launch.event import Event
from launch.event_handler import EventHandler
from launch.substitution import Substitution

if TYPE_CHECKING:
    from launch.action import Action


class LaunchContext:
    """The state that actions and substitutions see."""

    def __init__(self, *, argv: list[str] | None = None, noninteractive: bool = False) -> None:
        self.argv = list(argv or ())
        self.noninteractive = noninteractive
        self.launch_configurations: dict[str, Any] = {}
        self.is_shutdown = False
        self.pending: set[asyncio.Future[Any]] = set()
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.handlers: list[EventHandler] = []
        self.saved: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.shutdown_started = asyncio.Event()
        self._locals: list[dict[str, Any]] = []
        self._globals: dict[str, Any] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process_count = 0
        self._file_count = 0

    @property
    def environment(self) -> MutableMapping[str, str]:
        """The environment of the launch, which its processes inherit; as in the official launch, it is `os.environ`."""
        return os.environ

    @property
    def asyncio_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that runs the launch."""
        return asyncio.get_running_loop()

    def perform_substitution(self, substitution: Substitution) -> str:
        """The text of `substitution` now."""
        return substitution.perform(self)

    # Events.
    def register_event_handler(self, event_handler: EventHandler) -> None:
        """Let `event_handler` see events; the newest handler sees them first."""
        self.handlers.insert(0, event_handler)

    def unregister_event_handler(self, event_handler: EventHandler) -> None:
        """Take `event_handler` out."""
        if event_handler in self.handlers:
            self.handlers.remove(event_handler)

    def emit_event_sync(self, event: Event) -> None:
        """Queue `event`."""
        self.events.put_nowait(event)

    async def emit_event(self, event: Event) -> None:
        """Queue `event`."""
        self.emit_event_sync(event)

    def complete(self, action: Action) -> None:
        """Say that `action` has done what it does."""
        from launch.events import ExecutionComplete

        event = ExecutionComplete(action=action)
        if any(handler.matches(event) for handler in self.handlers):
            self.emit_event_sync(event)

    # What is still running.
    def add_completion_future(self, completion_future: asyncio.Future[Any] | Awaitable[Any]) -> None:
        """Keep the launch alive until `completion_future` is done."""
        future = asyncio.ensure_future(completion_future)
        self.pending.add(future)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run `coroutine` beside everything else; the launch lives at least as long."""
        self.add_completion_future(asyncio.get_running_loop().create_task(coroutine))

    # Locals and globals.
    @property
    def locals(self) -> SimpleNamespace:
        """The locals, such as `event` in an event handler."""
        return SimpleNamespace(**self.get_locals_as_dict())

    def get_locals_as_dict(self) -> dict[str, Any]:
        """The locals by name, the newest winning."""
        return {**self._globals, **{key: value for layer in self._locals for key, value in layer.items()}}

    def extend_globals(self, extensions: dict[str, Any]) -> None:
        """Add names that stay."""
        self._globals.update(extensions)

    def extend_locals(self, extensions: dict[str, Any]) -> None:
        """Add names until the matching `pop_locals`."""
        self._locals.append(dict(extensions))

    def pop_locals(self) -> None:
        """Take the newest names out."""
        self._locals.pop()

    # Per launch.
    def next_process_number(self) -> int:
        """1, 2, 3 and so on, for process names."""
        self._process_count += 1
        return self._process_count

    def next_file_number(self) -> int:
        """1, 2, 3 and so on, for files in the temporary folder."""
        self._file_count += 1
        return self._file_count

    def temporary_folder(self) -> Path:
        """A folder that is removed when the launch ends."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix='launch_params_')
        return Path(self._folder.name)

    def close(self) -> None:
        """Remove what the launch wrote for itself."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
