"""Measure the shipped encoder: `python -m attn_robotics.systems.pom_speech.evaluate --help`.

Error rates on synthetic speech that training never heard (needs eSpeak NG), ten-minute streams, streaming against
offline, and how time and memory grow.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from attn_robotics.attention.polynomial import PolynomialMixer
from attn_robotics.systems.pom_speech.acoustics import NOISES, make_noise
from attn_robotics.systems.pom_speech.data import Corpus, Recipe, make_corpus, make_utterance
from attn_robotics.systems.pom_speech.model import SpeechEncoder
from attn_robotics.systems.pom_speech.processor import SAMPLE_RATE, TOKEN_S
from attn_robotics.systems.pom_speech.recogniser import Ask, SpeechStream, local_model
from attn_robotics.systems.pom_speech.scaling import scaling_rows
from attn_robotics.systems.pom_speech.scores import bootstrap_interval, edit_distance, error_rates
from attn_robotics.systems.pom_speech.train import Feed, transcribe
from attn_robotics.systems.pom_speech.weights_file import DEFAULT_WEIGHTS, read_weights
from attn_robotics.training.results import Row, show, write_results

PARTS = ('errors', 'stream', 'scaling')
BLOCK = 8  # tokens, 320 ms
PAUSE_S, LONG_PAUSE_S = (0.5, 3.0), (5.0, 20.0)  # between the commands of a stream
NOISE_DB = -40.0  # of full scale, of noise alone
NOISE: Mapping[str, float] = {'clean': np.inf, '20dB': 20.0, '10dB': 10.0, '5dB': 5.0, '0dB': 0.0}
SETS: Mapping[str, Mapping[str, bool]] = {
    'new_sentences': {'held_out_sentences': True},
    'new_voices': {'held_out_voices': True},
    'new_both': {'held_out_sentences': True, 'held_out_voices': True},
}


def error_rows(
    network: SpeechEncoder, card: Mapping[str, Any], count: int, seed: int, folder: Path, voice: str
) -> list[Row]:
    """CER and WER by what is new and by noise, whole utterances and 320 ms blocks; known voices are the card's."""
    rows = []
    rng = np.random.default_rng(seed)
    trained = card.get('corpus', {}).get('recipe', {})
    accents, variants = int(trained.get('accents', 0)), int(trained.get('variants', 0))
    for name, held_out in SETS.items():
        for noise, snr_db in NOISE.items():
            if name != 'new_both' and noise not in ('clean', '10dB'):
                continue
            recipe = Recipe(voice=voice, snr_db=snr_db, pairs=0.0, accents=accents, variants=variants, **held_out)
            where = folder / f'{name}_{noise}'
            make_corpus(where, recipe, count, seed)
            corpus = Corpus(where)
            for method, block in (('offline', None), ('blocks_320ms', BLOCK)):
                heard = transcribe(network, Feed(corpus, torch.device('cpu')), block)
                rates = error_rates(corpus.texts, heard)
                intervals = bootstrap_interval(corpus.texts, heard, rng)
                for metric, value, ci95 in zip(('cer', 'wer'), rates, intervals, strict=True):
                    rows.append(Row(f'{metric}/{method}/{name}/{noise}', value, '', count, ci95))
                    print(show(rows[-1:]), flush=True)
    return rows


def stream_rows(network: SpeechEncoder, minutes: float, seed: int, voice: str) -> list[Row]:
    """Long streams: commands with pauses, with long pauses, and noise alone; the cost early and late; equality."""
    sound, said = make_stream(minutes, np.random.default_rng(seed), voice, PAUSE_S)
    times: list[float] = []
    model = local_model(network)

    def ask(features: Any, reset: bool) -> Any:
        start = time.perf_counter()
        answers = model(features, reset)
        times.append(time.perf_counter() - start)
        return answers

    finals, held = listen(ask, sound)
    minute = round(60.0 / (BLOCK * TOKEN_S))
    early, late = np.median(times[:minute]) * 1e3, np.median(times[-minute:]) * 1e3
    early_rows = held[len(held) // 10]
    rows = [
        *_stream_errors('stream', said, finals),
        Row('stream_minutes', len(sound) / SAMPLE_RATE / 60.0, 'min'),
        Row('step_time/stream/first_minute', early, 'ms', minute),
        Row('step_time/stream/last_minute', late, 'ms', minute),
        Row('memory_growth/stream', (held[-1] - early_rows) / 1024, 'MiB'),
        *equality_rows(network, np.random.default_rng(seed)),
        *step_rows(),
    ]
    sound, said = make_stream(minutes, np.random.default_rng(seed), voice, LONG_PAUSE_S)
    rows += _stream_errors('stream_long_pauses', said, listen(model, sound)[0])
    for kind in NOISES:
        noise = 10.0 ** (NOISE_DB / 20) * make_noise(
            kind, int(60.0 * minutes * SAMPLE_RATE), np.random.default_rng(seed)
        )
        rows.append(Row(f'utterances/noise_alone/{kind}', len(listen(model, noise)[0]), '', round(60.0 * minutes)))
    return rows + delay_rows(network, max(2, round(6 * minutes)), seed, voice)


def delay_rows(network: SpeechEncoder, count: int, seed: int, voice: str) -> list[Row]:
    """Seconds from the first sound to the first letter and from the last sound to the final text, waiting included."""
    recipe = Recipe(voice=voice, held_out_sentences=True, held_out_voices=True, snr_db=np.inf, reverberation=0, pairs=0)
    rng = np.random.default_rng(seed)
    delays: dict[str, list[float]] = {'first_letter': [], 'final_text': []}
    for _ in range(count):
        samples = np.concatenate([make_utterance(recipe, rng)[0], np.zeros(2 * SAMPLE_RATE)])
        loud = np.flatnonzero(samples)
        samples += 1e-3 * rng.standard_normal(len(samples))
        stream = SpeechStream(local_model(network), block_tokens=BLOCK)
        shown, ended = np.nan, np.nan
        for end in range(512, len(samples) + 1, 512):
            for heard in stream.push(samples[end - 512 : end]):
                if heard.text and not shown > 0.0:
                    shown = (end - loud[0]) / SAMPLE_RATE
                if heard.is_final:
                    ended = (end - loud[-1]) / SAMPLE_RATE
        delays['first_letter'].append(shown)
        delays['final_text'].append(ended)
    rows = []
    for name, values in delays.items():
        found = [value for value in values if np.isfinite(value)]
        p50, p90 = np.percentile(found, [50, 90]) if found else (np.nan, np.nan)
        rows.append(Row(f'delay/{name}/new_both/clean', float(p50), 's', len(found), reference={'p90': float(p90)}))
    return rows


def make_stream(
    minutes: float, rng: np.random.Generator, voice: str, pause_s: tuple[float, float]
) -> tuple[NDArray[np.float32], list[str]]:
    """Commands at 20 dB, new sentences and voices, with pauses of faint noise: samples, and what was said."""
    recipe = Recipe(voice=voice, held_out_sentences=True, held_out_voices=True, snr_db=20.0, reverberation=0.0, pairs=0)
    said, parts, seconds = [], [], 0.0
    while seconds < 60.0 * minutes:
        samples, text = make_utterance(recipe, rng)
        said.append(text)
        parts += [samples, 1e-3 * rng.standard_normal(int(rng.uniform(*pause_s) * SAMPLE_RATE)).astype(np.float32)]
        seconds += (len(parts[-2]) + len(parts[-1])) / SAMPLE_RATE
    return np.concatenate(parts), said


def listen(ask: Ask, sound: NDArray[np.floating[Any]]) -> tuple[list[str], list[int]]:
    """The utterances of a sound that comes in blocks of 32 ms, and the memory held after each block [KiB]."""
    stream = SpeechStream(ask, block_tokens=BLOCK)
    finals: list[str] = []
    held = []
    for start in tqdm(range(0, len(sound), 512), desc='stream', unit='block'):
        finals += [heard.text for heard in stream.push(sound[start : start + 512]) if heard.is_final]
        held.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return finals, held


def _stream_errors(name: str, said: list[str], finals: list[str]) -> list[Row]:
    wer = error_rates([' '.join(said)], [' '.join(finals)])[1]
    return [
        Row(f'wer/{name}/new_both/20dB', wer, '', len(said)),
        # Utterances that are wrong, missing or too many, over those that were said.
        Row(f'utterance_errors/{name}/new_both/20dB', edit_distance(said, finals) / len(said), '', len(said)),
        Row(f'utterances/{name}', len(finals), '', reference={'said': len(said)}),
    ]


@torch.inference_mode()
def equality_rows(network: SpeechEncoder, rng: np.random.Generator) -> list[Row]:
    """Largest difference between blocks one by one and all blocks in one call, within the state's memory."""
    features = torch.from_numpy(rng.normal(-4.0, 4.0, (1, 240, 4, 80)).astype(np.float32))
    rows = []
    for kind in (torch.float32, torch.float64):
        model, x = deepcopy(network).to(kind), features.to(kind)
        whole = model.log_probs(x, block=BLOCK)
        state, parts = {name: tensor.to(kind) for name, tensor in model.open_state(1).items()}, []
        for at in range(0, 240, BLOCK):
            answers = model(x[:, at : at + BLOCK], **state)
            state = {name: answers[name] for name in state}
            parts.append(answers['log_probs'])
        name, streamed = str(kind).removeprefix('torch.'), torch.cat(parts, 1)
        for what, one, other in (
            ('log_probs', streamed, whole),
            ('probabilities', streamed.exp(), whole.exp()),
        ):
            value = float((one - other).abs().max())
            rows.append(Row(f'difference/blocks_320ms-offline/{what}/{name}', value, '', 240, target=1e-5, below=True))
    return rows


@torch.inference_mode()
def step_rows() -> list[Row]:
    """Eight tokens through twelve mixers of several widths, on the CPU."""
    rows = []
    for width in (128, 256, 488):
        mixers = nn.ModuleList([PolynomialMixer(width) for _ in range(12)]).eval()
        states = [mixer.open_state(1) for mixer in mixers]  # type: ignore[operator, union-attr]
        x = torch.randn(1, BLOCK, width)
        times = []
        for _ in range(60):
            start = time.perf_counter()
            for index, mixer in enumerate(mixers):
                x, states[index] = mixer(x, state=states[index])
            times.append(time.perf_counter() - start)
        value = 1e3 * float(np.median(times[10:]))
        rows.append(Row(f'step_time/12_mixers_8_tokens/{width}', value, 'ms', 50, target=5.0, below=True))
    return rows


def draw_errors(rows: Sequence[Row], path: Path) -> None:
    """Word error rates against noise."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.4), layout='constrained')
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for method in ('offline', 'blocks_320ms'):
        for metric, style in (('wer', 'o-'), ('cer', 's--')):
            found = {row.name: row for row in rows}
            picked = [found.get(f'{metric}/{method}/new_both/{noise}') for noise in NOISE]
            shown = [(index, row) for index, row in enumerate(picked) if row is not None]
            spread = np.array([[row.value - row.ci95[0], row.ci95[1] - row.value] for _, row in shown if row.ci95]).T
            panel.errorbar(
                [i for i, _ in shown], [row.value for _, row in shown], spread, fmt=style, capsize=3, markersize=4,
                label=f'{metric.upper()} {method}',
            )  # fmt: skip
    panel.set_xticks(range(len(NOISE)), list(NOISE))
    panel.set_xlabel('noise')
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    panel.set_title('synthetic speech, new sentences and new voices', fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    figure.savefig(partial, format='png', dpi=110)
    partial.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS))
    parser.add_argument('--weights', type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument('--count', type=int, default=300, help='utterances of each test set')
    parser.add_argument('--sets', type=Path, help='folder to keep the test sets in; they are made once')
    parser.add_argument('--minutes', type=float, default=10.0, help='length of a stream')
    parser.add_argument('--seed', type=int, default=1000)
    parser.add_argument('--voice', choices=('espeak', 'tones'), default='espeak')
    parser.add_argument('--devices', nargs='+', default=['cpu', *(['cuda'] if torch.cuda.is_available() else [])])
    parser.add_argument('--threads', type=int, default=2, help='of torch on the CPU')
    parser.add_argument('--json', type=Path, help='where the rows go; pictures go beside it')
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    network: SpeechEncoder | None = None
    card: Mapping[str, Any] = {}
    if options.parts != ['scaling']:
        network, card = read_weights(options.weights)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        if network is not None and 'errors' in options.parts:
            rows += error_rows(network, card, options.count, options.seed, options.sets or Path(folder), options.voice)
            if options.json:
                draw_errors(rows, options.json.with_suffix('.png'))
    for part, measured in (
        ('stream', lambda: stream_rows(network, options.minutes, options.seed, options.voice) if network else []),
        *((f'scaling {name}', _scaling(name, options.json)) for name in options.devices),
    ):
        if part.split()[0] in options.parts:
            fresh = measured()
            print(show(fresh), flush=True)
            rows += fresh
    if options.json:
        gpu = torch.cuda.get_device_name() if 'cuda' in options.devices else None
        command = f'python -m attn_robotics.systems.pom_speech.evaluate --parts {" ".join(options.parts)}'
        write_results(
            options.json, rows, command, [options.seed], threads=options.threads, gpu=gpu, torch=torch.__version__
        )
    return 0


def _scaling(name: str, path: Path | None) -> Any:
    picture = path.with_name(f'{path.stem}_scaling_{name}.png') if path else None
    return lambda: scaling_rows(torch.device(name), picture=picture)


if __name__ == '__main__':
    raise SystemExit(main())
