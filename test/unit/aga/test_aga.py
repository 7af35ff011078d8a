"""AGA: streams equal sequences, do not mix, fade with time, and the file that ships is what its card says."""

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.runtime.catalogue import Catalogue
from attn_robotics.runtime.engine import Engine
from attn_robotics.systems.aga.analysis import counterfactual_past
from attn_robotics.systems.aga.baselines import VARIANTS, build_variant
from attn_robotics.systems.aga.config import AgaConfig
from attn_robotics.systems.aga.data import ACTIONS, BACKGROUND, TASKS, Kitchens, Player, adjacent_pairs
from attn_robotics.systems.aga.evaluate import adjacent_share, analyse, main, relations
from attn_robotics.systems.aga.export import OUTPUTS, export_stream
from attn_robotics.systems.aga.fresh import FreshSets, Sets
from attn_robotics.systems.aga.model import STATE, AgaNetwork, AgaStream
from attn_robotics.systems.aga.processor import (
    WEIGHTS,
    StreamClock,
    mean_top5_recall,
    read_answer,
    read_card,
    read_labels,
    read_network,
)
from attn_robotics.systems.aga.train import Recipe, build_replicas, prepare
from attn_robotics.training.fit import fit

CONFIG = AgaConfig(features=12, classes=9, width=16, heads=2, queue=4)


def build(seed=0, **changes):
    torch.manual_seed(seed)
    return AgaNetwork(AgaConfig(**{**CONFIG.to_dict(), **changes})).eval()


def empty(config, streams, dtype=torch.float32):
    return {
        'keys': torch.zeros(streams, config.queue, config.width, dtype=dtype),
        'values': torch.zeros(streams, config.queue, config.width, dtype=dtype),
        'classes': torch.zeros(streams, config.queue, dtype=torch.int64),
        'ages_s': torch.zeros(streams, config.queue, dtype=dtype),
        'average': torch.zeros(streams, config.classes, dtype=dtype),
        'newest': torch.zeros(streams, config.classes, dtype=dtype),
    }


def follow(stream, frames, dts=None, state=None):
    """Feed (N, T, F) frames one by one; returns the answers and the last state."""
    state = empty(stream.network.config, len(frames), frames.dtype) if state is None else state
    answers = []
    for t, frame in enumerate(frames.unbind(1)):
        dt = torch.ones(len(frames), dtype=frames.dtype) if dts is None else dts[:, t]
        found = stream(frame, dt, **state)
        state = {name: found[name] for name in STATE}
        answers.append(found)
    return answers, state


@torch.no_grad()
def test_thirty_frames_one_by_one_equal_the_whole_sequence():
    network = build()
    frames = torch.randn(3, 30, 12)
    answers, _ = follow(AgaStream(network), frames)
    whole = network(frames).softmax(-1)
    streamed = torch.stack([found['probabilities'] for found in answers], 1)
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_interleaved_streams_of_different_age_share_a_batch_and_equal_separate_runs():
    stream = AgaStream(build().double())
    frames = torch.randn(2, 11, 12, dtype=torch.float64)
    alone = [follow(stream, frames[number : number + 1])[0] for number in range(2)]
    _, old = follow(stream, frames[:1, :5])
    young = empty(CONFIG, 1, torch.float64)
    # Stream 0 has five frames behind it when stream 1 begins; from then on they tick together.
    both = {name: torch.cat([old[name], young[name]]) for name in STATE}
    together = torch.stack([frames[0, 5:], frames[1, :6]])
    answers, _ = follow(stream, together, state=both)
    for t in range(6):
        torch.testing.assert_close(answers[t]['probabilities'][0], alone[0][t + 5]['probabilities'][0])
        torch.testing.assert_close(answers[t]['probabilities'][1], alone[1][t]['probabilities'][0])


@torch.no_grad()
def test_a_snapshot_goes_on_where_it_was_taken_and_steps_leave_their_state_untouched():
    stream = AgaStream(build())
    frames = torch.randn(1, 8, 12)
    _, state = follow(stream, frames[:, :4])
    kept = {name: value.clone() for name, value in state.items()}
    first, _ = follow(stream, frames[:, 4:], state=state)
    for name in STATE:
        torch.testing.assert_close(state[name], kept[name], rtol=0, atol=0)
    second, _ = follow(stream, frames[:, 4:], state=kept)
    torch.testing.assert_close(first[-1]['probabilities'], second[-1]['probabilities'], rtol=0, atol=0)


@torch.no_grad()
def test_padded_sequences_equal_their_own_length_and_padding_may_hold_nan():
    network = build()
    frames = torch.randn(2, 7, 12)
    keep = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    found = network(torch.where(keep[..., None], frames, torch.nan), keep)
    torch.testing.assert_close(found[1, :4], network(frames[1:, :4])[0])
    assert torch.isfinite(found).all()


@torch.no_grad()
def test_memory_fades_with_time_and_not_with_frames():
    network = build()
    stream = AgaStream(network)
    state = empty(CONFIG, 1)
    state['average'][0, 2], state['newest'][0, 5] = 1.0, 1.0
    state['classes'][0, -1] = 6
    frame = torch.randn(1, 12)
    for dt in (0.0, 0.25, 1.0, 3.0):
        after = stream(frame, torch.tensor([dt]), **state)['average'][0]
        share = 1.0 - 0.2**dt
        assert after[5] == pytest.approx(share, abs=1e-6) and after[2] == pytest.approx(1.0 - share, abs=1e-6)
    # Half a step twice with the same prediction is a whole step.
    half = stream(frame, torch.tensor([0.5]), **state)['average']
    again = stream(frame, torch.tensor([0.5]), **{**state, 'average': half})['average']
    torch.testing.assert_close(again, stream(frame, torch.tensor([1.0]), **state)['average'])


@torch.no_grad()
def test_evidence_is_a_distribution_over_what_was_really_expected_and_when():
    stream = AgaStream(build())
    frames = torch.randn(1, 6, 12)
    dts = torch.tensor([[1.0, 0.5, 2.0, 1.0, 0.25, 4.0]])
    answers, _ = follow(stream, frames, dts)
    last = answers[-1]
    assert last['past'][0].tolist() == [int(found['best'][0, 0]) for found in answers[1:5]]
    torch.testing.assert_close(last['past_s'][0], torch.tensor([7.25, 5.25, 4.25, 4.0]))
    torch.testing.assert_close(last['attention'][0].sum(-1), torch.ones(2))
    first = answers[0]
    assert (first['past'] == -1).all() and (first['attention'] == 0).all() and first['gate'] == 0
    words = read_answer({name: value.numpy() for name, value in last.items()}, tuple('abcdefghi'))
    assert words.because().startswith(words.labels[0]) and words.because().endswith('s ago')
    assert len(words.past) == 4 and list(words.probabilities) == sorted(words.probabilities, reverse=True)


@torch.no_grad()
def test_the_onnx_form_agrees_for_other_numbers_of_streams():
    import onnxruntime

    network = build()
    session = onnxruntime.InferenceSession(export_stream(network), providers=['CPUExecutionProvider'])
    state = empty(CONFIG, 5)
    for t in range(6):
        features, dt = torch.randn(5, 12), torch.rand(5) * 2
        truth = AgaStream(network)(features, dt, **state)
        feed = {'features': features, 'dt_s': dt, **state}
        found = session.run(
            [*OUTPUTS, *(f'{name}_out' for name in STATE)], {name: value.numpy() for name, value in feed.items()}
        )
        for name, value in zip((*OUTPUTS, *STATE), found, strict=True):
            np.testing.assert_allclose(value, truth[name].numpy(), rtol=1e-4, atol=1e-5, err_msg=f'{name} at {t}')
        state = {name: truth[name] for name in STATE}


@pytest.mark.parametrize('name', VARIANTS)
def test_no_variant_looks_ahead_and_all_learn(name):
    torch.manual_seed(0)
    network = build_variant(name, CONFIG).eval()
    frames = torch.randn(2, 5, 12, requires_grad=True)
    network(frames)[:, 2].square().sum().backward()
    assert (frames.grad[:, 3:] == 0).all() and frames.grad[:, 2].abs().sum() > 0
    assert (frames.grad[:, :2].abs().sum() > 0) == (name != 'frame')
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key


def test_wrong_settings_are_refused_by_name():
    for change, word in (({'alpha': 0.0}, 'alpha'), ({'width': 10}, 'width'), ({'guide': 'ears'}, 'guide')):
        with pytest.raises(ValueError, match=word):
            AgaConfig(**change)
    with pytest.raises(ValueError, match='colour'):
        AgaConfig.from_dict({'colour': 1})
    with pytest.raises(ValueError, match=r'frame.*visual'):
        build_variant('telepathy', CONFIG)
    with pytest.raises(ValueError, match='visual'):
        AgaStream(build(guide='visual'))


def test_the_published_sizes_are_buildable_and_have_the_published_number_of_parameters():
    with torch.device('meta'):
        network = AgaNetwork(AgaConfig.paper())
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == pytest.approx(31.7e6, rel=0.01)


def test_kitchens_repeat_under_a_seed_and_differ_by_what_the_shift_says():
    world = Kitchens(seed=3, shift=0.5)
    frames, labels = world.draw(6, 10, range(4), seed=1)
    again, _ = world.draw(6, 10, range(4), seed=1)
    assert frames.shape == (6, 10, 64) and labels.shape == (6, 11) and np.array_equal(frames, again)
    apart = np.linalg.norm(world.of_kitchen(1) - world.looks, axis=1)
    assert np.sqrt(np.mean(apart**2)) == pytest.approx(0.5 * np.sqrt(2), rel=0.1)  # a bias and an offset of 0.5 each
    assert len(ACTIONS) == 40 and [len(task) for task in TASKS] == [10] * 8
    pairs = set(adjacent_pairs())
    follows = list(zip(labels[:, :-1].ravel(), labels[:, 1:].ravel(), strict=True))
    moved = [pair for pair in follows if pair[0] != pair[1]]
    assert np.mean([pair in pairs for pair in moved]) > 0.5
    player = Player(world, 100, 0, step_s=0.5)
    shown = [player.step()[0] for _ in range(200)]
    lengths = np.diff(np.flatnonzero(np.diff(shown)))
    assert lengths.min() >= 2 and lengths.mean() < 7  # an action lasts one to three seconds


def test_background_hides_what_is_done_and_leaves_the_rest_as_it_was():
    world, plain = Kitchens(seed=3, background=0.3), Kitchens(seed=3)
    (frames, labels), (others, same) = (one.draw(200, 10, range(4), seed=1) for one in (world, plain))
    hidden = world.hides(200, 10, seed=1)
    assert 0.25 < hidden.mean() < 0.35 and not plain.hides(200, 10, seed=1).any()
    assert np.array_equal(labels, same) and np.array_equal(frames[~hidden], others[~hidden])
    empty = np.stack([world.of_kitchen(number)[BACKGROUND] for number in range(4)])
    apart = frames - empty[np.arange(200) % 4][:, None]
    assert apart[hidden].std() == pytest.approx(world.noise, rel=0.05)
    player = Player(Kitchens(noise=0.0, background=0.5), 0, 0)
    shown = np.stack([player.step()[1] for _ in range(200)])
    assert 0.4 < (shown == Kitchens().of_kitchen(0)[BACKGROUND]).all(1).mean() < 0.6


def test_fresh_sequences_follow_the_same_grammar_and_are_new_in_every_epoch():
    worlds = [Kitchens(seed=0, background=0.3), Kitchens(seed=1, noise=0.2)]
    fresh = FreshSets(worlds, 3000, 12, range(4), torch.device('cpu'))
    fresh.renew(0)
    frames, labels = fresh.sets.frames.numpy().copy(), fresh.sets.labels.numpy().copy()
    alone = FreshSets(worlds[1:], 3000, 12, range(4), torch.device('cpu'))
    alone.renew(0)
    assert np.array_equal(alone.sets.labels[0], labels[1]) and np.array_equal(alone.sets.frames[0], frames[1])
    for index, world in enumerate(worlds):
        drawn, slow = world.draw(3000, 12, range(4), seed=9)

        def steps(found):
            pairs = np.zeros((len(ACTIONS),) * 2)
            np.add.at(pairs, (found[:, :-1], found[:, 1:]), 1.0)
            return pairs / pairs.sum()

        assert np.abs(steps(labels[index]) - steps(slow)).sum() < 0.2  # two draws of 36,000 steps
        assert frames[index].std() == pytest.approx(drawn.std(), rel=0.02)
        means = world.of_kitchen(2)[labels[index, 2::4, :-1]]
        apart = np.linalg.norm(frames[index, 2::4] - means, axis=-1)
        usual = 1.5 * world.noise * 8.0  # 64 features
        assert (apart > usual).mean() == pytest.approx(world.background, abs=0.03)
    fresh.renew(1)
    assert (fresh.sets.labels.numpy() != labels).mean() > 0.5
    fresh.renew(0)
    assert np.array_equal(fresh.sets.labels.numpy(), labels)


def test_gates_are_told_apart_by_what_a_frame_shows():
    world = Kitchens(seed=0, features=12, background=0.4)
    config = AgaConfig(features=12, width=16, heads=2, queue=4)
    sets = Sets.draw([world], 40, 6, range(100, 108), seed=2)
    found = analyse(build_replicas('aga', config, [0], [(0.5, 0.12)]), sets, config, {0: world}, count=30)
    rows = {row.name: row.value for row in found.rows('x')}
    assert {'gate_background/x', 'gate_difference/x', 'evidence_pairs/x'} <= rows.keys()
    assert all(0.0 < rows[f'gate_{part}/x'] < 1.0 for part in ('background', 'same_action', 'new_action'))
    plain = analyse(
        build_replicas('aga', config, [0], [(0.5, 0.12)]), sets, config, {0: Kitchens(features=12)}, count=30
    )
    assert 'gate_background/x' not in {row.name for row in plain.rows('x')}


@given(seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_recall_of_a_perfect_answer_is_one_and_ignores_how_common_classes_are(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 12, 40)
    scores = rng.standard_normal((40, 12))
    perfect = scores.copy()
    perfect[np.arange(40), labels] = 9.0
    assert mean_top5_recall(perfect, labels) == 1.0
    doubled = np.concatenate([labels, labels[labels == labels[0]]])
    more = np.concatenate([scores, scores[labels == labels[0]]])
    assert mean_top5_recall(more, doubled) == pytest.approx(mean_top5_recall(scores, labels))


def test_stream_clocks_tell_gaps_repeats_and_clocks_that_were_set():
    clock = StreamClock(step_s=1.0, gap_s=10.0, limit=2)
    assert clock.turn('a', 100.0).reset
    later = clock.turn('a', 100.5)
    assert (later.dt_s, later.reset, later.tick) == (0.5, False, 1)
    assert clock.turn('a', 100.5) is None and clock.turn('a', 99.0) is None
    assert clock.turn('a', 101.0).dt_s == 0.5  # what came too late changed nothing
    assert clock.turn('a', 200.0).reset and clock.turn('a', 1.0).reset
    clock.turn('b', 0.0)
    clock.turn('c', 0.0)
    assert clock.turn('a', 2.0).reset  # forgotten for two others


def test_training_resumes_where_it_was_stopped_and_replicas_do_not_touch_each_other(tmp_path):
    recipe = Recipe(sequences=40, steps=6, epochs=2, batch=20, held_out=40)
    config = AgaConfig(width=16, heads=2, queue=4, dropout=0.0)

    def run(name, seeds, seconds=1e9, resume=False):
        made = prepare('aga', tmp_path / name, seeds=seeds, config=config, recipe=recipe, resume=resume)
        return fit([made], seconds=seconds, quiet=True)

    from attn_robotics.training.checkpoint import CheckpointError, read_network

    assert run('both', [0, 1]) and run('one', [0])
    both, one = (read_network(tmp_path / name)[0] for name in ('both', 'one'))
    for key in one:
        torch.testing.assert_close(both[key][0], one[key][0], rtol=1e-4, atol=1e-5)
    assert not run('stopped', [0, 1], seconds=0.0)
    assert run('stopped', [0, 1], resume=True)
    stopped = read_network(tmp_path / 'stopped')[0]
    for key in both:
        torch.testing.assert_close(stopped[key], both[key])
    with pytest.raises(CheckpointError, match='other settings'):
        run('stopped', [0, 2], resume=True)
    assert main(['--runs', str(tmp_path / 'none')]) == 1


def test_what_ships_matches_its_card_and_its_entry_and_answers_streams():
    card = read_card()
    folder = WEIGHTS.parents[4] / 'config' / 'models'
    entry = yaml.safe_load((folder / 'aga.yaml').read_text())
    assert entry['sha256'] == card['sha256'] and entry['config'].items() <= card['config'].items()
    assert read_labels() == ACTIONS
    network = read_network()
    with torch.no_grad():
        frames, labels = Kitchens(
            seed=card['seed'], **dict(zip(('shift', 'noise', 'background'), card['recipe']['case'], strict=False))
        ).draw(200, 20, range(100, 108), seed=77)
        whole = network(torch.from_numpy(frames[:1])).softmax(-1)[0].numpy()
        scores = network(torch.from_numpy(frames))[:, -1].numpy()
    hits = (np.argsort(-scores, 1)[:, :5] == labels[:, -1:]).any(1).mean()
    assert hits > 0.6, 'far below what the card says'  # guessing gives 0.125
    with Engine(Catalogue(folder)) as engine:
        engine.load('aga').result(60)
        for t in range(20):
            inputs = {'features': frames[:1, t], 'dt_s': np.ones(1, np.float32)}
            reply = engine.infer('aga', inputs, stream='cook', deadline_s=30.0)
            np.testing.assert_allclose(reply.outputs['probabilities'][0], whole[t], atol=2e-5)
        assert reply.outputs['past'][0, 0] == -1 and reply.outputs['past'][0, 1] >= 0


def test_what_ships_attends_to_what_precedes():
    assert adjacent_share(read_network()) >= 80.0  # AGA, forward analysis


def test_backward_analysis_finds_a_past_for_another_answer_and_changes_nothing_else():
    network = build()
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    frames = torch.randn(6, 12)
    with torch.no_grad():
        plain = network(frames[None])[0, -1].softmax(-1)
    unlikely = int(plain.argmin())
    found = counterfactual_past(network, frames, unlikely)
    assert found.before == pytest.approx(float(plain[unlikely]), abs=1e-6)  # the real past gives the real answer
    assert found.after > found.before and found.logits.shape == (4, 9)
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(ValueError, match='two frames'):
        counterfactual_past(network, frames[:1], 0)


def test_relations_are_differences_by_seed():
    from attn_robotics.systems.aga.evaluate import Scores

    def scores(seen, unseen):
        return Scores(np.array([seen]), np.array([unseen]))

    found = {'aga': scores([80.0, 82.0], [78.0, 79.0]), 'visual': scores([80.0, 80.0], [75.0, 77.0])}
    rows = {row.name: row for row in relations(found, 0, 'x')}
    better = rows['relation/aga minus visual, unseen/x']
    assert better.value == 2.5 and better.met and better.n == 2
    assert rows['relation/drop of aga minus drop of visual/x'].value == pytest.approx(-1.5)
