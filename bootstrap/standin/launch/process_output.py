"""Where the lines of a process go: the screen, the launch's log, or files of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from launch.logging import launch_config, write_line

# What each documented name of `output` means: stream -> destinations.
PLANS: dict[str, dict[str, set[str]]] = {
    'screen': {'stdout': {'screen'}, 'stderr': {'screen'}},
    'log': {'stdout': {'log'}, 'stderr': {'log', 'screen'}},
    'both': {'stdout': {'log', 'screen'}, 'stderr': {'log', 'screen'}},
    'own_log': {'stdout': {'own_log'}, 'stderr': {'own_log'}},
    'full': {'stdout': {'screen', 'log', 'own_log'}, 'stderr': {'screen', 'log', 'own_log'}},
}


class OutputPlan:
    """Splits what a process writes into lines and sends each where `output` says."""

    def __init__(self, name: str, output: str | Mapping[str, str]) -> None:
        """Read the plan.

        Raises:
            ValueError: for an `output` that launch does not document.
        """
        output = os.environ.get('OVERRIDE_LAUNCH_PROCESS_OUTPUT') or output
        self._name = name
        self._rest = {True: b'', False: b''}
        self._targets: dict[str, set[str]] = {}
        if isinstance(output, str):
            if output not in PLANS:
                raise ValueError(f"process {name}: output='{output}' is unknown, use one of {sorted(PLANS)}")
            self._targets = PLANS[output]
            return
        for stream, where in output.items():
            names = {where} if isinstance(where, str) else set(where)
            if stream not in ('stdout', 'stderr', 'both') or not names <= {'screen', 'log', 'own_log'}:
                raise ValueError(f'process {name}: output={output!r} is unknown')
            for each in ('stdout', 'stderr') if stream == 'both' else (stream,):
                self._targets[each] = self._targets.get(each, set()) | names

    def write(self, data: bytes, from_stdout: bool) -> None:
        """Send all whole lines; keep the rest for later."""
        *lines, self._rest[from_stdout] = (self._rest[from_stdout] + data).split(b'\n')
        for line in lines:
            self._line(line, from_stdout)

    def flush(self) -> None:
        """Send what came without a final newline."""
        for from_stdout, rest in self._rest.items():
            if rest:
                self._line(rest, from_stdout)
                self._rest[from_stdout] = b''

    def _line(self, line: bytes, from_stdout: bool) -> None:
        text = line.decode(errors='replace').removesuffix('\r')
        stream = 'stdout' if from_stdout else 'stderr'
        targets = self._targets.get(stream, set())
        if 'screen' in targets:
            write_line(f'[{self._name}] {text}', sys.stdout if from_stdout else sys.stderr)
        if 'log' in targets:
            write_line(f'[{self._name}] {text}', launch_config.log_file)
        if 'own_log' in targets:
            with (launch_config.log_dir / f'{self._name}-{stream}.log').open('a', encoding='utf-8') as file:
                file.write(text + '\n')
