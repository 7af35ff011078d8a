"""The attention runtime as a node: other processes load models and send requests by service.

Nodes in the same container call the engine itself (`attn_robotics.ros.hosting.engine_of_process`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_robotics.ros.hosting import EngineSettings, declare_engine, hold_engine, release_engine
from attn_robotics.ros.inference import InferenceServices
from attn_robotics.ros.lifecycle import AttnNode, ConfigurationError, run_node
from attn_robotics.ros.model_board import ModelBoard
from attn_robotics.ros.parameters import param
from attn_robotics.runtime.door import Door
from attn_robotics.runtime.engine import ModelState
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.shared_memory import HandOver, sweep

MIB = 1 << 20
SWEEP_PERIOD_S = 1.0


@dataclass(frozen=True)
class AttentionRuntimeParams:
    """Tunables of the attention runtime."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    # ruff takes a list's default for shared; param makes it afresh
    models: list[str] = param([], 'Folders of model entries; empty takes those that ship.', read_only=True)  # noqa: RUF009
    preload: list[str] = param([], 'Models to load before the node is ready.', read_only=True)  # noqa: RUF009
    memory_budget_mib: int = param(
        0,
        'Most that models may hold on one device; 0 is all of its memory [MiB].',
        low=0,
        high=1 << 20,
        read_only=True,
    )
    door_port: int = param(
        0, 'Port of the KServe v2 door on the loopback interface; 0 is off.', low=0, high=65535, read_only=True
    )
    max_request_mib: int = param(256, 'Largest request, all tensors together [MiB].', low=1, high=1024, read_only=True)
    shm_ttl_s: float = param(
        10.0,
        'After this long an answer in shared memory that nobody fetched is removed [s].',
        low=0.1,
        high=600.0,
        read_only=True,
    )
    shm_limit_mib: int = param(
        1024, 'Most that answers in shared memory may take before they are fetched [MiB].', low=1, high=1 << 16,
        read_only=True,
    )  # fmt: skip


class AttentionRuntime(AttnNode):
    """The `attention_runtime` node: services, model states, metrics; the engine does the work."""

    NAME = 'attention_runtime'
    Params = AttentionRuntimeParams
    EXPECTED = (*AttnNode.EXPECTED, EngineError)
    params: AttentionRuntimeParams

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._held = ExitStack()
        if not self._parameters_source.problems:
            # Before any node of the container is configured and makes the engine for itself.
            declare_engine(self._settings(self._parameters_source.read()))

    def configure(self) -> None:
        """Make the engine, load models, offer services."""
        p = self.params
        declare_engine(self._settings(p))
        self._engine = hold_engine(self)
        self._held.callback(release_engine, self)
        sweep()
        hand_over = HandOver(limit_bytes=p.shm_limit_mib * MIB, ttl_s=p.shm_ttl_s)
        self._held.callback(hand_over.close)
        self._board = ModelBoard(self, self._engine)
        self._held.callback(self._board.close)
        self._offered = InferenceServices(
            self,
            self._engine,
            hand_over,
            max_request_bytes=p.max_request_mib * MIB,
            on_progress=self._board.progress,
            on_change=self._board.changed,
        )
        self._held.callback(self._offered.close)
        self._preload()
        self._offered.open()
        timer = self.create_timer(SWEEP_PERIOD_S, hand_over.sweep, clock=self.wall_clock)
        self._held.callback(self.destroy_timer, timer)
        self._door: Door | None = None

    def activate(self) -> None:
        """Answer requests, and open the door where one is wanted."""
        port = self.params.door_port
        if port:
            try:
                self._door = Door(self._engine, port=port, max_body_bytes=self.params.max_request_mib * MIB)
            except OSError as error:
                raise ConfigurationError(
                    f'door_port {port} can not be opened on the loopback interface: {error.strerror}; choose another'
                ) from error
        where = f', KServe v2 on port {port}' if port else ''
        ready = [status.name for status in self._engine.list_models() if status.state == ModelState.READY]
        self.get_logger().info(f'ready{where}; loaded: {", ".join(ready) or "nothing yet"}')

    def deactivate(self) -> None:
        """Close the door; what was loaded stays."""
        if self._door is not None:
            self._door.close()
            self._door = None

    def release(self) -> None:
        """Refuse what waits and give everything back."""
        self._held.close()

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """Say what each model does, which failed, and whether answers come late."""
        return self._board.diagnose()

    def _preload(self) -> None:
        """Load what is always needed; a name that does not exist is a mistake, a model that fails is its own."""
        for name in self.params.preload:
            try:
                self._offered.load(name).result()
            except EngineError as error:
                if error.reason in ('unknown_model', 'bad_entry'):
                    raise ConfigurationError(f"parameter 'preload': {error}") from error
                self.get_logger().error(f'{name} is not served: {error}')
        self._board.show()

    @staticmethod
    def _settings(p: AttentionRuntimeParams) -> EngineSettings:
        return EngineSettings(
            tuple(Path(folder).expanduser() for folder in p.models if folder),
            p.memory_budget_mib * MIB or None,
            p.max_request_mib * MIB,
        )


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(AttentionRuntime, args)


if __name__ == '__main__':
    sys.exit(main())
