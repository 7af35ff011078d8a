"""The learned motion model: weights, roll-out, fidelity, and training that goes on where it stopped."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import attn_robotics.systems.gaze as package
from attn_robotics.systems.gaze.ablation import main as ablation_main
from attn_robotics.systems.gaze.command import Target
from attn_robotics.systems.gaze.fidelity import compare, distance, features, frechet
from attn_robotics.systems.gaze.learned import MotionModel, Rollout, draw_tracks, save_model
from attn_robotics.systems.gaze.learned_shift import LearnedSource
from attn_robotics.systems.gaze.motor import Limits
from attn_robotics.systems.gaze.networks import MotionConfig, MotionNetwork
from attn_robotics.systems.gaze.planner import GazePlanner
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics.systems.gaze.style import Style
from attn_robotics.systems.gaze.teacher import N_CONDITION, STEPS, Conditions, chunks, play, style_features
from attn_robotics.systems.gaze.train import main as train_main

FOLDER = Path(package.__file__).parent
MODEL = MotionModel(FOLDER / 'motion.safetensors')


def sampler(model, temperature=1.0):
    return lambda c, s, rng: draw_tracks(model, c, s, rng, temperature=temperature)


def test_chunks_add_up_to_the_movement_they_were_cut_from():
    rng = np.random.default_rng(0)
    conditions, style = Conditions.draw(rng, 5), Style.draw(rng, 5)
    tracks = play(conditions, style, rng)
    given, wanted = chunks(tracks, conditions.target, style_features(style, 5))
    assert given.shape == (60, N_CONDITION) and np.isfinite(given).all()
    steps = wanted.reshape(5, STEPS, 4)
    assert tracks[:, :1] + np.cumsum(steps, axis=1) == pytest.approx(tracks[:, 1:], abs=1e-3)


def test_frechet_distance_is_zero_to_itself_and_the_shift_squared_to_a_shifted_copy():
    a = np.random.default_rng(0).normal(size=(500, 7))
    assert frechet(a, a) == pytest.approx(0.0, abs=1e-6)
    assert frechet(a, a + np.eye(7)[0] * 2) == pytest.approx(4.0, abs=1e-6)
    assert distance(np.zeros((3, 4)), np.ones((3, 4))) == pytest.approx(2.0)


def test_the_shipped_model_reaches_the_fidelity_asked_for():
    f = compare(sampler(MODEL), play, n=80)
    assert f['frechet'] < 5.0 and f['min_ade10'] < 1.5
    assert 0.9 < f['diversity_ratio'] < 1.1
    assert f['end_error_p95'] < 1.3


def test_relations_to_the_baselines_hold():
    ours = compare(sampler(MODEL), play, n=60)
    plain = compare(sampler(MotionModel(FOLDER / 'baseline_mlp.safetensors')), play, n=60)
    gauss = compare(sampler(MotionModel(FOLDER / 'baseline_cvae.safetensors')), play, n=60)
    assert 5 * ours['frechet'] < plain['frechet'] and ours['frechet'] < gauss['frechet']
    assert ours['min_ade10'] < 0.6 * plain['ade']
    # The same code again and again; a batched product may round its last rows differently on some processors [deg].
    assert compare(sampler(MODEL, 0.0), play, n=20)['diversity'] < 1e-4


def test_features_of_a_still_head_are_finite():
    assert np.isfinite(features(np.zeros((3, 121, 4)), np.ones((3, 2)))).all()


def test_the_safety_layer_keeps_any_network_inside_the_body(tmp_path):
    torch.manual_seed(0)
    network = MotionNetwork(MotionConfig(width=16, layers=2, codes=8, levels=1))
    for weight in network.parameters():
        weight.data *= 30
    path = tmp_path / 'wild.safetensors'
    save_model(path, network.state_dict(), asdict(network.config), {})
    rng = np.random.default_rng(0)
    limits = Limits(head_low=(-20, -10), head_high=(20, 10))
    conditions = Conditions(np.full((4, 2), 60.0), np.zeros((4, 2)), np.zeros((4, 2)))
    track = Rollout(MotionModel(path), conditions, Style(), rng, limits=limits).run()
    assert np.isfinite(track).all()
    assert (np.abs(track[..., 2]) <= 20).all() and (np.abs(track[..., 3]) <= 10).all()
    assert (np.hypot(track[..., 0], track[..., 1]) <= 50.0001).all()
    assert np.abs(np.diff(track, axis=1)).max() <= 100 * 700 / 100


def test_numpy_inference_agrees_with_the_network_it_was_saved_from(tmp_path):
    torch.manual_seed(1)
    network = MotionNetwork(MotionConfig(kind='mlp', width=32, layers=3)).eval()
    path = tmp_path / 'm.safetensors'
    save_model(path, network.state_dict(), asdict(network.config), {})
    given = np.random.default_rng(0).normal(size=(6, N_CONDITION))
    expected = network.decoder(torch.from_numpy(given).float()).detach().numpy().reshape(6, 10, 4)
    assert MotionModel(path).chunk(given, np.random.default_rng(0)) == pytest.approx(expected, abs=5e-3)


def test_tampered_or_missing_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match='train'):
        MotionModel(tmp_path / 'none.safetensors')
    for name in ('baseline_mlp.safetensors', 'baseline_mlp.json'):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    data = bytearray((tmp_path / 'baseline_mlp.safetensors').read_bytes())
    data[-1] ^= 1
    (tmp_path / 'baseline_mlp.safetensors').write_bytes(bytes(data))
    with pytest.raises(ValueError, match='sha256'):
        MotionModel(tmp_path / 'baseline_mlp.safetensors')


def test_the_planner_runs_on_the_learned_model_and_reaches_its_targets():
    planner = GazePlanner(load_profile(), seed=1, source=LearnedSource(MODEL, seed=1), idle=False)
    gaze = []
    for k in range(600):
        target = Target('a', 35.0, 5.0) if k < 300 else Target('b', -30.0, 0.0)
        points = planner.step((k + 1) * 0.01, target).points
        gaze += (points[:, :2] + points[:, 2:4]).tolist()
    assert np.hypot(*(np.array(gaze[590]) - [35, 5])) < 2.0
    assert np.hypot(*(np.array(gaze[-1]) - [-30, 0])) < 2.0


@pytest.mark.parametrize('extra', [[], ['--kind', 'cvae'], ['--kind', 'mlp']], ids=['vqvae', 'cvae', 'mlp'])
def test_training_runs_and_saves_a_loadable_model(tmp_path, extra, capsys):
    out = tmp_path / 'm.safetensors'
    size = ['--width', '16', '--layers', '2', '--codes', '8', '--sequences', '20', '--batch', '32', '--epochs', '2']
    train_main(['--out', str(out), *size, *extra])
    assert np.isfinite(json.loads(capsys.readouterr().out)['fit'])
    assert MotionModel(out).kind in ('vqvae', 'cvae', 'mlp')


def test_a_stopped_training_ends_where_an_unstopped_one_does(tmp_path, monkeypatch):
    from attn_robotics.systems.gaze import train

    size = ['--width', '16', '--layers', '2', '--codes', '8', '--sequences', '20', '--batch', '32', '--epochs', '3']
    train_main(['--out', str(tmp_path / 'a.safetensors'), *size])
    original = train._save_state

    def stop_after_first(path, model, optimizer, epoch, settings):
        original(path, model, optimizer, epoch, settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, '_save_state', stop_after_first)
    with pytest.raises(SystemExit, match='goes on'):
        train_main(['--out', str(tmp_path / 'b.safetensors'), *size])
    monkeypatch.setattr(train, '_save_state', original)
    train_main(['--out', str(tmp_path / 'b.safetensors'), *size])
    assert (tmp_path / 'a.safetensors').read_bytes() == (tmp_path / 'b.safetensors').read_bytes()


@pytest.mark.filterwarnings('ignore:Matrix is singular')  # networks that have learned nothing hardly differ
def test_variants_are_trained_side_by_side_with_one_budget_and_compared(tmp_path, capsys):
    sizes = [
        '--width',
        '16',
        '--sequences',
        '20',
        '--batch',
        '32',
        '--steps',
        '3',
        '--situations',
        '20',
        '--workers',
        '1',
    ]
    names = ['256x1', 'mlp']
    ablation_main(['--out', str(tmp_path), '--json', str(tmp_path / 'a.json'), '--only', *names, *sizes])
    budgets = [json.loads((tmp_path / f'{name}.json').read_text())['training'] for name in names]
    assert {(b['steps'], b['batch'], b['sequences']) for b in budgets} == {(3, 32, 20)}
    rows = {row['name'] for row in json.loads((tmp_path / 'a.json').read_text())['rows']}
    assert {'ablation_frechet/256x1/t0.7', 'ablation_frechet/mlp/t1'} <= rows
    assert 'ablation_frechet/mlp/t0.7' not in rows, 'only sampled codes have a temperature'


def test_a_configuration_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match='kind'):
        MotionConfig(kind='gan')
    with pytest.raises(ValueError, match='divide'):
        MotionConfig(chunk=7)
