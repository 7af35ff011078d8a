"""ONNX Runtime sessions on the CPU, for nodes that decide at every tick without the engine between."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def cpu_session(model: Path | bytes, threads: int) -> Any:
    """Open a model.

    Args:
        model: file, or its content.
        threads: cores to use.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=['CPUExecutionProvider'])


def graph_session(graph: Path, sha256: str, threads: int) -> Any | None:
    """Open a graph that reads its numbers from the weights beside it; None where it is missing or is of other weights.

    Args:
        graph: file of `training.export.without_numbers`.
        sha256: checksum of the weights.
        threads: cores to use.
    """
    if not graph.is_file():
        return None
    session = cpu_session(graph, threads)
    return session if session.get_modelmeta().custom_metadata_map.get('weights') == sha256 else None
