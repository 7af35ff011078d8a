"""Packages and their executables, found through the ament index."""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.substitution import SubstitutionFailure


def package_prefix(package: str) -> Path:
    """The install prefix of a package.

    Raises:
        SubstitutionFailure: if it is not installed.
    """
    try:
        return Path(get_package_prefix(package))
    except (PackageNotFoundError, ValueError, OSError):
        prefixes = os.environ.get('AMENT_PREFIX_PATH') or 'nothing'
        raise SubstitutionFailure(f"package '{package}' not found; AMENT_PREFIX_PATH is {prefixes}") from None


def executables(package: str) -> list[Path]:
    """The executables of a package, by path.

    Raises:
        SubstitutionFailure: if it is not installed.
    """
    folder = package_prefix(package) / 'lib' / package
    return sorted(path for path in folder.rglob('*') if path.is_file() and os.access(path, os.X_OK))


def executable_path(package: str, executable: str) -> Path:
    """The path of an executable.

    Raises:
        SubstitutionFailure: if the package or the executable is unknown.
    """
    found = executables(package)
    for path in found:
        if path.name == executable:
            return path
    known = ', '.join(path.name for path in found) or 'none'
    raise SubstitutionFailure(f"executable '{executable}' not found in package '{package}'; it has: {known}")
