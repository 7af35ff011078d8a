"""The node that anticipates actions, on a real graph with the model that ships."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import yaml
from sensor_msgs.msg import Image
from std_msgs.msg import String

from attn_robotics.conversions.attention import from_attention_map
from attn_robotics.conversions.features import to_features
from attn_robotics.nodes.action_anticipation import ActionAnticipationNode
from attn_robotics.nodes.kitchen_simulator import KitchenSimulator
from attn_robotics.paths import find_config
from attn_robotics.ros import qos
from attn_robotics.ros.hosting import engine_of_process
from attn_robotics.systems.aga.data import ACTIONS, Kitchens
from attn_robotics_interfaces.msg import ActionAnticipation, AttentionMap, Features

pytestmark = pytest.mark.ros


@pytest.fixture
def node(graph):
    node = graph.start(ActionAnticipationNode)
    graph.until(lambda: node.is_active, 'an active node')
    return node


@pytest.fixture(scope='module')
def frames():
    return Kitchens().draw(2, 12, range(100, 102), seed=5)[0]


def show(graph, heard, frame, stream='', stamp_s=100.0):
    """Publish one frame and wait for its answer."""
    count = len(heard)
    graph.say(to_features(frame, stream, stamp_s, 'camera'), 'features', qos.STATE)
    graph.until(lambda: len(heard) > count, 'an answer')
    return heard[-1]


def test_a_stream_is_answered_frame_by_frame_with_its_evidence(graph, node, frames):
    heard, maps = (
        graph.hear(ActionAnticipation, 'anticipation'),
        graph.hear(AttentionMap, 'action_anticipation/attention'),
    )
    pictures = graph.hear(Image, 'action_anticipation/attention_image')
    graph.until(lambda: node._attention.get_subscription_count() and node._image.get_subscription_count(), 'listeners')
    for t, frame in enumerate(frames[0][:6]):
        answer = show(graph, heard, frame, 'cook', 100.0 + t)
        assert answer.header.stamp.sec == 100 + t and answer.stream == 'cook' and answer.horizon_s == 1.0
        assert [ACTIONS[number] for number in answer.class_ids] == answer.labels and len(answer.labels) == 5
        assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
        assert sum(answer.probabilities) <= 1.0 + 1e-5
        assert (answer.history == 0.0) == (t == 0)
    graph.until(lambda: len(maps) == 6 and len(pictures) == 6, 'six maps')
    last = from_attention_map(maps[-1])
    assert last.shape == (4, 1, 5) and maps[-1].query_ids == [heard[-1].labels[0]]
    np.testing.assert_allclose(last.sum(-1), 1.0, atol=1e-5)
    assert maps[-1].key_ids == [f'{heard[t].labels[0]} {5 - t:.1f} s ago' for t in range(5)]
    assert heard[-1].because.startswith(heard[-1].labels[0]) and 's ago' in heard[-1].because


def test_interleaved_streams_do_not_hear_each_other(graph, node, frames):
    heard = graph.hear(ActionAnticipation, 'anticipation')
    alone = [show(graph, heard, frame, 'alone', 100.0 + t) for t, frame in enumerate(frames[0][:5])]
    mixed = []
    for t in range(5):
        mixed.append(show(graph, heard, frames[0][t], 'a', 100.0 + t))
        show(graph, heard, frames[1][t], 'b', 100.0 + t)
    for one, other in zip(alone, mixed, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-5)


def test_a_long_silence_begins_a_stream_anew_and_late_frames_are_left_out(graph, node, frames):
    heard = graph.hear(ActionAnticipation, 'anticipation')
    first = show(graph, heard, frames[0][0], 'cook', 100.0)
    show(graph, heard, frames[0][1], 'cook', 101.0)
    graph.say(to_features(frames[0][2], 'cook', 100.5, 'camera'), 'features', qos.STATE)
    graph.until(lambda: node.dropped['out of order'] == 1, 'a refusal')
    again = show(graph, heard, frames[0][0], 'cook', 200.0)
    np.testing.assert_allclose(first.probabilities, again.probabilities, rtol=1e-6)


def test_bad_frames_are_counted_by_reason_and_the_next_one_is_answered(graph, node, frames):
    heard = graph.hear(ActionAnticipation, 'anticipation')
    show(graph, heard, frames[0][0], 'cook', 100.0)
    for bad in (frames[0][1][:7], np.full(64, np.nan, np.float32), np.full(64, 1e9, np.float32)):
        graph.say(to_features(np.ascontiguousarray(bad), 'cook', 101.0, 'camera'), 'features', qos.STATE)
    broken = Features(stream='cook')
    broken.features.dtype, broken.features.shape = 'float32', [64]
    graph.say(broken, 'features', qos.STATE)
    graph.until(lambda: node.dropped['bad_input'] == 4, 'four refusals')
    show(graph, heard, frames[0][1], 'cook', 102.0)
    assert not graph.errors()


def test_wrong_models_and_labels_leave_the_node_unconfigured_with_one_line(graph, tmp_path):
    words = tmp_path / 'words.yaml'
    words.write_text(yaml.safe_dump({'labels': ['one', 'two']}))
    for parameters, line in (
        ({'model': 'small_transformer'}, 'no action anticipation'),
        ({'labels': str(words)}, '2 labels for the 40 actions'),
        ({'labels': str(tmp_path / 'none.yaml')}, 'none.yaml'),
    ):
        node = graph.start(ActionAnticipationNode, **parameters)
        graph.until(lambda node=node: node._last_error, 'a reason')
        assert line in node._last_error and graph.state(node) == 'unconfigured'
        graph.stop(node)


def test_cleanup_gives_the_model_back_and_the_node_can_be_configured_again(graph, node, frames):
    from attn_robotics.ros.lifecycle import ConfigurationError

    node.trigger_deactivate()
    node.trigger_cleanup()
    with pytest.raises(ConfigurationError):
        engine_of_process()
    node.trigger_configure()
    node.trigger_activate()
    heard = graph.hear(ActionAnticipation, 'anticipation')
    show(graph, heard, frames[0][0])


def test_the_simulated_kitchen_is_anticipated_well_above_chance(graph, node):
    said = graph.hear(String, 'kitchen_simulator/action')
    kitchen = graph.start(KitchenSimulator, streams=3, real_time_factor=8.0)
    graph.until(lambda: kitchen.is_active and kitchen._asked >= 40, 'forty new actions')
    assert kitchen._hits / kitchen._asked > 0.3  # guessing gives 0.125
    assert {text.data.split(':')[0] for text in said} == {'person_0', 'person_1', 'person_2'}


@pytest.mark.parametrize('kind', [ActionAnticipationNode, KitchenSimulator])
def test_the_parameter_file_holds_the_defaults_of_the_class(kind):
    content = yaml.safe_load(find_config('action_anticipation.yaml').read_text())
    assert content[f'/**/{kind.NAME}']['ros__parameters'] == dataclasses.asdict(kind.Params())
