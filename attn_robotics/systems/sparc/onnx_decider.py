"""The network by ONNX Runtime on the CPU: several times faster than torch there, and ready without torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attn_robotics.runtime.sessions import cpu_session, graph_session
from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.weights_card import Weights


class Question(NamedTuple):
    """What Q robots decide from, with what K robots sent.

    Attributes:
        image: (Q, C, F, F).
        vector: (Q, V).
        cells: (Q, 2) int64.
        key_cells: (K, 2) int64, those of the Q robots among them.
        own_message: (Q, width).
        messages: (K, width).
    """

    image: NDArray[np.float32]
    vector: NDArray[np.float32]
    cells: NDArray[np.int64]
    key_cells: NDArray[np.int64]
    own_message: NDArray[np.float32]
    messages: NDArray[np.float32]


class Answer(NamedTuple):
    """(Q, 5) log-probabilities, (Q, width) messages, and (H, Q, K) attention weights of every layer or none."""

    log_probs: NDArray[np.float32]
    message: NDArray[np.float32]
    attention: list[NDArray[np.float32]]


INPUTS = Question._fields
OUTPUTS = Answer._fields[:2]


def attention_names(config: SparcConfig) -> tuple[str, ...]:
    """Names of the outputs that hold attention weights, one a communication layer."""
    return tuple(f'attention_{layer}' for layer in range(0 if config.communication == 'none' else config.layers))


class OnnxDecider:
    """Decides by an ONNX model of `export`; see `policy.Decider`.

    Args:
        config: of the network.
        session: of a model of `export`.
    """

    backend = 'onnxruntime'
    device = 'cpu'

    def __init__(self, config: SparcConfig, session: Any) -> None:
        self.config = config
        self._session = session
        self._attention_names = attention_names(config)

    @classmethod
    def load(cls, weights: Weights, threads: int = 2) -> OnnxDecider:
        """From the graph beside the weights; where there is none that belongs to them, torch makes it in memory.

        Args:
            weights: verified.
            threads: cores to use.
        """
        session = graph_session(weights.graph, weights.card['sha256'], threads)
        if session is None:
            from attn_robotics.systems.sparc.export import export_bytes
            from attn_robotics.systems.sparc.weights_file import read_network

            session = cpu_session(export_bytes(read_network(weights)), threads)
        return cls(weights.config, session)

    def decide(self, question: Question, *, need_attention: bool) -> Answer:
        """See `policy.Decider`."""
        names = self._attention_names if need_attention else ()
        log_probs, message, *attention = self._session.run([*OUTPUTS, *names], question._asdict())
        return Answer(log_probs, message, attention)

    def capture(self, grid: NDArray[np.bool_], distances: NDArray[np.int16], messages: NDArray[np.float32]) -> None:
        """Nothing to capture."""
        return
