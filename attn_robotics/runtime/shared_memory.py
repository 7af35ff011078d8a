"""Tensors in POSIX shared memory, for clients in other processes of the same user and host.

Who creates a segment owns it. A client keeps one for its inputs and writes it anew for every request. A server hands
one over with each large answer: the client claims it (`read_array(..., claim=True)`), which renames it to KEY_free: the
server writes its next answer there, because new pages cost ten times as much as the copy. A client may as well remove
the file. What nobody claims is removed after a while, and what a dead process left is removed by `sweep`.

A key names its owner's pid namespace, pid and start time, so that no live process is taken for a dead one, also where
containers share /dev/shm. Python's own SharedMemory is not used: until 3.13 its tracker removes segments that are only
attached, and it does not check whose they are.
"""

from __future__ import annotations

import functools
import mmap
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from attn_robotics.runtime.errors import EngineError

FOLDER = Path('/dev/shm')
MAX_SEGMENT_BYTES = 1 << 30
FREE = '_free'  # how a segment's name ends once its reader has given it back
_KEY = re.compile(r'attn_(?P<namespace>\d+)_(?P<pid>\d+)_(?P<start>\d+)_[0-9a-f]{16}')
NumpyArray = np.ndarray[Any, np.dtype[Any]]


class Segment:
    """A mapped segment; made by `create` or `attach`.

    Attributes:
        key: what other processes ask for.
        size: in bytes.
        writeable: whether this process created it.
    """

    def __init__(self, key: str, mapping: mmap.mmap, writeable: bool) -> None:
        self.key = key
        self.size = len(mapping)
        self.writeable = writeable
        self._mapping: mmap.mmap | None = mapping

    @classmethod
    def create(cls, size: int) -> Segment:
        """Make a segment of `size` bytes, readable by this user only.

        Raises:
            EngineError: `too_large` beyond the bound, `out_of_memory` when /dev/shm is full.
        """
        if not 0 < size <= MAX_SEGMENT_BYTES:
            raise EngineError('too_large', f'a segment holds 1 to {MAX_SEGMENT_BYTES} bytes, asked for {size}')
        key = _new_key()
        path = FOLDER / key
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # Reserves the pages now: a full /dev/shm is an error here, not a SIGBUS at the first write.
            os.posix_fallocate(descriptor, 0, size)
            return cls(key, mmap.mmap(descriptor, size), True)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise EngineError('out_of_memory', f'/dev/shm has no room for {size} bytes: {error.strerror}') from error
        finally:
            os.close(descriptor)

    @classmethod
    def attach(cls, key: str) -> Segment:
        """Map another process's segment, read-only.

        Its owner may change it at any time, and shrinking it would crash readers: where the owner is not trusted that
        far, `read_array` copies instead.

        Raises:
            EngineError: `bad_segment`: no such segment, not of this user, or not a segment of ours.
        """
        descriptor, size = _open(key)
        try:
            return cls(key, mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), False)
        finally:
            os.close(descriptor)

    def array(self, dtype: str, shape: Sequence[int], offset: int = 0) -> NumpyArray:
        """A C-contiguous array in the segment; it must not outlive `release`.

        Raises:
            EngineError: `bad_input` when it reaches beyond the segment.
        """
        if self._mapping is None:
            raise EngineError('bad_input', f'segment {self.key} is released')
        _check_layout(np.dtype(dtype), shape, offset, self.size)
        return np.ndarray(tuple(shape), dtype, self._mapping, offset)

    def rename(self, key: str) -> bool:
        """Give its file another name; False when somebody has removed it."""
        try:
            (FOLDER / self.key).rename(FOLDER / key)
        except FileNotFoundError:
            return False
        self.key = key
        return True

    def release(self) -> None:
        """Unmap it; its creator also removes its name. Safe to call twice."""
        if self._mapping is None:
            return
        mapping, self._mapping = self._mapping, None
        if self.writeable:
            (FOLDER / self.key).unlink(missing_ok=True)
        with suppress(BufferError):  # an array still looks at it; the mapping goes with the last one
            mapping.close()

    def __enter__(self) -> Segment:
        """Release on leaving."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Release."""
        self.release()


def read_array(
    key: str,
    dtype: str,
    shape: Sequence[int],
    *,
    offset: int = 0,
    strides: Sequence[int] = (),
    claim: bool = False,
) -> NumpyArray:
    """Copy an array out of a segment, so that nothing its owner does later can change or crash the reader.

    Args:
        key: of the segment.
        dtype: numpy name.
        shape: elements along each axis.
        offset: of the first element [bytes].
        strides: [bytes]; C-contiguous when empty, negative or overlapping ones are refused.
        claim: give the segment back after reading: its owner has handed it over.

    Raises:
        EngineError: `bad_segment`: no such segment, or another user's; `bad_input`: the array reaches beyond it.
    """
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise EngineError('bad_input', f'{dtype!r} is not the name of a dtype') from error
    if kind.hasobject:
        raise EngineError('bad_input', f'dtype {dtype!r} can not be shared')
    descriptor, size = _open(key)
    try:
        extent = _check_layout(kind, shape, offset, size, strides)
        buffer = np.empty(extent, np.uint8)
        view = buffer.data
        while view:
            if not (count := os.preadv(descriptor, [view], offset + extent - len(view))):
                raise EngineError('bad_input', f'segment {key} shrank while it was read')
            view = view[count:]
    finally:
        os.close(descriptor)
    if claim:
        with suppress(FileNotFoundError):  # its owner was faster
            (FOLDER / key).rename(FOLDER / f'{key}{FREE}')
    array: NumpyArray = np.ndarray(tuple(shape), kind, buffer, 0, tuple(strides) if strides else None)
    return array


class SegmentPool:
    """Segments of this process that wait to be written anew. Not locked: its owner does that.

    Args:
        ttl_s: after which an idle one is removed [s].
        clock: gives seconds; replaced in tests.
    """

    def __init__(self, ttl_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._idle: list[tuple[Segment, float]] = []  # the longest idle first

    @property
    def size(self) -> int:
        """Bytes of all that wait."""
        return sum(segment.size for segment, _ in self._idle)

    def take(self, size: int) -> Segment:
        """One of at least this many bytes: an old one where one is about as large, else a new one.

        Raises:
            EngineError: as `Segment.create`.
        """
        self.sweep()
        fitting = [item for item in self._idle if size <= item[0].size <= 2 * size + mmap.PAGESIZE]
        if not fitting:
            return Segment.create(size)
        chosen = min(fitting, key=lambda item: item[0].size)
        self._idle.remove(chosen)
        return chosen[0]

    def give(self, segment: Segment) -> None:
        """Put one back."""
        self._idle.append((segment, self._clock() + self._ttl_s))

    def sweep(self) -> None:
        """Remove what has lain idle for too long."""
        now = self._clock()
        while self._idle and self._idle[0][1] < now:
            self._idle.pop(0)[0].release()

    def shrink(self, size: int) -> None:
        """Remove the longest idle until at most this many bytes wait."""
        while self._idle and self.size > size:
            self._idle.pop(0)[0].release()


class HandOver:
    """The segments that a server has sent with its answers, and those that it got back to be written anew.

    Args:
        limit_bytes: the most they may take together.
        ttl_s: after which one that is unclaimed, or unused since it came back, is removed [s].
        clock: gives seconds; replaced in tests.
    """

    def __init__(
        self, limit_bytes: int = 1 << 30, ttl_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._sent: dict[str, tuple[Segment, float]] = {}
        self._free = SegmentPool(ttl_s, clock)

    def send(self, array: NumpyArray) -> str:
        """Copy an array into a segment and return its key.

        Raises:
            EngineError: `too_large`, or `out_of_memory` when clients do not claim what they are sent.
        """
        size = max(1, array.nbytes)
        with self._lock:
            self._sweep()
            left = self._limit - size - sum(segment.size for segment, _ in self._sent.values())
            if left < 0:
                raise EngineError(
                    'out_of_memory', f'{self._limit} bytes of answers wait to be claimed by their clients'
                )
            segment = self._free.take(size)
            self._free.shrink(left)
            if segment.key.endswith(FREE) and not segment.rename(_new_key()):
                segment.release()
                segment = Segment.create(size)
            self._sent[segment.key] = (segment, self._clock() + self._ttl_s)
        segment.array(str(array.dtype), array.shape)[...] = array
        return segment.key

    def sweep(self) -> None:
        """Take back what was claimed, remove what was not in time or lies idle."""
        with self._lock:
            self._sweep()
            self._free.sweep()

    def close(self) -> None:
        """Remove everything."""
        with self._lock:
            self._sweep()  # what was claimed has another name
            for segment, _ in self._sent.values():
                segment.release()
            self._sent.clear()
            self._free.shrink(0)

    def _sweep(self) -> None:
        now = self._clock()
        for key, (segment, until) in list(self._sent.items()):
            if (FOLDER / f'{key}{FREE}').exists():  # its reader has renamed it
                segment.key = f'{key}{FREE}'
                self._free.give(segment)
            elif until < now or not (FOLDER / key).exists():
                segment.release()
            else:
                continue
            del self._sent[key]


def sweep() -> list[str]:
    """Remove segments of this user whose process has ended; returns their keys. For starting up."""
    removed = []
    for path in FOLDER.glob(f'attn_{_namespace()}_*'):
        match = _KEY.fullmatch(path.name.removesuffix(FREE))
        try:
            if match and path.lstat().st_uid == os.geteuid() and _start_of(match['pid']) != match['start']:
                path.unlink()
                removed.append(path.name)
        except FileNotFoundError:
            continue  # its owner or another sweep was faster
    return removed


def _open(key: str) -> tuple[int, int]:
    """Open a segment after checking that it is one of ours; descriptor and size."""
    if not _KEY.fullmatch(key):
        raise EngineError('bad_segment', f'{key[:80]!r} is not the key of a segment')
    try:
        descriptor = os.open(FOLDER / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise EngineError('bad_segment', f'segment {key} can not be opened: {error.strerror}') from error
    status = os.fstat(descriptor)
    problem = ''
    if status.st_uid != os.geteuid():  # root could read it, which is no reason to
        problem = f'belongs to user {status.st_uid}, not {os.geteuid()}'
    elif not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
        problem = 'must be a file that only its user can use'
    elif not 0 < status.st_size <= MAX_SEGMENT_BYTES:
        problem = f'holds {status.st_size} bytes, 1 to {MAX_SEGMENT_BYTES} are allowed'
    if problem:
        os.close(descriptor)
        raise EngineError('bad_segment', f'segment {key} {problem}')
    return descriptor, status.st_size


def _check_layout(
    dtype: np.dtype[Any], shape: Sequence[int], offset: int, size: int, strides: Sequence[int] = ()
) -> int:
    """Bytes from an array's first to behind its last, after checking that they lie in the segment."""
    if any(length < 0 for length in shape) or offset < 0 or len(shape) > 32 or (strides and len(strides) != len(shape)):
        raise EngineError(
            'bad_input', f'shape {list(shape)[:33]}, strides {list(strides)[:33]} or offset {offset} is wrong'
        )
    if 0 in shape:
        return 0
    packed = dtype.itemsize
    steps = []
    for length in reversed(shape):  # of Python integers: no overflow
        steps.append(packed)
        packed *= length
    steps.reverse()
    # Overlapping rows would let a small segment pose as a huge array.
    if strides and any(step < least for step, least in zip(strides, steps, strict=True)):
        raise EngineError('bad_input', f'strides {list(strides)} make elements overlap or run backwards')
    extent = dtype.itemsize + sum((length - 1) * step for length, step in zip(shape, strides or steps, strict=True))
    if offset + extent > size:
        raise EngineError('bad_input', f'{dtype} {list(shape)} at {offset} reaches beyond the segment of {size} bytes')
    return extent


@functools.cache
def _namespace() -> int:
    return os.stat('/proc/self/ns/pid').st_ino  # noqa: PTH116 - stat follows the magic link that Path would too


def _start_of(pid: str | int) -> str:
    """When a process started, in clock ticks since boot; empty when there is none."""
    try:
        text = Path(f'/proc/{pid}/stat').read_text('utf-8', errors='replace')
    except (FileNotFoundError, ProcessLookupError):
        return ''
    return text.rpartition(')')[2].split()[19]  # field 22; the name in brackets may hold anything


@functools.cache
def _prefix_of(pid: int) -> str:
    return f'attn_{_namespace()}_{pid}_{_start_of("self")}_'  # asked for the own pid only, which changes by a fork


def _new_key() -> str:
    return f'{_prefix_of(os.getpid())}{secrets.token_hex(8)}'
