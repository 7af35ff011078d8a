"""Camera images to tracked faces, by a process beside the control loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sensor_msgs.msg import CameraInfo, Image

from attn_robotics.conversions.gaze import MessageError, from_image, to_camera
from attn_robotics.conversions.stamps import to_seconds
from attn_robotics.runtime.metrics import Recent
from attn_robotics.systems.gaze.camera import Camera
from attn_robotics.systems.gaze.detector_process import DetectorProcess
from attn_robotics.systems.gaze.tracker import FaceTracker, TrackedFace

OTHER_CLOCK_S = 2.0  # an image that is so much older or newer than now belongs to another clock
RESTART_S = 5.0


class FaceInput:
    """What a node needs to hear of images; every method returns at once.

    Args:
        drop: told of every image that is not used, by reason and detail.
        frame: frame that images must have; empty takes any, as long as image and camera info agree.
    """

    def __init__(self, drop: Callable[[str, str], None], frame: str = '') -> None:
        self._drop, self._frame = drop, frame
        self._detector = DetectorProcess()
        self._started_at: float | None = None
        self._camera: Camera | None = None
        self._camera_frame = ''
        self._tracker: FaceTracker | None = None
        self._is_busy = False
        self._has_images = False
        self._ages_ms = Recent()
        self.images = self.skipped = 0  # searched, and passed over meanwhile
        self.error = ''

    @property
    def problem(self) -> str:
        """Why there are no faces; empty while all is well."""
        if self._has_images and self._camera is None:
            return "images come, but no usable camera info on 'camera_info'; nothing is searched for faces"
        return self.error

    def on_camera_info(self, message: CameraInfo) -> None:
        """Take the camera's description; a changed one starts the tracks anew."""
        try:
            camera = to_camera(message)
        except MessageError as error:
            self._drop('bad camera info', str(error))
            return
        self._camera_frame = message.header.frame_id
        if camera != self._camera:
            self._camera, self._tracker = camera, FaceTracker(camera)

    def on_image(self, message: Image, now: float) -> None:
        """Hand an image to the detector, unless it is still busy with the last one."""
        self._has_images = True
        frame, stamp = message.header.frame_id, to_seconds(message.header.stamp)
        if self._camera is None:
            self._drop('image without camera info', "nothing usable on 'camera_info' yet")
        elif frame != self._camera_frame or (self._frame and frame != self._frame):
            wanted = self._frame or self._camera_frame
            self._drop('image in another frame', f'{frame!r} instead of {wanted!r}')
        elif (message.width, message.height) != (self._camera.width, self._camera.height):
            size = f'{self._camera.width} x {self._camera.height}'
            self._drop('image of another size', f'{message.width} x {message.height}, camera info says {size}')
        elif abs(now - stamp) > OTHER_CLOCK_S:
            self._drop('image of another time', f'{now - stamp:.1f} s from now; is use_sim_time the same everywhere?')
        elif self._is_busy:
            self.skipped += 1  # the usual thing where a camera is quicker than the search
        else:
            try:
                self._is_busy = self._detector.submit(stamp, from_image(message))
            except ValueError as error:
                self._drop('bad image', str(error))

    def poll(self, now: float) -> list[tuple[float, list[TrackedFace]]]:
        """Image stamps with their faces, for what was finished since the last call."""
        found = []
        for result in self._detector.poll():
            self._is_busy = False
            if result.error:
                self.error = result.error
                self._drop('face search failed', result.error)
            elif self._tracker is not None:
                self.error = ''
                self.images += 1
                self._ages_ms.observe((now - result.stamp) * 1e3)
                found.append((result.stamp, self._tracker.update(result.stamp, result.boxes)))
        return found

    def values(self) -> Mapping[str, object]:
        """Counts, and the age of images when the command is made that uses them, for diagnostics."""
        values: dict[str, object] = {'images searched': self.images, 'images passed over': self.skipped}
        if self._ages_ms:
            p50, p99 = self._ages_ms.quantiles
            values |= {'image to command p50 [ms]': f'{p50:.1f}', 'image to command p99 [ms]': f'{p99:.1f}'}
        return values

    def revive(self, now: float) -> None:
        """Start a detector that died anew, at most every five seconds."""
        if self._detector.is_alive or (self._started_at is not None and 0.0 <= now - self._started_at < RESTART_S):
            return
        self._drop('face detector died', 'it is started again')
        self.error = self.error or 'the face detector died'
        self._detector.close()
        self._detector, self._started_at, self._is_busy = DetectorProcess(), now, False

    def close(self) -> None:
        """End the process."""
        self._detector.close()
