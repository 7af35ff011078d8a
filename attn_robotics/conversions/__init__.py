"""ROS messages to arrays and back; nothing else touches message fields."""
