"""A child process in a process group of its own, so that everything it starts can be stopped with it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pty
import signal
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1
STRAGGLER_PATIENCE_S = 1.0

_libc = ctypes.CDLL(None)


def _die_with(parent: int) -> None:
    """In the child, before exec: the kernel kills it if the launch itself is killed."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


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


class Child:
    """One command, started once or several times."""

    def __init__(self, name: str, cmd: list[str], cwd: str | None, env: dict[str, str], terminal: bool) -> None:
        self.name, self.cmd, self.cwd, self.env = name, cmd, cwd, env
        self._terminal = terminal
        self._process: Process | None = None
        self._pipes: list[tuple[int, asyncio.StreamReader, asyncio.BaseTransport]] = []
        self._led = False
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

    async def start(self) -> None:
        """Start the command.

        Raises:
            OSError: if it cannot be executed.
        """
        self.gone.clear()
        self._process = None
        loop = asyncio.get_running_loop()
        self._pipes, writers = [], []
        for _ in range(2):
            reader_fd, writer_fd = pty.openpty() if self._terminal else os.pipe()
            writers.append(writer_fd)
            stream = asyncio.StreamReader()
            transport, _ = await loop.connect_read_pipe(
                lambda stream=stream: asyncio.StreamReaderProtocol(stream),  # type: ignore[misc]
                open(reader_fd, 'rb', buffering=0),  # noqa: PTH123, SIM115 - the transport closes it
            )
            self._pipes.append((reader_fd, stream, transport))
        parent = os.getpid()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.cmd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writers[0],
                stderr=writers[1],
                cwd=self.cwd,
                env=self.env,
                start_new_session=True,
                preexec_fn=lambda: _die_with(parent),
            )
        finally:
            for writer_fd in writers:
                os.close(writer_fd)

    def send(self, number: signal.Signals) -> None:
        """Signal the process and everything in its group."""
        if self.running and (self.returncode is None or session_members(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def wait(self, write: Callable[[bytes, bool], None]) -> None:
        """Pass on all output until the process and everything that it started are gone."""
        assert self._process is not None, 'start() comes first'

        async def pump(stream: asyncio.StreamReader, from_stdout: bool) -> None:
            # A pseudo-terminal ends with EIO rather than end-of-file.
            with contextlib.suppress(OSError):
                while data := await stream.read(1 << 16):
                    write(data, from_stdout)

        pumps = [asyncio.create_task(pump(stream, i == 0)) for i, (_, stream, _) in enumerate(self._pipes)]
        await self._process.wait()
        await self._end_stragglers()
        self.gone.set()
        # Something that left the group may hold the pipe open: do not wait for it.
        await asyncio.wait(pumps, timeout=STRAGGLER_PATIENCE_S)
        for task in pumps:
            task.cancel()
        await self.close()

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

    async def close(self) -> None:
        """Close the pipes."""
        for _, _, transport in self._pipes:
            transport.close()
        self._pipes = []
        self.gone.set()
