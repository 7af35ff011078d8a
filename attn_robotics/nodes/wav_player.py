"""Play a WAV file as audio blocks, as a microphone's driver would, to try whatever listens to audio."""

from __future__ import annotations

import sys
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from std_msgs.msg import Header

from attn_robotics.conversions.audio import to_audio_block
from attn_robotics.paths import find_config
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import AttnNode, ConfigurationError, run_node
from attn_robotics.ros.parameters import param
from attn_robotics_interfaces.msg import AudioBlock

LARGEST_BYTES = 256 << 20


@dataclass(frozen=True)
class WavPlayerParams:
    """Tunables of the player."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    wav: str = param(
        'audio/commands.wav', 'WAV file with 16-bit samples: a path, or a name below config/.', read_only=True
    )
    frame_id: str = param('microphone', 'Frame of the messages.', read_only=True)
    block_s: float = param(0.032, 'Length of a block [s].', low=0.005, high=1.0, read_only=True)
    silence_s: float = param(1.5, 'Silence after the file [s].', low=0.0, high=60.0, read_only=True)
    loop: bool = param(False, 'Play again and again.')
    wait: bool = param(True, 'Begin once somebody listens.', read_only=True)
    exit_when_done: bool = param(True, 'End the process after the file.')


class WavPlayer(AttnNode):
    """The `wav_player` node."""

    NAME = 'wav_player'
    Params = WavPlayerParams
    params: WavPlayerParams

    def configure(self) -> None:
        """Read the file."""
        p = self.params
        path = find_config(p.wav)
        self._samples, self._rate = read_wav(path)
        size = max(1, round(p.block_s * self._rate))
        count = len(self._samples) + round(p.silence_s * self._rate)
        whole = -(-count // size) * size
        self._samples = np.pad(self._samples, ((0, whole - len(self._samples)), (0, 0)))
        self._size, self._at, self._sequence = size, 0, 0
        self._blocks = self.create_publisher(AudioBlock, 'audio', qos.MESSAGES)
        self._timer = self.create_timer(size / self._rate, self._tick, autostart=False)
        self._is_waiting = p.wait
        self.get_logger().info(f'{path}: {count / self._rate:.1f} s at {self._rate} Hz')

    def activate(self) -> None:
        """Play from the beginning."""
        self._at = 0
        self._timer.reset()

    def deactivate(self) -> None:
        """Fall silent."""
        self._timer.cancel()

    def release(self) -> None:
        """Forget the file."""
        if hasattr(self, '_timer'):
            self.destroy_timer(self._timer)
            self.destroy_publisher(self._blocks)
            del self._timer, self._blocks, self._samples

    def _tick(self) -> None:
        if self._is_waiting and not self._blocks.get_subscription_count():
            return
        self._is_waiting = False
        block = self._samples[self._at : self._at + self._size]
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self.params.frame_id)
        self._blocks.publish(to_audio_block(block, header, self._sequence, self._rate))
        self._sequence += 1
        self._at += self._size
        if self._at < len(self._samples):
            return
        self._at = 0
        if not self.params.loop:
            self._timer.cancel()
            self.get_logger().info('played to the end')
            self.is_done = self.params.exit_when_done


def read_wav(path: Path) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], int]:
    """Samples (frames, channels) from -1 to 1 and rate [Hz] of a WAV file.

    Raises:
        ConfigurationError: no WAV file, too large, or not of 16 bits.
    """
    try:
        with wave.open(str(path), 'rb') as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            if file.getnframes() * width * channels > LARGEST_BYTES:
                raise ConfigurationError(f"parameter 'wav': {path} is larger than {LARGEST_BYTES >> 20} MiB")
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ConfigurationError(f"parameter 'wav': {path} is no WAV file: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"parameter 'wav': can not read {path}: {error.strerror}") from error
    if width != 2 or not content:
        raise ConfigurationError(f"parameter 'wav': {path} must hold 16-bit samples, it has {8 * width} bits")
    return np.frombuffer(content, '<i2').reshape(-1, channels).astype(np.float32) / 32768.0, rate


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(WavPlayer, args)


if __name__ == '__main__':
    sys.exit(main())
