"""ROS 2 executables, one a module."""
