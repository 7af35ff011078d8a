"""Where launch descriptions come from: Python launch files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from launch.launch_context import LaunchContext
from launch.launch_description import LaunchDescription
from launch.missing import missing, module_getattr
from launch.substitution import SomeSubstitutionsType, normalize_to_list_of_substitutions, perform_substitutions

__all__ = [
    'AnyLaunchDescriptionSource',
    'LaunchDescriptionSource',
    'PythonLaunchDescriptionSource',
    'get_launch_description_from_python_launch_file',
]


class InvalidPythonLaunchFileError(RuntimeError):
    """A file is no Python launch file."""


class LaunchDescriptionSource:
    """A launch file, read when it is reached."""

    def __init__(self, launch_file_path: SomeSubstitutionsType) -> None:
        self._location = normalize_to_list_of_substitutions(launch_file_path)
        self.path: Path | None = None

    def get_launch_description(self, context: LaunchContext) -> LaunchDescription:
        """Read the file, once.

        Raises:
            FileNotFoundError: if it does not exist.
            InvalidPythonLaunchFileError: if it does not return a launch description.
        """
        self.path = Path(perform_substitutions(context, self._location)).absolute()
        return get_launch_description_from_python_launch_file(self.path)


class PythonLaunchDescriptionSource(LaunchDescriptionSource):
    """A Python launch file."""


class AnyLaunchDescriptionSource(LaunchDescriptionSource):
    """A launch file in any format; here that is Python."""


def get_launch_description_from_python_launch_file(python_launch_file_path: str | Path) -> LaunchDescription:
    """What `generate_launch_description()` of the file returns.

    Raises:
        FileNotFoundError: if the file does not exist.
        InvalidPythonLaunchFileError: if it fails or does not return a launch description.
        MissingFeatureError: for a launch file that is not Python.
    """
    path = Path(python_launch_file_path)
    if not path.is_file():
        raise FileNotFoundError(f"launch file '{path}' does not exist")
    if path.suffix != '.py':
        missing(f"the launch file format of '{path.name}'")
    spec = importlib.util.spec_from_file_location(f'launch_file_{path.name.replace(".", "_")}', path)
    assert spec is not None and spec.loader is not None, 'the suffix .py has a loader'
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise InvalidPythonLaunchFileError(f"launch file '{path}', line {error.lineno}: {error.msg}") from error
    generate = getattr(module, 'generate_launch_description', None)
    if generate is None:
        raise InvalidPythonLaunchFileError(f"launch file '{path}' has no function generate_launch_description()")
    description = generate()
    if not isinstance(description, LaunchDescription):
        raise InvalidPythonLaunchFileError(
            f"generate_launch_description() of '{path}' returned {type(description).__name__}, not a LaunchDescription"
        )
    return description


__getattr__ = module_getattr(__name__)
