"""The same descriptions under the name that many launch files import."""

from launch.missing import module_getattr

from launch_ros.parameter_descriptions import Parameter, ParameterFile, ParameterValue

__all__ = ['Parameter', 'ParameterFile', 'ParameterValue']

__getattr__ = module_getattr(__name__)
