"""The same questions to every model that ships: it loads, answers as its entry says, and answers the same again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from attn_robotics.runtime.catalogue import Catalogue, ModelEntry, TensorSpec
from attn_robotics.runtime.engine import Engine

FOLDER = Path(__file__).parents[2] / 'config' / 'models'
NAMES = Catalogue(FOLDER).names()


def draw(spec: TensorSpec, sizes: dict[str, int], generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """Values that the entry allows: numbers around zero, or within its limits."""
    low = -1.0 if spec.low is None else spec.low
    high = 1.0 if spec.high is None else min(spec.high, low + 2.0)
    return generator.uniform(min(low, high), high, spec.sizes(sizes)).astype(spec.numpy)


def smallest(entry: ModelEntry) -> dict[str, int]:
    """The cheapest of the shapes that the model prepares."""
    return min(entry.warm_shapes(), key=lambda sizes: int(np.prod(list(sizes.values()) or [1])))


@pytest.mark.parametrize('name', NAMES)
def test_a_shipped_model_does_what_its_entry_says(name: str, tmp_path: Path) -> None:
    content = yaml.safe_load((FOLDER / f'{name}.yaml').read_text())
    if content['backend'].startswith('http'):
        pytest.skip('its server is elsewhere')
    if (FOLDER / content.get('weights', '')).is_file():
        content['weights'] = str(FOLDER / content['weights'])
    sizes = smallest(Catalogue(FOLDER).entry(name))
    batch = content.get('batch', {}).get('dim')
    inner = {symbol: size for symbol, size in sizes.items() if symbol != batch}
    # Only the cheapest shape is prepared here; on a device all of the entry's are.
    content |= {'device': 'cpu', 'warm_up': [inner] if inner else [], 'deadline_ms': 60_000}
    if batch:
        content['batch'] = {'dim': batch, 'buckets': [sizes[batch]]}
        content['dims'] = {**content['dims'], batch: [1, sizes[batch]]}
    (tmp_path / f'{name}.yaml').write_text(yaml.safe_dump(content))
    with Engine(Catalogue(tmp_path)) as engine:
        engine.load(name).result(100)
        entry = engine.entry(name)
        generator = np.random.default_rng(0)
        request = {spec.name: draw(spec, sizes, generator) for spec in entry.inputs}
        before = {tensor: values.copy() for tensor, values in request.items()}
        options: dict[str, Any] = {'stream': 's', 'reset': True} if entry.state else {}
        one, other = (engine.infer(name, request, **options).outputs for _ in range(2))
        for spec in entry.outputs:
            assert one[spec.name].dtype == spec.numpy and one[spec.name].shape == spec.sizes(sizes)
            np.testing.assert_array_equal(one[spec.name], other[spec.name])
        for tensor, values in request.items():
            np.testing.assert_array_equal(values, before[tensor])
