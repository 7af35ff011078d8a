"""Attention models for robots, as ROS 2 nodes around one GPU attention runtime."""

__version__ = '0.1.0'
