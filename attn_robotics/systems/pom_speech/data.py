"""Synthetic command speech, with its text: `python -m attn_robotics.systems.pom_speech.data --help`.

Sentences of the grammar are spoken by eSpeak NG voices (or by tones), put into drawn rooms, mixed with drawn noise and
turned into features. Nothing here was said by a person.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from attn_robotics.systems.pom_speech import grammar, tones, voices
from attn_robotics.systems.pom_speech.acoustics import NOISES, Sound, make_noise, play_faster, reverberate, rms
from attn_robotics.systems.pom_speech.processor import BANDS, SAMPLE_RATE, log_mel, to_tokens
from attn_robotics.training.checkpoint import write_atomically

FORMAT = 1
SHARD = 256  # utterances
LONGEST_PAUSE_S = 10.0
# Log-mel values as bytes: 0.1 is a step of 0.43 dB.
LOW, STEP = -13.9, 0.1


@dataclass(frozen=True)
class Recipe:
    """What a set is made of.

    Attributes:
        voice: 'espeak' or 'tones'.
        held_out_sentences: sentences that training leaves out, instead of those it uses.
        held_out_voices: voices that training leaves out, instead of those it uses.
        accents, variants: use the first so many of the training voices alone; 0 uses all.
        snr_db: of the noise; None draws: none for a third, else `low_snr_db` to 30 dB.
        low_snr_db: least of the drawn ones.
        reverberation: share of utterances in a room of 0.15 to 0.6 s.
        pairs: share of utterances that are two sentences with a pause.
        pauses: share of utterances with a long pause, up to 10 s, before the first word. In most of those, whatever
            noise there is begins or grows shortly before the words, as in a stream whose background changes.
        hiss: share of utterances with faint noise throughout, -85 to -45 dB of full scale, as microphones have.
        warp: fastest or slowest playing, drawn for each utterance: 0.1 is from 10 % slower and lower to 10 % faster and
            higher.
    """

    voice: str = 'espeak'
    held_out_sentences: bool = False
    held_out_voices: bool = False
    accents: int = 0
    variants: int = 0
    snr_db: float | None = None
    low_snr_db: float = 0.0
    reverberation: float = 0.4
    pairs: float = 0.2
    pauses: float = 0.0
    hiss: float = 0.0
    warp: float = 0.0


@cache
def _espeak() -> voices.Espeak:
    return voices.Espeak()


def make_utterance(recipe: Recipe, rng: np.random.Generator) -> tuple[NDArray[np.float32], str]:
    """(n,) samples at 16 kHz from -1 to 1, and their text."""
    speaker = voices.draw_speaker(
        rng, held_out=recipe.held_out_voices, accents=recipe.accents, variants=recipe.variants
    )
    before = rng.uniform(0.1, 0.8)
    has_pause = recipe.pauses > 0.0 and rng.random() < recipe.pauses
    if has_pause:
        before = np.exp(rng.uniform(np.log(0.5), np.log(LONGEST_PAUSE_S)))
    speed = rng.uniform(1.0 - recipe.warp, 1.0 + recipe.warp) if recipe.warp else 1.0
    texts, parts = [], [np.zeros(int(before * SAMPLE_RATE))]
    for index in range(2 if rng.random() < recipe.pairs else 1):
        if index:
            parts.append(np.zeros(int(rng.uniform(0.4, 1.2) * SAMPLE_RATE)))
        texts.append(grammar.draw(rng, held_out=recipe.held_out_sentences))
        said = tones.speak(texts[-1], rng) if recipe.voice == 'tones' else _espeak().speak(texts[-1], speaker)
        if recipe.warp:
            said = play_faster(said, speed)
        parts.append(said * (10.0 ** (rng.uniform(-35.0, -15.0) / 20) / rms(said)))
    level = rms(parts[1])
    parts.append(np.zeros(int(rng.uniform(0.5, 0.8) * SAMPLE_RATE)))
    sound: Sound = np.concatenate(parts)
    if rng.random() < recipe.reverberation:
        sound = reverberate(sound, rng, rng.uniform(0.15, 0.6), rng.uniform(0.0, 12.0))[: len(sound)]
    snr_db = recipe.snr_db
    if snr_db is None:
        snr_db = rng.uniform(recipe.low_snr_db, 30.0) if rng.random() < 0.67 else np.inf
    if np.isfinite(snr_db):
        noise = make_noise(NOISES[rng.integers(len(NOISES))], len(sound), rng)
        if has_pause and rng.random() < 0.7:
            noise[: int(rng.uniform(0.0, before) * SAMPLE_RATE)] *= 10.0 ** (-rng.uniform(0.0, 60.0) / 20)
        sound = sound + noise * level * 10.0 ** (-snr_db / 20)
    if recipe.hiss > 0.0 and rng.random() < recipe.hiss:
        hiss = make_noise(('white', 'pink')[rng.integers(2)], len(sound), rng)
        sound = sound + hiss * 10.0 ** (rng.uniform(-85.0, -45.0) / 20)
    samples: NDArray[np.float32] = np.clip(sound, -1.0, 1.0).astype(np.float32)
    return samples, ' '.join(texts)


def to_bytes(features: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Log-mel values as bytes."""
    rounded: NDArray[np.uint8] = np.clip(np.rint((features - LOW) / STEP), 0, 255).astype(np.uint8)
    return rounded


def from_bytes(values: Any) -> Any:
    """Bytes (numpy or torch) as log-mel values in float32."""
    return (values.astype(np.float32) if isinstance(values, np.ndarray) else values.float()) * STEP + LOW


def _make_shard(folder: Path, recipe: Recipe, seed: int, index: int, count: int) -> None:
    rng = np.random.default_rng([seed, index])
    tokens, texts = [], []
    for _ in range(count):
        samples, text = make_utterance(recipe, rng)
        tokens.append(to_bytes(to_tokens(log_mel(samples))))
        texts.append(text)
    np.save(folder / f'{index:04d}.npy', np.concatenate(tokens))
    write_atomically(folder / f'{index:04d}.json', json.dumps({'lengths': [len(t) for t in tokens], 'texts': texts}))


def make_corpus(folder: Path, recipe: Recipe, count: int, seed: int, workers: int = 1) -> None:
    """Make a set of utterances; what is there already, of the same recipe and seed, is kept.

    Raises:
        ValueError: the folder holds another set.
        RuntimeError: the voices are not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = {'format': FORMAT, 'recipe': asdict(recipe), 'seed': seed, 'count': count}
    path = folder / 'corpus.json'
    if path.exists() and json.loads(path.read_text()) != about:
        raise ValueError(f'{folder} holds another set: {path.read_text()}; remove it or choose another folder')
    if recipe.voice == 'espeak':
        _espeak()  # a missing library is reported once, here
    todo = [
        (index, min(SHARD, count - index * SHARD))
        for index in range(-(-count // SHARD))
        if not (folder / f'{index:04d}.json').exists()
    ]
    make = partial(_make_shard, folder, recipe, seed)
    if workers > 1 and len(todo) > 1:
        with ProcessPoolExecutor(workers, get_context('spawn')) as pool:
            list(tqdm(pool.map(make, *zip(*todo, strict=True)), total=len(todo), desc=folder.name, unit='shard'))
    else:
        for index, size in tqdm(todo, desc=folder.name, unit='shard', disable=len(todo) < 2):
            make(index, size)
    write_atomically(path, json.dumps(about))


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a whole set."""
    return (folder / 'corpus.json').exists()


class Corpus:
    """One or several sets of utterances in memory.

    Args:
        folders: made by `make_corpus`.

    Attributes:
        about: what the sets were made of; their seeds and their count where there are several.
        parts: (M, 4, 80) uint8 of each set, its utterances one after the other.
        starts: (U,) first token of each utterance, counted over all sets.
        lengths: (U,) tokens of each.
        texts: U texts.
    """

    def __init__(self, *folders: Path) -> None:
        self._sets: list[dict[str, Any]] = []
        self.parts: list[NDArray[np.uint8]] = []
        self.lengths = np.zeros(0, np.int64)
        self.texts: list[str] = []
        self.add(*folders)

    def add(self, *folders: Path) -> None:
        """Take further sets in; utterances that are there keep their places.

        Raises:
            FileNotFoundError: one is not finished.
        """
        for folder in folders:
            if not is_finished(folder):
                raise FileNotFoundError(f'{folder} holds no finished set; make it with pom_speech.data --out {folder}')
            self._sets.append(json.loads((folder / 'corpus.json').read_text()))
            shards = sorted(folder.glob('[0-9]*.json'))
            facts = [json.loads(path.read_text()) for path in shards]
            loaded = [np.load(path.with_suffix('.npy'), allow_pickle=False) for path in shards]
            self.parts.append(np.concatenate(loaded))
            self.lengths = np.concatenate([self.lengths, *(fact['lengths'] for fact in facts)])
            self.texts += [text for fact in facts for text in fact['texts']]
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.about = self._sets[0]
        if len(self._sets) > 1:
            count = sum(one['count'] for one in self._sets)
            self.about = self._sets[0] | {'seed': [one['seed'] for one in self._sets], 'count': count}

    @property
    def tokens(self) -> NDArray[np.uint8]:
        """(M, 4, 80): all parts in one array; a copy where there are several."""
        return self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts)

    def __len__(self) -> int:
        return len(self.lengths)

    def features(self, index: int) -> NDArray[np.float32]:
        """(N, 4, 80) log-mel tokens of one utterance."""
        tokens, start = self.tokens, self.starts[index]
        found: NDArray[np.float32] = from_bytes(tokens[start : start + self.lengths[index]])
        return found

    def statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of each band: (80,) each."""
        tokens = self.tokens
        frames = from_bytes(tokens[:: max(1, len(tokens) // 20_000)]).reshape(-1, BANDS)
        return frames.mean(0), frames.std(0)

    def batches(self, size: int, rng: np.random.Generator, span: int = 40) -> Iterator[NDArray[np.int64]]:
        """Indices of batches without end; each holds utterances of similar length."""
        while True:
            order = rng.permutation(len(self))
            groups = []
            for start in range(0, len(order), size * span):
                part = order[start : start + size * span]
                part = part[np.argsort(self.lengths[part], kind='stable')]
                groups += [part[at : at + size] for at in range(0, len(part), size)]
            yield from (groups[index] for index in rng.permutation(len(groups)) if len(groups[index]) == size)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='folder to fill')
    parser.add_argument('--count', type=int, default=20_000, help='utterances')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--workers', type=int, default=2, help='processes')
    parser.add_argument('--voice', choices=('espeak', 'tones'), default='espeak')
    parser.add_argument('--held-out-sentences', action='store_true', help='sentences that training leaves out')
    parser.add_argument('--held-out-voices', action='store_true', help='voices that training leaves out')
    parser.add_argument('--snr-db', type=float, help='of the noise; inf for none; drawn when left out')
    parser.add_argument('--low-snr-db', type=float, default=0.0, help='least of the drawn ones')
    parser.add_argument('--accents', type=int, default=0, help='use the first so many training accents; 0 uses all')
    parser.add_argument('--variants', type=int, default=0, help='use the first so many training variants; 0 uses all')
    parser.add_argument('--reverberation', type=float, default=0.4, help='share of utterances in a room')
    parser.add_argument('--pairs', type=float, default=0.2, help='share of utterances with two sentences')
    parser.add_argument('--pauses', type=float, default=0.0, help='share of utterances with a long pause before them')
    parser.add_argument('--hiss', type=float, default=0.0, help='share of utterances with faint noise throughout')
    parser.add_argument('--warp', type=float, default=0.0, help='played so much faster or slower at most, such as 0.1')
    options = parser.parse_args(arguments)
    recipe = Recipe(
        voice=options.voice,
        held_out_sentences=options.held_out_sentences,
        held_out_voices=options.held_out_voices,
        accents=options.accents,
        variants=options.variants,
        snr_db=options.snr_db,
        low_snr_db=options.low_snr_db,
        reverberation=options.reverberation,
        pairs=options.pairs,
        pauses=options.pauses,
        hiss=options.hiss,
        warp=options.warp,
    )
    try:
        make_corpus(options.out, recipe, options.count, options.seed, options.workers)
    except (RuntimeError, ValueError) as error:
        parser.error(str(error))
    print(f'{options.out}: {options.count} utterances')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
