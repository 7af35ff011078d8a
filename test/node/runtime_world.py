"""A runtime, a client of it, and a model that waits."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import yaml

from attn_robotics.conversions.tensors import to_tensor
from attn_robotics.nodes.attention_runtime import AttentionRuntime
from attn_robotics.ros.deferred import BURST
from attn_robotics.runtime.registry import register_system
from attn_robotics_interfaces.srv import Infer, ListModels, LoadModel, UnloadModel

PATIENCE_MS = 30_000.0  # of requests, on a busy machine


class Held(torch.nn.Module):
    """Answers with twice its input once it is let go; batches of other than `only` rows need not wait."""

    free: ClassVar[threading.Event] = threading.Event()
    entered: ClassVar[list[int]] = []
    only: ClassVar[int] = 0

    def __init__(self):
        super().__init__()
        self.ballast = torch.nn.Parameter(torch.zeros(64))  # memory, for the budget

    def forward(self, x):
        Held.entered.append(len(x))
        assert Held.only not in (0, len(x)) or Held.free.wait(30)
        return 2 * x


@register_system('held')
@dataclass(frozen=True)
class HeldConfig:
    def build(self):
        return Held()


def entry(name, **changes):
    shape = {'dtype': 'float32', 'shape': ['N', 2]}
    return {
        'name': name,
        'version': '1',
        'backend': 'torch',
        'system': 'identity',
        'device': 'cpu',
        'dims': {'N': [1, 100_000]},
        'inputs': [{'name': 'x', **shape}],
        'outputs': [{'name': 'y', **shape}],
        'warm_up': [{'N': 1}],
        'deadline_ms': PATIENCE_MS,
        **changes,
    }


class Client:
    """A runtime and a client of it in one graph."""

    def __init__(self, graph, folder):
        self.graph, self.folder = graph, folder
        self.clients = {}

    def put(self, name, **changes):
        (self.folder / f'{name}.yaml').write_text(yaml.safe_dump(entry(name, **changes)))

    def start(self, **parameters):
        node = self.graph.start(AttentionRuntime, models=[str(self.folder)], **parameters)
        if parameters.get('autostart', True):
            self.graph.until(lambda: self.graph.state(node) in ('active', 'unconfigured') and node.params is not None)
        return node

    def ask(self, kind, **fields):
        name = {Infer: 'infer', LoadModel: 'load_model', UnloadModel: 'unload_model', ListModels: 'list_models'}[kind]
        if name not in self.clients:
            self.clients[name] = self.graph.tester.create_client(kind, f'/attention_runtime/{name}', qos_profile=BURST)
            self.graph.until(self.clients[name].service_is_ready, f'the service {name}')
        return self.clients[name].call_async(kind.Request(**fields))

    def call(self, kind, **fields):
        future = self.ask(kind, **fields)
        self.graph.until(future.done, 'an answer')
        return future.result()

    def infer(self, model, values, **fields):
        return self.call(Infer, model=model, inputs=[to_tensor('x', values)], **fields)


def rows(*values):
    return np.array([[value, -value] for value in values], np.float32)
