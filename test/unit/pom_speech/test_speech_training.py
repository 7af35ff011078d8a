"""Synthetic speech, training that can be interrupted, and what the comparison of mixers rests on."""

import argparse
import dataclasses
import json
import time

import numpy as np
import pytest
import torch

from attn_robotics.systems.pom_speech import grammar
from attn_robotics.systems.pom_speech.acoustics import NOISES, play_faster
from attn_robotics.systems.pom_speech.data import Corpus, Recipe, from_bytes, make_corpus, make_utterance, to_bytes
from attn_robotics.systems.pom_speech.data import main as make_data
from attn_robotics.systems.pom_speech.evaluate import main as evaluate
from attn_robotics.systems.pom_speech.graphed import BLOCKS, block_of
from attn_robotics.systems.pom_speech.model import SpeechEncoder
from attn_robotics.systems.pom_speech.pretrain import Quantizer, draw_tokens, masked_loss
from attn_robotics.systems.pom_speech.pretrain import main as pretrain
from attn_robotics.systems.pom_speech.probes import TASKS, Probe
from attn_robotics.systems.pom_speech.processor import log_mel, to_tokens
from attn_robotics.systems.pom_speech.study import (
    METHODS,
    REFERENCE,
    Study,
    fresh_rows,
    matched,
    plan_steps,
    size_of,
    summarise,
)
from attn_robotics.systems.pom_speech.train import (
    Average,
    Feed,
    draw_mask,
    loss_of,
    make_update,
    prepare,
    quieten,
    transcribe,
)
from attn_robotics.systems.pom_speech.train import main as train
from attn_robotics.systems.pom_speech.weights_file import main as write_shipped
from attn_robotics.systems.pom_speech.weights_file import read_weights, ship
from attn_robotics.training.checkpoint import read_extra, read_facts, read_network

TONES = Recipe(voice='tones', snr_db=20.0, reverberation=0.5)
TINY = dataclasses.replace(REFERENCE, width=16, layers=1, feed_forward=16, channels=4, dropout=0.0)


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tones')
    make_corpus(folder, TONES, 24, seed=1)
    return folder


def test_a_corpus_is_the_same_for_the_same_seed_and_keeps_what_is_there(corpus, tmp_path):
    make_corpus(tmp_path, TONES, 24, seed=1)
    one, other = Corpus(corpus), Corpus(tmp_path)
    assert one.texts == other.texts and np.array_equal(one.tokens, other.tokens)
    assert not any(grammar.is_held_out(text) for text in one.texts)
    with pytest.raises(ValueError, match='holds another set'):
        make_corpus(tmp_path, TONES, 24, seed=2)


def test_bytes_keep_features_to_half_a_step():
    features = to_tokens(log_mel(make_utterance(TONES, np.random.default_rng(0))[0]))
    np.testing.assert_allclose(from_bytes(to_bytes(features)), features, atol=0.0501)


def test_sets_that_join_leave_what_is_there_in_its_place(corpus, tmp_path):
    make_corpus(tmp_path, TONES, 8, seed=2)
    feed = Feed(Corpus(corpus), torch.device('cpu'))
    picked = np.array([3, 17])
    before = feed.batch(picked)[0], feed.targets(picked)[0]
    feed.add(tmp_path)
    together, alone = Corpus(corpus, tmp_path), Corpus(tmp_path)
    assert feed.corpus.texts == together.texts and np.array_equal(feed.corpus.tokens, together.tokens)
    assert feed.corpus.about == together.about and together.about['count'] == 32
    torch.testing.assert_close((feed.batch(picked)[0], feed.targets(picked)[0]), before)
    np.testing.assert_array_equal(feed.batch(np.array([24 + 5]))[0][0].numpy(), alone.features(5))
    np.testing.assert_array_equal(feed.corpus.features(24 + 5), alone.features(5))


def test_pauses_come_before_the_words_and_hiss_fills_them():
    quiet = dataclasses.replace(TONES, snr_db=np.inf, reverberation=0.0, pairs=0.0)

    def silences(recipe):
        found = []
        for seed in range(30):
            samples, _ = make_utterance(recipe, np.random.default_rng(seed))
            found.append(np.flatnonzero(np.abs(samples) > 1e-2)[0] / 16_000)
        return np.array(found)

    short, long = silences(quiet), silences(dataclasses.replace(quiet, pauses=1.0))
    assert short.min() >= 0.1 and short.max() < 0.9
    assert long.min() >= 0.5 and 5.0 < long.max() < 10.2 and 1.0 < np.median(long) < 5.0
    hissing = dataclasses.replace(quiet, pauses=1.0, hiss=1.0)
    for seed in range(10):
        before = make_utterance(hissing, np.random.default_rng(seed))[0][:8000]
        assert 10.0 ** (-87 / 20) < np.sqrt((before**2).mean()) < 10.0 ** (-43 / 20)


def test_noise_may_begin_within_a_pause_and_is_whole_at_the_words():
    recipe = dataclasses.replace(TONES, snr_db=10.0, reverberation=0.0, pairs=0.0, pauses=1.0)
    rises = []
    for seed in range(40):
        samples, _ = make_utterance(recipe, np.random.default_rng(seed))
        first, last = (np.sqrt((part**2).mean()) for part in (samples[:1600], samples[-6400:]))
        rises.append(20 * np.log10(last / first))
    assert (np.abs(rises) < 4.0).mean() > 0.25 and (np.array(rises) > 10.0).mean() > 0.25


def test_warped_speech_is_shorter_and_higher_or_longer_and_lower():
    recipe = dataclasses.replace(TONES, snr_db=np.inf, reverberation=0.0, pairs=0.0)
    x = np.sin(2 * np.pi * 1000.0 * np.arange(16_000) / 16_000)
    fast = play_faster(x, 1.1)
    assert len(fast) == pytest.approx(16_000 / 1.1, abs=1)
    assert np.abs(np.fft.rfft(fast)).argmax() * 16_000 / len(fast) == pytest.approx(1100.0, abs=3.0)
    assert make_utterance(recipe, np.random.default_rng(0))[1]  # without: no draw more than before
    lengths = {
        len(make_utterance(dataclasses.replace(recipe, warp=w), np.random.default_rng(3))[0]) for w in (0.0, 0.1)
    }
    assert len(lengths) == 2


def test_sets_of_older_recipes_stay_as_they_were():
    samples, text = make_utterance(TONES, np.random.default_rng(5))
    assert text == 'hey robot take a picture slowly what do you see on the garage quickly'
    assert float(np.abs(samples).sum()) == pytest.approx(2907.3857, rel=1e-5)


def test_the_average_follows_the_weights_and_is_what_ships(corpus, tmp_path, monkeypatch):
    network = SpeechEncoder(TINY)
    average = Average(network, 0.5)
    start = network.head.bias.detach().clone()
    with torch.no_grad():
        network.head.bias += 1.0
    average.update(1000)
    torch.testing.assert_close(average.network.head.bias, start + 0.5)
    with torch.no_grad():
        network.head.bias += 1.0
    average.update(1000)
    torch.testing.assert_close(average.network.head.bias, start + 1.25)
    none = Average(network, 0.0)
    with torch.no_grad():
        network.head.bias += 1.0
    none.update(5)
    torch.testing.assert_close(none.network.head.bias, start + 3.0)
    monkeypatch.setattr('attn_robotics.systems.pom_speech.train.PomSpeechConfig', lambda mixer='pom': TINY)
    weights = tmp_path / 'weights.safetensors'
    train([
        '--data', str(corpus), '--validation', str(corpus), '--out', str(tmp_path), '--batch', '8', '--device', 'cpu',
        '--minutes', '0.02', '--average', '0.9', '--weights', str(weights),
    ])  # fmt: skip
    kept, plain = read_extra(tmp_path), read_network(tmp_path)[0]
    shipped = read_weights(weights)[0].state_dict()
    torch.testing.assert_close(shipped['head.weight'], kept['head.weight'], atol=2e-4, rtol=2e-3)
    assert not torch.equal(kept['head.weight'], plain['head.weight'])
    write_shipped([str(tmp_path), '--out', str(tmp_path / 'again.safetensors')])
    torch.testing.assert_close(read_weights(tmp_path / 'again.safetensors')[0].state_dict(), shipped)


def test_training_may_begin_with_streams_alone(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr('attn_robotics.systems.pom_speech.train.PomSpeechConfig', lambda mixer='pom': TINY)
    seen = []

    def watch(network, feed, picked, rng, *, whole):
        seen.append(whole)
        return loss_of(network, feed, picked, rng, whole=whole)

    monkeypatch.setattr('attn_robotics.systems.pom_speech.train.loss_of', watch)
    train([
        '--data', str(corpus), '--validation', str(corpus), '--out', str(tmp_path), '--batch', '8', '--device', 'cpu',
        '--minutes', '0.03', '--whole', '0.3', '--streams-first', '0.5',
    ])  # fmt: skip
    first = seen.index(0.3)
    assert set(seen[:first]) == {0.0} and set(seen[first:]) == {0.3} and 0.2 < first / len(seen) < 0.8


def test_batches_hold_every_utterance_once_and_similar_lengths(corpus):
    loaded = Corpus(corpus)
    batches = loaded.batches(4, np.random.default_rng(0))
    picked = np.concatenate([next(batches) for _ in range(6)])
    assert sorted(picked) == list(range(24))
    assert np.concatenate([loaded.features(i) for i in range(24)]).shape == loaded.tokens.shape


def test_missing_voices_and_unfinished_sets_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('attn_robotics.systems.pom_speech.data._espeak', lambda: (_ for _ in ()).throw(
        RuntimeError('eSpeak NG is missing')
    ))  # fmt: skip
    with pytest.raises(SystemExit):
        make_data(['--out', str(tmp_path / 'x'), '--count', '1'])
    assert 'eSpeak NG is missing' in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match='make it with'):
        Corpus(tmp_path)


def test_the_mask_hides_some_bands_and_some_tokens():
    bands, tokens = draw_mask(64, 50, np.random.default_rng(0))
    mask = bands[:, None] | tokens[:, :, None]
    assert mask.shape == (64, 50, 80) and 0.02 < mask.mean() < 0.4
    assert (mask.all(1).any(1) | mask.all(2).any(1)).mean() > 0.9


def test_updates_lower_the_loss(corpus):
    torch.manual_seed(0)
    network = SpeechEncoder(TINY)
    loaded = Corpus(corpus)
    prepare(network, loaded)
    update = make_update(network, Feed(loaded, torch.device('cpu')), np.random.default_rng(0), lambda step: 5e-3)
    batches = loaded.batches(8, np.random.default_rng(0))
    losses = [float(update(step, next(batches))) for step in range(40)]
    assert np.isfinite(losses).all() and np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])


def test_training_goes_on_where_it_ended_and_leaves_weights(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr('attn_robotics.systems.pom_speech.train.PomSpeechConfig', lambda mixer='pom': TINY)
    common = [
        *(
            '--data',
            str(corpus),
            '--validation',
            str(corpus),
            '--out',
            str(tmp_path),
            '--batch',
            '8',
            '--device',
            'cpu',
        ),
        *('--minutes', '0.01', '--weights', str(tmp_path / 'weights.safetensors')),
    ]
    train(common)
    first = json.loads((tmp_path / 'checkpoint.json').read_text())['step']
    monkeypatch.undo()
    train([*common, '--resume'])
    assert json.loads((tmp_path / 'checkpoint.json').read_text())['step'] > first > 0
    assert read_facts(tmp_path)['data']['recipe']['voice'] == 'tones'
    network, card = read_weights(tmp_path / 'weights.safetensors')
    assert network.config == TINY and card['updates'] > first
    assert (tmp_path / 'curves.png').stat().st_size > 1000


def test_sets_join_training_when_they_are_whole(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('attn_robotics.systems.pom_speech.train.PomSpeechConfig', lambda mixer='pom': TINY)
    late = tmp_path / 'late'
    seen = []

    def finish(folder):
        seen.append(folder)
        if len(seen) == 4 and not late.exists():
            make_corpus(late, TONES, 16, seed=2)
        return (folder / 'corpus.json').exists()

    monkeypatch.setattr('attn_robotics.systems.pom_speech.train.is_finished', finish)
    train([
        '--data', str(corpus), str(late), '--validation', str(corpus), '--out', str(tmp_path), '--batch', '8',
        '--device', 'cpu', '--minutes', '0.05', '--look-s', '0.2',
    ])  # fmt: skip
    assert '40 utterances from now on' in capsys.readouterr().out
    assert read_facts(tmp_path)['data']['count'] == 40 and read_facts(tmp_path)['data']['seed'] == [1, 2]


def test_a_comparison_goes_on_where_it_was_stopped(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr('attn_robotics.systems.pom_speech.study.SMALL', TINY)
    options = argparse.Namespace(
        data=corpus,
        validation=corpus,
        out=tmp_path / 'whole',
        device='cpu',
        batch=8,
        small=True,
        graphs=True,
        end=time.time() + 1e6,
    )
    assert Study.open(options).run('pom_k1', 1, 4)
    whole = json.loads((options.out / 'pom_k1-1.json').read_text())
    options.out, options.end = tmp_path / 'stopped', 0.0  # late from the beginning: an update a call
    calls = [Study.open(options).run('pom_k1', 1, 4) for _ in range(4)]
    assert calls == [False, False, False, True]
    assert json.loads((options.out / 'pom_k1-1.json').read_text())['steps'] == 4
    options.end = time.time() + 100.0
    options.out, options.seeds, options.jobs, options.steps = tmp_path / 'whole', [0, 1], 1, 10**9
    assert plan_steps(options, [0.1, 0.4]) == pytest.approx(85, abs=1)
    rows = {row.name: row for row in summarise(options.out)}
    assert rows['cer/pom_k1/held_out'].value == whole['cer'] and rows['updates/pom_k1'].value == 4


def test_transcribing_keeps_the_order_of_the_corpus(corpus):
    torch.manual_seed(0)
    network, loaded = SpeechEncoder(TINY), Corpus(corpus)
    prepare(network, loaded)
    network.eval()
    feed = Feed(loaded, torch.device('cpu'))
    together = transcribe(network, feed, size=24)
    assert together == transcribe(network, feed, size=1) and len(set(together)) > 1


@pytest.mark.parametrize('method', METHODS)
def test_mixers_are_compared_at_equal_size(method):
    config = matched(dataclasses.replace(REFERENCE, **METHODS[method]), size_of(REFERENCE))
    assert size_of(config) == pytest.approx(size_of(REFERENCE), rel=2e-3)


@pytest.mark.parametrize(('mixer', 'is_blind'), [('pom_k2', True), ('mha', True), ('rope_pom_k2', False)])
def test_without_positions_a_mixer_can_not_know_what_came_first(mixer, is_blind):
    torch.manual_seed(0)
    draw, features, classes = TASKS['order']
    network = Probe(mixer, features, classes).double()
    tokens, came_first = draw(np.random.default_rng(0), 8)
    swapped = tokens.double().clone()
    swapped[:, :-1] = swapped[:, :-1].flip(1)  # the question, the last token, stays
    same = torch.allclose(network(tokens.double()), network(swapped), atol=1e-12)
    assert same == is_blind and set(came_first.tolist()) == {0, 1}


def test_recall_asks_for_a_pair_that_is_there():
    tokens, wanted = TASKS['recall_4'][0](np.random.default_rng(0), 16)
    for row, value in zip(tokens.numpy(), wanted.numpy(), strict=True):
        (pair,) = [p for p in row[:-1] if (p[:64] == row[-1, :64]).all()]
        assert pair[64:].argmax() == value


def test_the_published_mask_covers_60_percent_of_what_all_utterances_have():
    rng = np.random.default_rng(0)
    for shortest in (1, 7, 50):
        tokens = draw_tokens(shortest, rng)
        assert (
            len(set(tokens)) == len(tokens) == max(1, int(0.6 * shortest)) and 0 <= tokens[0] <= tokens[-1] < shortest
        )


def test_codes_come_from_unmasked_features_and_only_masked_tokens_count():
    torch.manual_seed(0)
    network, quantizer = SpeechEncoder(TINY), Quantizer(codes=32)
    head = torch.nn.Linear(16, 32)
    features, keep = torch.randn(2, 10, 4, 80), torch.ones(2, 10, dtype=torch.bool)
    tokens = torch.tensor([3, 4, 9])
    codes = quantizer(network.normalise(features))
    assert codes.shape == (2, 10) and len(codes.unique()) > 3
    torch.manual_seed(1)
    loss = masked_loss(network, head, quantizer, features, keep, tokens)
    assert loss.item() == pytest.approx(np.log(32), rel=0.3)
    # What lies under the mask reaches the loss by its codes alone: without new codes, nothing changes.
    hidden = features.clone()
    hidden[:, tokens] *= 2.0  # codes are of directions
    torch.manual_seed(1)
    assert masked_loss(network, head, quantizer, hidden, keep, tokens) == loss


def test_pretrained_weights_are_where_training_begins(corpus, tmp_path, monkeypatch):
    for module in ('pretrain', 'train'):
        monkeypatch.setattr(f'attn_robotics.systems.pom_speech.{module}.PomSpeechConfig', lambda mixer='pom': TINY)
    common = ['--data', str(corpus), '--batch', '8', '--device', 'cpu']
    start = tmp_path / 'start.safetensors'
    pretrain([*common, '--out', str(start), '--minutes', '0.01', '--codes', '64'])
    weights = str(tmp_path / 'w.safetensors')
    train([
        *common, '--validation', str(corpus), '--out', str(tmp_path), '--minutes', '0.0001', '--rate', '0',
        '--weights', weights, '--start', str(start),
    ])  # fmt: skip
    one, other = (read_weights(path)[0].state_dict() for path in (start, tmp_path / 'w.safetensors'))
    torch.testing.assert_close(one['layers.0.first.1.weight'], other['layers.0.first.1.weight'], atol=1e-3, rtol=0)


def test_the_evaluation_writes_rows_and_pictures(tmp_path):
    torch.manual_seed(0)
    weights, table = tmp_path / 'w.safetensors', tmp_path / 'out' / 'evaluate.json'
    table.parent.mkdir()
    ship(weights, SpeechEncoder(TINY), {})
    evaluate([
        *('--parts', 'errors', 'stream', '--weights', str(weights), '--count', '2', '--minutes', '0.05'),
        *('--voice', 'tones', '--threads', '1', '--json', str(table)),
    ])  # fmt: skip
    content = json.loads(table.read_text())
    rows = {row['name']: row for row in content['rows']}
    assert content['schema'] == 1 and content['conditions']['seeds'] == [1000]
    assert {'cer/offline/new_both/0dB', 'wer/blocks_320ms/new_voices/clean', 'wer/stream/new_both/20dB'} <= set(rows)
    assert {f'utterances/noise_alone/{kind}' for kind in NOISES} | {'utterance_errors/stream/new_both/20dB'} <= set(
        rows
    )
    assert {'wer/stream_long_pauses/new_both/20dB', 'delay/final_text/new_both/clean'} <= set(rows)
    assert rows['difference/blocks_320ms-offline/log_probs/float64']['met'] is True
    assert table.with_suffix('.png').stat().st_size > 1000


@pytest.mark.parametrize('whole', [0.0, 0.25, 0.5, 1.0])
def test_the_share_of_whole_utterances_is_kept_and_every_block_size_gets_its_turn(whole):
    drawn = [block_of(step, whole) for step in range(400)]
    assert drawn.count(None) == 400 * whole
    for block in BLOCKS:
        assert drawn.count(block) == BLOCKS.count(block) * 400 * (1 - whole) / len(BLOCKS)
    assert all(part.count(None) == 4 * whole for part in (drawn[at : at + 4] for at in range(0, 400, 4)))


def test_updates_that_are_no_streams_never_split_an_utterance(corpus, monkeypatch):
    loaded, seen = Corpus(corpus), []
    network = SpeechEncoder(TINY)
    whole_form = network.log_probs
    monkeypatch.setattr(network, 'log_probs', lambda x, keep, block: seen.append(block) or whole_form(x, keep, block))
    feed = Feed(loaded, torch.device('cpu'))
    for whole in (1.0, 0.0):
        update = make_update(network, feed, np.random.default_rng(0), lambda step: 1e-3, whole=whole)
        batches = loaded.batches(4, np.random.default_rng(0))
        for step in range(8):
            update(step, next(batches))
    assert set(seen[:8]) == {None} and None not in seen[8:]


def test_an_untrained_polynomial_mixer_adds_as_much_as_the_tokens_are_and_an_absent_one_nothing(corpus, monkeypatch):
    monkeypatch.setattr('attn_robotics.systems.pom_speech.study.METHODS', {'none': METHODS['none'], 'pom_k2': {}})
    rows = fresh_rows(Feed(Corpus(corpus), torch.device('cpu')), [0], count=3, tokens=8)
    found = {row.name: row.value for row in rows}
    assert found['fresh/none/size'] == 0.0
    assert found['fresh/pom_k2/size'] == pytest.approx(1.0, abs=0.02)  # its layer norm
    assert found['fresh/pom_k2/between_tokens'] < found['fresh/pom_k2/size']


def test_a_smaller_gain_makes_fresh_mixers_add_less(corpus):
    torch.manual_seed(0)
    network = SpeechEncoder(TINY)
    x = torch.randn(2, 6, 16)
    before = network.layers[0].mixer(x)[0].std()
    quieten(network, 0.1)
    torch.testing.assert_close(network.layers[0].mixer(x)[0].std(), 0.1 * before)


@pytest.mark.gpu
@pytest.mark.parametrize('whole', [1.0, 0.0])
def test_captured_updates_learn_as_plain_ones_do(corpus, whole):
    if not torch.cuda.is_available():
        pytest.skip('no CUDA device')
    device, loaded = torch.device('cuda'), Corpus(corpus)
    after = []
    for graphs in (False, True):
        torch.manual_seed(0)
        network = SpeechEncoder(TINY)
        prepare(network, loaded)
        network.to(device)
        rng = np.random.default_rng(0)
        update = make_update(network, Feed(loaded, device), rng, lambda step: 5e-3, whole=whole, graphs=graphs)
        batches = loaded.batches(8, np.random.default_rng(0))
        losses = [float(update(step, next(batches))) for step in range(60)]
        after.append(np.mean(losses[-10:]))
    assert after[1] == pytest.approx(after[0], rel=0.15)
