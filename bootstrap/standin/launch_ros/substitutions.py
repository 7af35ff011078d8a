"""Substitutions that know ROS packages."""

from __future__ import annotations

from launch.launch_context import LaunchContext
from launch.missing import module_getattr
from launch.substitution import (
    SomeSubstitutionsType,
    Substitution,
    describe_substitutions,
    normalize_to_list_of_substitutions,
    perform,
)

from launch_ros.packages import executable_path, package_prefix

__all__ = ['ExecutableInPackage', 'FindPackage', 'FindPackagePrefix', 'FindPackageShare']


class FindPackage(Substitution):
    """A folder of a package."""

    def __init__(self, package: SomeSubstitutionsType) -> None:
        self.package = normalize_to_list_of_substitutions(package)

    def describe(self) -> str:
        """The class and the package."""
        return f'{type(self).__name__}(pkg={describe_substitutions(self.package)})'


class FindPackagePrefix(FindPackage):
    """The install prefix of a package."""

    def perform(self, context: LaunchContext) -> str:
        """The path.

        Raises:
            SubstitutionFailure: if the package is not installed.
        """
        return str(package_prefix(perform(context, self.package)))


class FindPackageShare(FindPackage):
    """The share folder of a package."""

    def perform(self, context: LaunchContext) -> str:
        """The path.

        Raises:
            SubstitutionFailure: if the package is not installed.
        """
        package = perform(context, self.package)
        return str(package_prefix(package) / 'share' / package)


class ExecutableInPackage(Substitution):
    """The path of an executable of a package."""

    def __init__(self, executable: SomeSubstitutionsType, package: SomeSubstitutionsType) -> None:
        self.executable = normalize_to_list_of_substitutions(executable)
        self.package = normalize_to_list_of_substitutions(package)

    def perform(self, context: LaunchContext) -> str:
        """The path.

        Raises:
            SubstitutionFailure: if the package or the executable is unknown.
        """
        return str(executable_path(perform(context, self.package), perform(context, self.executable)))


__getattr__ = module_getattr(__name__)
