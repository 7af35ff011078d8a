"""Worlds from one description: embedded simulator, Gazebo SDF, occupancy grid."""
