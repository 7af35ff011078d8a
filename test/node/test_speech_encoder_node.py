"""The speech encoder on a real graph: sound in, words out; what it refuses, and what it shows."""

from __future__ import annotations

import dataclasses
import json
import wave

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from attn_robotics.conversions.audio import from_audio_block, to_audio_block
from attn_robotics.conversions.stamps import to_stamp
from attn_robotics.conversions.tensors import from_tensor
from attn_robotics.nodes.speech_encoder import SpeechEncoder
from attn_robotics.nodes.wav_player import WavPlayer, read_wav
from attn_robotics.paths import find_config
from attn_robotics.ros import qos
from attn_robotics_interfaces.msg import AudioBlock, Tensor, Transcript

pytestmark = pytest.mark.ros

WAV = find_config('audio/commands.wav')
SAID = json.loads(WAV.with_suffix('.json').read_text())['sentences']
SAMPLES = read_wav(WAV)[0]
SIZE = 3200  # samples of a block, 0.2 s
SILENCE = np.zeros((16_000, 1), np.float32)


class Microphone:
    """Sends blocks of sound as fast as the node takes them."""

    def __init__(self, graph, topic='audio', rate=16_000):
        self.graph, self.topic, self.rate = graph, topic, rate
        self.sequence, self.sent = 0, []

    def block(self, sound, **changes):
        header = Header(stamp=to_stamp(100.0 + self.sequence), frame_id='microphone')
        message = to_audio_block(sound, header, self.sequence, self.rate, changes.pop('encoding', 'S16LE'))
        for name, value in changes.items():
            setattr(message, name, value)
        self.sequence += 1
        return message

    def send(self, sound, **changes):
        message = self.block(sound, **changes)
        self.sent.append(message.header)
        self.graph.say(message, self.topic, qos.MESSAGES)

    def play(self, samples, node):
        for at in range(0, len(samples), SIZE):
            before = node._heard_at
            self.send(samples[at : at + SIZE])
            # Nothing is taken in until something spins: else all of a sample would come at once, more than may wait.
            self.graph.until(
                lambda before=before: node._heard_at > before and node._worker.waiting < 8, 'a node that keeps up'
            )


@pytest.fixture
def microphone(graph):
    return Microphone(graph)


@pytest.fixture
def encoder(graph):
    node = graph.start(SpeechEncoder)
    graph.until(lambda: node.is_active, 'an active node')
    return node


def test_what_was_said_comes_out_as_text(graph, encoder, microphone):
    texts, transcripts = graph.hear(String, 'text'), graph.hear(Transcript, 'transcript', 100)
    publishers = encoder._texts, encoder._transcripts
    graph.until(lambda: all(publisher.get_subscription_count() for publisher in publishers), 'both subscriptions')
    microphone.play(np.concatenate([SAMPLES, SILENCE]), encoder)
    graph.until(lambda: len(texts) == len(SAID), 'as many utterances as were said')
    graph.until(lambda: sum(bool(message.final) for message in transcripts) == len(SAID), 'as many transcripts')
    assert [text.data for text in texts] == SAID
    finals = [message for message in transcripts if message.final]
    assert [message.final for message in finals] == SAID
    assert all(message.header in microphone.sent and 0.5 < message.confidence <= 1 for message in finals)
    # Before it is final a text grows, letter by letter.
    growing = [message.incremental for message in transcripts if not message.final]
    assert any(SAID[0].startswith(text) and 0 < len(text) < len(SAID[0]) for text in growing)
    assert not encoder.dropped


def test_silence_is_answered_with_empty_transcripts(graph, encoder, microphone):
    transcripts = graph.hear(Transcript, 'transcript', 100)
    microphone.play(SILENCE, encoder)
    graph.until(lambda: len(transcripts) >= 3, 'answers')
    assert {(message.incremental, message.final, message.confidence) for message in transcripts} == {('', '', 0.0)}


def test_the_second_channel_can_be_listened_to(graph, microphone):
    node = graph.start(SpeechEncoder, channel=1)
    graph.until(lambda: node.is_active, 'an active node')
    texts = graph.hear(String, 'text')
    sound = np.concatenate([SAMPLES, SILENCE])
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, sound.shape).astype(np.float32)
    microphone.play(np.concatenate([noise, sound], 1), node)
    graph.until(lambda: len(texts) == len(SAID), 'all utterances')
    assert [text.data for text in texts] == SAID


@pytest.mark.parametrize(
    ('changes', 'reason', 'words'),
    [
        ({'sample_rate': 44_100}, 'sample rate', 'audio comes at 44100 Hz, the model needs 16000'),
        ({'encoding': 'F32LE', 'samples': b'\x00' * 6}, 'bad audio', '6 bytes are no whole frames of 4 bytes'),
        ({'encoding': 'F32LE', 'samples': b'\xff' * 8}, 'bad audio', 'NaN or infinity'),
        ({'channels': 0}, 'bad audio', 'channels must be from 1 to 256, got 0'),
    ],
)
def test_audio_that_can_not_be_used_is_refused_with_one_line(graph, encoder, microphone, changes, reason, words):
    microphone.send(SILENCE[:SIZE], **changes)
    graph.until(lambda: encoder.dropped[reason] == 1, 'a refusal')
    assert [line for line in graph.warnings() if words in line]
    transcripts = graph.hear(Transcript, 'transcript', 100)
    microphone.play(SILENCE, encoder)
    graph.until(lambda: transcripts, 'an answer to what came next')


def test_an_unknown_encoding_and_a_missing_channel_are_refused(graph, microphone):
    node = graph.start(SpeechEncoder, channel=3)
    graph.until(lambda: node.is_active, 'an active node')
    message = microphone.block(SILENCE[:SIZE])
    message.encoding = 'MP3'
    graph.say(message, 'audio', qos.MESSAGES)
    microphone.send(SILENCE[:SIZE])
    graph.until(lambda: node.dropped['bad audio'] and node.dropped['no such channel'], 'both refusals')


def test_lost_blocks_are_counted_and_the_rest_is_understood(graph, encoder, microphone):
    texts = graph.hear(String, 'text')
    microphone.play(SILENCE[: 2 * SIZE], encoder)
    microphone.sequence += 2
    microphone.play(np.concatenate([SAMPLES, SILENCE]), encoder)
    graph.until(lambda: len(texts) == len(SAID), 'all utterances')
    assert [text.data for text in texts] == SAID and encoder._order.lost == 2
    assert encoder.dropped['lost audio'] == 1
    microphone.sequence = 0
    microphone.play(SILENCE, encoder)
    graph.until(lambda: encoder.dropped['audio began anew'] == 1, 'a new beginning')


def test_tokens_and_gates_are_shown_to_whoever_looks(graph, encoder, microphone):
    tokens, pictures = graph.hear(Tensor, 'speech_encoder/tokens'), graph.hear(Image, 'speech_encoder/gates')
    graph.until(lambda: encoder._tokens.get_subscription_count() and encoder._gates.get_subscription_count())
    microphone.play(SAMPLES[: 6 * SIZE], encoder)
    graph.until(lambda: len(tokens) >= 3 and len(pictures) >= 3, 'three blocks')
    assert from_tensor(tokens[0]).shape == (8, 128)
    picture = pictures[2]
    assert (picture.encoding, picture.height, picture.width) == ('mono8', 80 + 2 + 3 * 4 * 8, 3 * 8 * 4)
    assert picture.header in microphone.sent
    pixels = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width)
    assert pixels[82:].std() > 1.0, 'gates differ'


def test_two_microphones_do_not_hear_each_other(graph):
    nodes = [graph.start(SpeechEncoder, namespace=name) for name in ('left', 'right')]
    graph.until(lambda: all(node.is_active for node in nodes), 'active nodes')
    left, right = (Microphone(graph, f'{name}/audio') for name in ('left', 'right'))
    texts = graph.hear(String, 'left/text')
    for at in range(0, len(SAMPLES), SIZE):
        left.play(SAMPLES[at : at + SIZE], nodes[0])
        right.play(SAMPLES[::-1][at : at + SIZE], nodes[1])
    left.play(SILENCE, nodes[0])
    graph.until(lambda: len(texts) == len(SAID), 'all utterances')
    assert [text.data for text in texts] == SAID


def test_diagnostics_name_the_topic_that_stays_silent(graph, encoder, monkeypatch):
    monkeypatch.setattr('attn_robotics.ros.perception.SILENT_S', 0.0)
    reports = graph.hear(DiagnosticArray, '/diagnostics')
    graph.until(lambda: any('nothing heard on /audio' in r.status[0].message for r in reports), 'a warning')
    assert reports[-1].status[0].level == DiagnosticStatus.WARN


def test_a_model_of_another_kind_is_refused(graph):
    node = graph.start(SpeechEncoder, model='identity')
    graph.until(lambda: 'identity is no speech encoder' in node._last_error, 'a reason')
    assert graph.state(node) == 'unconfigured'


def test_a_wav_file_is_played_as_it_is(graph, tmp_path):
    path = tmp_path / 'two.wav'
    sound = np.random.default_rng(0).integers(-3000, 3000, (4000, 2)).astype('<i2')
    with wave.open(str(path), 'wb') as file:
        file.setparams((2, 2, 8000, 0, 'NONE', ''))
        file.writeframes(sound.tobytes())
    heard = graph.hear(AudioBlock, 'audio', qos.MESSAGES)
    player = graph.start(WavPlayer, wav=str(path), block_s=0.05, silence_s=0.1)
    graph.until(lambda: player.is_done, 'the end of the file')
    graph.until(lambda: len(heard) == 12, 'all blocks')
    assert [message.sequence for message in heard] == list(range(12))
    assert {(message.sample_rate, message.channels) for message in heard} == {(8000, 2)}
    played = np.concatenate([from_audio_block(message) for message in heard])
    np.testing.assert_array_equal(played[:4000], sound / np.float32(32768))
    assert (played[4000:] == 0).all()


@pytest.mark.parametrize(('content', 'words'), [(None, 'can not read'), (b'RIFFnothing', 'no WAV file')])
def test_a_file_that_is_no_wav_is_named(graph, tmp_path, content, words):
    path = tmp_path / 'x.wav'
    if content is not None:
        path.write_bytes(content)
    player = graph.start(WavPlayer, wav=str(path))
    graph.until(lambda: words in player._last_error and str(path) in player._last_error, 'a reason')


@pytest.mark.parametrize('kind', [SpeechEncoder, WavPlayer])
def test_the_parameter_file_holds_the_defaults_of_the_class(kind):
    content = yaml.safe_load(find_config('speech.yaml').read_text())
    assert content[f'/**/{kind.NAME}']['ros__parameters'] == dataclasses.asdict(kind.Params())
