"""Weights as they lie on disk, checked against their card; needs no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from attn_robotics.systems.sparc.config import SparcConfig

DEFAULT_WEIGHTS = Path(__file__).parent / 'weights' / 'sparc.safetensors'
FORMAT = '1'


class WeightsError(RuntimeError):
    """Weights that can not be used; the message names the file and the fix."""


@dataclass(frozen=True)
class Weights:
    """Weights whose checksum is the one of their card.

    Attributes:
        path: safetensors file.
        config: shape of the network that they belong to.
        card: facts about data, recipe, seed and results, `sha256` among them.
    """

    path: Path
    config: SparcConfig
    card: dict[str, Any]

    @property
    def graph(self) -> Path:
        """Where the ONNX graph of the same network lies, which reads its numbers from `path`; it may be missing."""
        return self.path.with_suffix('.onnx')


def verify_weights(path: Path | None = None) -> Weights:
    """Check weights.

    Args:
        path: safetensors file with its card (same name, `.yaml`) beside it; what ships when None.

    Raises:
        WeightsError: a file is missing or damaged, the checksum differs, or the weights belong to another version.
    """
    path = path or DEFAULT_WEIGHTS
    card_path = path.with_suffix('.yaml')
    for part in (path, card_path):
        if not part.is_file():
            raise WeightsError(f'no weights at {part}; restore the file or train with systems.sparc.train')
    try:
        card = yaml.safe_load(card_path.read_text())
    except yaml.YAMLError:
        raise WeightsError(f'{card_path} is no YAML; restore the card that came with {path.name}') from None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not isinstance(card, dict) or digest != card.get('sha256'):
        raise WeightsError(f'checksum of {path} differs from its card; restore both files from the same version')
    try:
        with safe_open(path, framework='np') as file:
            facts = file.metadata() or {}
    except SafetensorError as error:
        raise WeightsError(f'{path} is no safetensors file ({error}); restore it') from None
    if facts.get('format') != FORMAT:
        raise WeightsError(f'{path} has weights format {facts.get("format")}, this version reads {FORMAT}')
    try:
        return Weights(path, SparcConfig.from_dict(json.loads(facts['config'])), card)
    except (KeyError, ValueError) as error:
        raise WeightsError(f'{path} does not fit the network: {str(error).splitlines()[0]}') from None
