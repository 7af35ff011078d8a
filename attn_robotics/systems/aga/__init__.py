"""AGA: action-guided attention that anticipates the next action from a stream of frames."""

from attn_robotics.systems.aga.config import AgaConfig

__all__ = ['AgaConfig']
