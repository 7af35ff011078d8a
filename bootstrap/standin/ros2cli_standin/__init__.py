"""Stand-in of attn_robotics for a part of ROS 2 Jazzy's `ros2` command, for machines without it; see its README."""

NOTICE = (
    'This is a stand-in by attn_robotics for a subset of the official ROS 2 tools. For the real ones install ROS 2 '
    'Jazzy (https://docs.ros.org/en/jazzy/Installation.html, package ros-jazzy-ros-base) and source its setup file.'
)


class CommandError(Exception):
    """A command cannot do what was asked; the text is the one line that the user sees."""
