"""Compile ahead what numba compiles at first use: `python -m attn_robotics.systems.precompile`.

The machine code is kept beside the modules. Without this, the first launch after an installation or a changed module
compiles for half a minute before its first decision.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tqdm import tqdm


def compile_fleet() -> None:
    """What fleet and robot nodes call: a decision, and the search for a way out of a deadlock."""
    from attn_robotics.systems.sparc.fleet import Fleet
    from attn_robotics.systems.sparc.policy import SparcPolicy

    Fleet.warm_up(SparcPolicy.load(threads=1))
    _evaluate('shipped', '--shield', 'rescue_after=1')


def compile_gaze() -> None:
    """What the gaze node calls: the motor model, analytic and learned."""
    from attn_robotics.systems.gaze.evaluate import controllers
    from attn_robotics.systems.gaze.session import standard_session

    for name in ('ours', 'ours_learned'):
        standard_session(controllers(0)[name](), seconds=3.0)


def compile_studies() -> None:
    """What evaluations and training call."""
    import numpy as np

    from attn_robotics.simulation.instances import random_instance
    from attn_robotics.systems.sparc.data import FleetWorlds, TeamMix
    from attn_robotics.systems.sparc.expert import rollout_many
    from attn_robotics.systems.sparc.fleet_rules import find_blockers, pack_fleets
    from attn_robotics.systems.sparc.gridworld import GridWorld

    _evaluate('pibt,pibt_swap_hindrance,independent,prioritised,lacam_refined,rmha,rmha_all_stay')
    instance = random_instance(5, 0.2, 4, 0)
    rollout_many([instance], max_steps=20)
    GridWorld(instance).step(np.zeros(4, np.int8))
    with contextlib.closing(FleetWorlds([TeamMix(4, 1, (5, 6), (0.0, 0.2))], seed=0, canvas=6, row_slots=4)) as worlds:
        for rule in range(4):
            worlds.state.rule[:] = rule
            worlds.label()
            worlds.step(np.zeros((worlds.robots, 5), np.float32))
        find_blockers(worlds.state, worlds.canvas)
        packed = np.zeros((worlds.robots, 4 + worlds.state.history.shape[1]), np.int16)
        pack_fleets(worlds.state, worlds.canvas, packed)


PARTS: tuple[Callable[[], None], ...] = (compile_fleet, compile_studies, compile_gaze)


def _evaluate(methods: str, *more: str) -> None:
    from attn_robotics.systems.sparc import evaluate

    with contextlib.redirect_stdout(io.StringIO()):
        small = '--robots 4 --size 5 --density 0.2 --seeds 0 --steps 20 --methods'
        code = evaluate.main([*small.split(), methods, *more])
    if code:
        raise RuntimeError(f'evaluating {methods} ended with {code}')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog='python -m attn_robotics.systems.precompile', description=__doc__)
    parser.add_argument('--jobs', type=int, default=2, help='processes (default 2)')
    args = parser.parse_args(arguments)
    start = time.monotonic()
    with ProcessPoolExecutor(args.jobs, mp_context=get_context('spawn')) as pool:
        for done in tqdm(as_completed([pool.submit(part) for part in PARTS]), total=len(PARTS), unit='part'):
            done.result()
    print(f'compiled in {time.monotonic() - start:.0f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
