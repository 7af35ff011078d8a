import json

import numpy as np
import pytest

from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.instances import random_instance
from attn_robotics.systems.sparc import lifelong
from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.baselines import Pibt
from attn_robotics.systems.sparc.learned import LearnedMethod


class Descent:
    """A stand-in policy that walks down its distance field."""

    def reset(self, grid, goals, distances=None, *, seed=0):
        self.shape, self.fields = np.array(grid.shape), distances.copy()

    def set_goals(self, goals, distances=None, robots=None):
        self.fields[robots] = distances

    def step(self, cells, last_actions=None):
        after = (cells[:, None] + MOVES).clip(0, self.shape - 1)
        reached = self.fields[np.arange(len(cells))[:, None], after[..., 0], after[..., 1]]
        return -3.0 * np.minimum(reached, 500).astype(np.float32)


@pytest.mark.parametrize('method', [Pibt(swap=True), LearnedMethod(Descent(), 'shipped')], ids=['pibt', 'learned'])
def test_robots_keep_reaching_new_goals_without_conflict(method):
    instance = random_instance(10, 0.1, 12, 1)
    shifts = [lifelong.run_shift(method, instance, 0, 120) for _ in range(2)]
    assert shifts[0] == shifts[1]
    assert shifts[0].conflicts == 0
    assert shifts[0].reached > 12 * 120 / 20, 'a goal every 20 steps or so: the map is 10 cells wide'


def test_goals_differ_from_those_in_use_until_none_is_left():
    instance = random_instance((1, 3), 0.0, 2, 0)
    source = lifelong.GoalSource(instance, 0)
    assert source.draw(0, np.array([(0, 0), (0, 2)])).tolist() == [0, 1]
    with pytest.raises(WorldError, match='no free goal is left'):
        source.draw(0, np.array([(0, 0), (0, 1), (0, 2)]))


def test_the_command_writes_throughput_and_refuses_planners(tmp_path, capsys):
    path = tmp_path / 'rows.json'
    small = ['--robots', '4', '--size', '8', '--density', '0.1', '--seeds', '0-1', '--steps', '30']
    assert lifelong.main([*small, '--methods', 'pibt,pibt_swap', '--json', str(path)]) == 0
    rows = {row['name']: row['value'] for row in json.loads(path.read_text())['rows']}
    assert rows['throughput/pibt_swap/4x8/0.10'] > 0
    assert lifelong.main([*small, '--methods', 'lacam']) == 2
    assert 'takes no live goals' in capsys.readouterr().err
