"""Pinhole camera: pixels to bearings."""

from __future__ import annotations

import math
from dataclasses import dataclass

FACE_WIDTH = 0.17  # m that the box of a frontal cascade spans, a little more than a face


@dataclass(frozen=True)
class Camera:
    """Intrinsics in pixels, of an image without lens distortion (rectify first, or accept its error)."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        values = (self.fx, self.fy, self.cx, self.cy)
        if self.width < 1 or self.height < 1 or not all(map(math.isfinite, values)) or min(self.fx, self.fy) <= 0.0:
            raise ValueError(f'camera info unusable: size {self.width} x {self.height}, intrinsics {values}; calibrate')

    @classmethod
    def from_field_of_view(cls, width: int, height: int, horizontal_deg: float) -> Camera:
        """An ideal camera of this horizontal field of view."""
        focal = 0.5 * width / math.tan(math.radians(horizontal_deg) / 2.0)
        return cls(width, height, focal, focal, (width - 1) / 2.0, (height - 1) / 2.0)

    def bearing(self, u: float, v: float) -> tuple[float, float]:
        """Yaw (positive to the left) and pitch (positive up) of a pixel from the camera axis [deg]."""
        x, y = (self.cx - u) / self.fx, (self.cy - v) / self.fy
        return math.degrees(math.atan(x)), math.degrees(math.atan2(y, math.hypot(1.0, x)))

    def distance(self, box_width: float) -> float:
        """Distance [m] of a face whose box is this wide [px]."""
        return self.fx * FACE_WIDTH / max(box_width, 1.0)
