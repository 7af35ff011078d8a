"""`ros2 pkg`."""

from __future__ import annotations

import argparse

from ros2cli_standin import CommandError
from ros2cli_standin.cli import add_verbs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    add = add_verbs(parser)
    add('list', list_packages, 'list packages')
    verb = add('prefix', prefix, 'print where a package is installed')
    verb.add_argument('package_name', metavar='PACKAGE')
    verb.add_argument('--share', action='store_true', help='print its share folder instead')
    verb = add('executables', executables, 'list executables')
    verb.add_argument('package_name', metavar='PACKAGE', nargs='?', help='only those of this package')
    verb.add_argument('--full-path', action='store_true', help='print their paths')


def list_packages(args: argparse.Namespace) -> None:
    """Print all packages."""
    from ament_index_python.packages import get_packages_with_prefixes

    print('\n'.join(sorted(get_packages_with_prefixes())))


def prefix(args: argparse.Namespace) -> None:
    """Print the prefix or the share folder of a package.

    Raises:
        CommandError: if it is not installed.
    """
    from launch.substitution import SubstitutionFailure
    from launch_ros.packages import package_prefix

    try:
        found = package_prefix(args.package_name)
    except SubstitutionFailure as error:
        raise CommandError(str(error)) from error
    print(found / 'share' / args.package_name if args.share else found)


def executables(args: argparse.Namespace) -> None:
    """Print executables.

    Raises:
        CommandError: if the package is not installed.
    """
    from ament_index_python.packages import get_packages_with_prefixes
    from launch.substitution import SubstitutionFailure
    from launch_ros import packages

    names = [args.package_name] if args.package_name else sorted(get_packages_with_prefixes())
    for name in names:
        try:
            for path in packages.executables(name):
                print(path if args.full_path else path.name if args.package_name else f'{name} {path.name}')
        except SubstitutionFailure as error:
            raise CommandError(str(error)) from error
