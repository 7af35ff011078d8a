"""Who else publishes on a topic that only one may command."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.publisher import Publisher


def other_publishers(node: Node, publisher: Publisher) -> list[str]:
    """Full names of the other nodes that publish on the topic of `publisher`, sorted, each once."""
    names = [
        f'{info.node_namespace.rstrip("/")}/{info.node_name}'
        for info in node.get_publishers_info_by_topic(publisher.topic_name)
    ]
    own = node.get_fully_qualified_name()
    if own in names:
        names.remove(own)  # once: a second node of the same name is a rival too
    return sorted(set(names))
