"""Make the sample that ships (synthetic): `python -m attn_robotics.systems.pom_speech.sample --help`."""

from __future__ import annotations

import argparse
import json
import wave
from pathlib import Path

import numpy as np

from attn_robotics.systems.pom_speech import grammar, voices
from attn_robotics.systems.pom_speech.acoustics import Sound
from attn_robotics.systems.pom_speech.processor import SAMPLE_RATE
from attn_robotics.training.checkpoint import write_atomically

PAUSE_S = 1.3


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('config/audio/commands.wav'), help='WAV file to write')
    parser.add_argument('--count', type=int, default=4, help='sentences, of those that training leaves out')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--accents', type=int, default=2, help='of the training voices, the first so many')
    parser.add_argument('--variants', type=int, default=12, help='the same')
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    espeak = voices.Espeak()
    sentences, speakers = [], []
    parts: list[Sound] = [np.zeros(int(0.4 * SAMPLE_RATE))]
    for _ in range(options.count):
        sentences.append(grammar.draw(rng, held_out=True))
        speakers.append(voices.draw_speaker(rng, held_out=False, accents=options.accents, variants=options.variants))
        said = espeak.speak(sentences[-1], speakers[-1])
        parts += [0.5 * said, np.zeros(int(PAUSE_S * SAMPLE_RATE))]
    sound = np.concatenate(parts) + 1e-3 * rng.standard_normal(sum(map(len, parts)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(options.out), 'wb') as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, 'NONE', ''))
        file.writeframes(np.clip(np.rint(sound * 32767), -32768, 32767).astype('<i2').tobytes())
    about = {
        'made_by': 'eSpeak NG, synthetic; no person spoke',
        'seed': options.seed,
        'sentences': sentences,
        'voices': [speaker.voice for speaker in speakers],
    }
    write_atomically(options.out.with_suffix('.json'), json.dumps(about, indent=1) + '\n')
    print(f'{options.out}: {len(sound) / SAMPLE_RATE:.1f} s: ' + '; '.join(sentences))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
