"""ROS toolkit: parameters from dataclasses, QoS, lifecycle base, workers, diagnostics."""
