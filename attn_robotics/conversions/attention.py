"""Attention weights as messages, RViz markers and images."""

from __future__ import annotations

import array
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from attn_robotics_interfaces.msg import AttentionMap


def to_attention_map(
    weights: NDArray[np.floating],
    query_ids: Sequence[str],
    key_ids: Sequence[str],
    *,
    mechanism: str,
    layer: str,
    tick: int,
    stamp: Time,
    frame_id: str = 'map',
    distances: NDArray[np.floating] | None = None,
    top_k: int = 0,
) -> AttentionMap:
    """Convert attention weights.

    Args:
        weights: (H, Q, K), each row sums to 1 or is 0.
        query_ids: Q names.
        key_ids: K names.
        mechanism: name of the mechanism, such as `relation`.
        layer: name of the network layer.
        tick: decision step.
        stamp: of the newest input.
        frame_id: frame of the positions behind the ids.
        distances: (Q, K) [m], None when not measured.
        top_k: send only the largest weights of each row; 0 sends all.
    """
    heads, queries, keys = weights.shape
    if (queries, keys) != (len(query_ids), len(key_ids)):
        raise ValueError(f'weights are {queries} x {keys} for {len(query_ids)} queries and {len(key_ids)} keys')
    message = AttentionMap(mechanism=mechanism, layer=layer, tick=tick, heads=heads)
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    message.query_ids = list(query_ids)
    message.key_ids = list(key_ids)
    weights = weights.astype(np.float32)
    if 0 < top_k < keys:
        chosen = np.argsort(-weights, axis=-1, kind='stable')[..., :top_k]
        message.top_k = top_k
        message.indices = array.array('i', chosen.astype(np.int32).tobytes())
        weights = np.take_along_axis(weights, chosen, axis=-1)
    message.weights = array.array('f', np.ascontiguousarray(weights).tobytes())
    if distances is not None:
        message.distances = array.array('f', np.ascontiguousarray(distances, dtype=np.float32).tobytes())
    return message


def from_attention_map(message: AttentionMap) -> NDArray[np.float32]:
    """Dense (H, Q, K) weights of a message; entries that top-k left out are 0.

    Raises:
        ValueError: sizes that disagree.
    """
    shape = (message.heads, len(message.query_ids), len(message.key_ids))
    last = message.top_k or shape[2]
    if len(message.weights) != shape[0] * shape[1] * last:
        raise ValueError(f'{len(message.weights)} weights for {shape[0]} heads x {shape[1]} queries x {last}')
    sent = np.frombuffer(message.weights, dtype=np.float32).reshape(shape[0], shape[1], last)
    if not message.top_k:
        return sent.copy()
    if len(message.indices) != sent.size:
        raise ValueError(f'{len(message.indices)} indices for {sent.size} weights')
    indices = np.frombuffer(message.indices, dtype=np.int32).reshape(sent.shape)
    if indices.size and (indices.min() < -1 or indices.max() >= shape[2]):
        raise ValueError(f'an index lies outside the {shape[2]} keys')
    dense = np.zeros((shape[0], shape[1], shape[2] + 1), np.float32)  # the last column takes the padding
    np.put_along_axis(dense, np.where(indices < 0, shape[2], indices), sent, axis=-1)
    return np.ascontiguousarray(dense[..., : shape[2]])


def strongest_edges(weights: NDArray[np.floating], limit: int) -> list[tuple[int, int, float]]:
    """The strongest edges between different robots: (query, key, mean weight over heads), largest first."""
    mean = weights.mean(axis=0)
    mean = np.where(np.eye(*mean.shape, dtype=np.bool_), 0.0, mean)
    order = np.argsort(-mean, axis=None, kind='stable')[:limit]
    pairs = np.stack(np.unravel_index(order, mean.shape), axis=-1)
    return [(int(q), int(k), float(mean[q, k])) for q, k in pairs if mean[q, k] > 0]


def to_markers(
    weights: NDArray[np.floating],
    positions: NDArray[np.floating],
    *,
    frame_id: str,
    stamp: Time,
    edges_per_robot: int = 2,
    lifetime_s: float = 2.0,
    namespace: str = 'attention',
) -> MarkerArray:
    """Draw who attends to whom as one line list, opaque where attention is strong.

    Args:
        weights: (H, N, N).
        positions: (N, 2) x and y [m] in `frame_id`.
        frame_id: frame of the positions.
        stamp: of the newest input.
        edges_per_robot: on average this many edges a robot, the strongest of all.
        lifetime_s: how long a viewer keeps them [s].
        namespace: marker namespace; markers of another one stay.
    """
    lines = Marker(type=Marker.LINE_LIST, action=Marker.ADD, ns=namespace, id=0)
    lines.header.frame_id = frame_id
    lines.header.stamp = stamp
    lines.pose.orientation.w = 1.0
    lines.scale.x = 0.05
    lines.lifetime = Duration(sec=int(lifetime_s), nanosec=int(lifetime_s % 1 * 1e9))
    points = [Point(x=float(x), y=float(y), z=0.3) for x, y in positions]
    edges = strongest_edges(weights, edges_per_robot * len(points))
    peak = edges[0][2] if edges else 1.0
    for query, key, weight in edges:
        color = ColorRGBA(r=1.0, g=0.45, b=0.1, a=float(max(0.1, weight / peak)))
        lines.points += [points[query], points[key]]
        lines.colors += [color, color]
    return MarkerArray(markers=[lines])


def to_image(weights: NDArray[np.floating], *, frame_id: str, stamp: Time, size: int = 256) -> Image:
    """Mean attention over heads as a mono8 picture: row = who attends, column = to whom; white is the row's peak.

    Args:
        weights: (H, Q, K).
        frame_id: frame of the header.
        stamp: of the newest input.
        size: smallest side [pixels]; cells become equal squares.
    """
    mean = weights.mean(axis=0)
    peak = mean.max(axis=-1, keepdims=True)
    shade = np.where(peak > 0, mean / np.maximum(peak, 1e-12), 0.0)
    zoom = max(1, -(-size // max(1, min(mean.shape))))
    pixels = np.kron((shade * 255).astype(np.uint8), np.ones((zoom, zoom), np.uint8))
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding='mono8', step=pixels.shape[1])
    message.header.frame_id = frame_id
    message.header.stamp = stamp
    message.data = array.array('B', pixels.tobytes())
    return message
