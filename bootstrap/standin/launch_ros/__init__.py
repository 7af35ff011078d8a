"""Stand-in of attn_robotics for a part of ROS 2 Jazzy's `launch_ros`, for machines without it; see its README."""

from launch.missing import module_getattr

from launch_ros import actions, descriptions, parameter_descriptions, substitutions

__all__ = ['actions', 'descriptions', 'parameter_descriptions', 'substitutions']

__getattr__ = module_getattr(__name__)
