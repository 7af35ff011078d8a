"""The face detector in a process of its own, so that it never starves a control loop.

A process, not a thread: detection holds the interpreter for tens of milliseconds. Pixels travel through shared memory,
which costs the caller one copy; pickling them into a pipe would hold up its loop a few times longer.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from attn_robotics.systems.gaze.detector import MAX_PIXELS, HaarDetector, Image, check_image
from attn_robotics.systems.gaze.tracker import Box

NICENESS = 10  # the loop goes first where both want one processor


@dataclass(frozen=True)
class Detections:
    """Faces of one image; `error` tells why there are none."""

    stamp: float
    boxes: tuple[Box, ...]
    error: str = ''


def _stand_back() -> None:
    """Leave the first processor, and the first word of the scheduler, to the loop; where that is permitted."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    os.nice(NICENESS)
    if hasattr(os, 'sched_setaffinity'):  # Linux
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        others = sorted(os.sched_getaffinity(0))[1:]
        if others:
            with suppress(OSError):
                os.sched_setaffinity(0, others)


def _work(pipe: Connection, pixels: Any) -> None:
    import cv2

    _stand_back()
    cv2.setNumThreads(1)
    shared = np.frombuffer(pixels, np.uint8)
    with suppress(EOFError, BrokenPipeError):  # the parent has died
        try:
            detector = HaarDetector()
        except RuntimeError as error:
            pipe.send(Detections(0.0, (), str(error)))
            return
        while (item := pipe.recv()) is not None:
            stamp, shape = item
            try:
                image = shared[: int(np.prod(shape))].reshape(shape)
                pipe.send(Detections(stamp, tuple(detector.detect(image))))
            except (ValueError, cv2.error) as error:
                pipe.send(Detections(stamp, (), ' '.join(str(error).split())))


class DetectorProcess:
    """Runs the detector beside the control loop.

    One image at a time: those that come meanwhile are dropped and counted, so that the next one taken is a fresh one.
    One thread may submit while another polls.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context('spawn')
        self._shared = context.RawArray('B', 3 * MAX_PIXELS)
        self._pixels = np.frombuffer(self._shared, np.uint8)
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there, self._shared), daemon=True)
        self._process.start()
        there.close()  # or the end of the process would go unnoticed
        self.dropped = 0
        self._busy = False

    def submit(self, stamp: float, image: Image) -> bool:
        """Hand over an image; False when the detector is still busy or has died, and the image is dropped.

        Raises:
            ValueError: it is no image; see `check_image`.
        """
        check_image(image)
        if self._busy:
            self.dropped += 1
            return False
        self._pixels[: image.size].reshape(image.shape)[:] = image
        self._busy = True
        try:
            self._pipe.send((stamp, image.shape))
        except OSError:
            self._busy = False
            self.dropped += 1
            return False
        return True

    def poll(self, timeout: float = 0.0) -> list[Detections]:
        """What was finished since the last call; waits at most `timeout` seconds for it."""
        results: list[Detections] = []
        with suppress(EOFError, OSError):
            while self._pipe.poll(0.0 if results else timeout):
                results.append(self._pipe.recv())
        if results:
            self._busy = False
        return results

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.is_alive()

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._pipe.send(None)
        self._process.join(2.0)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()
        self._pipe.close()
