"""Ship trajectories: what turning, moving, renaming and hiding vessels may change, and what the shipped file is."""

import math

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.runtime.catalogue import Catalogue
from attn_robotics.runtime.engine import Engine
from attn_robotics.systems.ship_trajectory.baselines import constant_velocity
from attn_robotics.systems.ship_trajectory.config import FUSIONS, ShipConfig
from attn_robotics.systems.ship_trajectory.data import Traffic, draw_scenes
from attn_robotics.systems.ship_trajectory.domain import EllipseDomain, TableDomain, bin_edges_deg, bin_shares
from attn_robotics.systems.ship_trajectory.evaluate import main, relations
from attn_robotics.systems.ship_trajectory.export import OUTPUTS, export_service
from attn_robotics.systems.ship_trajectory.model import ShipNetwork, ShipService
from attn_robotics.systems.ship_trajectory.plausibility import (
    examine,
    sector_means,
    time_to_approach,
    truth_now,
)
from attn_robotics.systems.ship_trajectory.player import RiverPlayer
from attn_robotics.systems.ship_trajectory.processor import (
    INPUTS,
    WEIGHTS,
    Fairway,
    Scale,
    Track,
    TrackError,
    TrackProcessor,
    inputs_of_scenes,
    read_card,
    read_network,
    read_service,
)
from attn_robotics.systems.ship_trajectory.train import Recipe, prepare
from attn_robotics.training.fit import fit

DOMAINS = ('table', 'table_normalised', 'ellipse', 'interpolated')


def build(fusion, seed=0, **changes):
    torch.manual_seed(seed)
    network = ShipNetwork(ShipConfig(fusion=fusion, hidden=12, embedding=8, **changes)).double().eval()
    with torch.no_grad():
        if network.domain is not None:  # an uneven domain, so that directions matter
            network.domain.radii.mul_(0.5 + torch.rand_like(network.domain.radii))
    return network


def scene(seed=0, scenes=3, config=None):
    """A scene as the network's inputs, in float64."""
    drawn = draw_scenes(Traffic(), scenes, 21, seed)
    inputs, truth = inputs_of_scenes(drawn, config or ShipConfig())
    found = {name: torch.from_numpy(value) for name, value in inputs.items()}
    return {name: v.double() if v.is_floating_point() else v for name, v in found.items()}, torch.from_numpy(truth)


@torch.no_grad()
@pytest.mark.parametrize('fusion', FUSIONS)
def test_turning_and_moving_a_scene_turns_and_moves_its_predictions(fusion):
    network, (inputs, _) = build(fusion), scene()
    plain = network(**inputs)
    angle, shift = 0.7, torch.tensor([3000.0, -500.0], dtype=torch.float64)
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    turned = dict(inputs, positions=inputs['positions'] @ turn + shift, headings=inputs['headings'] + angle)
    found = network(**turned)
    # Nobody sits on the edge of a bin in this scene, so that rounding can not push anyone over it.
    torch.testing.assert_close(found.paths, plain.paths @ turn + shift, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.influence, plain.influence, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize('fusion', FUSIONS)
def test_renaming_vessels_renames_their_predictions(fusion):
    network, (inputs, _) = build(fusion), scene()
    plain = network(**inputs)
    order = torch.tensor([2, 0, 3, 1])
    found = network(**{name: value[:, order] for name, value in inputs.items()})
    torch.testing.assert_close(found.paths, plain.paths[:, order], rtol=0, atol=1e-9)
    torch.testing.assert_close(found.influence, plain.influence[:, :, order][..., order], rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize('fusion', FUSIONS)
def test_absent_vessels_change_nothing_and_may_hold_nan(fusion):
    network, (inputs, _) = build(fusion), scene()
    two = network(**{name: value[:, :2] for name, value in inputs.items()})
    hidden = {name: value.clone() for name, value in inputs.items()}
    for name in INPUTS[:-1]:
        hidden[name][:, 2:] = torch.nan
    hidden['present'][:, 2:] = False
    found = network(**hidden)
    torch.testing.assert_close(found.paths[:, :2], two.paths)
    assert torch.isfinite(found.paths).all() and (found.influence[..., 2:] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize('fusion', [name for name in FUSIONS if name != 'none'])
def test_a_vessel_alone_takes_the_same_way_as_without_fusion(fusion):
    network, (inputs, _) = build(fusion), scene()
    alone = {name: value[:, :1] for name, value in inputs.items()}
    without = build('none')
    without.load_state_dict({k: v for k, v in network.state_dict().items() if k in without.state_dict()})
    torch.testing.assert_close(network(**alone).paths, without(**alone).paths, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize('fusion', ['table', 'interpolated', 'ellipse'])
def test_influence_begins_at_the_edge_of_the_domain_and_grows_evenly_inside(fusion):
    network = build(fusion)

    def influence(distance_m):
        inputs, _ = scene(scenes=1)
        inputs = {name: value[:, :2].clone() for name, value in inputs.items()}
        past = torch.arange(-10.0, 1.0, dtype=torch.float64) * 100.0
        inputs['positions'][0, 0] = torch.stack([past, 0 * past], -1)
        inputs['positions'][0, 1] = torch.stack([distance_m - past, 0 * past], -1)
        inputs['headings'][0] = torch.tensor([0.0, math.pi])
        found = network(**inputs)
        return float(found.influence[0, 0, 0, 1]), 1000.0 * float(found.radius[0, 0, 1])

    _, radius = influence(300.0)
    assert influence(radius + 1.0)[0] == 0.0
    for inside in (10.0, 50.0, 200.0):
        assert influence(radius - inside)[0] == pytest.approx(inside / 1000.0, abs=1e-6)


@given(angle=st.floats(-20, 20), bins=st.integers(4, 16), smooth=st.booleans())
@settings(max_examples=100, deadline=None)
def test_bin_shares_sum_to_one_and_do_not_know_full_turns(angle, bins, smooth):
    turns = torch.tensor([angle, angle + 2 * math.pi], dtype=torch.float64)
    shares = bin_shares(turns, bins, smooth)
    assert shares.min() >= 0 and torch.allclose(shares.sum(-1), torch.ones(2, dtype=torch.float64))
    if smooth:
        torch.testing.assert_close(shares[0], shares[1], rtol=0, atol=1e-9)


def test_a_smooth_domain_equals_the_table_at_bin_centres_and_lies_between_them_elsewhere():
    torch.manual_seed(0)
    table, smooth = TableDomain(8, 1.0, False), TableDomain(8, 1.0, True)
    with torch.no_grad():
        table.radii.copy_(torch.rand(8, 8))
        smooth.radii.copy_(table.radii)
        centres = torch.arange(8) * math.pi / 4
        bearing, heading = torch.meshgrid(centres, centres, indexing='ij')
        torch.testing.assert_close(smooth(bearing, heading), table.radii, rtol=0, atol=1e-5)
        torch.testing.assert_close(table(bearing + 0.3, heading - 0.3), table.radii)
        between = smooth(torch.tensor(math.pi / 8), torch.tensor(0.0))
        assert between == pytest.approx(float(table.radii[:2, 0].mean()), abs=1e-5)
    assert bin_edges_deg(4) == [-45.0, 45.0, 135.0, 225.0, 315.0]


def test_an_ellipse_reaches_its_four_radii_at_bow_port_stern_and_starboard():
    domain = EllipseDomain(8, 1.0)
    with torch.no_grad():
        domain.radii[0] = torch.tensor([4.0, 1.0, 2.0, 3.0])  # bow, stern, port, starboard
        angles = torch.tensor([0.0, math.pi / 2, math.pi, -math.pi / 2])
        torch.testing.assert_close(domain(angles, torch.zeros(4)), torch.tensor([4.0, 2.0, 1.0, 3.0]))


@torch.no_grad()
def test_attention_that_may_choose_nobody_forgets_neighbours_when_it_does():
    network, (inputs, _) = build('softmax_or_none'), scene()
    some = network(**inputs).influence.sum(-1)
    assert (some > 0).all() and (some < 1).all()
    network.attention.query.weight.zero_()
    network.attention.query.bias.fill_(1.0)
    network.attention.nobody.fill_(1e4)
    found = network(**inputs)
    assert (found.influence == 0).all()
    without = build('none')
    without.load_state_dict({k: v for k, v in network.state_dict().items() if k in without.state_dict()})
    torch.testing.assert_close(found.paths, without(**inputs).paths)


def test_gradients_reach_every_parameter_that_a_close_scene_uses():
    inputs, truth = scene(scenes=40)
    for fusion in FUSIONS:
        network = build(fusion)
        (network(**inputs).paths - truth).square().mean().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), (fusion, name)
        if network.domain is not None:
            assert (network.domain.radii.grad != 0).float().mean() > 0.2


def test_traffic_repeats_keeps_to_the_right_and_a_vessel_without_company_keeps_its_speed():
    first, second = (draw_scenes(Traffic(), 20, 21, 5) for _ in range(2))
    assert np.array_equal(first.positions, second.positions)
    moved = first.positions[:, :, -1, 0] - first.positions[:, :, 0, 0]
    side = -np.sign(moved) * first.positions[..., 1].mean(-1)
    assert side.mean() > 10.0 and np.abs(first.positions[..., 1]).max() < 60.0
    alone = draw_scenes(Traffic(vessels=1), 20, 21, 5).positions[:, 0, :, 0]
    steps = np.abs(np.diff(alone, axis=1))
    assert np.ptp(steps, axis=1).max() < 1e-6 and steps.min() >= 2.2 * 30 and steps.max() <= 4.4 * 30
    assert 0.15 < draw_scenes(Traffic(), 500, 21, 0).encounters(10).mean() < 0.35


def test_only_those_who_come_closer_react_and_removal_shows_it():
    traffic = Traffic(vessels=2)
    with_it = draw_scenes(traffic, 200, 21, 3)
    without = draw_scenes(traffic, 200, 21, 3, unseen=1, unseen_from=10)
    shift = np.linalg.norm(with_it.positions - without.positions, axis=-1)
    assert shift[:, :, :11].max() == 0.0
    part = (time_to_approach(with_it.positions[:, :, :11], 30.0)[:, 0, 1] == np.inf) & (
        np.abs(with_it.positions[:, 0, 10, 0] - with_it.positions[:, 1, 10, 0]) > 100.0
    )
    assert part.sum() > 10 and shift[part, 0, -1].max() < 1.0  # they part: nothing to react to
    truth = truth_now(with_it.positions[:, :, :11], traffic)
    assert shift[truth[:, 0, 1] > 0.5, 0, -1].mean() > 20.0


def river(bend=200.0):
    along = np.linspace(-3000.0, 3000.0, 301)
    return Fairway(np.stack([along, bend * np.sin(along / 500.0)], -1), 60.0)


@given(s=st.floats(-2500, 2500), n=st.floats(-50, 50))
@settings(max_examples=100, deadline=None)
def test_positions_survive_the_way_to_the_river_and_back(s, n):
    fairway = river(bend=20.0)
    middle = fairway.to_river(np.zeros((1, 2)))[0][0, 0]
    xy, _ = fairway.to_map(np.array([[s + middle, n]]))
    found, _ = fairway.to_river(xy)
    back, _ = fairway.to_map(found)
    assert np.abs(back - xy).max() < 0.5  # near a corner of the axis two parts are equally near


def tracks_of(past, ids='abcd'):
    ages = 30.0 * np.arange(past.shape[1] - 1, -1, -1.0)
    return [Track(ids[number], ages, xy) for number, xy in enumerate(past)]


def answer(network, inputs):
    with torch.no_grad():
        found = ShipService(network.float())(*(torch.from_numpy(inputs[name]) for name in INPUTS))
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize('length, time', [(300.0, 150.0), (0.5, 2.0)])
def test_a_small_world_is_a_scaled_river(length, time):
    network = build('interpolated')
    past = draw_scenes(Traffic(), 1, 11, 4).positions[0]
    plain = TrackProcessor(network.config)
    tracks = tracks_of(past)
    truth = plain.prediction(tracks, answer(network, plain.inputs(tracks)))
    small = [Track(t.id, t.ages_s / time, t.xy / length) for t in tracks]
    scaled = TrackProcessor(network.config, Scale(length, time))
    found = scaled.prediction(small, answer(network, scaled.inputs(small)))
    np.testing.assert_allclose(found.paths * length, truth.paths, atol=0.5)
    np.testing.assert_allclose(found.times_s * time, truth.times_s)
    np.testing.assert_allclose(found.radius * length, truth.radius, rtol=1e-4)
    np.testing.assert_allclose(found.influence, truth.influence, atol=1e-4)


def test_tracks_of_uneven_times_equal_even_ones_and_far_coordinates_lose_nothing():
    network = build('interpolated')
    past = draw_scenes(Traffic(vessels=2), 1, 11, 4).positions[0]
    past = past[:, -1:] + (past[:, -1:] - past[:, -2:-1]) * np.linspace(-10, 0, 11)[:, None]  # straight
    processor = TrackProcessor(network.config)
    even = processor.inputs(tracks_of(past))
    uneven = [
        Track(t.id, np.array([290.0, 100.0, 41.5, 3.0]), _along(t, [290.0, 100.0, 41.5, 3.0])) for t in tracks_of(past)
    ]
    np.testing.assert_allclose(processor.inputs(uneven)['positions'], even['positions'], atol=0.01)
    far = processor.inputs([Track(t.id, t.ages_s, t.xy + np.array([4e6, 5e6])) for t in tracks_of(past)])
    np.testing.assert_allclose(far['positions'], even['positions'], atol=0.01)


def _along(track, ages):
    return np.stack([np.interp(-np.array(ages), -track.ages_s, track.xy[:, axis]) for axis in range(2)], -1)


def test_a_bent_river_is_predicted_like_a_straight_one():
    network = build('none')
    with torch.no_grad():  # one that goes on as before, and so stays on the river
        network.out.weight.zero_()
        network.out.bias.zero_()
    past = draw_scenes(Traffic(), 1, 11, 4).positions[0]
    along = np.linspace(-6000.0, 6000.0, 601)
    bent = Fairway(np.stack([along, 300.0 * np.sin(along / 800.0)], -1), 60.0)
    middle = bent.to_river(np.zeros((1, 2)))[0][0, 0]
    straight = Fairway(np.array([[-9000.0, 0.0], [9000.0, 0.0]]), 60.0)
    processor = TrackProcessor(network.config)
    tracks = tracks_of(past)
    plain = processor.prediction(tracks, answer(network, processor.inputs(tracks, straight)), straight)
    on_map = [Track(t.id, t.ages_s, bent.to_map(t.xy + np.array([middle, 0.0]))[0]) for t in tracks]
    found = processor.prediction(on_map, answer(network, processor.inputs(on_map, bent)), bent)
    river, _ = bent.to_river(found.paths)
    np.testing.assert_allclose(river - [middle, 0.0], plain.paths, atol=3.0)


def test_bad_tracks_are_refused_with_their_name():
    processor = TrackProcessor(ShipConfig())
    good = Track('a', np.array([30.0, 0.0]), np.zeros((2, 2)))
    assert processor.check(good) == ''
    for changed, word in (
        ({'ages_s': np.array([0.0])}, 'two or more'),
        ({'xy': np.full((2, 2), np.nan)}, 'NaN'),
        ({'xy': np.full((2, 2), 1e12)}, '1e9'),
        ({'ages_s': np.array([0.0, 30.0])}, 'oldest first'),
        ({'ages_s': np.array([30.0, -1.0])}, 'future'),
        ({'ages_s': np.array([900.0, 800.0])}, 'ends 800 s ago'),
        ({'length': -1.0}, 'length'),
    ):
        bad = Track(**{**vars(good), **changed})
        assert word in processor.check(bad) and "'a'" in processor.check(bad)
        with pytest.raises(TrackError, match=word):
            processor.inputs([bad])
    with pytest.raises(TrackError, match='fairway'):
        Fairway(np.zeros((3, 2)), 10.0)
    for change in ({'fusion': 'magic'}, {'bins': 2}, {'unit_m': 0.0}):
        with pytest.raises(ValueError, match=next(iter(change))):
            ShipConfig(**change)


def test_the_player_tells_tracks_that_the_processor_takes_and_renames_who_comes_back():
    player = RiverPlayer(Traffic(), 0)
    processor = TrackProcessor(ShipConfig())
    names = set()
    for _ in range(200):
        player.step()
        tracks = player.tracks()
        names |= {track.id for track in tracks}
        assert all(processor.check(track) == '' for track in tracks)
    assert len(names) > 4
    inputs = processor.inputs(tracks, player.fairway)
    assert np.abs(inputs['fairway'][0, :, :, 0] + inputs['fairway'][0, :, :, 1] - 120.0).max() < 1e-3


@torch.no_grad()
def test_the_onnx_form_agrees_for_other_numbers_of_scenes_and_vessels():
    import onnxruntime

    for fusion in ('interpolated', 'none'):
        service = ShipService(build(fusion, history=4, horizon=3).float()).eval()
        session = onnxruntime.InferenceSession(export_service(service), providers=['CPUExecutionProvider'])
        drawn = draw_scenes(Traffic(vessels=6), 5, 8, 1)
        inputs, _ = inputs_of_scenes(drawn, service.network.config)
        inputs['present'][1, 3:] = False
        used = {node.name for node in session.get_inputs()}
        found = session.run(list(OUTPUTS), {name: value for name, value in inputs.items() if name in used})
        truth = service(*(torch.from_numpy(inputs[name]) for name in INPUTS))
        for name, value in zip(OUTPUTS, found, strict=True):
            np.testing.assert_allclose(value, truth[name].numpy(), rtol=1e-3, atol=2e-2, err_msg=f'{fusion} {name}')


def test_training_resumes_where_it_was_stopped_and_keeps_radii_positive(tmp_path):
    from attn_robotics.training.checkpoint import read_network as read

    recipe = Recipe(scenes=24, epochs=2, batch=12, held_out=10, domain_rate=5.0)
    config = ShipConfig(hidden=8, embedding=4)

    def run(name, seconds=1e9, resume=False):
        made = [
            prepare(fusion, tmp_path / name / fusion, seeds=[0, 1], config=config, recipe=recipe, resume=resume)
            for fusion in ('table', 'softmax_or_none')
        ]
        return fit(made, seconds=seconds, quiet=True)

    assert run('whole') and not run('stopped', seconds=0.0) and run('stopped', resume=True)
    for fusion in ('softmax_or_none', 'table'):
        whole, stopped = (read(tmp_path / name / fusion)[0] for name in ('whole', 'stopped'))
        for key in whole:
            torch.testing.assert_close(stopped[key], whole[key])
    radii = whole['values.domain/radii']
    assert radii.min() == 0.0 and radii.max() > 0.9  # such a rate would take some far below
    assert main(['--runs', str(tmp_path / 'none')]) == 1


def test_the_report_measures_what_it_says():
    radii = np.zeros((8, 8))
    radii[0, 4], radii[[7, 1], 4] = 3.0, 1.5  # ahead, opposite heading
    radii[4, 0] = 1.0
    found = sector_means(radii)
    assert found['meeting/ahead'] == pytest.approx(2.0) and found['overtaking/astern'] == pytest.approx(1.0 / 3.0)
    torch.manual_seed(0)
    report = examine(build('table').float(), Traffic(), 20, 1)
    assert report.ahead_over_astern_m == report.sectors_m['meeting/ahead'] - report.sectors_m['overtaking/astern']
    assert sum(len(part) for part in report.distances_m.values()) == 20 * 4 * 3
    assert -1 <= report.tcpa_rank <= 1 and 0 <= report.tcpa_share <= 1
    with pytest.raises(ValueError, match='no domain'):
        examine(build('mean').float(), Traffic(), 5, 1)
    errors = {'none': np.full((2, 3, 4, 10), 4.0), 'table': np.full((2, 3, 4, 10), 2.0)}
    row = next(iter(relations(errors, np.ones((2, 3, 4), bool))))
    assert row.value == 0.5 and row.met and row.below


def test_what_ships_matches_its_card_and_its_entry_and_beats_going_straight():
    card = read_card()
    folder = WEIGHTS.parents[4] / 'config' / 'models'
    entry = yaml.safe_load((folder / 'ship_trajectory.yaml').read_text())
    assert entry['sha256'] == card['sha256'] and entry['config'].items() <= card['config'].items()
    network = read_network()
    inputs, truth = inputs_of_scenes(draw_scenes(Traffic(), 200, 21, 4321), network.config)
    with torch.no_grad():
        found = network(*(torch.from_numpy(inputs[name]) for name in INPUTS)).paths.numpy()
    straight = constant_velocity(torch.from_numpy(inputs['positions']), 10).numpy()
    ours, theirs = (np.linalg.norm(path - truth, axis=-1)[..., -1].mean() for path in (found, straight))
    assert ours < 0.75 * theirs
    spread = 120.0 * read_service().spread.detach().numpy()
    assert (np.diff(spread[:, 0]) > 0).all() and spread[-1, 0] > spread[-1, 1]  # speed is harder than place
    with Engine(Catalogue(folder)) as engine:
        engine.load('ship_trajectory').result(60)
        one = {name: value[:1] for name, value in inputs.items()}
        reply = engine.infer('ship_trajectory', one, deadline_s=30.0)
        np.testing.assert_allclose(reply.outputs['paths'][0], found[0], atol=0.05)
        assert reply.outputs['domain'].shape == (1, 8, 8) and reply.outputs['domain'].min() >= 0
