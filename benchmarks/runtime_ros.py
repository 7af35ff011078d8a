"""Measure the attention runtime through ROS: one client and eight, in its process and in another.

    python benchmarks/runtime_ros.py --json runtime_ros.json

`direct` is what nodes of a container do: they call the engine of their process and pass arrays by reference. `service`
is a request of a `RuntimeClient` to `attention_runtime/infer` and back, its tensors `inline` in the message or by
`shared_memory`, from a node in the `same_process` (in another executor thread) or in `another_process`. Latencies are a
client's: from writing the request to holding the answer's array, claimed from shared memory where it lies there. Times
are wall-clock on the machine at hand; its load is written beside them.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import rclpy
import yaml
from bench import MODELS, Bench, Row, add_arguments, conditions, repeat, save_figure, timed, write_results
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from tqdm import tqdm

from attn_robotics.nodes.attention_runtime import AttentionRuntime
from attn_robotics.ros.hosting import HostedNode, engine_of_process
from attn_robotics.ros.runtime_client import RuntimeClient

mpl.use('Agg')
from matplotlib import pyplot as plt

CLIENTS = 8
LIMIT_S = 120.0
DEADLINE_S = 60.0  # nothing is to be refused here
MEGABYTE = 262_144  # float32
ENTRIES: dict[str, dict[str, Any]] = {
    'identity': {'like': 'identity'},
    'batched': {'like': 'small_transformer'},
    'one_by_one': {
        'like': 'small_transformer',
        'batch': {'dim': 'N', 'buckets': [1]},
        'dims': {'N': [1, 1], 'T': [1, 128]},
    },
}


class Client:
    """A client of a runtime that asks for one thing again and again."""

    def __init__(self, node: Node, model: str, name: str, values: np.ndarray[Any, Any], *, share: bool) -> None:
        self._runtime = RuntimeClient(node, '/bench/attention_runtime', share=share, timeout_s=LIMIT_S)
        self._model, self._inputs = model, {name: values}
        self.seconds: list[float] = []
        self.close = self._runtime.close

    def send(self, then: Callable[[], None]) -> None:
        """Send one request; `then` is called after its answer was read and timed."""
        started = time.perf_counter()
        future = self._runtime.infer(self._model, self._inputs, deadline_s=DEADLINE_S)

        def take(done: Any) -> None:
            done.result()
            self.seconds.append(time.perf_counter() - started)
            then()

        future.add_done_callback(take)


def closed_loop(executor: SingleThreadedExecutor, clients: list[Client], count: int, desc: str) -> float:
    """Let every client send its next request when it has an answer; seconds for `count` requests together.

    The first tenth warms up and is not kept.
    """
    warm = max(len(clients), count // 10)
    sent = answered = 0
    with tqdm(total=warm + count, desc=desc, leave=False, disable=None) as bar:

        def send(client: Client) -> None:
            nonlocal sent
            if sent < warm + count:
                sent += 1
                client.send(lambda: take(client))

        def take(client: Client) -> None:
            nonlocal answered, started
            answered += 1
            bar.update()
            if answered == warm:
                started = time.perf_counter()
                for each in clients:
                    each.seconds.clear()
            send(client)

        started = time.perf_counter()
        for client in clients:
            send(client)
        while answered < warm + count:
            executor.spin_once(timeout_sec=1.0)
    return time.perf_counter() - started


@contextmanager
def another_process(folder: str) -> Iterator[None]:
    """A runtime in a process of its own."""
    command = [sys.executable, '-m', 'attn_robotics.nodes.attention_runtime', '--ros-args', '-r', '__ns:=/bench']
    command += ['-p', f'models:=[{folder}]', '-p', f'preload:=[{", ".join(ENTRIES)}]', '--log-level', 'warn']
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


@contextmanager
def same_process(folder: str) -> Iterator[None]:
    """A runtime in a thread of this process."""

    class Runtime(AttentionRuntime):
        def __init__(self, **options: Any) -> None:
            settings = [Parameter('models', value=[folder]), Parameter('preload', value=list(ENTRIES))]
            super().__init__(parameter_overrides=settings, **options)

    ended = threading.Event()
    hosted = HostedNode(Runtime, 'attention_runtime', '/bench')
    hosted.start(lambda _: ended.set())
    try:
        end = time.monotonic() + LIMIT_S
        while not (hosted.node and hosted.node.is_active):
            if hosted.is_over or time.monotonic() > end:
                raise RuntimeError(f'the runtime did not start: {hosted.problem}')
            time.sleep(0.01)
        yield
    finally:
        hosted.stop()
        hosted.join()


def bench_service(bench: Bench, where: str, node: Node, executor: SingleThreadedExecutor) -> None:
    """Latency of a megabyte for one client and for eight."""
    values = bench.rng.standard_normal(MEGABYTE).astype(np.float32)
    for count in (1, CLIENTS):
        for way in ('shared_memory', 'inline'):
            clients = [
                Client(node, 'identity', 'x', values, share=way == 'shared_memory') for _ in range(count)
            ]  # fmt: skip
            try:
                closed_loop(executor, clients, bench.repetitions(1000), f'{where} {way} {count}')
            finally:
                for client in clients:
                    client.close()
            target = {'at_most': 1.5} if (where, way, count) == ('another_process', 'shared_memory', 1) else {}
            seconds = np.concatenate([client.seconds for client in clients])
            bench.median(f'latency/service/{where}/{way}/identity_1MiB/{count}', seconds, 'ms', load(), **target)


def bench_throughput(bench: Bench, node: Node, executor: SingleThreadedExecutor) -> None:
    """A small transformer, batched and one by one: eight clients, and one client with eight requests under way.

    Every client of a ROS service is woken by every answer, also by those to others.
    """
    values = bench.rng.standard_normal((1, 16, 64)).astype(np.float32)
    for apart in (CLIENTS, 1):
        rates = {}
        name = f'{CLIENTS}_clients' if apart > 1 else f'{CLIENTS}_under_way'
        for model in ('one_by_one', 'batched'):
            clients = [Client(node, model, 'tokens', values, share=True) for _ in range(apart)]
            try:
                count = bench.repetitions(2000)
                loops = [clients[index % apart] for index in range(CLIENTS)]
                rates[model] = count / closed_loop(executor, loops, count, f'throughput {model}')
            finally:
                for client in clients:
                    client.close()
            bench.add(
                Row(f'throughput/service/another_process/{model}/{name}', rates[model], '1/s', count, None, load())
            )
        gain = rates['batched'] / rates['one_by_one']
        bench.add(Row(f'gain/service/another_process/small_transformer/{name}', gain, ''), at_least=3.5)


def load() -> dict[str, float]:
    """How busy the machine is with everything."""
    return {'load': os.getloadavg()[0]}


def measure(bench: Bench, only: list[str]) -> None:
    """Run the chosen experiments."""
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in ENTRIES.items():
            entry = yaml.safe_load((MODELS / f'{changes["like"]}.yaml').read_text('utf-8'))
            entry |= {'name': name, 'device': bench.device, **changes}
            del entry['like']
            Path(folder, f'{name}.yaml').write_text(yaml.safe_dump(entry), 'utf-8')
        node = rclpy.create_node('client', namespace='/bench')
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            if 'same_process' in only:
                with same_process(folder):
                    values = bench.rng.standard_normal(MEGABYTE).astype(np.float32)
                    request = {'x': values}
                    ask = lambda: engine_of_process().infer('identity', request, deadline_s=60.0)  # noqa: E731
                    seconds = repeat(lambda: timed(ask), bench.repetitions(2000), 'direct')
                    bench.median('latency/direct/same_process/identity_1MiB/1', seconds, 'ms', load(), at_most=0.3)
                    bench_service(bench, 'same_process', node, executor)
            if 'another_process' in only:
                with another_process(folder):
                    bench_service(bench, 'another_process', node, executor)
                    bench_throughput(bench, node, executor)
        finally:
            executor.shutdown()
            node.destroy_node()


def plot(bench: Bench, path: Path) -> None:
    """Draw the latencies, each from its median to its p99, and their targets."""
    rows = [row for row in bench.rows if row.name.startswith('latency/')][::-1]
    figure, axis = plt.subplots(figsize=(9, 0.35 * len(rows) + 1.2))
    for place, row in enumerate(rows):
        axis.plot([row.value, row.reference['p99']], [place, place], color='tab:blue', alpha=0.4, lw=5)
        axis.plot(row.value, place, 'o', color='tab:blue')
        if row.target is not None:
            axis.plot(row.target, place, '|', color='tab:red', ms=16, mew=2)
    axis.set_yticks(range(len(rows)), [row.name.removeprefix('latency/') for row in rows])
    axis.set(xscale='log', xlabel='p50 to p99 [ms]; red: target', title='A megabyte there and back')
    axis.grid(axis='x', alpha=0.3)
    save_figure(figure, path)


def main() -> int:
    """Measure; 130 after Ctrl-C, with what was measured until then written."""
    places = ('same_process', 'another_process')
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument('--plot', type=Path, help='draw the latencies here (.png, .svg, .pdf)')
    parser.add_argument('--only', nargs='+', choices=places, default=list(places), help='where the runtime is')
    arguments = parser.parse_args()
    # Stay on this machine and out of other people's graphs.
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    bench = Bench(arguments.device, arguments.scale, arguments.seed)
    before = conditions(arguments) | {'rmw': rclpy.get_rmw_implementation_identifier()}
    code = 0
    try:
        measure(bench, arguments.only)
    except KeyboardInterrupt:
        code = 130
    finally:
        rclpy.try_shutdown()
    if arguments.json:
        write_results(bench, arguments.json, before)
    if arguments.plot:
        plot(bench, arguments.plot)
    return code


if __name__ == '__main__':
    sys.exit(main())
