"""Write bootstrap/constraints.txt from the versions installed in this environment."""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

TARGET = Path(__file__).resolve().parent / 'constraints.txt'
HEADER = """\
# Every version that is installed, as constraints for the three requirement files; valid for Python 3.11 and 3.12.
# Renew with: make lock
"""


def main() -> None:
    """Write one line a distribution, without local version tags such as +cpu."""
    names = {d.metadata['Name']: d.version.split('+')[0] for d in distributions()}
    for own in ('attn_robotics', 'attn-robotics', 'pip'):
        names.pop(own, None)
    lines = [f'{name}=={version}\n' for name, version in sorted(names.items(), key=lambda item: item[0].lower())]
    temporary = TARGET.with_suffix('.tmp')
    temporary.write_text(HEADER + ''.join(lines))
    temporary.replace(TARGET)
    print(f'{len(lines)} versions written to {TARGET.name}')


if __name__ == '__main__':
    main()
