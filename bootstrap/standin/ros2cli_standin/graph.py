"""A node for the command line, and what it sees of the others.

The official tool asks a daemon that has been listening all along. Here every command listens for itself, until what it
hears has been the same for a while.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ros2cli_standin import CommandError

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.task import Future

STABLE_S = 0.5
ANNOUNCEMENT_S = 3.0  # Fast DDS participants announce themselves this often; sooner, a list might lack some
LONGEST_S = 6.0
ANSWER_S = 10.0
AGAIN_S = 2.0  # a server sends no answer to a client that it has not heard of yet: ask again
TICK_S = 0.05
UNKNOWN_NAME = '_NODE_NAME_UNKNOWN_'

T = TypeVar('T')


def add_spin_time(parser: argparse.ArgumentParser) -> None:
    """Declare the options of discovery."""
    parser.add_argument('--spin-time', type=float, help='listen for exactly this long [s] before answering')
    parser.add_argument('--no-daemon', action='store_true', help='accepted; there is no daemon here')


@contextmanager
def cli_node() -> Iterator[Node]:
    """A hidden node; SIGINT and SIGTERM arrive as KeyboardInterrupt, even if a shell had them ignored."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(f'_ros2cli_{os.getpid()}', start_parameter_services=False, enable_rosout=False)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.shutdown()


def listen(node: Node, spin_time_s: float | None = None) -> None:
    """Wait until the graph has not changed for a while, or for exactly `spin_time_s`."""
    if spin_time_s is not None:
        time.sleep(spin_time_s)
        return
    start = changed = time.monotonic()
    seen: object = None
    while (now := time.monotonic()) - start < LONGEST_S:
        # Other command lines come and go; they are hidden.
        names = sorted(
            pair for pair in node.get_node_names_and_namespaces() if not is_hidden(pair[0]) or is_unknown(pair)
        )
        heard = (names, node.get_topic_names_and_types(), node.get_service_names_and_types())
        # A participant is heard before its nodes' names are.
        if heard != seen or any(map(is_unknown, names)):
            seen, changed = heard, now
        if now - changed > STABLE_S and now - start > ANNOUNCEMENT_S + STABLE_S / 2:
            return
        time.sleep(TICK_S)


def wait_until(answer: Callable[[], T | None], limit_s: float) -> T | None:
    """What `answer` gives once it is something, None if that takes longer than `limit_s`."""
    deadline = time.monotonic() + limit_s
    while (found := answer()) is None and time.monotonic() < deadline:
        time.sleep(TICK_S)
    return found


def await_answer(
    node: Node, send: Callable[[], Future], what: str, limit_s: float = ANSWER_S, again_s: float = AGAIN_S
) -> Any:
    """The answer to a request.

    Args:
        node: to spin.
        send: the request; must do no harm twice, unless `again_s` is endless.
        what: is asked, for the message.
        limit_s: longest wait for an answer [s].
        again_s: after which the request is sent anew [s].

    Raises:
        CommandError: if no answer comes within `limit_s`.
    """
    import rclpy

    start = time.monotonic()
    sent: list[Future] = []
    while not any(future.done() for future in sent):
        waited = time.monotonic() - start
        if waited > limit_s:
            raise CommandError(f'{what} did not answer within {limit_s:g} s')
        if not sent or waited > again_s * len(sent):
            sent.append(send())
        rclpy.spin_once(node, timeout_sec=TICK_S)
    return next(future.result() for future in sent if future.done())


def absolute(name: str) -> str:
    """`name` with the slash in front that people leave out."""
    return name if name.startswith('/') else f'/{name}'


def is_hidden(name: str) -> bool:
    """Whether a part of the name starts with an underscore."""
    return any(part.startswith('_') for part in name.split('/'))


def is_unknown(pair: tuple[str, str]) -> bool:
    """Whether a node has been heard and its name has not."""
    return pair[0] == UNKNOWN_NAME


def full_node_names(node: Node, include_hidden: bool = False) -> list[str]:
    """The names of all nodes, sorted; a name that is there twice is listed twice."""
    pairs = node.get_node_names_and_namespaces()
    names = [f'{namespace.rstrip("/")}/{name}' for name, namespace in pairs if not is_unknown((name, namespace))]
    return sorted(name for name in names if include_hidden or not is_hidden(name))


def find_node(node: Node, name: str, spin_time_s: float | None = None) -> str:
    """The full name of a node, as soon as it is heard.

    Raises:
        CommandError: if there is no such node.
    """
    wanted = absolute(name)
    limit_s = LONGEST_S if spin_time_s is None else spin_time_s  # two announcements: one may get lost
    if not wait_until(lambda: wanted in full_node_names(node, include_hidden=True) or None, limit_s):
        known = ', '.join(full_node_names(node)) or 'none'
        raise CommandError(f"node '{wanted}' not found; there are: {known}")
    return wanted


def topic_type(node: Node, topic: str, limit_s: float = ANSWER_S) -> str:
    """The type of a topic, as soon as somebody else publishes or subscribes it.

    Raises:
        CommandError: if nobody does, or if there are several types.
    """

    def types() -> list[str] | None:
        return dict(node.get_topic_names_and_types()).get(topic)

    found = wait_until(types, limit_s)
    if found is None:
        raise CommandError(f"topic '{topic}' is not published; could not determine its type")
    if len(found) > 1:
        raise CommandError(f"topic '{topic}' has more than one type: {', '.join(found)}")
    return found[0]
