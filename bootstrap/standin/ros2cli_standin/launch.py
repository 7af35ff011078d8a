"""`ros2 launch`: run a launch file of a package, or by its path."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ros2cli_standin import CommandError

SUFFIX = '.launch.py'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument('package_name', metavar='PACKAGE|PATH', help='package of the launch file, or path of the file')
    parser.add_argument('rest', metavar='FILE|NAME:=VALUE', nargs='*', help='launch file, then its arguments')
    parser.add_argument(
        '-s', '--show-args', '--show-arguments', action='store_true', help='list the arguments of the launch file'
    )
    parser.add_argument('-d', '--debug', action='store_true', help='print tracebacks of errors in launch files')
    parser.add_argument('-n', '--noninteractive', action='store_true', help='accepted; there is no terminal use here')
    parser.add_argument(
        '-a', '--show-all-subprocesses-output', action='store_true', help='show what every process prints'
    )
    parser.add_argument('--launch-prefix', help='a command to put before every process, such as "gdb --args"')
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Find the launch file, check its arguments, run it."""
    from launch.actions import IncludeLaunchDescription
    from launch.launch_description import LaunchDescription
    from launch.launch_description_sources import (
        PythonLaunchDescriptionSource,
        get_launch_description_from_python_launch_file,
    )
    from launch.logging import get_logger, launch_config

    from launch import LaunchService

    path, words = find_launch_file(args.package_name, args.rest)
    given = parse_arguments(words)
    logger = get_logger('launch')
    try:
        description = get_launch_description_from_python_launch_file(path)
        declared = {argument.name: argument for argument in description.get_launch_arguments()}
        if args.show_args:
            print("Arguments (pass arguments as '<name>:=<value>'):\n" if declared else 'No arguments.')
            print('\n\n'.join(argument.help() for argument in declared.values()))
            return 0
        try:
            logger.info('All log files can be found below %s', launch_config.log_dir)
        except OSError as error:
            raise CommandError(f'cannot write the log, set ROS_LOG_DIR to a folder of yours: {error}') from error
        # Names that the launch system itself reads need no declaration.
        for name in sorted(set(given) - set(declared) - {'sigterm_timeout', 'sigkill_timeout', 'launch-prefix'}):
            logger.warning("the launch argument '%s' is not declared by %s", name, path.name)
    except CommandError:
        raise
    except Exception as error:
        if args.debug:
            raise
        raise CommandError(f'cannot load the launch file: {type(error).__name__}: {error}') from error
    if args.show_all_subprocesses_output:
        os.environ['OVERRIDE_LAUNCH_PROCESS_OUTPUT'] = 'both'
    if args.launch_prefix:
        given['launch-prefix'] = args.launch_prefix
    service = LaunchService(argv=words, noninteractive=args.noninteractive, debug=args.debug)
    source = PythonLaunchDescriptionSource(str(path))
    service.include_launch_description(
        LaunchDescription([IncludeLaunchDescription(source, launch_arguments=given.items())])
    )
    return service.run()


def find_launch_file(package: str, rest: list[str]) -> tuple[Path, list[str]]:
    """The path of the launch file and the words that are left.

    Raises:
        CommandError: if there is none, or more than one.
    """
    by_path = Path(package)
    if by_path.is_file():
        return by_path.absolute(), rest
    if not rest or ':=' in rest[0]:
        if os.sep in package or package.endswith(SUFFIX):
            raise CommandError(f"the launch file '{package}' does not exist")
        raise CommandError(f"no launch file given for the package '{package}'")
    from launch.substitution import SubstitutionFailure
    from launch_ros.packages import package_prefix

    name, *words = rest
    try:
        share = package_prefix(package) / 'share' / package
    except SubstitutionFailure as error:
        raise CommandError(str(error)) from error
    found = sorted(share.rglob(name)) if name == Path(name).name else [share / name]
    found = [path for path in found if path.is_file()]
    if not found:
        known = sorted({path.name for path in share.rglob(f'*{SUFFIX}')})
        raise CommandError(
            f"launch file '{name}' not found in package '{package}' below {share}; it has: {', '.join(known) or 'none'}"
        )
    if len(found) > 1:
        raise CommandError(f"'{name}' is ambiguous in package '{package}': {', '.join(map(str, found))}")
    return found[0], words


def parse_arguments(words: list[str]) -> dict[str, str]:
    """Launch arguments by name.

    Raises:
        CommandError: for a word that is not `name:=value`.
    """
    given = {}
    for word in words:
        name, separator, value = word.partition(':=')
        if not separator or not name:
            raise CommandError(f"malformed launch argument '{word}', expected the form '<name>:=<value>'")
        given[name] = value
    return given
