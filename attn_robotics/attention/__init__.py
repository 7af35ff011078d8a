"""Attention layers, one published mechanism a module (torch.nn.Module).

`create(name, **config)` builds any of them; the configuration is the constructor's keyword arguments.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_LAYERS = {
    'action_guided': 'ActionGuidedAttention',
    'differential': 'DifferentialAttention',
    'gravity': 'GravityAttention',
    'joint': 'JointAttention',
    'log_linear': 'LogLinearAttention',
    'mask_decoupled': 'MaskDecoupledAttention',
    'neighbour_set': 'NeighbourSetAttention',
    'neighbourhood_aware': 'NeighbourhoodAwareAttention',
    'parallax': 'ParallaxAttention',
    'polynomial': 'PolynomialMixer',
    'preference_sparse': 'PreferenceSparseAttention',
    'quantum': 'QuantumAttention',
    'random_feature': 'RandomFeatureAttention',
    'relation': 'RelationAttention',
    'spatial_covariance': 'SpatialCovarianceAttention',
    'svd': 'SvdAttention',
}
__all__ = ['create', 'names']


def names() -> tuple[str, ...]:
    """Names that `create` knows."""
    return tuple(_LAYERS)


def create(name: str, **config: Any) -> nn.Module:
    """Build a layer by its mechanism's name.

    Raises:
        ValueError: the name is unknown, or the configuration does not fit; the message lists what does.
    """
    if name not in _LAYERS:
        raise ValueError(f'unknown mechanism {name!r}; choose one of {", ".join(_LAYERS)}')
    layer = getattr(import_module(f'{__name__}.{name}'), _LAYERS[name])
    try:
        built: nn.Module = layer(**config)
    except TypeError as problem:
        raise ValueError(f'mechanism {name!r}: {problem}') from None
    return built
