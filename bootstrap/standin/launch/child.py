"""A child process in a process group of its own, so that everything it starts can be stopped with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import shutil
import signal
from asyncio.subprocess import Process
from collections.abc import Callable
from functools import partial
from pathlib import Path

STRAGGLER_PATIENCE_S = 1.0
# Of util-linux: the kernel kills the process if the launch itself is killed. It becomes the command, so the process id
# stays; a preexec_fn would run Python between fork and exec, which is unsafe beside threads.
GUARD = ('setpriv', '--pdeathsig', 'KILL', '--')


def find_program(name: str, cwd: str | None, env: dict[str, str]) -> str:
    """The path of a program.

    Raises:
        FileNotFoundError: if there is no such executable.
    """
    found = shutil.which(
        str(Path(cwd or '.', name).absolute()) if '/' in name else name, path=env.get('PATH', os.defpath)
    )
    if found is None:
        raise FileNotFoundError(f"there is no executable '{name}'")
    return found


def session_members(session: int) -> list[int]:
    """Processes of the session and group `session` that have not ended."""
    members = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            # The second field, the command in parentheses, may hold spaces.
            state, _, group, its_session = stat.read_text(errors='replace').rpartition(')')[2].split()[:4]
            if int(group) == session == int(its_session) and state not in 'ZX':
                members.append(int(stat.parent.name))
    return members


class _Sink(asyncio.Protocol):
    """Passes on what arrives; `ended` is set at the end, which for a pseudo-terminal is an error."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self._write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that this was all."""
        self.ended.set()


class Child:
    """One command, started once or several times."""

    def __init__(self, name: str, cmd: list[str], cwd: str | None, env: dict[str, str], terminal: bool) -> None:
        self.name, self.cmd, self.cwd, self.env = name, cmd, cwd, env
        self._terminal = terminal
        self._process: Process | None = None
        self._pipes: list[tuple[asyncio.BaseTransport, _Sink]] = []
        self.gone = asyncio.Event()

    @property
    def pid(self) -> int:
        """The process id, 0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal, None while it runs."""
        return self._process.returncode if self._process else None

    @property
    def running(self) -> bool:
        """Whether the process, or something that it started, still runs."""
        return self._process is not None and not self.gone.is_set()

    async def start(self, write: Callable[[bytes, bool], None]) -> None:
        """Start the command; `write` gets its output and whether that is standard output.

        Raises:
            OSError: if it cannot be executed.
        """
        self.gone.clear()
        self._process = None
        loop = asyncio.get_running_loop()
        writers = []
        for from_stdout in (True, False):
            reader_fd, writer_fd = pty.openpty() if self._terminal else os.pipe()
            writers.append(writer_fd)
            reader = open(reader_fd, 'rb', buffering=0)  # noqa: PTH123, SIM115 - the transport closes it
            sink = _Sink(partial(lambda stream, data: write(data, stream), from_stdout))
            transport, _ = await loop.connect_read_pipe(lambda sink=sink: sink, reader)  # type: ignore[misc]
            self._pipes.append((transport, sink))
        try:
            program = find_program(self.cmd[0], self.cwd, self.env)
            guard = GUARD if shutil.which(GUARD[0]) else ()
            self._process = await asyncio.create_subprocess_exec(
                *(*guard, program, *self.cmd[1:]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writers[0],
                stderr=writers[1],
                cwd=self.cwd,
                env=self.env,
                start_new_session=True,
            )
        finally:
            for writer_fd in writers:
                os.close(writer_fd)

    def send(self, number: signal.Signals) -> None:
        """Signal the process and everything in its group."""
        if self.running and (self.returncode is None or session_members(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def wait(self) -> None:
        """Wait until the process and everything that it started are gone, and all output has been passed on."""
        assert self._process is not None, 'start() comes first'
        await self._process.wait()
        await self._end_stragglers()
        self.gone.set()
        for _, sink in self._pipes:
            # Something that left the group may hold the pipe open: do not wait for it.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(sink.ended.wait(), STRAGGLER_PATIENCE_S)
        self.close()

    async def _end_stragglers(self) -> None:
        """End what the process left behind in its group."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = asyncio.get_running_loop().time() + STRAGGLER_PATIENCE_S
            if not session_members(self.pid):
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            while session_members(self.pid) and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.02)

    def close(self) -> None:
        """Close the pipes."""
        for transport, _ in self._pipes:
            transport.close()
        self._pipes = []
        self.gone.set()
