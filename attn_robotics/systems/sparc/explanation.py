"""What attention is worth as an explanation: take away a neighbour's message and see whether the action changes.

Run as `python -m attn_robotics.systems.sparc.explanation --help`. Only the message is taken away; the neighbour is
still seen in the local picture where it is near enough. Robots attend to messages as sent, so that one pass can take a
neighbour from every robot at once without any of them noticing the others' loss.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from attn_robotics.simulation.instances import random_instance
from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.policy import SparcPolicy
from attn_robotics.systems.sparc.processor import observe
from attn_robotics.systems.sparc.report import Row, conditions, mean_interval, table, write_json
from attn_robotics.systems.sparc.shield import Shield
from attn_robotics.systems.sparc.torch_decider import network_of

WHOM = ('most', 'random', 'least')


@dataclass(frozen=True)
class Removal:
    """What happened to N robots when each lost one neighbour's message, by whose it was (`WHOM`).

    Attributes:
        judged: (N,) robots with at least two neighbours in range, the others can't be asked.
        changed: for each of `WHOM` (N,) whether the most probable action changed.
        moved: for each of `WHOM` (N,) total variation between the action probabilities before and after.
    """

    judged: NDArray[np.bool_]
    changed: dict[str, NDArray[np.bool_]]
    moved: dict[str, NDArray[np.float32]]


@torch.inference_mode()
def remove_neighbours(
    network: SparcNetwork,
    image: NDArray[np.float32],
    vector: NDArray[np.float32],
    cells: NDArray[np.integer],
    messages: NDArray[np.float32],
    rng: np.random.Generator,
) -> Removal:
    """Take the most, a random and the least attended neighbour from every robot, one at a time.

    Attention is the mean over layers and heads; a robot's own message is never taken.

    Args:
        network: in evaluation mode, with `communication='broadcast'`.
        image: (N, C, F, F) local pictures.
        vector: (N, V) local vectors.
        cells: (N, 2) rows and columns.
        messages: (N, width) what the robots sent last.
        rng: picks the random neighbour.
    """
    if network.config.communication != 'broadcast':
        raise ValueError("removals of one robot reach others unless communication is 'broadcast'")
    device = next(network.parameters()).device
    seen, own = torch.from_numpy(image)[None].to(device), torch.from_numpy(vector)[None].to(device)
    sent = torch.from_numpy(messages)[None].to(device)
    places = torch.from_numpy(cells.astype(np.int64))[None].to(device)
    relation = network.neighbour_relation(places, places)
    before = network(seen, own, relation, sent, need_attention=True)
    robots = len(cells)
    attention = torch.stack([layer[0].float() for layer in before.attention]).mean((0, 1))  # (N, N)
    heard = (relation[0] >= 0) & ~torch.eye(robots, dtype=torch.bool, device=device)
    judged = heard.sum(1) >= 2
    noise = torch.from_numpy(rng.random((robots, robots)).astype(np.float32)).to(device)
    victims = {
        'most': attention.masked_fill(~heard, -1.0).argmax(1),
        'random': noise.masked_fill(~heard, -1.0).argmax(1),
        'least': attention.masked_fill(~heard, 2.0).argmin(1),
    }
    chosen, probabilities = before.log_probs[0].argmax(-1), before.log_probs[0].exp()
    changed, moved = {}, {}
    for whom, victim in victims.items():
        without = relation.clone()
        without[0, torch.arange(robots, device=device), victim] = -1
        after = network(seen, own, without, sent).log_probs[0]
        changed[whom] = (after.argmax(-1) != chosen).cpu().numpy()
        moved[whom] = (0.5 * (after.exp() - probabilities).abs().sum(-1)).cpu().numpy()
    return Removal(judged.cpu().numpy(), changed, moved)


def study(
    policy: SparcPolicy, robots: int, size: int, density: float, seed: int, *, steps: int = 60, every: int = 4
) -> tuple[int, dict[str, float], dict[str, float]]:
    """Drive one random instance with the shield and remove neighbours every few steps.

    Returns:
        Decisions judged, share of changed actions and mean total variation for each of `WHOM`.
    """
    network = network_of(policy)
    instance = random_instance(size, density, robots, seed)
    distances = distance_fields(instance.grid, instance.goals)
    policy.reset(instance.grid, instance.goals, distances, seed=seed)
    shield, rng, cells = Shield(instance.grid), np.random.default_rng(seed), instance.starts
    judged, changed, moved = 0, dict.fromkeys(WHOM, 0.0), dict.fromkeys(WHOM, 0.0)
    actions: NDArray[np.int8] | None = None
    for step in range(steps):
        messages = policy.messages
        log_probs = policy.step(cells, actions)
        if step % every == 0:
            picture = observe(
                instance.grid,
                cells,
                instance.goals,
                distances,
                policy.priorities,
                policy.history,
                policy.config.field_of_view,
            )
            removal = remove_neighbours(network, picture.image, picture.vector, cells, messages, rng)
            # Who stands on its goal stays whatever it hears; asking it would only dilute the shares.
            asked = removal.judged & (cells != instance.goals).any(axis=1)
            judged += int(asked.sum())
            for whom in WHOM:
                changed[whom] += float(removal.changed[whom][asked].sum())
                moved[whom] += float(removal.moved[whom][asked].sum())
        actions = shield.decide(cells, log_probs, policy.priorities, instance.goals, distances, rng=rng)
        cells = cells + MOVES[actions]
        if (cells == instance.goals).all():
            break
    count = max(judged, 1)
    return judged, {w: changed[w] / count for w in WHOM}, {w: moved[w] / count for w in WHOM}


def draw(path: Path, shares: dict[str, list[float]], case: str) -> None:
    """Bars with 95 % intervals over instances."""
    import matplotlib as mpl

    mpl.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.6, 3.2), layout='constrained')
    for place, whom in enumerate(WHOM):
        mean = float(np.mean(shares[whom]))
        low, high = mean_interval(shares[whom]) or (mean, mean)
        axes.bar(place, 100 * mean, 0.6, yerr=[[100 * (mean - low)], [100 * (high - mean)]], capsize=5, color='C0')
    axes.set_xticks(
        range(len(WHOM)), [f'{whom}\nattended' if whom != 'random' else 'random\nneighbour' for whom in WHOM]
    )
    axes.set_ylabel('actions changed [%]')
    axes.set_title(f"One neighbour's message removed ({case})", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m attn_robotics.systems.sparc.explanation',
        description='How often an action changes when the most, a random or the least attended neighbour falls silent.',
    )
    parser.add_argument('--robots', type=int, default=128, help='robots (default 128)')
    parser.add_argument('--size', type=int, default=40, help='side of the map in cells (default 40)')
    parser.add_argument('--density', type=float, default=0.3, help='obstacle probability (default 0.3)')
    parser.add_argument('--seeds', type=int, default=20, help='instances 0..N-1 (default 20)')
    parser.add_argument('--weights', type=Path, help='weights file; the shipped one when left out')
    parser.add_argument('--device', default='cpu', help='torch device (default cpu)')
    parser.add_argument('--json', type=Path, help='write the rows here')
    parser.add_argument('--figure', type=Path, help='write a picture here')
    args = parser.parse_args(arguments)
    case = f'{args.robots}x{args.size}/{args.density:.2f}'
    shares: dict[str, list[float]] = {whom: [] for whom in WHOM}
    variations: dict[str, list[float]] = {whom: [] for whom in WHOM}
    asked = 0
    try:
        policy = SparcPolicy.load(args.weights, args.device, 'torch')
        for seed in tqdm(range(args.seeds), disable=not sys.stderr.isatty()):
            judged, changed, moved = study(policy, args.robots, args.size, args.density, seed)
            asked += judged
            for whom in WHOM:
                shares[whom].append(changed[whom])
                variations[whom].append(moved[whom])
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    except (ValueError, RuntimeError) as error:
        print(f'explanation: {error}', file=sys.stderr)
        return 2
    rows = []
    for whom in WHOM:
        rows.append(
            Row(f'action_changes/{whom}/{case}', float(np.mean(shares[whom])), '', asked, mean_interval(shares[whom]))
        )
        mean, interval = float(np.mean(variations[whom])), mean_interval(variations[whom])
        rows.append(Row(f'total_variation/{whom}/{case}', mean, '', asked, interval))
    gaps = [most - least for most, least in zip(shares['most'], shares['least'], strict=True)]
    rows.append(Row(f'action_changes/most-least/{case}', float(np.mean(gaps)), '', asked, mean_interval(gaps)))
    lines = [(row.name, f'{row.value:.4f}', ' to '.join(f'{x:.4f}' for x in row.ci95 or ())) for row in rows]
    print(table(('name', 'value', '95 % interval'), lines))
    if args.json:
        command = ' '.join(['explanation', *(sys.argv[1:] if arguments is None else arguments)])
        write_json(args.json, command, rows, conditions({'seeds': f'0..{args.seeds - 1}', 'device': args.device}))
    if args.figure:
        draw(args.figure, shares, case)
    return 0


if __name__ == '__main__':
    sys.exit(main())
