"""Write the parameter tables of README.md from the nodes' dataclasses; `--check` only says whether they agree."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path

from attn_robotics.ros.lifecycle import AttnNode
from attn_robotics.ros.parameters import table

README = Path(__file__).resolve().parent.parent / 'README.md'
BLOCK = re.compile(r'(<!-- parameters: (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)


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
