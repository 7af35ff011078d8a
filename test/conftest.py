"""What all tests share: a ROS domain of their own on the loopback interface, and single-threaded mathematics."""

import atexit
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

BASE_PORT, PORTS_A_DOMAIN, LAST_DOMAIN = 7400, 250, 100  # DDS: domain d owns 7400 + 250 d and the ports after it


def take_domain() -> tuple[int, socket.socket]:
    """A ROS domain that nobody on this machine uses, held by a socket as long as this process lives."""
    for offset in range(LAST_DOMAIN):
        domain = 1 + (os.getpid() + offset) % LAST_DOMAIN
        first = BASE_PORT + PORTS_A_DOMAIN * domain
        lock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            lock.bind(('127.0.0.1', first + PORTS_A_DOMAIN - 1))  # no participant comes that far
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(('0.0.0.0', first + 10))  # the first participant of a domain listens here
        except OSError:
            lock.close()
            continue
        return domain, lock
    raise RuntimeError(f'all {LAST_DOMAIN} ROS domains are in use on this machine')


# Before anything imports rclpy or torch; processes that tests start inherit it.
_DOMAIN, _LOCK = take_domain()
atexit.register(_LOCK.close)
_LOGS = tempfile.mkdtemp(prefix='attn_robotics_log_')
atexit.register(shutil.rmtree, _LOGS, ignore_errors=True)
os.environ |= {
    'ROS_DOMAIN_ID': str(_DOMAIN),
    'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
    'ROS_LOG_DIR': _LOGS,
    'RCUTILS_COLORIZED_OUTPUT': '0',
    'OMP_NUM_THREADS': '1',
    'PYTHONUNBUFFERED': '1',
}

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell's background job: processes that the tests start would inherit it, and never hear Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

HAS_ROS = importlib.util.find_spec('rclpy') is not None
collect_ignore = [] if HAS_ROS else ['unit/ros', 'node', 'launch', 'end_to_end']


def pytest_report_header() -> str:
    """Say in which domain the tests talk, or that those that need ROS are left out."""
    return f'ROS domain {_DOMAIN}' if HAS_ROS else 'no rclpy: tests that need ROS are left out (source setup.bash)'


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give tests on the real graph a second try, which the summary names.

    Middleware may lose what is sent while two processes still find each other, and no sender is told. Nothing else is
    ever tried twice.
    """
    if config.pluginmanager.hasplugin('rerunfailures'):
        for item in items:
            if item.get_closest_marker('ros'):
                item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope='session')
def ros_domain() -> int:
    """The ROS domain of these tests."""
    return _DOMAIN


@pytest.fixture(scope='module')
def fresh_domain() -> Iterator[int]:
    """A ROS domain without anything of this process in it, for tests that list what they see."""
    domain, lock = take_domain()
    yield domain
    lock.close()


class Streams:
    """What this process writes to its standard streams, from whatever thread, from `take` to `close`.

    pytest's own capture empties its file after reading it, and with it a line that a thread writes in between.
    """

    def __init__(self) -> None:
        self._files = contextlib.ExitStack()
        self._file = self._files.enter_context(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115
        self._text = self._files.enter_context(os.fdopen(os.dup(self._file.fileno()), 'w', buffering=1))
        self._before = {number: os.dup(number) for number in (1, 2)}
        self._python_before = sys.stdout, sys.stderr
        self.take()

    def take(self) -> None:
        """Redirect the streams; pytest takes them back between setup and call."""
        for number in self._before:
            os.dup2(self._file.fileno(), number)
        sys.stdout = sys.stderr = self._text

    def text(self) -> str:
        """Everything so far."""
        size = os.fstat(self._file.fileno()).st_size
        return os.pread(self._file.fileno(), size, 0).decode(errors='replace')  # leaves the place of the writers

    def close(self) -> None:
        """Give the streams back."""
        if sys.stderr is self._text:
            sys.stdout, sys.stderr = self._python_before
        for number, before in self._before.items():
            os.dup2(before, number)
            os.close(before)
        self._files.close()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Keep a graph's streams."""
    if (graph := getattr(item, 'funcargs', {}).get('graph')) is not None:
        graph.streams.take()
    return (yield)


class Graph:
    """Nodes of one process and what drives them: add nodes, wait for conditions, read what was logged."""

    LIMIT_S = 60.0  # a condition that takes longer is not met; only failing tests wait that long

    def __init__(self, streams: Streams) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        try:
            self.executor = SingleThreadedExecutor()
            self.tester = rclpy.create_node('tester')
        except Exception:
            rclpy.try_shutdown()  # so that the next test does not fail for this reason
            raise
        self.executor.add_node(self.tester)
        self._started: list[Any] = []
        self._publishers: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}
        self.streams = streams

    def start(self, kind: Any, *, namespace: str = '', cli_args: list[str] | None = None, **parameters: Any) -> Any:
        """Construct a node of ours; it configures and activates itself once something spins."""
        from rclpy.parameter import Parameter

        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = kind(parameter_overrides=overrides, namespace=namespace, cli_args=cli_args)
        self.executor.add_node(node)
        self._started.append(node)
        return node

    def stop(self, node: Any) -> None:
        """Close a node as its executable does."""
        self._started.remove(node)
        self.executor.remove_node(node)
        node.close()
        node.destroy_node()

    def until(self, condition: Callable[[], object], what: str = 'the condition', limit_s: float = LIMIT_S) -> None:
        """Spin until a condition holds.

        Raises:
            AssertionError: it does not hold in time; with what was logged meanwhile.
        """
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, f'{what} did not come true in {limit_s:g} s; logged:\n{self.log()}'
            self.executor.spin_once(timeout_sec=0.05)

    def settle(self) -> None:
        """Spin until nothing is left to do for a moment: for what must NOT happen."""
        for _ in range(10):
            self.executor.spin_once(timeout_sec=0.05)

    def state(self, node: Any) -> str:
        """Lifecycle state of a node."""
        return str(node._state_machine.current_state[1])

    def hear(self, kind: Any, topic: str, qos: Any = 10) -> list[Any]:
        """A list that fills with the messages of a topic."""
        heard: list[Any] = []
        self.tester.create_subscription(kind, topic, heard.append, qos)
        return heard

    def say(self, message: Any, topic: str, qos: Any = 10) -> None:
        """Publish, once somebody listens."""
        if topic not in self._publishers:
            self._publishers[topic] = self.tester.create_publisher(type(message), topic, qos)
        publisher = self._publishers[topic]
        self.until(lambda: publisher.get_subscription_count(), f'somebody who listens to {topic}')
        publisher.publish(message)

    def call(
        self, kind: Any, service: str, request: Any = None, *, again_s: float = float('inf'), **fields: Any
    ) -> Any:
        """The answer of a service.

        Args:
            kind: of the service.
            service: its name.
            request: or its fields.
            again_s: ask anew after so long [s]; for questions that change nothing, to another process: a server sends
                no answer to a client that it has not heard of yet, though the client has heard of the server.
        """
        if service not in self._clients:
            self._clients[service] = self.tester.create_client(kind, service)
        client = self._clients[service]
        self.until(client.service_is_ready, f'the service {service}')
        request = kind.Request(**fields) if request is None else request
        futures: list[Any] = []
        due = 0.0

        def answered() -> bool:
            nonlocal due
            if time.monotonic() >= due:
                futures.append(client.call_async(request))
                due = time.monotonic() + again_s
            return any(future.done() for future in futures)

        self.until(answered, f'an answer of {service}')
        return next(future.result() for future in futures if future.done())

    def log(self) -> str:
        """Everything that was logged so far."""
        return self.streams.text()

    def errors(self) -> list[str]:
        """Logged errors."""
        return [line for line in self.log().splitlines() if '[ERROR]' in line]

    def warnings(self) -> list[str]:
        """Logged warnings."""
        return [line for line in self.log().splitlines() if '[WARN]' in line]

    def close(self) -> None:
        """End every node."""
        import rclpy

        for node in list(self._started):
            self.stop(node)
        self.executor.remove_node(self.tester)
        self.tester.destroy_node()
        self.executor.shutdown()
        rclpy.try_shutdown()


@pytest.fixture
def graph() -> Iterator[Graph]:
    """A ROS graph in this process."""
    pytest.importorskip('rclpy')
    with contextlib.closing(Streams()) as streams, contextlib.closing(Graph(streams)) as graph:
        yield graph
