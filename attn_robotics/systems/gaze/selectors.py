"""Selectors by name, ready for a control loop."""

from __future__ import annotations

from typing import Final

from attn_robotics.systems.gaze.entities import Entity, SceneMemory
from attn_robotics.systems.gaze.selection import RuleSelector, Selector
from attn_robotics.systems.gaze.selector import AttentionSelector
from attn_robotics.systems.gaze.vlm import VlmSelector

NAMES: Final = ('rules', 'attention', 'vlm')


def make_selector(name: str, *, vlm_url: str = '', vlm_model: str = '', vlm_key: str = '') -> Selector:
    """One of `NAMES`; the trained one answers while a language model has not.

    Raises:
        ValueError: unknown name, weights missing, or `vlm` without a server.
    """
    if name == 'rules':
        return RuleSelector()
    if name not in NAMES:
        raise ValueError(f'selection must be one of {", ".join(NAMES)}, got {name!r}')
    if name == 'vlm' and not (vlm_url and vlm_model):
        raise ValueError('selection vlm needs vlm_url (as http://host:port/v1) and vlm_model')
    trained = AttentionSelector()
    for count in range(3):  # the first uses are slow
        trained.score(SceneMemory().observe(0.0, [Entity(str(k)) for k in range(count)]))
    return trained if name == 'attention' else VlmSelector(vlm_url, vlm_model, trained, api_key=vlm_key)
