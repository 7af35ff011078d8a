"""The encoder: streams equal whole utterances, padding changes nothing, nothing is quadratic, ONNX agrees."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attn_robotics.runtime.catalogue import Catalogue
from attn_robotics.runtime.engine import Engine
from attn_robotics.runtime.errors import EngineError
from attn_robotics.systems.pom_speech.config import MIXERS, PomSpeechConfig
from attn_robotics.systems.pom_speech.export import export_bytes, write_entry
from attn_robotics.systems.pom_speech.model import state_shapes
from attn_robotics.systems.pom_speech.recogniser import local_model
from attn_robotics.systems.pom_speech.weights_file import read_weights, ship

SMALL = PomSpeechConfig(width=16, layers=2, feed_forward=24, channels=4, kernel=5, memory_tokens=0, heads=2)


def make(config=SMALL, seed=0):
    torch.manual_seed(seed)
    network = config.build().eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # no bias is zero, no norm is plain
    return network.requires_grad_(False)


def features(batch=1, tokens=24, seed=0):
    return torch.randn(batch, tokens, 4, 80, generator=torch.Generator().manual_seed(seed))


def stream(network, x, sizes):
    state, parts, at = network.open_state(len(x)), [], 0
    for size in sizes:
        answers = network(x[:, at : at + size], **state)
        state = {name: answers[name] for name in state}
        parts.append(answers['log_probs'])
        at += size
    return torch.cat(parts, 1), state


@pytest.mark.parametrize('block', [1, 4, 8, 24])
def test_a_stream_of_blocks_equals_the_block_causal_form(block):
    network, x = make(), features(2)
    streamed, state = stream(network, x, [block] * (24 // block))
    torch.testing.assert_close(streamed, network.log_probs(x, block=block), atol=1e-5, rtol=0)
    assert {name: tuple(tensor.shape[1:]) for name, tensor in state.items()} == state_shapes(SMALL)
    assert state['count'].tolist() == [24.0, 24.0], 'tokens are counted, not blocks'


def test_one_block_is_the_whole_utterance():
    network, x = make(), features()
    torch.testing.assert_close(stream(network, x, [24])[0], network.log_probs(x), atol=1e-5, rtol=0)


def test_the_last_token_depends_on_the_past_and_not_on_how_it_was_cut():
    network, x = make(), features()
    _, one = stream(network, x, [24])
    _, other = stream(network, x, [3, 1, 9, 11])
    # Tokens of the first layer see block ends; its own state is a plain mean and must agree exactly.
    torch.testing.assert_close(one['mean'][:, 0], other['mean'][:, 0], atol=1e-6, rtol=1e-5)
    assert one['count'] == other['count']
    changed = x.clone()
    changed[:, 0] += 1.0
    assert not torch.allclose(stream(network, changed, [8] * 3)[0][:, -1], stream(network, x, [8] * 3)[0][:, -1])


def test_a_late_block_can_not_change_what_was_said_before():
    network, x = make(), features()
    changed = x.clone()
    changed[:, 16:] += 5.0
    before, after = (network.log_probs(values, block=8) for values in (x, changed))
    assert torch.equal(before[:, :16], after[:, :16]) and not torch.equal(before[:, 16:], after[:, 16:])


@pytest.mark.parametrize('mixer', MIXERS)
def test_batch_mates_and_padding_change_nothing(mixer):
    network = make(dataclasses.replace(SMALL, mixer=mixer))
    x = features(3)
    keep = torch.arange(24) < torch.tensor([[24], [7], [15]])
    dirty = torch.where(keep[..., None, None], x, 1e3)
    together = network.log_probs(dirty, keep)
    for row, count in enumerate((24, 7, 15)):
        alone = network.log_probs(x[row : row + 1, :count])
        torch.testing.assert_close(together[row, :count], alone[0], atol=2e-5, rtol=0)
    if mixer == 'pom':
        blocks = network.log_probs(dirty, keep, block=4)
        torch.testing.assert_close(blocks[1, :7], network.log_probs(x[1:2, :7], block=4)[0], atol=2e-5, rtol=0)


class Largest(TorchDispatchMode):
    """Remembers the most elements that any operator made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // 4)
        return out


def test_twice_the_tokens_need_twice_the_memory():
    network = make()
    largest = []
    for tokens in (512, 1024):
        with Largest() as seen:
            network.log_probs(features(tokens=tokens))
        largest.append(seen.elements)
    assert largest[1] < 2.1 * largest[0], 'something quadratic is in a linear network'


def test_the_memory_forgets_at_the_pace_that_was_set():
    config = dataclasses.replace(SMALL, memory_tokens=16)
    network = make(config)
    _, state = stream(network, features(tokens=64), [8] * 8)
    assert state['count'].item() == 24.0, '16 of memory and the last block of 8'


def test_gradients_are_finite_in_half_precision_with_high_degree():
    network = dataclasses.replace(SMALL, degree=4, expansion=1).build()
    with torch.autocast('cpu', torch.bfloat16):
        loss = network.log_probs(30.0 * features(), block=8).square().mean()
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_asking_twice_gives_the_same_and_leaves_the_request_untouched():
    network, x = make(), features()
    kept, state = x.clone(), network.open_state(1)
    one, other = (network(x, **state) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(x, kept) and all((tensor == 0).all() for tensor in state.values())
    assert one['gates'].shape == (1, 24, 2, 8) and ((one['gates'] >= 0) & (one['gates'] <= 1)).all()


def test_weights_come_back_as_they_were_written(tmp_path):
    network = make()
    card = ship(tmp_path / 'w.safetensors', network, {'seed': 3})
    again, read = read_weights(tmp_path / 'w.safetensors')
    assert read == card and again.config == SMALL
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name].half().float()), name
    (tmp_path / 'w.safetensors').write_bytes((tmp_path / 'w.safetensors').read_bytes()[:-8])
    with pytest.raises(EngineError, match='fetch it again'):
        read_weights(tmp_path / 'w.safetensors')


def test_the_onnx_form_streams_as_torch_does():
    import onnxruntime

    network, x = make(), features(2)
    session = onnxruntime.InferenceSession(export_bytes(network))
    names = [node.name for node in session.get_outputs()]
    state = {name: tensor.numpy() for name, tensor in network.open_state(2).items()}
    parts = []
    for at in range(0, 24, 8):
        found = dict(zip(names, session.run(None, {'features': x[:, at : at + 8].numpy(), **state}), strict=True))
        state = {name: found[f'{name}_out'] for name in state}
        parts.append(found['log_probs'])
    np.testing.assert_allclose(np.concatenate(parts, 1), network.log_probs(x, block=8), atol=1e-5)


def test_the_engine_streams_the_shipped_model_on_torch_and_onnx_alike(tmp_path):
    from attn_robotics.paths import config_folders

    network, _ = read_weights()
    write_entry(tmp_path, network)
    x = features(1, 16).numpy() - 4.0
    wanted = network.log_probs(torch.from_numpy(x), block=8).numpy()
    with Engine(Catalogue(tmp_path, config_folders()[0] / 'models')) as engine:
        for model in ('pom_speech', 'pom_speech_onnx'):
            engine.load(model).result(60)
            for name in ('one', 'two'):  # streams do not hear each other
                parts = [
                    engine.infer(model, {'features': x[:, at : at + 8]}, stream=name, deadline_s=60.0).outputs
                    for at in (0, 8)
                ]
                found = np.concatenate([part['log_probs'] for part in parts], 1)
                np.testing.assert_allclose(found, wanted, atol=1e-4)
        kept = engine.snapshot_stream('pom_speech', 'one')
        assert {name: value.shape[1:] for name, value in kept.items()} == state_shapes(network.config)


def test_a_stream_in_this_process_can_begin_anew():
    network, x = make(), features().numpy()
    ask = local_model(network)
    first = ask(x, True)['log_probs']
    assert not np.allclose(ask(x, False)['log_probs'], first)
    np.testing.assert_array_equal(ask(x, True)['log_probs'], first)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'mixer': 'magic'}, 'mixer must be one of'),
        ({'layers': 0}, 'layers must be at least 1'),
        ({'gate_groups': 7}, 'gate_groups must divide'),
        ({'mixer': 'mha', 'heads': 3}, 'width must be a multiple'),
    ],
)
def test_settings_that_make_no_network_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMALL, **changes)


def test_features_of_another_shape_are_refused():
    network = make()
    with pytest.raises(ValueError, match='features must be'):
        network(torch.zeros(1, 8, 3, 80), **network.open_state(1))
