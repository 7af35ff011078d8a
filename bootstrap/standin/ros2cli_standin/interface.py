"""`ros2 interface`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ros2cli_standin import CommandError
from ros2cli_standin.cli import add_verbs
from ros2cli_standin.interfaces import KINDS, by_package, definition, nested_type, split_type

TITLES = {'msg': 'Messages', 'srv': 'Services', 'action': 'Actions'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    add = add_verbs(parser)
    verb = add('list', list_interfaces, 'list message, service and action types')
    for flag, kind in (('-m', 'msg'), ('-s', 'srv'), ('-a', 'action')):
        only = f'--only-{kind}s'
        verb.add_argument(
            flag, only, dest='kinds', action='append_const', const=kind, help=f'only {TITLES[kind].lower()}'
        )
    verb = add('package', package, 'list the types of one package')
    verb.add_argument('package_name', metavar='PACKAGE')
    add('packages', packages, 'list packages that have types')
    verb = add('show', show, 'print a definition, with those of its fields')
    verb.add_argument('type', metavar='TYPE', help='such as std_msgs/msg/String')
    comments = verb.add_mutually_exclusive_group()
    comments.add_argument('--all-comments', action='store_true', help='comments of nested types too')
    comments.add_argument('--no-comments', action='store_true', help='no comments and no empty lines')


def list_interfaces(args: argparse.Namespace) -> None:
    """Print all types."""
    found = by_package()
    for kind in args.kinds or KINDS:
        print(f'{TITLES[kind]}:')
        for name, members in found.items():
            for member in members:
                if member.startswith(f'{kind}/'):
                    print(f'    {name}/{member}')


def package(args: argparse.Namespace) -> None:
    """Print the types of one package.

    Raises:
        CommandError: if it has none.
    """
    found = by_package().get(args.package_name)
    if found is None:
        raise CommandError(f"no package '{args.package_name}' with interfaces is installed")
    for member in found:
        print(f'{args.package_name}/{member}')


def packages(args: argparse.Namespace) -> None:
    """Print the packages that have types."""
    print('\n'.join(by_package()))


def show(args: argparse.Namespace) -> None:
    """Print a definition with those of its fields below them, one tab deeper."""
    for line in expanded(args.type, outer=not args.no_comments, inner=args.all_comments):
        print(line)


def expanded(name: str, *, outer: bool, inner: bool) -> Iterator[str]:
    """The lines of a definition, nested ones behind their fields.

    Args:
        name: the type.
        outer: keep comments and empty lines of this type.
        inner: keep those of nested types.
    """
    own_package = split_type(name)[0]
    for line in definition(name).splitlines():
        bare = line.split('#', 1)[0].rstrip()
        if outer or bare:
            yield line if outer else bare
        if nested := nested_type(bare, own_package):
            yield from (f'\t{deeper}' for deeper in expanded(nested, outer=inner, inner=inner))
