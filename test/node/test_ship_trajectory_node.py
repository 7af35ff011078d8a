"""The node that predicts trajectories, on a real graph with the model that ships."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import yaml
from nav_msgs.msg import Path
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from attn_robotics.conversions.attention import from_attention_map
from attn_robotics.conversions.stamps import to_seconds, to_stamp
from attn_robotics.conversions.tracks import from_tracks, to_tracks
from attn_robotics.nodes.ship_trajectory import ShipTrajectoryNode, topic_name
from attn_robotics.nodes.traffic_simulator import TrafficSimulator
from attn_robotics.paths import find_config
from attn_robotics.ros import qos
from attn_robotics.systems.ship_trajectory.data import Traffic
from attn_robotics.systems.ship_trajectory.player import RiverPlayer
from attn_robotics.systems.ship_trajectory.processor import Track
from attn_robotics_interfaces.msg import AttentionMap, Tracks
from attn_robotics_interfaces.srv import GetShipDomain, PredictTracks

pytestmark = pytest.mark.ros


@pytest.fixture
def node(graph):
    node = graph.start(ShipTrajectoryNode)
    graph.until(lambda: node.is_active, 'an active node')
    return node


def meeting(gap_m=600.0, scale=1.0):
    """Two vessels that go towards each other on a straight river, 3 m/s each."""
    ages = 30.0 * np.arange(10, -1, -1.0)
    east = np.stack([-3.0 * ages, np.full(11, -15.0)], -1)
    west = np.stack([gap_m + 3.0 * ages, np.full(11, 15.0)], -1)
    return [Track('east', ages, scale * east, length=80.0), Track('west-1', ages, scale * west, length=80.0)]


def tracks_message(tracks, stamp_s=1000.0):
    axis = np.array([[-5000.0, 0.0], [5000.0, 0.0]])
    return to_tracks(tracks, Header(stamp=to_stamp(stamp_s), frame_id='river'), axis, 60.0)


def test_tracks_survive_their_message():
    player = RiverPlayer(Traffic(), 1)
    tracks, fairway = from_tracks(to_tracks(player.tracks(), Header(), player.axis, 60.0))
    assert fairway.half_width_m == 60.0
    for one, other in zip(tracks, player.tracks(), strict=True):
        assert one.id == other.id and math.isnan(one.heading)
        np.testing.assert_allclose(one.xy, other.xy)
        np.testing.assert_allclose(one.ages_s, other.ages_s)


def test_every_vessel_gets_a_path_and_the_scene_its_attention_and_markers(graph, node):
    paths = {name: graph.hear(Path, f'paths/{name}') for name in ('east', 'west_1')}
    maps, markers = (
        graph.hear(AttentionMap, 'ship_trajectory/attention'),
        graph.hear(MarkerArray, 'ship_trajectory/markers'),
    )
    graph.until(
        lambda: node._attention.get_subscription_count() and node._markers.get_subscription_count(), 'listeners'
    )

    def heard_all():
        # The topics of paths begin with the first tracks: say them until somebody has heard.
        graph.say(tracks_message(meeting()), 'tracks', qos.STATE)
        graph.settle()
        return all(paths.values()) and maps and markers

    graph.until(heard_all, 'paths, attention and markers')
    east = paths['east'][-1]
    assert east.header.frame_id == 'river' and len(east.poses) == 11
    assert [to_seconds(pose.header.stamp) for pose in east.poses] == [1000.0 + 30.0 * k for k in range(11)]
    x = [pose.pose.position.x for pose in east.poses]
    assert x[0] == pytest.approx(0.0, abs=1e-6) and (np.diff(x) > 30.0).all() and x[-1] < 1000.0
    assert paths['west_1'][-1].poses[-1].pose.position.x < 300.0
    weights = from_attention_map(maps[-1])[0]
    assert maps[-1].key_ids == ['east', 'west-1'] and maps[-1].mechanism == 'ship_domain'
    np.testing.assert_allclose(weights, [[0, 1], [1, 0]], atol=1e-6)
    assert maps[-1].distances[1] == pytest.approx(math.hypot(600.0, 30.0), rel=1e-3)
    kinds = {marker.ns for marker in markers[-1].markers}
    assert kinds == {'prediction', 'domain', 'influence'}
    assert all(marker.type in (Marker.LINE_STRIP, Marker.ARROW) for marker in markers[-1].markers)


def test_the_service_predicts_and_explains_without_topics(graph, node):
    response = graph.call(
        PredictTracks, 'ship_trajectory/predict', PredictTracks.Request(tracks=tracks_message(meeting()))
    )
    assert response.success, response.message
    east = response.predictions[0]
    assert east.id == 'east' and east.neighbour == 'west-1' and east.share == pytest.approx(1.0)
    assert east.distance == pytest.approx(600.7, abs=1.0) and 'west-1 matters most' in east.because
    assert len(east.deviation_along) == 10 and east.deviation_along[-1] > east.deviation_along[0] > 0
    influence = np.reshape(response.influence, (2, 2))
    assert influence[0, 1] > 0 and influence[0, 0] == 0
    # Un-normalised: the same neighbour farther away matters less, while its share stays one.
    far = graph.call(
        PredictTracks, 'ship_trajectory/predict', PredictTracks.Request(tracks=tracks_message(meeting(4000.0)))
    )
    assert np.reshape(far.influence, (2, 2))[0, 1] < influence[0, 1]


def test_the_domain_is_told_as_a_polar_table_in_metres(graph, node):
    domain = graph.call(GetShipDomain, 'ship_trajectory/get_ship_domain', GetShipDomain.Request())
    assert domain.success and len(domain.radii) == 64 and len(domain.bearing_edges_deg) == 9
    assert domain.bearing_edges_deg[0] == -22.5 and domain.bearing_edges_deg[-1] == 337.5
    assert min(domain.radii) >= 0.0 and 50.0 < np.mean(domain.radii) < 5000.0


def test_bad_tracks_are_left_out_by_name_and_the_others_are_predicted(graph, node):
    tracks = meeting()
    stale = Track('stale', np.array([500.0, 400.0]), np.zeros((2, 2)))
    broken = Track('broken', np.array([30.0, 0.0]), np.full((2, 2), np.nan))
    graph.say(tracks_message([*tracks, stale, broken]), 'tracks', qos.STATE)
    graph.until(lambda: node.dropped['bad track'] == 2 and len(node._paths) == 2, 'two paths')
    assert "'stale' ends 400 s ago" in ' '.join(graph.warnings())
    twice = tracks_message([tracks[0], tracks[0]])
    graph.say(twice, 'tracks', qos.STATE)
    graph.until(lambda: node.dropped['bad tracks'] == 1, 'a refusal')
    response = graph.call(PredictTracks, 'ship_trajectory/predict', PredictTracks.Request(tracks=twice))
    assert not response.success and "'east' is given twice" in response.message
    nobody = graph.call(PredictTracks, 'ship_trajectory/predict', PredictTracks.Request())
    assert not nobody.success and '1 to 64 tracks' in nobody.message
    graph.say(Tracks(), 'tracks', qos.STATE)
    graph.until(lambda: not node._paths, 'no paths any more')


def test_robots_in_a_corridor_are_small_ships(graph):
    node = graph.start(ShipTrajectoryNode, length_scale=300.0, time_scale=150.0, max_age_s=1.0)
    graph.until(lambda: node.is_active, 'an active node')
    robots = [Track(t.id, t.ages_s / 150.0, t.xy / 300.0) for t in meeting()]
    message = to_tracks(robots, Header(frame_id='map'), None, 0.0)
    response = graph.call(PredictTracks, 'ship_trajectory/predict', PredictTracks.Request(tracks=message))
    assert response.success, response.message
    path = response.predictions[0].path
    assert to_seconds(path.poses[-1].header.stamp) == pytest.approx(2.0)
    assert 0.5 < path.poses[-1].pose.position.x < 4.0  # 1.5 m/s for 2 s, slower for the other's sake


def test_the_simulated_river_is_predicted_and_vessels_come_and_go(graph, node):
    heard = graph.hear(AttentionMap, 'ship_trajectory/attention')
    river = graph.start(TrafficSimulator, real_time_factor=200.0, seed=3)
    graph.until(lambda: river.is_active and len(heard) >= 40, 'forty scenes')
    graph.until(lambda: len({name for message in heard for name in message.key_ids}) > 4, 'a vessel that is new')
    assert not node.dropped['bad track'] and not graph.errors()


def test_names_become_parts_of_topics():
    assert topic_name('MMSI 211-5') == 'MMSI_211_5' and topic_name('7') == 'id_7' and topic_name('') == 'id_'


@pytest.mark.parametrize('kind', [ShipTrajectoryNode, TrafficSimulator])
def test_the_parameter_file_holds_the_defaults_of_the_class(kind):
    content = yaml.safe_load(find_config('ship_trajectory.yaml').read_text())
    assert content[f'/**/{kind.NAME}']['ros__parameters'] == dataclasses.asdict(kind.Params())
