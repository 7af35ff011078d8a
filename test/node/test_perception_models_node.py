"""The perception models answer through the services of the attention runtime, without a node of their own."""

from __future__ import annotations

import numpy as np
import pytest

from attn_robotics.conversions.tensors import from_tensors, to_tensors
from attn_robotics.nodes.attention_runtime import AttentionRuntime
from attn_robotics.systems.aga.data import Kitchens
from attn_robotics.systems.ship_trajectory.config import ShipConfig
from attn_robotics.systems.ship_trajectory.data import Traffic, draw_scenes
from attn_robotics.systems.ship_trajectory.processor import inputs_of_scenes
from attn_robotics_interfaces.msg import ModelStatus
from attn_robotics_interfaces.srv import Infer, ListModels

pytestmark = pytest.mark.ros


@pytest.fixture
def call(graph):
    node = graph.start(AttentionRuntime, preload=['aga', 'ship_trajectory'])
    graph.until(lambda: node.is_active, 'an active runtime')

    return lambda kind, name, request: graph.call(kind, f'attention_runtime/{name}', request)


def test_both_are_listed_and_answer(call):
    states = {model.name: model.state for model in call(ListModels, 'list_models', ListModels.Request()).models}
    assert states['aga'] == states['ship_trajectory'] == ModelStatus.READY
    frames = Kitchens().draw(1, 3, range(100, 101), seed=1)[0][0]
    for t, frame in enumerate(frames):
        inputs = to_tensors({'features': frame[None], 'dt_s': np.ones(1, np.float32)})
        answer = call(Infer, 'infer', Infer.Request(model='aga', inputs=inputs, stream='cook', deadline_ms=30_000.0))
        assert answer.success, answer.message
        found = from_tensors(answer.outputs)
        assert found['best'].shape == (1, 5) and (found['past'] >= 0).sum() == t
    again = Infer.Request(model='aga', inputs=inputs, stream='cook', reset=True, deadline_ms=30_000.0)
    assert (from_tensors(call(Infer, 'infer', again).outputs)['past'] == -1).all()
    scene, _ = inputs_of_scenes(draw_scenes(Traffic(), 1, 21, 0), ShipConfig())
    request = Infer.Request(model='ship_trajectory', inputs=to_tensors(scene), deadline_ms=30_000.0)
    answer = call(Infer, 'infer', request)
    assert answer.success and from_tensors(answer.outputs)['paths'].shape == (1, 4, 10, 2)


def test_what_does_not_fit_is_refused_by_name(call):
    bad = to_tensors({'features': np.zeros((1, 63), np.float32), 'dt_s': np.ones(1, np.float32)})
    answer = call(Infer, 'infer', Infer.Request(model='aga', inputs=bad, stream='x'))
    assert not answer.success and 'features' in answer.message and '64' in answer.message
    late = to_tensors({'features': np.zeros((1, 64), np.float32), 'dt_s': np.full(1, -1.0, np.float32)})
    answer = call(Infer, 'infer', Infer.Request(model='aga', inputs=late, stream='x'))
    assert not answer.success and 'dt_s' in answer.message
