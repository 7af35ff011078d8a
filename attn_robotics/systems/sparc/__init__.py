"""SPARC: multi-robot path planning with distance-aware attentive communication."""

from attn_robotics.systems.sparc.config import SparcConfig

__all__ = ['SparcConfig']
