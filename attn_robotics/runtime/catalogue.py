"""Model entries: what `config/models/<name>.yaml` may say, checked before anything is loaded.

An entry in full (only `name`, `version`, `backend`, `inputs`, `outputs` and, for torch, `system` are required):

    name: captioner                 # the file's name
    version: '3'                    # a string
    backend: torch                  # torch, onnxruntime, or the http:// address of a KServe v2 server
    device: auto                    # auto, cpu, cuda, cuda:1
    system: captioner               # attn_robotics.systems.captioner registers it (torch only)
    config: {width: 64}             # fields of the system's configuration (torch only)
    precision: float32              # what torch computes in: float32, float16, bfloat16
    cuda_graphs: true               # capture the warmed-up shapes on CUDA (torch only)
    weights: systems/captioner/captioner.safetensors   # beside this file, or inside the package
    sha256: 64 hexadecimal digits   # of the weights
    dims: {N: [1, 64], T: [1, 500]} # every symbolic dimension with its bounds
    inputs:
      - {name: audio, dtype: float32, shape: [N, T, 80], finite: true, low: -10, high: 10}
    outputs:
      - {name: logits, dtype: float32, shape: [N, T, 29]}
    state:                          # handed back in at the stream's next request; zero at first
      - {name: hidden, dtype: float32, shape: [N, 256]}
    streams: {ttl_s: 60, limit: 256}
    batch: {dim: N, wait_ms: 0, buckets: [1, 2, 4, 8]}   # axis 0 everywhere; rows must be independent
    warm_up: [{T: 100}, {T: 500}]   # shapes to prepare; the largest when absent
    deadline_ms: 50
    queue_limit: 256
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import yaml

from attn_robotics.runtime.errors import EngineError, one_line

DTYPES = ('bool', 'uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32', 'uint64', 'int64')
FLOATS = ('float16', 'float32', 'float64')
MAX_ENTRY_BYTES = 1 << 20
PACKAGE_ROOT = Path(__file__).resolve().parents[1]

Backend = Literal['torch', 'onnxruntime', 'kserve']


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of a model.

    Attributes:
        name: as the model calls it.
        dtype: numpy name.
        shape: sizes, or names of symbolic dimensions that bind to one size across a request.
        finite: refuse NaN and infinity (floats only).
        low: least value allowed, or None.
        high: largest value allowed, or None.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    finite: bool = True
    low: float | None = None
    high: float | None = None

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The dtype as numpy's object."""
        return np.dtype(self.dtype)

    @cached_property
    def checks_values(self) -> bool:
        """Whether a request's values must be looked at."""
        return self.low is not None or self.high is not None or (self.finite and self.dtype in FLOATS)

    def sizes(self, bound: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with every symbol replaced by its size."""
        return tuple(size if isinstance(size, int) else bound[size] for size in self.shape)


@dataclass(frozen=True)
class Batching:
    """How requests of one model may share a launch.

    Attributes:
        dim: the symbol on axis 0 of every input, output and state tensor.
        wait_s: how long a request may wait for company when the device is idle [s].
        buckets: row counts prepared at warm-up, ascending; the last is the largest batch.
    """

    dim: str
    wait_s: float
    buckets: tuple[int, ...]


@dataclass(frozen=True)
class ModelEntry:
    """One model of the catalogue; the module's docstring explains the fields."""

    name: str
    version: str
    backend: Backend
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    state: tuple[TensorSpec, ...] = ()
    system: str = ''
    config: Mapping[str, Any] = field(default_factory=dict)
    address: str = ''
    device: str = 'auto'
    precision: str = 'float32'
    cuda_graphs: bool = True
    weights: Path | None = None
    sha256: str = ''
    batching: Batching | None = None
    warm_up: tuple[Mapping[str, int], ...] = ()
    stream_ttl_s: float = 60.0
    stream_limit: int = 256
    deadline_s: float = 0.1
    queue_limit: int = 256

    @cached_property
    def input_names(self) -> frozenset[str]:
        """Names a request must bring, no more and no fewer."""
        return frozenset(spec.name for spec in self.inputs)

    @cached_property
    def input_order(self) -> tuple[str, ...]:
        """Names of the inputs in the entry's order."""
        return tuple(spec.name for spec in self.inputs)

    @cached_property
    def checked_inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs whose values must be looked at."""
        return tuple(spec for spec in self.inputs if spec.checks_values)

    @cached_property
    def known_signatures(self) -> dict[Any, Any]:
        """Shapes and dtypes that were found to fit; kept by `requests.check_request`."""
        return {}

    @property
    def max_rows(self) -> int:
        """Most rows in one launch; 1 where requests are not batched."""
        return self.batching.buckets[-1] if self.batching else 1

    def warm_shapes(self) -> Iterator[dict[str, int]]:
        """Every binding of the symbols to prepare: the warm-up shapes times the batch buckets."""
        largest = {name: high for name, (_, high) in self.dims.items()}
        rows = self.batching.buckets if self.batching else (1,)
        for shape, count in itertools.product(self.warm_up or ({},), rows):
            yield largest | dict(shape) | ({self.batching.dim: count} if self.batching else {})


class Catalogue:
    """The entries below one or more folders; a name is looked for in each, in order."""

    def __init__(self, *folders: Path | str) -> None:
        self.folders = tuple(Path(folder) for folder in folders)

    def names(self) -> list[str]:
        """Every entry's name, sorted; broken entries included."""
        return sorted({path.stem for folder in self.folders for path in folder.glob('*.yaml')})

    def entry(self, name: str) -> ModelEntry:
        """Read one entry afresh.

        Raises:
            EngineError: `unknown_model` or `bad_entry`.
        """
        if re.fullmatch(r'[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}', name):
            for folder in self.folders:
                if (path := folder / f'{name}.yaml').is_file():
                    return read_entry(path)
        places = ', '.join(str(folder) for folder in self.folders)
        raise EngineError('unknown_model', f'no model {name[:100]!r} in {places}; known are: {", ".join(self.names())}')


def read_entry(path: Path) -> ModelEntry:
    """Read and check one entry file.

    Raises:
        EngineError: `bad_entry`, naming the file, the key and what it must be.
    """
    try:
        if path.stat().st_size > MAX_ENTRY_BYTES:
            raise EngineError('bad_entry', f'{path}: larger than {MAX_ENTRY_BYTES} bytes; is it a model entry?')
        content = yaml.load(path.read_text('utf-8'), _StrictLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise EngineError('bad_entry', f'{path}: {error}') from error
    entry = parse_entry(content, where=str(path), folder=path.parent)
    if entry.name != path.stem:
        raise EngineError('bad_entry', f'{path}: name is {entry.name!r}; it must equal the file name {path.stem!r}')
    return entry


def parse_entry(content: object, *, where: str = 'entry', folder: Path | None = None) -> ModelEntry:
    """Check an entry given as plain dictionaries and lists.

    Args:
        content: what YAML gave.
        where: what to call it in messages.
        folder: relative weights are looked for here first, then inside the package.

    Raises:
        EngineError: `bad_entry`, naming the key and what it must be.
    """
    top = _Section(content, where)
    backend, address = _backend(top)
    dims = _dims(top.section('dims'))
    state = _tensors(top, 'state', dims)
    weights, sha256 = _weights(top, folder)
    streams = top.section('streams')
    if streams.keys() and not state:
        streams.refuse('', 'is given, but the entry has no state')
    entry = ModelEntry(
        name=top.text('name', pattern=r'[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}'),
        version=top.text('version'),
        backend=backend,
        address=address,
        device=top.text('device', 'auto', pattern=r'auto|cpu|cuda|cuda:\d{1,3}'),
        system=top.text('system', '', pattern=r'([a-z][a-z0-9_]*)?'),
        config=dict(top.section('config').rest()),
        precision=top.text('precision', 'float32', pattern='float32|float16|bfloat16'),
        cuda_graphs=top.flag('cuda_graphs', True),
        weights=weights,
        sha256=sha256,
        inputs=_tensors(top, 'inputs', dims),
        outputs=_tensors(top, 'outputs', dims),
        dims=dims,
        state=state,
        stream_ttl_s=streams.number('ttl_s', 60.0, low=1e-3, high=86400.0),
        stream_limit=streams.integer('limit', 256, low=1, high=1 << 20),
        batching=_batching(top.section('batch'), dims),
        warm_up=_warm_up(top, dims),
        deadline_s=top.number('deadline_ms', 100.0, low=1e-3, high=3.6e6) / 1e3,
        queue_limit=top.integer('queue_limit', 256, low=1, high=1 << 16),
    )
    streams.done()
    top.done()
    _check_whole(entry, top)
    return entry


def _check_whole(entry: ModelEntry, top: _Section) -> None:
    """Refuse what is wrong between keys."""
    if not entry.inputs or not entry.outputs:
        top.refuse('inputs' if not entry.inputs else 'outputs', 'must name at least one tensor')
    for one, other in (('inputs', 'state'), ('outputs', 'state')):
        names = [spec.name for spec in (*getattr(entry, one), *getattr(entry, other))]
        if doubled := {name for name in names if names.count(name) > 1}:
            top.refuse(one, f'and {other} name {sorted(doubled)[0]!r} twice')
    if entry.backend == 'torch' and not entry.system:
        top.refuse('system', 'is required for the torch back end: the name of a package under attn_robotics.systems')
    if entry.backend != 'torch' and (entry.system or entry.config):
        top.refuse('system' if entry.system else 'config', 'is for the torch back end only')
    if entry.backend == 'onnxruntime' and (entry.weights is None or entry.weights.suffix != '.onnx'):
        top.refuse('weights', 'must name a .onnx file for the onnxruntime back end')
    if entry.backend == 'torch' and entry.weights is not None and entry.weights.suffix != '.safetensors':
        top.refuse('weights', 'must name a .safetensors file; convert other formats first')
    if entry.backend == 'kserve' and entry.weights is not None:
        top.refuse('weights', 'live on the remote server; remove the key')
    if entry.batching:
        for spec in (*entry.inputs, *entry.outputs, *entry.state):
            if not spec.shape or spec.shape[0] != entry.batching.dim or entry.batching.dim in spec.shape[1:]:
                top.refuse('batch.dim', f'{entry.batching.dim} must be axis 0, and only that, of {spec.name!r}')
    bound = {size for spec in (*entry.inputs, *entry.state) for size in spec.shape if isinstance(size, str)}
    if unused := set(entry.dims) - bound:
        top.refuse('dims', f'{sorted(unused)[0]!r} is in no input, so that no request could say how large it is')


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'key {key.value!r} is given twice or is no text', key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Section:
    """A mapping of the entry that knows its place and which of its keys were read."""

    def __init__(self, content: object, where: str) -> None:
        self.where = where
        if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
            raise EngineError(
                'bad_entry', f'{where}: must be a mapping with text keys, got {one_line(repr(content), 80)}'
            )
        self._left: dict[str, Any] = dict(content)

    def refuse(self, key: str, what: str) -> None:
        raise EngineError('bad_entry', f'{self.where}: {key} {what}')

    def keys(self) -> set[str]:
        return set(self._left)

    def has(self, key: str) -> bool:
        return key in self._left

    def rest(self) -> dict[str, Any]:
        rest, self._left = self._left, {}
        return rest

    def section(self, key: str) -> _Section:
        return _Section(self._left.pop(key, {}), f'{self.where}: {key}')

    def items(self, key: str) -> list[Any]:
        value = self._left.pop(key, [])
        if not isinstance(value, list):
            self.refuse(key, f'must be a list, got {one_line(repr(value), 80)}')
        return cast(list[Any], value)

    def text(self, key: str, default: str | None = None, pattern: str = r'.{1,200}') -> str:
        value = self._left.pop(key, default)
        if value is None:
            self.refuse(key, 'is missing')
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            hint = '' if isinstance(value, str) else ' (quote it to make it text)'
            self.refuse(key, f'must be text matching {pattern}, got {one_line(repr(value), 80)}{hint}')
        return cast(str, value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._left.pop(key, default)
        if not isinstance(value, bool):
            self.refuse(key, f'must be true or false, got {one_line(repr(value), 80)}')
        return cast(bool, value)

    def number(self, key: str, default: float, low: float, high: float) -> float:
        value = self._left.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.refuse(key, f'must be a number from {low:g} to {high:g}, got {one_line(repr(value), 80)}')
        return float(value)

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        if not isinstance(self._left.get(key, default), int):
            self.refuse(key, f'must be a whole number, got {one_line(repr(self._left[key]), 80)}')
        return int(self.number(key, default, low, high))

    def limit(self, key: str) -> float | None:
        return self.number(key, 0.0, -1e300, 1e300) if key in self._left else None

    def done(self) -> None:
        if self._left:
            self.refuse(sorted(self._left)[0], 'is not a known key')


def _backend(top: _Section) -> tuple[Backend, str]:
    value = top.text('backend', pattern=r'torch|onnxruntime|http://[^\s/]+/?')
    if value.startswith('http://'):
        return 'kserve', value.rstrip('/')
    return cast(Backend, value), ''


def _dims(section: _Section) -> dict[str, tuple[int, int]]:
    dims = {}
    for name in sorted(section.keys()):
        bounds = section.items(name)
        whole = len(bounds) == 2 and all(type(value) is int for value in bounds)
        if not name.isidentifier() or not whole or not 1 <= bounds[0] <= bounds[1] < 1 << 40:
            section.refuse(name, f'must be [low, high] with 1 <= low <= high, got {one_line(repr(bounds), 80)}')
        dims[name] = (bounds[0], bounds[1])
    return dims


def _tensors(top: _Section, key: str, dims: Mapping[str, tuple[int, int]]) -> tuple[TensorSpec, ...]:
    specs = []
    for index, item in enumerate(top.items(key)):
        section = _Section(item, f'{top.where}: {key}[{index}]')
        name = section.text('name', pattern=r'[A-Za-z_][A-Za-z0-9_.:/-]{0,99}')
        shape = section.items('shape')
        for size in shape:
            if not (isinstance(size, str) and size in dims) and not (type(size) is int and 0 < size < 1 << 40):
                section.refuse('shape', f'holds {one_line(repr(size), 40)}: sizes are positive or named in dims')
        specs.append(
            TensorSpec(
                name=name,
                dtype=section.text('dtype', pattern='|'.join((*DTYPES, *FLOATS))),
                shape=tuple(shape),
                finite=section.flag('finite', True),
                low=section.limit('low'),
                high=section.limit('high'),
            )
        )
        section.done()
    if len({spec.name for spec in specs}) < len(specs):
        top.refuse(key, 'names a tensor twice')
    return tuple(specs)


def _batching(section: _Section, dims: Mapping[str, tuple[int, int]]) -> Batching | None:
    if not section.keys():
        return None
    dim = section.text('dim')
    if dim not in dims:
        section.refuse('dim', f'is {dim!r}, which is not in dims')
    largest = dims[dim][1]
    powers = [1 << power for power in range(largest.bit_length()) if 1 << power < largest]
    buckets = section.items('buckets') or [*powers, largest]
    if not all(type(size) is int and size > 0 for size in buckets) or sorted(set(buckets)) != buckets:
        section.refuse('buckets', f'must be ascending whole numbers, got {one_line(repr(buckets), 80)}')
    if buckets[-1] < largest:
        section.refuse('buckets', f'end at {buckets[-1]}, below the largest {dim}, {largest}')
    batching = Batching(dim, section.number('wait_ms', 0.0, 0.0, 1e4) / 1e3, tuple(buckets))
    section.done()
    return batching


def _warm_up(top: _Section, dims: Mapping[str, tuple[int, int]]) -> tuple[Mapping[str, int], ...]:
    shapes = []
    for index, item in enumerate(top.items('warm_up')):
        section = _Section(item, f'{top.where}: warm_up[{index}]')
        shapes.append(
            {name: section.integer(name, *dims[name][:1], *dims[name]) for name in section.keys() & set(dims)}
        )
        section.done()
    return tuple(shapes)


def _weights(top: _Section, folder: Path | None) -> tuple[Path | None, str]:
    name = top.text('weights', '', pattern=r'[^\0]{0,1000}')
    if not name:
        if top.has('sha256'):
            top.refuse('sha256', 'is given without weights')
        return None, ''
    sha256 = top.text('sha256', pattern='[0-9a-f]{64}')
    if '..' in Path(name).parts:
        top.refuse('weights', "may not climb with '..'; give a path beside the entry, in the package, or absolute")
    places = [place / name for place in (folder, PACKAGE_ROOT) if place is not None]
    return next((place for place in places if place.is_file()), places[0]), sha256
