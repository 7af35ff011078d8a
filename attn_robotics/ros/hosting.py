"""One engine a process, and threads in which a process hosts several nodes."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Collection
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger

from attn_robotics.paths import config_folders
from attn_robotics.ros.lifecycle import AttnNode, ConfigurationError
from attn_robotics.runtime.backends import Progress
from attn_robotics.runtime.catalogue import Catalogue
from attn_robotics.runtime.engine import Engine, ModelState, ModelStatus
from attn_robotics.runtime.errors import EngineError, one_line

UNLOAD_LIMIT_S = 30.0


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is made with.

    Attributes:
        folders: of model entries; those that ship when empty.
        budget_bytes: the most that models may hold on one device, all of its memory when None.
        max_request_bytes: largest request.
    """

    folders: tuple[Path, ...] = ()
    budget_bytes: int | None = None
    max_request_bytes: int = 256 << 20


class _Shared:
    """The engine of this process, who needs it, and the models that were loaded for them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.engine: Engine | None = None
        self.settings = EngineSettings()
        self.holders: set[int] = set()
        self.models: dict[str, set[int]] = {}


_shared = _Shared()


def declare_engine(settings: EngineSettings) -> None:
    """Say what this process's engine is to be made with; before anybody holds it, or the same again.

    Raises:
        ConfigurationError: it runs with other settings.
    """
    with _shared.lock:
        if _shared.engine is not None and settings != _shared.settings:
            raise ConfigurationError(
                f'the engine of this process runs with {_shared.settings}, not {settings}; give all nodes of the '
                'container the same'
            )
        _shared.settings = settings


def hold_engine(holder: object) -> Engine:
    """The engine of this process, made now if nobody holds it yet; it lives until its last holder lets go.

    Args:
        holder: the node that needs it; asking twice counts once.
    """
    with _shared.lock:
        if _shared.engine is None:
            settings = _shared.settings
            folders = settings.folders or tuple(folder / 'models' for folder in config_folders())
            _shared.engine = Engine(
                Catalogue(*folders),
                budget_bytes=settings.budget_bytes,
                max_request_bytes=settings.max_request_bytes,
            )
        _shared.holders.add(id(holder))
        return _shared.engine


def hold_model(
    holder: object, name: str, on_progress: Callable[[Progress], None] | None = None
) -> tuple[Engine, ModelStatus]:
    """The engine of this process with a model loaded; both stay until their last holder calls `release_engine`.

    Args:
        holder: the node that needs it.
        name: of the catalogue.
        on_progress: called while the model loads.

    Returns:
        The engine and the model's status. What others had loaded already is left to them.

    Raises:
        EngineError: why the model does not load; the engine is held all the same.
    """
    engine = hold_engine(holder)
    with _shared.lock:
        holders = _shared.models.get(name)
        is_there = engine.status(name).state == ModelState.READY
        if holders is not None or not is_there:
            _shared.models.setdefault(name, set()).add(id(holder))
    return engine, engine.status(name) if is_there else engine.load(name, on_progress).result()


def release_engine(holder: object) -> None:
    """Let go of the engine and of the models held; the last holder closes them. Safe to call twice."""
    unloads = []
    with _shared.lock:
        if id(holder) not in _shared.holders:
            return
        _shared.holders.discard(id(holder))
        for name, holders in list(_shared.models.items()):
            holders.discard(id(holder))
            if not holders:
                del _shared.models[name]
                if _shared.holders and _shared.engine is not None:
                    with suppress(EngineError):  # evicted, failed or unloaded meanwhile
                        unloads.append(_shared.engine.unload(name))
        if not _shared.holders:
            engine, _shared.engine = _shared.engine, None
            _shared.settings = EngineSettings()  # those of the nodes that have gone
            if engine is not None:
                engine.close()  # within the lock: the next engine finds the memory free
    wait_for(unloads, UNLOAD_LIMIT_S)


def engine_if_any() -> Engine | None:
    """The engine that somebody in this process holds, None when nobody does."""
    return _shared.engine


def engine_of_process() -> Engine:
    """The engine that somebody in this process holds: tensors go in and out by reference.

    Raises:
        ConfigurationError: nobody does.
    """
    engine = engine_if_any()
    if engine is None:
        raise ConfigurationError(
            'no engine runs in this process; host attention_runtime in the same container, or call hold_engine'
        )
    return engine


State = Literal['starting', 'running', 'ended', 'failed']


class HostedNode:
    """A node in a thread and an executor of its own, so that it neither delays nor ends the others.

    Args:
        kind: of the node.
        name: of the node.
        namespace: absolute.
        foreign: parameters that the host has for itself, should they be set for every node of the process.

    The constructor builds the node, `start` lets it run: so that all nodes of a process have said what engine they want
    before the first of them makes it.

    Attributes:
        state: what became of it.
        problem: one line, when it failed.
        node: while it lives.
        exit_code: what the node would end a process of its own with.
    """

    def __init__(
        self,
        kind: type[AttnNode],
        name: str,
        namespace: str,
        *,
        foreign: Collection[str] = (),
    ) -> None:
        self.name = f'{namespace.rstrip("/")}/{name}'
        self.state: State = 'starting'
        self.problem = ''
        self.node: AttnNode | None = None
        self.exit_code = 0
        self._stop = threading.Event()
        self._executor = SingleThreadedExecutor()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # Rules of the node go before those of the process, whose name and namespace are the container's.
        rules = ['--ros-args', '-r', f'__node:={name}', '-r', f'__ns:={namespace}']
        try:
            self.node = kind(cli_args=rules, foreign=foreign)
        except Exception as error:  # whatever it is, the others go on
            self._fail(error)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self.state in ('ended', 'failed')

    def start(self, on_end: Callable[[HostedNode], None]) -> None:
        """Let it run.

        Args:
            on_end: called in the node's thread after it was closed.
        """
        self._on_end = on_end
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()
        self._executor.wake()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    def _run(self) -> None:
        try:
            if self.node is not None:
                self._spin(self.node)
        except Exception as error:
            self._fail(error)
        try:
            self._close()
        except Exception as error:  # what it holds can't be given back; the others go on all the same
            self._fail(error)
        if self.state != 'failed':
            self.state = 'ended'
        self._on_end(self)

    def _spin(self, node: AttnNode) -> None:
        self.state = 'running'
        self._executor.add_node(node)
        with suppress(ExternalShutdownException):
            while not self._stop.is_set() and not node.is_done:
                self._executor.spin_once(timeout_sec=0.1)
        self.exit_code = node.exit_code

    def _fail(self, error: Exception) -> None:
        self.state, self.exit_code = 'failed', 1
        if isinstance(error, AttnNode.EXPECTED):
            self.problem = one_line(error)
            return
        self.problem = one_line(f'{type(error).__name__}: {error}')
        get_logger(self.name.strip('/').replace('/', '.')).error(''.join(traceback.format_exception(error)))

    def _close(self) -> None:
        node, self.node = self.node, None
        if node is not None:
            self._executor.remove_node(node)
            node.close()
            node.destroy_node()
        self._executor.shutdown(timeout_sec=1.0)
