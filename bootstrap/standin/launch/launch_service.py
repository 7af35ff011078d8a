"""Runs launch descriptions."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import traceback
from collections.abc import Iterable

from launch.event import Event
from launch.events import Shutdown
from launch.launch_context import LaunchContext
from launch.launch_description import Entity, LaunchDescription
from launch.logging import get_logger

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class LaunchService:
    """Visits entities and handles events until nothing is left to do."""

    def __init__(self, *, argv: Iterable[str] | None = None, noninteractive: bool = False, debug: bool = False) -> None:
        self._argv, self._noninteractive, self._debug = list(argv or ()), noninteractive, debug
        self.context = LaunchContext(argv=self._argv, noninteractive=noninteractive)
        self._descriptions: list[LaunchDescription] = []
        self._logger = get_logger('launch')
        self._loop: asyncio.AbstractEventLoop | None = None
        self._return_code = 0

    def include_launch_description(self, launch_description: LaunchDescription) -> None:
        """Add what `run` will visit."""
        self._descriptions.append(launch_description)

    def emit_event(self, event: Event) -> None:
        """Queue `event`, from any thread."""
        if self._loop is None:
            self.context.emit_event_sync(event)
        else:
            self._loop.call_soon_threadsafe(self.context.emit_event_sync, event)

    def shutdown(self, force_sync: bool = False) -> None:
        """Ask for the end, from any thread."""
        self.emit_event(Shutdown(reason='LaunchService.shutdown() called'))

    def run(self, *, shutdown_when_idle: bool = True) -> int:
        """Run until the end; 0 if all went well, 1 after an error in a launch file."""
        return asyncio.run(self.run_async(shutdown_when_idle=shutdown_when_idle))

    async def run_async(self, *, shutdown_when_idle: bool = True) -> int:
        """Run until the end; 0 if all went well, 1 after an error in a launch file."""
        self._loop = asyncio.get_running_loop()
        handled = ENDING_SIGNALS if threading.current_thread() is threading.main_thread() else ()
        for number in handled:
            self._loop.add_signal_handler(number, self._on_signal, number)
        try:
            for description in self._descriptions:
                self._visit([description])
            while (event := await self._next_event(shutdown_when_idle)) is not None:
                self._handle(event)
        finally:
            for number in handled:
                self._loop.remove_signal_handler(number)
            self.context.close()
            self._loop = None
        return self._return_code

    def _on_signal(self, number: signal.Signals) -> None:
        again = ' again, already ending' if self.context.is_shutdown else ''
        interrupted = number == signal.SIGINT
        self._logger.warning(
            '%s%s', 'user interrupted with ctrl-c (SIGINT)' if interrupted else f'got {number.name}', again
        )
        if not again:
            self._handle(Shutdown(reason=f'{number.name} received', due_to_sigint=interrupted))

    async def _next_event(self, shutdown_when_idle: bool) -> Event | None:
        """The next event, or None at the end."""
        context = self.context
        while context.events.empty():
            context.pending = {future for future in context.pending if not future.done() or self._failed(future)}
            if not context.pending:
                if context.is_shutdown:
                    return None
                if shutdown_when_idle:
                    return Shutdown(reason='idle')
            getter = asyncio.ensure_future(context.events.get())
            try:
                await asyncio.wait({getter, *context.pending}, return_when=asyncio.FIRST_COMPLETED)
                if getter.done():
                    return getter.result()
            finally:
                getter.cancel()
        return context.events.get_nowait()

    def _failed(self, future: asyncio.Future[None]) -> bool:
        """Report the error of a finished future; always False, so that it is dropped."""
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._report(error)
        return False

    def _handle(self, event: Event) -> None:
        """Let every handler that wants `event` act; an error in one does not keep it from the others."""
        context = self.context
        if isinstance(event, Shutdown):
            if context.is_shutdown:
                return
            context.is_shutdown = True
            context.shutdown_started.set()
        context.extend_locals({'event': event})
        for handler in list(context.handlers):
            try:
                if handler.matches(event):
                    self._visit(handler.handle(event, context))
            except Exception as error:
                self._report(error)
        context.pop_locals()

    def _visit(self, entities: Iterable[Entity]) -> None:
        """Visit entities, and what they return, in order; an error ends the launch."""
        try:
            stack = list(entities)[::-1]
            while stack:
                stack.extend(list(stack.pop().visit(self.context) or ())[::-1])
        except Exception as error:
            self._report(error)

    def _report(self, error: BaseException) -> None:
        """One line for an error in a launch file; then the launch ends with code 1."""
        self._return_code = 1
        self._logger.error('Caught exception in launch (use --debug for traceback): %s', error)
        if self._debug:
            traceback.print_exception(error)
        with contextlib.suppress(asyncio.QueueFull):
            self.context.emit_event_sync(Shutdown(reason=f'Caught exception in launch: {error}'))
