"""Understand speech: audio blocks in, text and token embeddings out, in constant time and memory however long it runs.

The model is PoM's speech encoder (systems/pom_speech); what ships knows a small grammar of robot commands, learned from
synthetic speech.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from attn_robotics.conversions.audio import AudioError, from_audio_block, to_gate_image, to_transcript
from attn_robotics.conversions.tensors import to_tensor
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import ConfigurationError, run_node
from attn_robotics.ros.parameters import param
from attn_robotics.ros.perception import PerceptionNode
from attn_robotics.systems.pom_speech.processor import SAMPLE_RATE, TOKEN_S
from attn_robotics.systems.pom_speech.recogniser import Continuity, Heard, SpeechStream
from attn_robotics_interfaces.msg import AudioBlock, Tensor, Transcript

SHOWN_S = 4.0  # of sound on ~/gates
SHADES = (-8.0, 6.0)  # log-mel values from black to white


@dataclass(frozen=True)
class SpeechEncoderParams:
    """Tunables of the speech encoder."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    model: str = param('pom_speech', 'Model of the catalogue.', read_only=True)
    channel: int = param(0, 'Channel of `audio` to listen to.', low=0, high=255)
    block_tokens: int = param(
        8, 'Tokens of 40 ms that go to the model at once: latency against load.', low=1, high=250, read_only=True
    )
    end_s: float = param(0.6, 'Silence that ends an utterance [s].', low=0.12, high=10.0, read_only=True)
    locale: str = param('en', 'Language tag put into transcripts.')
    stream: str = param('', 'Name of the state in the engine; empty takes the name of the node.', read_only=True)


class SpeechEncoder(PerceptionNode):
    """The `speech_encoder` node."""

    NAME = 'speech_encoder'
    INPUT = 'audio'
    DEPTH = 64
    Params = SpeechEncoderParams
    params: SpeechEncoderParams

    def configure(self) -> None:
        """Load the model and connect."""
        p = self.params
        self.open_model(p.model)
        if [spec.name for spec in self.entry.inputs] != ['features'] or not self.entry.state:
            raise ConfigurationError(f"parameter 'model': {p.model} is no speech encoder with state; use pom_speech")
        self._id = p.stream or self.get_fully_qualified_name()
        self._stream = SpeechStream(self._ask, block_tokens=p.block_tokens, end_s=p.end_s)
        self._order = Continuity()
        self._is_fresh = True
        self._said = ''
        self._seen: deque[Heard] = deque(maxlen=max(1, round(SHOWN_S / (TOKEN_S * p.block_tokens))))
        self._utterances = 0
        self._transcripts = self.advertise(Transcript, 'transcript', qos.STATE)
        self._texts = self.advertise(String, 'text', qos.STATE)
        self._tokens = self.advertise(Tensor, '~/tokens', qos.STATE)
        self._gates = self.advertise(Image, '~/gates', qos.STATE)
        self.hear(AudioBlock, 'audio', self._on_audio, qos.AUDIO)

    def activate(self) -> None:
        """Begin with silence behind."""
        super().activate()
        self._is_fresh = True

    def facts(self) -> Mapping[str, object]:
        """Values for diagnostics."""
        return {'utterances': self._utterances, 'blocks replaced by silence': self._order.lost, 'text': self._said}

    def _on_audio(self, message: AudioBlock) -> None:
        if message.sample_rate != SAMPLE_RATE:
            self.drop(
                'sample rate',
                f'audio comes at {message.sample_rate} Hz, the model needs {SAMPLE_RATE}; set the driver to that',
            )
            return
        try:
            samples = from_audio_block(message)
        except AudioError as error:
            self.drop('bad audio', str(error))
            return
        if self.params.channel >= samples.shape[1]:
            self.drop(
                'no such channel', f'audio has {samples.shape[1]} channels, channel is {self.params.channel}; from 0'
            )
            return
        self.offer((message.header, message.sequence, samples[:, self.params.channel]))

    def process(self, item: tuple[Header, int, NDArray[np.float32]]) -> None:
        """Feed one block of samples; publish for each block of tokens that it completes."""
        header, sequence, samples = item
        if self._is_fresh:
            self._order, self._is_fresh = Continuity(), False
            self._stream.reset()
            self._seen.clear()
        before = self._order.lost
        samples, begins_anew = self._order.take(sequence, samples)
        if self._order.lost > before:
            self.drop('lost audio', f'{self._order.lost - before} blocks before {sequence}; silence takes their place')
        if begins_anew:
            self.drop('audio began anew', f'block {sequence} does not follow; what was heard of the utterance is lost')
            self._stream.reset()
        for heard in self._stream.push(samples):
            self._publish(header, heard)

    def _ask(self, features: NDArray[np.float32], reset: bool) -> dict[str, Any]:
        return self.ask({'features': features}, stream=self._id, reset=reset)

    def _publish(self, header: Header, heard: Heard) -> None:
        locale = self.params.locale
        self._transcripts.publish(
            to_transcript(header, heard.text, heard.confidence, locale, is_final=heard.is_final)
        )  # also when nothing is heard: whoever waits for an answer gets one
        self._said = heard.text
        if heard.is_final:
            self._utterances += 1
            self._texts.publish(String(data=heard.text))
            self.get_logger().info(f'heard {heard.text!r} (confidence {heard.confidence:.2f})')
        if self._seen and self._seen[-1].features is heard.features:
            return  # the same block brought the end of one utterance and the beginning of another
        self._seen.append(heard)
        if self._tokens.get_subscription_count():
            self._tokens.publish(to_tensor('tokens', heard.tokens))
        if self._gates.get_subscription_count():
            features = np.concatenate([seen.features for seen in self._seen])
            gates = np.concatenate([seen.gates for seen in self._seen])
            self._gates.publish(to_gate_image(features, gates, header, low=SHADES[0], high=SHADES[1]))


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(SpeechEncoder, args)


if __name__ == '__main__':
    sys.exit(main())
