"""Samples to features, letters and text: definitions, streams, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.systems.pom_speech.acoustics import NOISES, make_noise, reverberate, rms
from attn_robotics.systems.pom_speech.grammar import draw, is_held_out, words
from attn_robotics.systems.pom_speech.processor import (
    BANDS,
    FLOOR,
    HOP,
    WINDOW,
    LogMelStream,
    log_mel,
    mel_filters,
    to_tokens,
)
from attn_robotics.systems.pom_speech.recogniser import Continuity
from attn_robotics.systems.pom_speech.scores import edit_distance, error_rates
from attn_robotics.systems.pom_speech.text import CHARACTERS, CLASSES, CtcStream, collapse, decode, encode
from attn_robotics.systems.pom_speech.tones import chord, speak


def sound(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def test_log_mel_is_what_the_definition_says():
    x = sound(WINDOW + 2 * HOP)
    k, n = np.arange(WINDOW // 2 + 1)[:, None], np.arange(WINDOW)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / WINDOW)
    fourier = np.exp(-2j * np.pi * k * n / WINDOW)
    for frame, found in enumerate(log_mel(x)):
        cut = x[frame * HOP : frame * HOP + WINDOW].astype(np.float64) * window
        energy = (np.abs(fourier @ cut) ** 2) @ mel_filters()
        np.testing.assert_allclose(found, np.log(np.maximum(energy, FLOOR)), atol=2e-6)


@pytest.mark.parametrize('frequency', [300.0, 1000.0, 4000.0])
def test_a_tone_is_loudest_in_the_band_around_it(frequency):
    tone = np.sin(2 * np.pi * frequency * np.arange(WINDOW) / 16_000)
    band = log_mel(tone)[0].argmax()
    assert mel_filters()[round(frequency / 40), band] > 0.4


def test_silence_is_at_the_floor_and_short_sounds_give_nothing():
    assert log_mel(np.zeros(WINDOW)).tolist() == [[pytest.approx(np.log(FLOOR))] * BANDS]
    assert log_mel(np.zeros(WINDOW - 1)).shape == (0, BANDS)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 1500), max_size=12))
def test_a_stream_of_any_blocks_gives_the_tokens_of_the_whole(sizes):
    x = sound(sum(sizes))
    stream, at, parts = LogMelStream(), 0, []
    for size in sizes:
        parts.append(stream.push(x[at : at + size]))
        at += size
    whole = to_tokens(log_mel(x))
    found = np.concatenate([np.zeros((0, 4, BANDS), np.float32), *parts])
    assert found.shape == whole.shape
    np.testing.assert_allclose(found, whole, atol=1e-6)


def test_letters_and_classes_are_each_others_inverse():
    text = "what's your battery level"
    one_hot = np.log(np.eye(CLASSES)[[c for letter in encode(text) for c in (letter, 0)]] + 1e-9)
    assert decode(one_hot) == text
    with pytest.raises(ValueError, match="'!'"):
        encode('stop!')


def test_repeats_merge_only_without_a_blank_between():
    a, b = CHARACTERS.index('a') + 1, CHARACTERS.index('b') + 1
    assert collapse(np.array([a, a, 0, a, b, b])) == 'aab'
    assert collapse(np.array([a, b]), last=a) == 'b'


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=40), st.integers(1, 7))
def test_decoding_block_by_block_equals_decoding_at_once(classes, block):
    log_probs = np.log(np.eye(CLASSES)[classes] * 0.9 + 0.1 / CLASSES)
    stream = CtcStream(end_tokens=1000)
    for at in range(0, len(classes), block):
        stream.push(log_probs[at : at + block])
    assert stream.text == decode(log_probs)


def test_an_utterance_ends_after_enough_silence_and_not_before():
    log_probs = np.log(np.eye(CLASSES) * 0.9 + 0.1 / CLASSES)
    letters, silence = log_probs[encode('stop')], log_probs[[0]]
    stream = CtcStream(end_tokens=3)
    assert not any(stream.push(silence) for _ in range(10)), 'silence alone is no utterance'
    assert not stream.push(letters) and stream.text == 'stop'
    ended = [stream.push(silence) for _ in range(4)]
    assert ended == [[], [], [('stop', pytest.approx(0.9 + 0.1 / CLASSES, rel=1e-6))], []] and stream.text == ''
    # Within one block as well; what follows is the next utterance.
    block = np.concatenate([letters, *[silence] * 3, letters])
    assert [text for text, _ in stream.push(block)] == ['stop'] and stream.text == 'stop'


def test_a_space_after_the_last_word_delays_no_ending_and_begins_no_utterance():
    log_probs = np.log(np.eye(CLASSES) * 0.9 + 0.1 / CLASSES)
    stream = CtcStream(end_tokens=3)
    assert not stream.push(log_probs[encode('stop')])
    assert [text for text, _ in stream.push(log_probs[[0, 0, *encode('   ')]])] == ['stop']
    assert (stream.text, stream.confidence) == ('', 0.0)
    assert not stream.push(log_probs[encode('go now')]) and stream.text == 'go now'


def test_lost_blocks_become_silence_and_long_gaps_begin_anew():
    order, block = Continuity(), np.ones(1600, np.float32)
    assert order.take(7, block)[1] is False
    samples, anew = order.take(10, block)
    assert (len(samples), samples[:3200].max(), anew, order.lost) == (4800, 0.0, False, 2)
    assert order.take(11 + 11, block)[1], 'more than a second is missing'
    samples, anew = order.take(0, block)
    assert anew and len(samples) == 1600, 'the driver was restarted'
    assert order.take(1, block)[1] is False


def test_edit_distances_and_rates():
    assert edit_distance('kitten', 'sitting') == 3 and edit_distance('', 'ab') == 2
    assert error_rates(['go left', 'stop'], ['go right', 'stop']) == pytest.approx((4 / 11, 1 / 3))


def test_held_out_sentences_are_never_drawn_for_training():
    rng = np.random.default_rng(0)
    assert not any(is_held_out(draw(rng, held_out=False)) for _ in range(200))
    assert all(is_held_out(draw(rng, held_out=True)) for _ in range(50))
    assert set(''.join(words())) <= set(CHARACTERS)


def test_no_two_letters_sound_the_same():
    assert len({chord(letter) for letter in CHARACTERS}) == len(CHARACTERS)
    said = speak('stop now', np.random.default_rng(0))
    assert 0.3 < len(said) / 16_000 < 1.2 and np.abs(said).max() < 1.0


@pytest.mark.parametrize('kind', NOISES)
def test_noise_has_unit_power(kind):
    assert rms(make_noise(kind, 16_000, np.random.default_rng(0))) == pytest.approx(1.0, rel=1e-6)


def test_a_room_adds_a_tail_that_decays_by_60_db():
    click = np.zeros(16_000)
    click[0] = 1.0
    room = reverberate(click, np.random.default_rng(0), rt60_s=0.5, direct_db=0.0)
    early, late = rms(room[100:500]), rms(room[7500:7900])
    assert room[0] == pytest.approx(1.0, abs=1e-6)
    assert 20 * np.log10(early / late) == pytest.approx(60.0 * 7400 / 8000, abs=4.0)
