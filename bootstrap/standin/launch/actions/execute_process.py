"""Run a process as a part of the launch."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from launch.action import Action
from launch.actions.structure import RegisterEventHandler
from launch.child import Child
from launch.conditions import truth
from launch.event import Event
from launch.event_handler import EventHandler, SomeEntities
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited, ProcessIO, ProcessStarted, ShutdownProcess, SignalProcess
from launch.launch_context import LaunchContext
from launch.launch_description import Entity
from launch.logging import get_logger
from launch.process_output import OutputPlan
from launch.substitution import SomeSubstitutionsType, normalize_to_list_of_substitutions, perform
from launch.substitutions import LaunchConfiguration

# The official defaults are 5 s and 5 s; here Ctrl-C has to be over within 5 s.
DEFAULT_PATIENCE_S = '2'
NOT_EXECUTABLE = 127


class ExecuteLocal(Action):
    """The life of a local process: output, respawn, end."""

    def __init__(
        self,
        *,
        shell: bool = False,
        sigterm_timeout: SomeSubstitutionsType | None = None,
        sigkill_timeout: SomeSubstitutionsType | None = None,
        emulate_tty: bool = False,
        output: SomeSubstitutionsType | Mapping[str, str] = 'log',
        log_cmd: bool = False,
        on_exit: SomeEntities = None,
        respawn: bool | SomeSubstitutionsType = False,
        respawn_delay: float | None = None,
        respawn_max_retries: int = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._shell, self._emulate_tty, self._log_cmd = shell, emulate_tty, log_cmd
        self._patience = {
            signal.SIGINT: sigterm_timeout or LaunchConfiguration('sigterm_timeout', default=DEFAULT_PATIENCE_S),
            signal.SIGTERM: sigkill_timeout or LaunchConfiguration('sigkill_timeout', default=DEFAULT_PATIENCE_S),
        }
        self._output = output
        self._on_exit = on_exit
        self._respawn = str(respawn) if isinstance(respawn, bool) else respawn
        self._respawn_delay_s, self._respawn_max_retries = respawn_delay or 0.0, respawn_max_retries
        self._child: Child | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    def command(self, context: LaunchContext) -> tuple[str, list[str], str | None, dict[str, str]]:
        """The process's name, command, folder and environment."""
        raise NotImplementedError

    @property
    def return_code(self) -> int | None:
        """The exit code, None before the end."""
        return self._child.returncode if self._child else None

    @property
    def completes_at_once(self) -> bool:
        """No: the process runs on."""
        return False

    def sub_entities(self) -> Sequence[Entity]:
        """What follows the end of the process, where that is fixed."""
        return [] if callable(self._on_exit) else OnProcessExit(on_exit=self._on_exit).entities

    def execute(self, context: LaunchContext) -> Sequence[Entity] | None:
        """Fill in everything now, then start; nothing starts once the launch is ending."""
        if context.is_shutdown:
            return None
        name, cmd, cwd, env = self.command(context)
        name = f'{name}-{context.next_process_number()}'
        if self._shell:
            cmd = ['/bin/sh', '-c', ' '.join(cmd)]
        plan = OutputPlan(name, self._output if isinstance(self._output, Mapping) else perform(context, self._output))
        self._patience_s = {number: float(perform(context, value)) for number, value in self._patience.items()}
        respawn = truth(perform(context, self._respawn))
        self._handler = EventHandler(matcher=self._react)
        context.register_event_handler(self._handler)
        context.start(self._live(context, Child(name, cmd, cwd, env, self._emulate_tty), plan, respawn))
        if self._on_exit is None:
            return None
        return [RegisterEventHandler(OnProcessExit(target_action=self, on_exit=self._on_exit))]

    def _react(self, event: Event) -> bool:
        """Act on events that concern the process; as a matcher, so that user handlers cannot hide them."""
        if isinstance(event, Shutdown) or (isinstance(event, ShutdownProcess) and event.process_matcher(self)):
            self._stop.set()
            self._end_soon()
        elif isinstance(event, SignalProcess) and event.process_matcher(self) and self._child is not None:
            self._child.send(event.signal)
        return False

    def _end_soon(self) -> None:
        """Begin to end the process, if it runs and that has not begun."""
        if self._stopping is None and self._child is not None and self._child.running:
            self._stopping = asyncio.create_task(self._end(self._child))

    async def _end(self, child: Child) -> None:
        """SIGINT, then SIGTERM, then SIGKILL, to the process and all that it started."""
        logger = get_logger(child.name)
        logger.info("sending signal 'SIGINT' to process[%s]", child.name)
        child.send(signal.SIGINT)
        for sent, following in ((signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGKILL)):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.gone.wait(), self._patience_s[sent])
                return
            logger.error(
                "process[%s] failed to terminate '%g' seconds after receiving '%s', escalating to '%s'",
                *(child.name, self._patience_s[sent], sent.name, following.name),
            )
            child.send(following)

    async def _live(self, context: LaunchContext, child: Child, plan: OutputPlan, respawn: bool) -> None:
        """Run the process, again if it is to respawn, until the end."""
        self._child = child
        logger = get_logger(child.name)
        starts = 0
        while not self._stop.is_set():
            facts: dict[str, Any] = {
                'action': self,
                'name': child.name,
                'cmd': child.cmd,
                'cwd': child.cwd,
                'env': child.env,
            }

            def write(text: bytes, from_stdout: bool, facts: dict[str, Any] = facts) -> None:
                event = ProcessIO(**facts, pid=child.pid)
                event.text, event.from_stdout = text, from_stdout
                plan.write(text, from_stdout)
                if any(handler.matches(event) for handler in context.handlers):
                    context.emit_event_sync(event)

            try:
                await child.start(write)
            except OSError as error:
                logger.error('cannot start process: %s', error)
                child.close()
            else:
                logger.info('process started with pid [%d]', child.pid)
                if self._log_cmd:
                    logger.info("process details: cmd='%s', cwd='%s'", shlex.join(child.cmd), child.cwd)
                context.emit_event_sync(ProcessStarted(**facts, pid=child.pid))
                starts += 1
                if self._stop.is_set():
                    self._end_soon()  # the end came while the process was being started
                await child.wait()
            plan.flush()
            code = NOT_EXECUTABLE if child.returncode is None else child.returncode
            if code == 0:
                logger.info('process has finished cleanly [pid %d]', child.pid)
            else:
                logger.error("process has died [pid %d, exit code %d, cmd '%s'].", child.pid, code, ' '.join(child.cmd))
            event = ProcessExited(**facts, pid=child.pid)
            event.returncode = code
            context.emit_event_sync(event)
            again = respawn and (self._respawn_max_retries < 0 or starts <= self._respawn_max_retries)
            if not again:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), max(self._respawn_delay_s, 1e-3))
        if self._stopping is not None:
            await self._stopping
        context.unregister_event_handler(self._handler)
        context.complete(self)


class ExecuteProcess(ExecuteLocal):
    """A process from its command line; every item of `cmd` is one argument."""

    def __init__(
        self,
        *,
        cmd: Iterable[SomeSubstitutionsType],
        prefix: SomeSubstitutionsType | None = None,
        name: SomeSubstitutionsType | None = None,
        cwd: SomeSubstitutionsType | None = None,
        env: Mapping[Any, SomeSubstitutionsType] | None = None,
        additional_env: Mapping[Any, SomeSubstitutionsType] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cmd = [normalize_to_list_of_substitutions(part) for part in cmd]
        self._prefix = prefix or LaunchConfiguration('launch-prefix', default='')
        self._name, self._cwd, self._env, self._additional_env = name, cwd, env, additional_env

    def command(self, context: LaunchContext) -> tuple[str, list[str], str | None, dict[str, str]]:
        """The process's name, command, folder and environment."""

        def texts(mapping: Mapping[Any, SomeSubstitutionsType]) -> dict[str, str]:
            return {perform(context, key): perform(context, value) for key, value in mapping.items()}

        cmd = [perform(context, part) for part in self.cmd]
        base = dict(context.environment) if self._env is None else texts(self._env)
        name = cmd[0].rsplit('/', 1)[-1] if self._name is None else perform(context, self._name)
        cwd = None if self._cwd is None else perform(context, self._cwd)
        return name, shlex.split(perform(context, self._prefix)) + cmd, cwd, base | texts(self._additional_env or {})
