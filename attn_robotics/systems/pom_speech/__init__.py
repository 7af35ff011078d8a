"""PoM speech encoder: linear-time speech recognition with a state of constant size."""

from attn_robotics.systems.pom_speech.config import PomSpeechConfig

__all__ = ['PomSpeechConfig']
