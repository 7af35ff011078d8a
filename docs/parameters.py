"""Write README.md's tables of parameters and launch arguments; `--check` only says whether they agree."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import sys
from pathlib import Path

from launch.actions import DeclareLaunchArgument

from attn_robotics.ros.lifecycle import AttnNode
from attn_robotics.ros.parameters import table

README = Path(__file__).resolve().parent.parent / 'README.md'
BLOCK = re.compile(r'(<!-- parameters: (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)


ARGUMENTS = re.compile(r'(<!-- arguments: (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)


def arguments(name: str) -> str:
    """Table of the arguments of a launch file."""
    path = README.parent / 'launch' / f'{name}.launch.py'
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = ['| argument | default | meaning |', '| --- | --- | --- |']
    for entity in module.generate_launch_description().entities:
        if isinstance(entity, DeclareLaunchArgument):
            default = ''.join(part.text for part in entity.default_value or ())
            lines.append(f'| `{entity.name}` | `{default or repr(default)}` | {entity.description} |')
    return '\n'.join(lines)


def rendered(text: str) -> str:
    """README's text with every parameter table made anew."""

    def fill(match: re.Match[str]) -> str:
        module = importlib.import_module(f'attn_robotics.nodes.{match[2]}')
        kinds = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, AttnNode) and value.__module__ == module.__name__
        ]
        return f'{match[1]}{table(kinds[0].Params)}\n{match[3]}'

    text = ARGUMENTS.sub(lambda match: f'{match[1]}{arguments(match[2])}\n{match[3]}', text)
    return BLOCK.sub(fill, text)


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='change nothing; exit 1 when a table is out of date')
    options = parser.parse_args()
    text = README.read_text()
    new = rendered(text)
    if options.check:
        return int(new != text)
    README.write_text(new)
    return 0


if __name__ == '__main__':
    sys.exit(main())
