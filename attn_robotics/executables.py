"""Entry points of the executables: `attn_robotics.executables:sparc_fleet` runs nodes/sparc_fleet.py.

Importing a node takes seconds (torch, compilers); until it is there, Ctrl-C must end the process without a traceback.
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable
from types import FrameType


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def __getattr__(name: str) -> Callable[[], int]:
    """The main function of the node module of that name."""
    if name.startswith('_'):
        raise AttributeError(name)

    def main() -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _leave)
        code: int = importlib.import_module(f'attn_robotics.nodes.{name}').main()
        return code

    return main


if __name__ == '__main__':
    sys.exit(__getattr__(sys.argv.pop(1))())
