"""Every kind of bad input is one clear line, one word and one count, and a good client beside it is served."""

from __future__ import annotations

import array
import hashlib
import os
import pickle
import pwd
import subprocess
import sys

import numpy as np
import pytest
import torch
from runtime_world import rows
from safetensors.torch import save

from attn_robotics.conversions.tensors import from_tensor, to_shared_tensor, to_tensor
from attn_robotics.runtime.shared_memory import FOLDER, Segment
from attn_robotics_interfaces.srv import Infer, LoadModel

pytestmark = pytest.mark.ros


class Greedy(torch.nn.Module):
    """Needs more memory than there is for rows of 9."""

    def forward(self, x):
        return x + (torch.empty(1 << 50, dtype=torch.uint8) if (x == 9).any() else 0)


@pytest.fixture
def greedy(runtime):
    from dataclasses import dataclass

    from attn_robotics.runtime.registry import register_system

    @register_system('greedy')
    @dataclass(frozen=True)
    class GreedyConfig:
        def build(self):
            return Greedy()

    runtime.put('greedy', system='greedy')
    return runtime


def tensor(**changes):
    message = to_tensor('x', rows(1))
    for field, value in changes.items():
        setattr(message, field, value)
    return message


def two_gigabytes(**changes):
    return tensor(shape=array.array('q', [1 << 28, 2]), **changes)


BAD = {
    'an unknown model': ({'model': 'nobody', 'inputs': [tensor()]}, 'not_loaded', 'nobody'),
    'another version': ({'version': '9', 'inputs': [tensor()]}, 'bad_input', 'version 1'),
    'a wrong name': ({'inputs': [tensor(name='z')]}, 'bad_input', 'takes x'),
    'no tensor': ({'inputs': []}, 'bad_input', 'takes x'),
    'a tensor given twice': ({'inputs': [tensor(), tensor()]}, 'bad_input', 'twice'),
    'a wrong dtype': ({'inputs': [to_tensor('x', rows(1).astype(np.float64))]}, 'bad_input', 'must be float32'),
    'a dtype that does not exist': ({'inputs': [tensor(dtype='float33')]}, 'bad_input', 'float33'),
    'a wrong shape': ({'inputs': [to_tensor('x', np.zeros((1, 3), np.float32))]}, 'bad_input', 'shape'),
    'a shape of other bytes': ({'inputs': [tensor(shape=array.array('q', [7, 2]))]}, 'bad_input', 'bytes'),
    'NaN': ({'inputs': [to_tensor('x', rows(np.nan))]}, 'bad_input', 'NaN'),
    'infinity': ({'inputs': [to_tensor('x', rows(np.inf))]}, 'bad_input', 'NaN or infinity'),
    'two gigabytes': ({'inputs': [two_gigabytes()]}, 'too_large', 'left of what is allowed'),
    'two gigabytes in shared memory': (
        {'inputs': [two_gigabytes(data=array.array('B'), shm_key='attn_1_1_1_0123456789abcdef')]},
        'too_large',
        'left of what is allowed',
    ),
    'a segment that is gone': (
        {'inputs': [tensor(data=array.array('B'), shm_key='attn_1_1_1_0123456789abcdef')]},
        'bad_segment',
        'can not be opened',
    ),
    'a key that is a path': (
        {'inputs': [tensor(data=array.array('B'), shm_key='../../etc/passwd')]},
        'bad_segment',
        'not the key',
    ),
    'a deadline in the past': ({'inputs': [tensor()], 'deadline_ms': -1.0}, 'bad_input', 'positive'),
    'a stream for a model without state': ({'inputs': [tensor()], 'stream': 's'}, 'bad_stream', 'keeps no state'),
    'more memory than there is': (
        {'model': 'greedy', 'inputs': [to_tensor('x', rows(9))]},
        'out_of_memory',
        'ran out of memory',
    ),
}


def test_every_bad_request_is_one_line_counted_and_no_other_client_notices(greedy):
    node = greedy.start(preload=['identity', 'greedy'])
    for name, (fields, reason, words) in BAD.items():
        before = node.dropped[f'infer: {reason}']
        bad = greedy.ask(Infer, **{'model': 'identity', **fields})
        good = [greedy.ask(Infer, model=model, inputs=[tensor()]) for model in ('identity', 'greedy')]
        greedy.graph.until(lambda bad=bad, good=good: all(future.done() for future in (bad, *good)), name)
        reply = bad.result()
        assert not reply.success and reply.reason == reason and words in reply.message, (name, reply.message)
        assert '\n' not in reply.message and len(reply.message) <= 400
        assert node.dropped[f'infer: {reason}'] == before + 1, name
        for future in good:
            np.testing.assert_array_equal(from_tensor(future.result().outputs[0]), rows(1))
    text = node._engine.prometheus() + node._board._refused_text()
    for reason in {reason for _, reason, _ in BAD.values()}:
        assert f'reason="{reason}"' in text


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can act as two users')
def test_the_segment_of_another_user_is_refused(runtime):
    node = runtime.start(preload=['identity'])
    code = 'import os, sys; from attn_robotics.runtime.shared_memory import Segment; os.setuid(int(sys.argv[1])); '
    code += 'print(Segment.create(8).key, flush=True); os._exit(0)'
    nobody = str(pwd.getpwnam('nobody').pw_uid)
    key = subprocess.run(
        [sys.executable, '-c', code, nobody], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        reply = runtime.call(Infer, model='identity', inputs=[tensor(data=array.array('B'), shm_key=key)])
    finally:
        (FOLDER / key).unlink()
    assert reply.reason == 'bad_segment' and f'belongs to user {nobody}' in reply.message
    assert node.dropped == {'infer: bad_segment': 1}


def test_a_client_that_dies_over_its_request_leaves_nothing_and_harms_nobody(runtime):
    node = runtime.start(preload=['identity'])
    runtime.infer('identity', rows(1))
    with Segment.create(1 << 17) as segment:
        large = np.zeros(((1 << 17) // 8, 2), np.float32)
        client = runtime.graph.tester.create_client(Infer, '/attention_runtime/infer')
        runtime.graph.until(client.service_is_ready)
        client.call_async(Infer.Request(model='identity', inputs=[to_shared_tensor('x', large, segment)]))
    runtime.graph.tester.destroy_client(client)  # before the answer, its segment already gone
    np.testing.assert_array_equal(from_tensor(runtime.infer('identity', rows(2)).outputs[0]), rows(2))
    runtime.graph.until(lambda: node._engine.metrics()['identity'].requests + sum(node.dropped.values()) >= 3)


SAVED = save({'layer.weight': torch.zeros(2, 2), 'layer.bias': torch.zeros(2)})
FILES = {
    'a pickle': (pickle.dumps({'layer.weight': 1}), 'is a pickle'),
    'half of a file': (SAVED[: len(SAVED) // 2], 'not a whole safetensors file'),
    'junk': (b'\xff' * 200, 'not a whole safetensors file'),
    'weights of another system': (SAVED, 'does not fit'),
}


def test_every_bad_weights_file_is_one_line_counted_and_the_others_go_on(runtime):
    node = runtime.start(preload=['identity'])
    for number, (name, (content, words)) in enumerate(FILES.items(), 1):
        (runtime.folder / 'w.safetensors').write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        for sha256, expected in ((digest, words), ('0' * 64, 'is a pickle' if name == 'a pickle' else 'sha256')):
            runtime.put('broken', weights='w.safetensors', sha256=sha256)
            reply = runtime.call(LoadModel, model='broken')
            assert not reply.success and reply.reason == 'bad_weights' and expected in reply.message, (name, reply)
            assert '\n' not in reply.message and 'w.safetensors' in reply.message
        assert node.dropped['load_model: bad_weights'] == 2 * number
        assert runtime.infer('identity', rows(1)).success
