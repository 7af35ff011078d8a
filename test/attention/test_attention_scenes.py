"""Mechanisms over scenes: views, microphones, objects, streams, graphs."""

import math
from dataclasses import replace

import pytest
import torch

from attn_robotics.attention import create
from attn_robotics.attention.joint import rotate_by_time
from attn_robotics.attention.mask_decoupled import MOTION, TEXT, VIDEO, allowed_pairs, propagate_masks, word_masks
from attn_robotics.attention.parallax import align_rows, source_weights
from attn_robotics.attention.spatial_covariance import (
    attended_covariance,
    fixed_weights,
    instant_covariance,
    souden_weights,
)


def test_parallax_finds_a_shift_along_rows():
    torch.manual_seed(0)
    side = torch.randn(1, 64, 6, 24) * 2
    main = side.roll(5, -1)
    aligned, match = align_rows(main, side, side)
    assert torch.nn.functional.cosine_similarity(aligned, main, dim=1).mean() > 0.95
    assert match.mean() > 0.9
    _, stranger = align_rows(main, torch.randn_like(side) * 2, side)
    assert stranger.mean() < match.mean() - 0.3


def test_equal_views_match_themselves_and_constant_ones_stay_what_they_are():
    torch.manual_seed(0)
    view = torch.randn(1, 64, 5, 20) * 2
    aligned, match = align_rows(view, view, view)
    torch.testing.assert_close(aligned, view, rtol=0.05, atol=0.05)
    assert match.min() > 0.9
    # Rows of the match sum to one: a view that is the same everywhere comes back as it was.
    flat, _ = align_rows(view, torch.randn_like(view), torch.full_like(view, 0.7))
    torch.testing.assert_close(flat, torch.full_like(view, 0.7))


def test_view_weights_sum_to_one_and_drop_missing_views():
    match = torch.rand(2, 3, 4, 5)
    present = torch.tensor([[True, True, False], [False, False, False]])
    weights = source_weights(match, present)
    torch.testing.assert_close(weights[0].sum(0), torch.ones(4, 5))
    assert (weights[0, 2] == 0).all() and (weights[1] == 0).all()


def test_swapping_side_views_swaps_their_weights_only():
    torch.manual_seed(0)
    layer = create('parallax', channels=6).double().eval()
    main, sides = torch.randn(1, 6, 5, 7).double(), torch.randn(1, 3, 6, 5, 7).double()
    out, weights = layer(main, sides)
    swapped, other = layer(main, sides[:, [2, 0, 1]])
    torch.testing.assert_close(swapped, out)
    torch.testing.assert_close(other, weights[:, [2, 0, 1]])
    dirty = sides.clone()
    dirty[:, 1] = float('nan')
    clean, _ = layer(main, sides[:, [0, 2]])
    torch.testing.assert_close(layer(main, dirty, torch.tensor([[True, False, True]]))[0], clean)


def scene(frames=40, bins=4, mics=3):
    torch.manual_seed(0)
    target, noise = torch.randn(2, 1, frames, bins, dtype=torch.complex128)
    steer, other = torch.randn(2, mics, dtype=torch.complex128)
    return target[..., None] * steer, 0.7 * noise[..., None] * other


def test_fixed_weights_are_the_classical_estimators():
    speech, noise = scene()
    mixture, mask = speech + noise, torch.rand(1, 40, 4, dtype=torch.float64)
    instant = instant_covariance(mixture, mask)

    def attend(weights):
        return attended_covariance(weights[None, None].expand(1, 2, -1, -1), instant, mask)

    total = instant.sum(1, keepdim=True) / mask.sum(1, keepdim=True)[..., None, None]
    torch.testing.assert_close(attend(fixed_weights(40, 'utterance')), total.expand_as(instant))
    block = attend(fixed_weights(40, 'block', window=5))[:, 20]
    torch.testing.assert_close(block, instant[:, 16:21].sum(1) / mask[:, 16:21].sum(1)[..., None, None])
    number, share = torch.zeros_like(instant[:, 0]), torch.zeros_like(mask[:, 0])
    for t in range(40):
        number, share = 0.9 * number + instant[:, t], 0.9 * share + mask[:, t]
    recursive = attend(fixed_weights(40, 'recursive', forgetting=0.9))[:, -1]
    torch.testing.assert_close(recursive, number / share[..., None, None])
    with pytest.raises(ValueError, match='kind must be'):
        fixed_weights(4, 'guess')


def test_beamformer_keeps_the_target_and_removes_the_interferer():
    speech, noise = scene()
    ones = torch.ones(1, 40, 4, dtype=torch.float64)
    weights = fixed_weights(40, 'utterance')[None, None]
    target = attended_covariance(weights, instant_covariance(speech, ones), ones)
    other = attended_covariance(weights, instant_covariance(noise, ones), ones)
    w = souden_weights(target, other, loading=1e-8)
    kept = torch.einsum('btfm,btfm->btf', w.conj(), speech)
    left = torch.einsum('btfm,btfm->btf', w.conj(), noise)
    torch.testing.assert_close(kept, speech[..., 0], rtol=1e-4, atol=1e-4)
    assert left.abs().mean() < 1e-3 * noise[..., 0].abs().mean()


def test_covariance_attention_starts_as_a_recursive_estimator_and_is_causal():
    torch.manual_seed(0)
    layer = create('spatial_covariance', width=8, bands=3, window=6, frame_rate=10.0)
    weights = layer.weights(torch.randn(1, 12, 8)).detach()[0, 0, 0]  # speech: 0.5 s decay
    assert weights[11, 11] / weights[11, 10] == pytest.approx(math.exp(0.1 / 0.5), rel=1e-4)
    assert (weights.triu(1) == 0).all() and (weights[11, :6] == 0).all()
    nothing = layer.weights(torch.randn(1, 4, 8), torch.zeros(1, 4, dtype=torch.bool))
    assert (nothing == 0).all()


def layout():
    kind = torch.tensor([TEXT, TEXT, TEXT, MOTION, MOTION, VIDEO, VIDEO, VIDEO, VIDEO])
    objects = torch.tensor([0, 1, 2, 1, 2, 1, 2, 3, 0])
    return kind, objects


def test_decoupled_mask_equals_the_published_table():
    kind, objects = layout()
    drawn = [
        'xxx..xxxx',
        'xx.x.x.x.',
        'x.x.x.xx.',
        '.x...x.x.',
        '..x...xx.',
        'xx.x.xxxx',
        'x.x.xxxxx',
        'xxxxxxxxx',
        'x....xxxx',
    ]
    truth = torch.tensor([[cell == 'x' for cell in row] for row in drawn])
    allowed = allowed_pairs(kind, objects)
    assert torch.equal(allowed, truth)
    assert torch.equal(allowed, allowed.T)
    training = allowed_pairs(kind, objects, training=True)
    assert training[3, 3] and training[4, 4] and not training[3, 4]


def test_a_token_left_with_nothing_sees_itself():
    allowed = allowed_pairs(torch.tensor([MOTION, VIDEO]), torch.tensor([4, 1]))
    assert allowed[0].tolist() == [True, False]


def test_a_motion_touches_only_its_object():
    torch.manual_seed(0)
    kind, objects = layout()
    layer = create('mask_decoupled', width=16, heads=2).eval()
    x = torch.randn(1, 9, 16)
    changed = x.clone()
    changed[:, 3] += 1.0  # the motion of object 1
    moved = (layer(changed, kind, objects) - layer(x, kind, objects))[0].abs().amax(-1) > 0
    assert moved.tolist() == [False, True, False, True, False, True, False, True, False]


def test_masks_follow_their_features_to_the_next_frame():
    torch.manual_seed(0)
    anchors = torch.nn.functional.normalize(torch.randn(1, 20, 32), dim=-1)
    masks = torch.zeros(1, 2, 20)
    masks[:, 0, :5] = 1
    masks[:, 1, 10:14] = 1
    order = torch.randperm(20)
    found = propagate_masks(anchors[:, order], anchors, masks, nearest=1)
    assert torch.equal(found, masks[:, :, order].bool())
    assert word_masks(torch.ones(1, 1, 1, 2), torch.tensor([[[[[1.0, 0.0], [0.0, 0.0]]]]])).tolist() == [
        [[True, False]]
    ]


def test_joint_attention_is_one_softmax_over_both_streams():
    torch.manual_seed(0)
    layer = create('joint', width=16, heads=2).double()
    for a, b in (
        (layer.qkv[0], layer.qkv[1]),
        (layer.out[0], layer.out[1]),
        (layer.norm[0], layer.norm[2]),
        (layer.norm[1], layer.norm[3]),
    ):
        b.load_state_dict(a.state_dict())  # equal twins: the split between streams must not matter
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    whole = torch.cat(layer(x[:, :6], x[:, 6:]), 1)
    torch.testing.assert_close(torch.cat(layer(x[:, :2], x[:, 2:]), 1), whole)


def test_a_given_stream_is_bit_identical_whatever_the_other_holds():
    torch.manual_seed(0)
    layer = create('joint', width=16, heads=2)
    video, audio = torch.randn(1, 6, 16), torch.randn(1, 4, 16)
    one, heard = layer(video, audio, first_is_given=True)
    other, _ = layer(video, torch.randn(1, 4, 16), first_is_given=True)
    assert torch.equal(one, other)
    silent, _ = layer(video, audio)
    assert not torch.equal(one, silent)
    masks = (torch.ones(1, 6, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool))
    torch.testing.assert_close(layer(video, audio, keep=masks)[0], one)
    assert heard.shape == audio.shape


def test_rotation_depends_on_time_differences_only():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def score(a, b):
        turned = (rotate_by_time(x, torch.tensor([t])) for x, t in ((q, a), (k, b)))
        first, second = turned
        return (first * second).sum()

    torch.testing.assert_close(score(1.5, 0.5), score(11.5, 10.5), rtol=1e-5, atol=1e-5)
    assert not torch.isclose(score(1.5, 0.5), score(3.5, 0.5))


def guided(**config):
    torch.manual_seed(0)
    return create('action_guided', width=16, classes=5, heads=2, queue=4, **config).double().eval()


def test_streams_of_actions_equal_sequences_and_do_not_mix():
    layer = guided()
    frames = torch.randn(2, 9, 16, dtype=torch.float64)
    whole = layer(frames)
    for b in range(2):
        state = layer.open_state(1, dtype=torch.float64)
        for t in range(9):
            logits, state, seen = layer.step(frames[b : b + 1, t], state)
            torch.testing.assert_close(logits[0], whole[b, t])
            torch.testing.assert_close(seen['weights'].sum(-1), torch.full((1, 2), float(t > 0), dtype=torch.float64))


def test_a_stream_without_a_past_uses_its_frame_alone():
    layer = guided()
    frame = torch.randn(1, 16, dtype=torch.float64)
    logits, state, seen = layer.step(frame, layer.open_state(1, dtype=torch.float64))
    torch.testing.assert_close(logits, layer.classify(frame))
    assert (seen['gate'] == 0).all() and state.seen.sum() == 1
    torch.testing.assert_close(layer.running_query(state), 0.8 * logits.softmax(-1))


def test_the_running_query_is_an_average_unless_compatibility_is_asked_for():
    frame = torch.randn(1, 16, dtype=torch.float64)
    newest = torch.tensor([[0.9, 0.1, 0.0, 0.0, 0.0]], dtype=torch.float64)
    for compat in (False, True):
        layer = guided(compat_resoftmax=compat)
        logits, state, _ = layer.step(frame, replace(layer.open_state(1, dtype=torch.float64), newest=newest))
        before = 0.8 * newest + 0.2 * (0.2 if compat else 0.0)  # zeros through softmax are uniform over 5 classes
        kept = before.softmax(-1) if compat else before
        torch.testing.assert_close(layer.running_query(state), 0.8 * logits.softmax(-1) + 0.2 * kept)


def test_streams_without_a_frame_keep_their_state_and_padding_may_hold_nan():
    layer = guided()
    frames = torch.randn(2, 6, 16, dtype=torch.float64)
    keep = torch.tensor([[True] * 6, [True, False, True, True, False, False]])
    padded = torch.where(keep[..., None], frames, torch.nan)
    found = layer(padded, keep)
    alone = layer(frames[1:, [0, 2, 3]])
    torch.testing.assert_close(found[0], layer(frames[:1])[0])
    torch.testing.assert_close(found[1, [0, 2, 3]], alone[0])
    assert (found[1, [1, 4, 5]] == 0).all()


def test_gradients_flow_through_stored_predictions():
    layer = guided()
    frames = torch.randn(1, 5, 16, dtype=torch.float64, requires_grad=True)
    layer(frames)[:, -1].sum().backward()
    assert frames.grad[:, 0].abs().sum() > 0 and torch.isfinite(frames.grad).all()


def graph(nodes=12, slots=4):
    torch.manual_seed(0)
    layer = create('neighbourhood_aware', width=16, heads=2).double()
    neighbours = torch.randint(0, nodes, (nodes, slots))
    neighbours[3] = -1
    neighbours[5, 2:] = -1
    return layer, torch.randn(nodes, 16, dtype=torch.float64), neighbours, torch.randint(0, 4, (nodes, slots))


def test_isolated_nodes_are_zero_and_unused_slots_do_not_matter():
    layer, x, neighbours, hops = graph()
    out, gate = layer(x, neighbours, hops)
    assert (out[3] == 0).all() and ((gate > 0) & (gate < 1)).all()
    fewer, _ = layer(x, neighbours[:, :2].contiguous(), hops[:, :2])
    torch.testing.assert_close(out[5], fewer[5])


def test_a_gate_of_one_is_plain_attention_and_of_zero_is_the_difference():
    layer, x, neighbours, hops = graph()
    same, _ = layer(x, neighbours, hops, torch.ones(12, 4, dtype=torch.float64))
    q, k = (part(x).unflatten(-1, (2, 8)) for part in (layer.query, layer.key))
    weights = ((q[0] * k[neighbours[0]]).sum(-1) * 8**-0.5 + layer.hop_bias.T[hops[0]]).softmax(0)  # (S, H)
    truth = (weights[..., None] * layer.same(x)[neighbours[0]].unflatten(-1, (2, 8))).sum(0).flatten()
    torch.testing.assert_close(same[0], truth)
    flat = torch.ones_like(x)
    other, _ = layer(flat, neighbours, hops, torch.zeros(12, 4, dtype=torch.float64))
    assert other.abs().max() < 1e-12  # equal neighbours have no difference


def test_renumbering_nodes_renumbers_outputs():
    layer, x, neighbours, hops = graph()
    order = torch.randperm(12)
    place = torch.empty_like(order)
    place[order] = torch.arange(12)
    moved = torch.where(neighbours >= 0, place[neighbours.clamp(min=0)], -1)[order]
    out, _ = layer(x, neighbours, hops)
    torch.testing.assert_close(layer(x[order], moved, hops[order])[0], out[order])
