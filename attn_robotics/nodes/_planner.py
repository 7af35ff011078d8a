"""The parameters that every SPARC planner node has: robots, network, wheels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attn_robotics.ros.parameters import param
from attn_robotics.systems.sparc.motion import MotionLimits
from attn_robotics.systems.sparc.policy import SparcPolicy


@dataclass(frozen=True)
class PlannerParams:
    """Whom to plan for, with which network, and what the wheels can do."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    robots: int = param(8, 'Number of robots, named robot_0 and so on.', low=1, high=1024, read_only=True)
    map_frame: str = param('map', 'Frame of the map, goals and attention markers.', read_only=True)
    weights: str = param('', 'Weights (.safetensors); empty takes those that ship.', read_only=True)
    device: str = param('cpu', 'Where the network runs: cpu or cuda.', read_only=True)
    backend: str = param(
        'auto',
        'What runs the network; auto: onnxruntime on the CPU, torch on a GPU.',
        choices=('auto', 'torch', 'onnxruntime'),
        read_only=True,
    )
    control_rate: float = param(20.0, 'Velocity commands a second [Hz].', low=5.0, high=100.0, read_only=True)
    max_speed: float = param(1.0, 'Forward speed limit [m/s].', low=0.05, high=5.0, read_only=True)
    max_acceleration: float = param(
        2.0, 'Forward acceleration and braking [m/s^2].', low=0.05, high=20.0, read_only=True
    )
    max_turn_rate: float = param(2.5, 'Turning limit [rad/s].', low=0.1, high=10.0, read_only=True)
    max_turn_acceleration: float = param(6.0, 'Turning acceleration [rad/s^2].', low=0.1, high=50.0, read_only=True)

    robot_radius: float = param(0.3, "Radius of a robot's disc [m].", low=0.01, high=5.0, read_only=True)

    def load_policy(self, threads: int | None = None) -> SparcPolicy:
        """Load the network; raises WeightsError or ValueError in one line."""
        weights = Path(self.weights).expanduser() if self.weights else None
        return SparcPolicy.load(weights, self.device, self.backend, threads=threads)

    def limits(self) -> MotionLimits:
        """What the wheels can do, as the controller wants it."""
        return MotionLimits(
            max_speed=self.max_speed,
            max_acceleration=self.max_acceleration,
            max_turn_rate=self.max_turn_rate,
            max_turn_acceleration=self.max_turn_acceleration,
            radius=self.robot_radius,
            latency_s=1.0 / self.control_rate,
        )
