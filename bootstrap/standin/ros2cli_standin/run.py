"""`ros2 run`: run an executable of a package."""

from __future__ import annotations

import argparse
import os
import shlex

from ros2cli_standin import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument('--prefix', help='a command to put before the executable, such as "gdb --args"')
    parser.add_argument('package', metavar='PACKAGE', help='name of the package')
    parser.add_argument('executable', metavar='EXECUTABLE', help='name of the executable')
    parser.add_argument('arguments', metavar='ARGUMENT', nargs=argparse.REMAINDER, help='passed on')
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Become the executable: signals and exit code are its own."""
    from launch.substitution import SubstitutionFailure
    from launch_ros.packages import executable_path

    try:
        path = executable_path(args.package, args.executable)
    except SubstitutionFailure as error:
        raise CommandError(str(error)) from error
    command = [*shlex.split(args.prefix or ''), str(path), *args.arguments]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise CommandError(f'cannot run {shlex.join(command)}: {error.strerror}') from error
