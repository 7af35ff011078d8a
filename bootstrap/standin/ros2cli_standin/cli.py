"""The `ros2` command: finds the sub-command, imports only its module, turns errors into one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from ros2cli_standin import NOTICE, CommandError

# Sub-command -> module and summary. The module has `add_arguments(parser)`, which sets `main` as a default.
COMMANDS = {
    'bag': 'record, play and inspect bags',
    'interface': 'show message and service definitions',
    'launch': 'run a launch file',
    'lifecycle': 'query and change the states of lifecycle nodes',
    'node': 'list nodes and what they offer',
    'param': 'read and write parameters',
    'pkg': 'find packages and their executables',
    'run': 'run an executable of a package',
    'service': 'list and call services',
    'topic': 'list, print, measure and publish topics',
}
INTERRUPTED = 130

Main = Callable[[argparse.Namespace], int | None]


class Parser(argparse.ArgumentParser):
    """A parser whose help and errors say that this is a stand-in."""

    def __init__(self, **kwargs: object) -> None:
        kwargs.setdefault('epilog', NOTICE)
        super().__init__(**kwargs, allow_abbrev=False)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """End with one line."""
        self.exit(2, f'{self.prog}: error: {message} (see {self.prog} --help; this stand-in knows a subset)\n')


def add_verbs(parser: argparse.ArgumentParser) -> Callable[..., argparse.ArgumentParser]:
    """Give `parser` verbs: the result makes one from its name, its main function and its help."""
    verbs = parser.add_subparsers(title='verbs', metavar='VERB', required=True, parser_class=Parser)

    def add(name: str, main: Main, summary: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=summary, description=summary)
        verb.set_defaults(main=main)
        return verb

    return add


def help_text() -> str:
    """What `ros2 --help` prints."""
    rows = '\n'.join(f'  {name:<12}{summary}' for name, summary in COMMANDS.items())
    return f'usage: ros2 COMMAND ...\n\n{NOTICE}\n\ncommands:\n{rows}\n\n`ros2 COMMAND --help` says more.'


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the result is the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ('-h', '--help'):
        print(help_text())
        return 0
    # The environment that holds the wheels is a prefix too, and the only one before any setup file is sourced.
    os.environ['AMENT_PREFIX_PATH'] = os.environ.get('AMENT_PREFIX_PATH') or sys.prefix
    name, *rest = argv
    if name not in COMMANDS:
        print(f"ros2: error: the command '{name}' is missing here. {NOTICE}", file=sys.stderr)
        return 2
    parser = Parser(prog=f'ros2 {name}', description=COMMANDS[name])
    import_module(f'ros2cli_standin.{name}').add_arguments(parser)
    try:
        args = parser.parse_args(rest)
        return args.main(args) or 0
    except CommandError as error:
        print(f'ros2 {name}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
