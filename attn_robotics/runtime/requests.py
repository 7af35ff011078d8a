"""A request, its answer, and the checks that come before it costs anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np

from attn_robotics.runtime.errors import EngineError, Reason

if TYPE_CHECKING:
    import torch

    from attn_robotics.runtime.batching import ModelQueue
    from attn_robotics.runtime.catalogue import ModelEntry, TensorSpec
    from attn_robotics.runtime.streams import Stream

Array: TypeAlias = 'np.ndarray[Any, np.dtype[Any]] | torch.Tensor'
Group: TypeAlias = tuple[int, ...]
MAX_SIGNATURES = 1024  # of one model; a client that sends ever new shapes must not fill the memory


class RequestOptions(TypedDict, total=False):
    """What may be said about a request, each by keyword.

    Attributes:
        version: refuse any other; empty for whichever is loaded.
        deadline_s: after which the answer is useless [s from now]; the model's own when None.
        priority: 0 to 255, larger goes first; from 128 on in the device's stream of high priority.
        stream: whose state to use; for models that keep state, and only for them.
        reset: forget the stream's state first.
        on_device: give outputs as torch tensors on the model's device (torch back end).
    """

    version: str
    deadline_s: float | None
    priority: int
    stream: str
    reset: bool
    on_device: bool


@dataclass(slots=True)
class Reply:
    """What a model answered.

    Attributes:
        outputs: by name; numpy arrays, or tensors on the model's device when asked for. They may share memory with
            the other answers of their batch, never with an input.
        version: of the model that answered.
        rows: rows of the batch it was part of.
        queue_s: from arrival to the start of its batch [s].
        batch_s: gathering the batch [s].
        transfer_s: copies to and from the device [s].
        compute_s: the model itself [s].
        launch_s: from arrival to the launch, all of it Python [s].
    """

    outputs: dict[str, Any]
    version: str
    rows: int
    queue_s: float
    batch_s: float
    transfer_s: float
    compute_s: float
    launch_s: float


@dataclass(slots=True, eq=False)
class Request:
    """One request on its way through the engine; made by `Engine.submit`, not by clients.

    Attributes:
        queue: of its model; requests of one queue and group may share a batch.
        inputs: checked arrays by name; the state is added when its batch starts.
        rows: along the batch dimension.
        group: sizes of the other dimensions.
        order: what goes first: higher priority, earlier deadline, earlier arrival.
        deadline: moment after which it is dropped, on the engine's clock [s].
        arrived: moment of arrival, on the engine's clock [s].
        future: where the answer goes, None for a caller that waits in its own thread.
        on_device: leave outputs on the model's device.
        after: CUDA event that must pass before device inputs are read, or None.
        client_stream: CUDA stream on which the client will read the outputs, or None.
        stream_id: as the client named it.
        stream: of that name, or None.
        reset: forget the stream's state first.
        begun: whether it runs or has run.
        wanted: False once its client was found to have cancelled it.
        reply, error: what came of it, where no future takes it.
    """

    model: Any
    queue: ModelQueue
    inputs: dict[str, Any]
    rows: int
    group: Group
    order: tuple[int, float, int]
    deadline: float
    arrived: float
    future: Future[Reply] | None = None
    on_device: bool = False
    after: Any = None
    client_stream: Any = None
    stream_id: str = ''
    stream: Stream | None = None
    reset: bool = False
    begun: bool = False
    wanted: bool = True
    reply: Reply | None = None
    error: Exception | None = field(default=None)

    def begin(self) -> bool:
        """Mark it as running; False when its client has cancelled it meanwhile."""
        if not self.begun:
            self.begun = True
            self.wanted = self.future is None or self.future.set_running_or_notify_cancel()
        return self.wanted

    def is_cancelled(self) -> bool:
        """Whether its client has cancelled it while it waited."""
        return self.future is not None and self.future.cancelled()


def check_request(
    entry: ModelEntry, tensors: Mapping[str, Array], *, max_bytes: int | None = None
) -> tuple[int, Group]:
    """Check a request against its model's entry.

    Args:
        entry: the model's.
        tensors: numpy arrays or torch tensors by name.
        max_bytes: the most that all tensors together may take.

    Returns:
        Rows along the batch dimension (1 without one), and the sizes of the other symbols in name order.

    Raises:
        EngineError: `bad_input` or `too_large`, naming the tensor and what it must be.
    """
    try:
        # A client mostly asks for what it has asked for before. On the way in every microsecond counts.
        signature = tuple([(type(t := tensors[name]), t.shape, t.dtype) for name in entry.input_order])
        found = entry.known_signatures.get(signature)
    except (KeyError, AttributeError, TypeError):
        found = None
    if found is None or len(tensors) != len(entry.inputs):
        found = _check_signature(entry, tensors)
    rows, group, total = found
    if max_bytes is not None and total > max_bytes:
        raise EngineError('too_large', f'{entry.name}: the request holds {total} bytes, allowed are {max_bytes}')
    for spec in entry.checked_inputs:
        check_values(spec, tensors[spec.name])
    return rows, group


def _check_signature(entry: ModelEntry, tensors: Mapping[str, Array]) -> tuple[int, Group, int]:
    """Check names, dtypes and shapes, and remember them; rows, group and bytes."""
    if tensors.keys() != entry.input_names:
        _refuse_names(entry, tensors)
    bound: dict[Any, int] = {}
    total = 0
    for spec in entry.inputs:
        tensor = tensors[spec.name]
        if isinstance(tensor, np.ndarray):
            matches = tensor.dtype == spec.numpy
            total += tensor.nbytes
        elif hasattr(tensor, 'element_size'):
            matches = str(tensor.dtype) == f'torch.{spec.dtype}'
            total += tensor.nbytes
        else:
            raise EngineError(
                'bad_input', f'{spec.name} must be a numpy array or torch tensor, got {type(tensor).__name__}'
            )
        if not matches:
            raise EngineError('bad_input', f'{spec.name} must be {spec.dtype} of native byte order, got {tensor.dtype}')
        shape = tensor.shape
        if len(shape) != len(spec.shape):
            _refuse_shape(entry, spec, shape, bound)
        for want, size in zip(spec.shape, shape, strict=True):
            if want == size:
                continue
            if bound.get(want) != size:
                low, high = (1, 0) if want in bound or type(want) is int else entry.dims[want]  # type: ignore[index]
                if not low <= size <= high:
                    _refuse_shape(entry, spec, shape, bound)
                bound[want] = size
    rows = bound.pop(entry.batching.dim) if entry.batching else 1
    found = rows, tuple([bound[name] for name in sorted(bound)]), total
    if len(entry.known_signatures) < MAX_SIGNATURES:
        signature = tuple([(type(t := tensors[name]), t.shape, t.dtype) for name in entry.input_order])
        entry.known_signatures[signature] = found
    return found


def check_values(spec: TensorSpec, tensor: Any, reason: Reason = 'bad_input') -> None:
    """Refuse NaN, infinity and values out of range where the entry forbids them.

    Raises:
        EngineError: `reason`, naming the tensor.
    """
    if spec.finite and spec.dtype in ('float16', 'float32', 'float64') and not _is_finite(tensor):
        raise EngineError(reason, f'{spec.name} holds NaN or infinity, which this model forbids')
    if spec.low is None and spec.high is None:
        return
    low, high = float(tensor.min()), float(tensor.max())
    # Written so that NaN, where it is not forbidden, passes.
    if (spec.low is not None and low < spec.low) or (spec.high is not None and high > spec.high):
        raise EngineError(
            reason, f'{spec.name} holds values from {low:g} to {high:g}, allowed are {spec.low} to {spec.high}'
        )


def _is_finite(tensor: Any) -> bool:
    if isinstance(tensor, np.ndarray):
        if tensor.size <= 16384:
            return b'\0' not in np.isfinite(tensor).tobytes()  # half the price of all(), and no errstate
        if tensor.dtype != np.float16 and tensor.flags.c_contiguous:
            # One pass at memory speed: a finite sum of squares has finite terms. Overflow falls through.
            flat = tensor.ravel()
            with np.errstate(over='ignore', invalid='ignore'):
                if math.isfinite(np.dot(flat, flat)):
                    return True
        return bool(np.isfinite(tensor).all())
    return bool(tensor.isfinite().all())


def _refuse_shape(entry: ModelEntry, spec: TensorSpec, shape: tuple[int, ...], bound: Mapping[Any, int]) -> None:
    """Say what is wrong with a shape that does not fit, given the sizes bound so far."""
    for want, size in zip(spec.shape, shape, strict=False):
        if isinstance(want, str) and want not in bound and len(shape) == len(spec.shape):
            low, high = entry.dims[want]
            if not low <= size <= high:
                reason: Reason = 'too_large' if size > high else 'bad_input'
                raise EngineError(reason, f'{spec.name}: {want} must be from {low} to {high}, got {size}')
    sizes = ', '.join(f'{want} = {bound[want]}' for want in spec.shape if want in bound)
    known = f' with {sizes}' if sizes else ''
    want_shape = ', '.join(map(str, spec.shape))
    raise EngineError('bad_input', f'{spec.name} must have shape [{want_shape}]{known}, got {list(shape)[:8]}')


def _refuse_names(entry: ModelEntry, tensors: Mapping[str, Array]) -> None:
    names = sorted(str(name)[:100] for name in tensors)[:20]
    raise EngineError('bad_input', f'{entry.name} takes {", ".join(sorted(entry.input_names))}; got {", ".join(names)}')
