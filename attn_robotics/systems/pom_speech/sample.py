"""Make the sample that ships (synthetic): `python -m attn_robotics.systems.pom_speech.sample --help`."""

from __future__ import annotations

import argparse
import json
import wave
from pathlib import Path

import numpy as np

from attn_robotics.systems.pom_speech import grammar, voices
from attn_robotics.systems.pom_speech.acoustics import Sound
from attn_robotics.systems.pom_speech.model import SpeechEncoder
from attn_robotics.systems.pom_speech.processor import SAMPLE_RATE
from attn_robotics.systems.pom_speech.recogniser import SpeechStream, local_model
from attn_robotics.systems.pom_speech.weights_file import read_weights
from attn_robotics.training.checkpoint import write_atomically

PAUSE_S = 1.6  # ends an utterance wherever a block begins: the last letter comes up to 0.5 s late, then 0.6 s, a block
NOISE = 1e-3
SHIFTS = (0, 1280, 2560, 3840)  # samples


def pause(seconds: float, rng: np.random.Generator) -> Sound:
    """Faint noise."""
    return NOISE * rng.standard_normal(int(seconds * SAMPLE_RATE))


def hear(network: SpeechEncoder, sound: Sound) -> list[str]:
    """The utterances of a sound, streamed."""
    return [heard.text for heard in SpeechStream(local_model(network)).push(sound) if heard.is_final]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('config/audio/commands.wav'), help='WAV file to write')
    parser.add_argument('--count', type=int, default=4, help='sentences, of those that training leaves out')
    parser.add_argument('--understood', action='store_true', help='keep only sentences that the weights understand')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--accents', type=int, default=2, help='of the training voices, the first so many')
    parser.add_argument('--variants', type=int, default=12, help='the same')
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    espeak = voices.Espeak()
    network = read_weights()[0] if options.understood else None
    sentences: list[str] = []
    speakers = []
    parts: list[Sound] = [pause(0.4, rng)]
    drawn = 0
    while len(sentences) < options.count:
        drawn += 1
        sentence = grammar.draw(rng, held_out=True)
        speaker = voices.draw_speaker(rng, held_out=False, accents=options.accents, variants=options.variants)
        said = 0.5 * espeak.speak(sentence, speaker)
        fresh = [said + NOISE * rng.standard_normal(len(said)), pause(PAUSE_S, rng)]
        if network is not None:
            # Wherever the model's blocks begin; alone, after a pause: there the stream begins anew anyway.
            sound = np.concatenate([parts[-1], *fresh])
            if sentence in sentences or any(hear(network, sound[shift:]) != [sentence] for shift in SHIFTS):
                continue
        sentences.append(sentence)
        speakers.append(speaker)
        parts += fresh
    sound = np.concatenate(parts)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(options.out), 'wb') as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, 'NONE', ''))
        file.writeframes(np.clip(np.rint(sound * 32767), -32768, 32767).astype('<i2').tobytes())
    about = {
        'made_by': 'eSpeak NG, synthetic; no person spoke',
        'seed': options.seed,
        'chosen': f'{options.count} of {drawn} drawn: different ones that the shipped weights understand'
        if network
        else 'as drawn',
        'sentences': sentences,
        'voices': [speaker.voice for speaker in speakers],
    }
    write_atomically(options.out.with_suffix('.json'), json.dumps(about, indent=1) + '\n')
    print(f'{options.out}: {len(sound) / SAMPLE_RATE:.1f} s: ' + '; '.join(sentences))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
