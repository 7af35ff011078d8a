"""Faces without any download: OpenCV 4's Haar cascade, whose files ship in its wheel.

OpenCV 5 ships no cascade files, hence `opencv-python-headless<5`. `detector_process.py` runs it beside a control loop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_robotics.systems.gaze.tracker import Box

Image = npt.NDArray[np.uint8]
MAX_PIXELS = 1 << 22
WORK_WIDTH = 400  # px; larger images are scaled down: a whole search then costs about 40 ms of one core
WHOLE_EVERY = 5  # images; between whole searches only the surroundings of known faces are searched


def check_image(image: Any) -> Image:
    """Refuse what is not an image: (H, W) or (H, W, 3) uint8 within 4 million pixels.

    Raises:
        ValueError: one line naming the fault.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise ValueError(f'image must be uint8, got {getattr(image, "dtype", type(image).__name__)}')
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f'image must be (H, W) or (H, W, 3), got shape {image.shape}; use mono8, rgb8 or bgr8')
    if min(image.shape[:2]) < 24 or image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ValueError(f'image of {image.shape[1]} x {image.shape[0]} is outside 24 to {MAX_PIXELS} pixels')
    return image


class HaarDetector:
    """Frontal faces in the images of one camera, one after the other.

    Raises:
        RuntimeError: this OpenCV has no cascade (version 5, or a build without the files).
    """

    def __init__(self) -> None:
        import cv2

        folder = getattr(getattr(cv2, 'data', None), 'haarcascades', '')
        path = Path(folder) / 'haarcascade_frontalface_default.xml'
        if not hasattr(cv2, 'CascadeClassifier') or not path.is_file():
            raise RuntimeError(
                f'OpenCV {cv2.__version__} ships no face cascade; install "opencv-python-headless>=4.8,<5"'
            )
        self._cv = cv2
        self._cascade = cv2.CascadeClassifier(str(path))
        self._known: list[Box] = []  # of the last image, scaled
        self._shape: tuple[int, ...] = ()
        self._age = 0

    def detect(self, image: Image) -> list[Box]:
        """Boxes in pixels of `image`, strongest first. Brightness is normalised before."""
        cv = self._cv
        grey = check_image(image)
        if grey.ndim == 3:
            grey = np.asarray(cv.cvtColor(grey, cv.COLOR_RGB2GRAY), dtype=np.uint8)
        scale = min(1.0, WORK_WIDTH / grey.shape[1])
        if scale < 1.0:
            grey = np.asarray(cv.resize(grey, None, fx=scale, fy=scale, interpolation=cv.INTER_AREA), dtype=np.uint8)
        even = np.asarray(cv.createCLAHE(2.0, (8, 8)).apply(grey), dtype=np.uint8)
        self._age += 1
        if self._age >= WHOLE_EVERY or not self._known or even.shape != self._shape:
            self._age, self._shape = 0, even.shape
            boxes = self._search(even, 0, 0, 24, max(even.shape))
        else:
            boxes = self._search_around(even)
        self._known = boxes
        boxes = [Box(b.x / scale, b.y / scale, b.width / scale, b.height / scale, b.confidence) for b in boxes]
        return sorted(boxes, key=lambda box: -box.confidence)

    def _search(self, even: Image, left: int, top: int, smallest: int, largest: int) -> list[Box]:
        found, _levels, weights = self._cascade.detectMultiScale3(
            even,
            scaleFactor=1.1,
            minNeighbors=4,
            minSize=(smallest, smallest),
            maxSize=(largest, largest),
            outputRejectLevels=True,
        )
        boxes = []
        for row, weight in zip(found, weights, strict=True):
            x, y, width, height = (float(value) for value in row)
            boxes.append(Box(x + left, y + top, width, height, float(weight)))
        return boxes

    def _search_around(self, even: Image) -> list[Box]:
        """The strongest face near each face of the last image."""
        boxes: list[Box] = []
        for known in self._known:
            margin = 0.5 * known.width
            left, top = max(0, int(known.x - margin)), max(0, int(known.y - margin))
            part = even[top : int(known.y + known.height + margin), left : int(known.x + known.width + margin)]
            if min(part.shape) < 24:
                continue
            near = self._search(part, left, top, max(24, int(0.75 * known.width)), int(1.35 * known.width) + 1)
            best = max(near, key=lambda box: box.confidence, default=None)
            # Two surroundings that overlap would tell the same face twice.
            if best is not None and all(abs(best.x - b.x) + abs(best.y - b.y) > 0.5 * best.width for b in boxes):
                boxes.append(best)
        return boxes
