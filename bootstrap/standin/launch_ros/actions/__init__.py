"""Actions for ROS nodes."""

from launch.missing import module_getattr

from launch_ros.actions.node import LifecycleNode, Node
from launch_ros.actions.scope import (
    PushROSNamespace,
    PushRosNamespace,
    SetParameter,
    SetParametersFromFile,
    SetRemap,
    SetUseSimTime,
)

__all__ = [
    'LifecycleNode',
    'Node',
    'PushROSNamespace',
    'PushRosNamespace',
    'SetParameter',
    'SetParametersFromFile',
    'SetRemap',
    'SetUseSimTime',
]

__getattr__ = module_getattr(__name__)
