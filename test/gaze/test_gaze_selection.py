"""Selectors behind one contract; the vision-language adapter against a stub server on loopback."""

import hashlib
import json
import math
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from attn_robotics.runtime.sessions import graph_session
from attn_robotics.systems.gaze.entities import MAX_ENTITIES, N_FEATURES, SOUND, Entity, SceneMemory
from attn_robotics.systems.gaze.scenes import make_scene
from attn_robotics.systems.gaze.selection import Hysteresis, LoudestSelector, NearestFaceSelector, RuleSelector
from attn_robotics.systems.gaze.selection_check import check_selector
from attn_robotics.systems.gaze.selector import INPUTS, N_STATE, OUTPUTS, WEIGHTS, AttentionSelector
from attn_robotics.systems.gaze.selector_network import graph_bytes, read_network
from attn_robotics.systems.gaze.vlm import VlmSelector, parse_answer


def frame(*entities, now=0.0, current='', memory=None):
    return (memory or SceneMemory()).observe(now, entities, current=current)


SHARED = AttentionSelector()


def read_card():
    return json.loads(WEIGHTS.with_suffix('.json').read_text())


@pytest.fixture
def attention():
    return SHARED


def test_the_graph_that_ships_is_the_network_for_any_number_of_entities():
    network, rng = read_network(WEIGHTS), np.random.default_rng(0)
    for scenes, entities in ((1, 1), (2, 3), (7, MAX_ENTITIES)):
        tokens = rng.normal(size=(scenes, entities, N_FEATURES + 1)).astype(np.float32)
        state = rng.normal(size=(scenes, N_STATE)).astype(np.float32)
        mask = rng.random((scenes, entities)) < 0.6
        session = graph_session(WEIGHTS.with_suffix('.onnx'), read_card()['sha256'], 1)
        chances, weights = session.run(OUTPUTS, dict(zip(INPUTS, (tokens, state, mask), strict=True)))
        with torch.no_grad():
            logits, true_weights = network(*map(torch.from_numpy, (tokens, state, mask)))
        np.testing.assert_allclose(chances, logits.log_softmax(1), atol=1e-5)
        np.testing.assert_allclose(weights, true_weights, atol=1e-5)


def test_a_graph_of_other_weights_is_refused(tmp_path):
    for suffix in ('.safetensors', '.json', '.onnx'):
        (tmp_path / f'selector{suffix}').write_bytes(WEIGHTS.with_suffix(suffix).read_bytes())
    path = tmp_path / 'selector.safetensors'
    AttentionSelector(path)
    changed = save({name: tensor + 0.1 for name, tensor in load_file(path).items()})
    path.write_bytes(changed)
    card = read_card() | {'sha256': hashlib.sha256(changed).hexdigest()}
    path.with_suffix('.json').write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r'selector.onnx: missing or of other weights'):
        AttentionSelector(path)
    path.with_suffix('.onnx').write_bytes(graph_bytes(path))
    AttentionSelector(path)


def test_a_gaze_node_on_the_cpu_loads_no_torch():
    script = 'import sys, attn_robotics.systems.gaze.selectors as s, attn_robotics.systems.gaze.planner; '
    script += "s.make_selector('attention'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'False'


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_any_percepts_give_bounded_tokens_and_a_present_choice(data):
    attention = SHARED
    number = st.one_of(st.floats(-500, 500), st.just(math.nan), st.just(math.inf))
    chance = st.floats(0, 1)
    entity = st.builds(
        Entity, st.sampled_from([str(k) for k in range(30)]), st.sampled_from(['person', SOUND]), number, number,
        st.floats(0.1, 50), st.booleans(), chance, chance, chance, chance, chance,
    )  # fmt: skip
    memory, now = SceneMemory(), 0.0
    for _ in range(4):
        now += data.draw(st.sampled_from([0.05, 0.0, -5.0, 100.0]))
        scene = memory.observe(now, data.draw(st.lists(entity, max_size=50)), current='3')
        assert scene.tokens.shape == (len(scene.entities), N_FEATURES) and len(scene.entities) <= MAX_ENTITIES
        assert np.isfinite(scene.tokens).all()
        for selector in (RuleSelector(), NearestFaceSelector(), LoudestSelector(), attention):
            choice = selector.score(scene)
            assert choice.target_id in {'', *(e.id for e in scene.entities)}
            assert all(math.isfinite(value) for value in choice.scores.values())


def test_the_speaker_beats_the_silent_and_a_wave_beats_the_speaker_when_fresh(attention):
    quiet, loud = Entity('q', azimuth=-20), Entity('s', azimuth=20, speaking=1.0)
    waver = Entity('w', azimuth=40, gesture=1.0)
    memory = SceneMemory()
    for k in range(100):
        frame(quiet, loud, Entity('w', azimuth=40), now=k * 0.05, memory=memory, current='q')
    assert RuleSelector().score(frame(quiet, loud, now=5.0, memory=memory)).target_id == 's'
    scene = frame(quiet, loud, waver, now=5.05, memory=memory, current='s')
    assert attention.score(scene).target_id == 'w'


def test_attention_does_not_depend_on_the_order_of_entities(attention):
    people = [Entity(str(k), azimuth=20.0 * k - 30, speaking=0.3 * k, distance=1.0 + 0.5 * k) for k in range(4)]
    one, two = attention.score(frame(*people)), attention.score(frame(*people[::-1]))
    assert one.scores == pytest.approx(two.scores, abs=1e-5)
    assert sum(attention.attention.values()) == pytest.approx(1.0, abs=1e-5)


def test_a_batch_of_scenes_scores_as_each_alone(attention):
    scenes = [frame(*(Entity(str(k), azimuth=10.0 * k) for k in range(n))) for n in (0, 1, 5)]
    together = attention.score_many(scenes)
    for scene, choice in zip(scenes, together, strict=True):
        assert attention.score(scene).scores == pytest.approx(choice.scores, abs=1e-4)


def test_trained_attention_beats_the_rules_which_beat_the_nearest_face(attention):
    ours, rule, near = (check_selector(s, 3) for s in (attention, RuleSelector(), NearestFaceSelector()))
    assert ours.accuracy > 0.95 > rule.accuracy > near.accuracy
    assert 0.15 <= ours.reaction <= 0.35
    assert ours.ping_pong < 0.01


def test_hysteresis_removes_flicker_and_lets_go_of_who_left():
    settle, memory = Hysteresis(), SceneMemory()
    a, b = Entity('a', azimuth=-10, speaking=0.5), Entity('b', azimuth=10, speaking=0.5)
    rng = np.random.default_rng(0)
    current, switches = '', 0
    for k in range(600):
        louder = Entity('b', azimuth=10, speaking=float(np.clip(0.5 + rng.normal(0, 0.4), 0, 1)))
        scene = memory.observe(k * 0.05, [a, louder], current=current)
        new = settle.settle(scene, LoudestSelector().score(scene))
        switches += new != current
        current = new
    assert switches < 12
    scene = memory.observe(31.0, [b if current == 'a' else a], current=current)
    for k in range(10):
        scene = memory.observe(31.0 + 0.05 * k, scene.entities, current=current)
        current = settle.settle(scene, RuleSelector().score(scene))
    assert current == scene.entities[0].id


def test_scenes_repeat_under_a_seed_and_labels_are_present():
    one, two = make_scene(3), make_scene(3)
    assert one == two and make_scene(4) != one
    assert all(f.label == '' or f.label in {e.id for e in f.entities} for f in one)


class Stub(BaseHTTPRequestHandler):
    """Answers as an OpenAI-compatible server would; the test sets what and when."""

    content, gate, status = '{}', None, 200

    def do_POST(self):
        length = int(self.headers['Content-Length'])
        type(self).question = json.loads(self.rfile.read(length))
        if self.gate is not None:
            self.gate.wait(5)
        body = json.dumps({'choices': [{'message': {'content': self.content}}]}).encode()
        self.send_response(self.status)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def stub():
    handler = type('Handler', (Stub,), {})
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    server.handle_error = lambda *args: None  # a client that gave up is part of the tests
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    handler.url = f'http://127.0.0.1:{server.server_port}/v1'
    yield handler
    if handler.gate is not None:
        handler.gate.set()
    server.shutdown()
    server.server_close()
    thread.join()


TWO = (Entity('a', azimuth=-20, speaking=1.0), Entity('b', azimuth=20))


def test_a_prompt_answer_is_used_until_its_hold_ends(stub):
    stub.content = 'Sure:\n```json\n{"target_id": "b", "reason": "b points", "confidence": 0.9, "hold_s": 1}\n```'
    vlm, memory = VlmSelector(stub.url, 'm', RuleSelector(), deadline_s=5), SceneMemory()
    assert vlm.score(memory.observe(0.0, TWO)).target_id == 'a'
    vlm.close(5)
    assert vlm.score(memory.observe(0.1, TWO)).target_id == 'b'
    assert vlm.score(memory.observe(2.0, TWO)).target_id == 'a'
    assert vlm.counts == {'asked': 1, 'used': 1, 'late': 0, 'stale': 0, 'failed': 0}
    assert '"a"' in stub.question['messages'][1]['content'][0]['text']


def test_the_loop_goes_on_while_the_server_hangs_and_an_outdated_answer_is_dropped(stub):
    stub.gate = threading.Event()
    stub.content = '{"target_id": "b", "confidence": 1, "hold_s": 3}'
    vlm, memory = VlmSelector(stub.url, 'm', RuleSelector(), deadline_s=5), SceneMemory()
    for k in range(50):
        assert vlm.score(memory.observe(k * 0.01, TWO)).target_id == 'a'
    assert vlm.counts['asked'] == 1  # one question in flight, never a queue
    moved_on = (*TWO, Entity('c', azimuth=50))
    stub.gate.set()
    vlm.close(5)
    assert vlm.score(memory.observe(0.6, moved_on)).target_id != 'b'
    assert vlm.counts['stale'] == 1
    vlm.close(5)


def test_a_late_answer_is_not_used(stub):
    stub.gate = threading.Event()
    stub.content = '{"target_id": "b", "confidence": 1, "hold_s": 3}'
    vlm, memory = VlmSelector(stub.url, 'm', RuleSelector(), deadline_s=0.05), SceneMemory()
    vlm.score(memory.observe(0.0, TWO))
    vlm.close(5)
    stub.gate.set()
    assert vlm.score(memory.observe(0.1, TWO)).target_id == 'a'
    assert vlm.counts['used'] == 0 and vlm.counts['late'] + vlm.counts['failed'] == 1


@pytest.mark.parametrize(
    ('content', 'status'), [('nonsense', 200), ('{"target_id": "z"}', 200), ('{}', 500), ('{"hold_s": NaN}', 200)]
)
def test_a_bad_answer_leaves_the_fallback_standing(stub, content, status):
    stub.content, stub.status = content, status
    vlm, memory = VlmSelector(stub.url, 'm', RuleSelector(), deadline_s=5), SceneMemory()
    vlm.score(memory.observe(0.0, TWO))
    vlm.close(5)
    assert vlm.score(memory.observe(0.1, TWO)).target_id == 'a'
    assert vlm.counts['failed'] == 1 and vlm.last_error


def test_an_address_that_is_no_address_is_refused():
    with pytest.raises(ValueError, match='http://host:port'):
        VlmSelector('file:///etc/passwd', 'm', RuleSelector())


@pytest.mark.parametrize('text', ['[]', '{"target_id": "a", "confidence": 3}', '{"target_id": 4}', ''])
def test_answers_are_checked(text):
    with pytest.raises((ValueError, AttributeError)):
        parse_answer(text, frozenset('ab'))
