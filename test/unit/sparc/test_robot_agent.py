"""One robot that plans for itself against the fleet that plans for all."""

from __future__ import annotations

import numpy as np
import pytest

from attn_robotics.simulation.grid import GridFrame
from attn_robotics.simulation.instances import Instance, random_instance
from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.note import Note
from attn_robotics.systems.sparc.policy import SparcPolicy
from attn_robotics.systems.sparc.robot import RobotAgent, RobotConfig
from attn_robotics.systems.sparc.shield import Shield, ShieldConfig
from attn_robotics.systems.sparc.torch_decider import TorchDecider

DT_S = 0.1


def make_policy() -> SparcPolicy:
    import torch

    torch.manual_seed(0)
    return SparcPolicy(TorchDecider(SparcNetwork(SparcConfig.small()).eval()))


class Street:
    """Robots whose wheels jump, and a radio that may lose notes."""

    def __init__(self, instance: Instance, loss: float = 0.0) -> None:
        self.instance = instance
        height, width = instance.grid.shape
        self.frame = GridFrame(height, width)
        self.names = tuple(f'robot_{index}' for index in range(instance.robots))
        self.agents = {name: self.make(name) for name in self.names}
        self.cells = {name: tuple(cell) for name, cell in zip(self.names, instance.starts.tolist(), strict=True)}
        self.rng = np.random.default_rng(0)
        self.loss = loss
        self.now_s = 0.0
        self.log: list[str] = []

    def make(self, name: str) -> RobotAgent:
        config = RobotConfig(shortest_s=0.0, lost_s=3.0)
        agent = RobotAgent(name, self.names, self.instance.grid, self.frame, make_policy(), config=config)
        agent.set_goal(tuple(self.instance.goals[self.names.index(name)].tolist()))
        return agent

    def spin(self) -> None:
        """One tenth of a second: wheels reach the next granted cell, notes fly."""
        self.now_s += DT_S
        for name, agent in self.agents.items():
            if agent._graph is not None:
                target = agent._graph.target(agent._place)
                self.cells[name] = (int(target[0]), int(target[1]))
            x, y = self.frame.to_xy(np.array(self.cells[name]))
            agent.pose = (float(x), float(y), 0.0)
            self.log += agent.advance(self.now_s, self.now_s)
        for agent in self.agents.values():
            for note in agent.outgoing():
                for other in self.agents.values():
                    if other is not agent and self.rng.random() >= self.loss:
                        other.receive(note, self.now_s)
        assert len(set(self.cells.values())) == len(self.cells), 'two robots in one cell'


def fleet_actions(instance: Instance, steps: int) -> list[np.ndarray]:
    """Planned cells of the one-batch fleet with the same weights and random numbers."""
    policy, shield = make_policy(), Shield(instance.grid, ShieldConfig(allow_rotation=False))
    distances = distance_fields(instance.grid, instance.goals)
    policy.reset(instance.grid, instance.goals, distances, seed=0)
    cells, actions, path = instance.starts.copy(), None, [instance.starts.copy()]
    for step in range(1, steps + 1):
        log_probs = policy.step(cells, actions)
        rng = np.random.default_rng([0, 0, step])
        actions = shield.decide(cells, log_probs, policy.priorities, instance.goals, distances, rng=rng)
        cells = cells + MOVES[actions]
        path.append(cells.copy())
    return path


@pytest.mark.parametrize('loss', [0.0, 0.3], ids=['every note arrives', 'a third of the notes are lost'])
def test_robots_alone_take_the_same_actions_as_the_fleet(loss: float) -> None:
    instance = random_instance(10, 0.2, 6, seed=3)
    expected = fleet_actions(instance, 15)
    street = Street(instance, loss)
    seen: dict[tuple[str, int], tuple[int, int]] = {}
    for _ in range(400):
        street.spin()
        for name, agent in street.agents.items():
            if agent.note is not None and agent.step:
                seen[name, agent.step] = agent.note.cell
        if all((name, 15) in seen for name in street.names):
            break
    for (name, step), cell in seen.items():
        if step <= 15:
            assert cell == tuple(expected[step - 1][street.names.index(name)].tolist()), (name, step)
    assert sum(step == 15 for _, step in seen) == 6


def test_robots_arrive_when_everybody_lives() -> None:
    street = Street(random_instance(10, 0.15, 5, seed=1))
    for _ in range(600):
        street.spin()
        if all(agent.has_arrived for agent in street.agents.values()):
            return
    pytest.fail(f'not arrived: {[name for name, agent in street.agents.items() if not agent.has_arrived]}')


def test_a_robot_that_falls_silent_becomes_an_obstacle_and_may_come_back() -> None:
    street = Street(random_instance(10, 0.1, 5, seed=2))
    for _ in range(30):
        street.spin()
    street.agents.pop('robot_2')
    for _ in range(100):
        street.spin()
    assert all(agent.lost == ('robot_2',) for agent in street.agents.values()), street.log
    steps = {agent.step for agent in street.agents.values()}
    for _ in range(20):
        street.spin()
    assert min(agent.step for agent in street.agents.values()) > min(steps), 'the others must go on'

    street.agents['robot_2'] = street.make('robot_2')
    for _ in range(200):
        street.spin()
    assert all(len(agent.team) == 5 for agent in street.agents.values()), street.log


def test_a_part_of_the_fleet_that_holds_no_majority_stands_still() -> None:
    street = Street(random_instance(10, 0.1, 5, seed=2))
    for _ in range(30):
        street.spin()
    for name in ('robot_0', 'robot_2', 'robot_4'):
        street.agents.pop(name)
    for _ in range(60):
        street.spin()
    before = dict(street.cells)
    for _ in range(60):
        street.spin()
    assert street.cells == before
    assert all('more than half' in agent.mismatch for agent in street.agents.values())


def test_a_robot_does_not_drive_towards_one_that_it_sees_too_near() -> None:
    street = Street(random_instance(8, 0.0, 2, seed=0))
    for _ in range(20):
        street.spin()
        agent = street.agents['robot_0']
        if agent._graph is not None and agent._graph.enabled()[0]:
            break
    x, y, _ = agent.pose
    target = street.frame.to_xy(agent._graph.target(0))
    agent.pose = (x, y, float(np.arctan2(target[1] - y, target[0] - x)))
    free = [agent.velocities(0.05)[0] for _ in range(3)][-1]
    agent.seen = np.array([[x, y]]) + 0.7 * (target - (x, y))
    assert free > 0 and agent.velocities(0.05)[0] == 0
    agent.seen = np.array([[x, y]]) - 0.7 * (target - (x, y))
    assert agent.velocities(0.05)[0] > 0


@pytest.mark.parametrize(('xy', 'words'), [((-3.5, 0.5), 'off the 8 x 8 map'), (None, 'inside an obstacle')])
def test_a_robot_that_stands_where_none_can_says_so_and_waits(xy, words) -> None:
    street = Street(random_instance(8, 0.3, 2, seed=0))
    agent = street.agents['robot_0']
    wall = street.frame.to_xy(np.argwhere(street.instance.grid)[0])
    agent.pose = (*(xy or wall.tolist()), 0.0)
    assert agent.advance(1.0, 1.0) == () and words in agent.mismatch and agent.outgoing() == []


def test_a_robot_that_is_reported_far_from_its_way_waits_and_says_so() -> None:
    street = Street(random_instance(10, 0.0, 3, seed=1))
    for _ in range(20):
        street.spin()
    agent = street.agents['robot_0']
    assert agent.mismatch == ''
    agent.pose = (-30.0, 4.0, 0.0)
    assert agent.velocities(DT_S) == (0.0, 0.0)
    assert 'cells from its way' in agent.mismatch
    street.spin()
    agent.velocities(DT_S)
    assert agent.mismatch == ''


def test_notes_that_cannot_be_are_refused_with_one_line() -> None:
    street = Street(random_instance(8, 0.0, 2, seed=0))
    street.spin()
    agent = street.agents['robot_0']
    good = street.agents['robot_1'].note
    assert isinstance(good, Note)
    bad = {
        'fleet is': Note(**{**vars(good), 'robot': 'robot_9'}),
        'same weights': Note(**{**vars(good), 'embedding': np.zeros(3, np.float32)}),
        'not finite': Note(**{**vars(good), 'priority': float('nan')}),
        'not a free cell': Note(**{**vars(good), 'cell': (99, 0)}),
        'is of epoch': Note(**{**vars(good), 'epoch': 2**32 - 1}),
        'and step -1': Note(**{**vars(good), 'step': -1}),
    }
    for words, note in bad.items():
        with pytest.raises(ValueError, match=words) as caught:
            agent.receive(note, 0.0)
        assert '\n' not in str(caught.value)


def test_two_robots_that_claim_one_cell_say_so_and_nobody_plans() -> None:
    street = Street(random_instance(8, 0.1, 3, seed=0))
    cells = dict(street.cells)
    street.cells['robot_1'] = street.cells['robot_0']
    for _ in range(20):
        street.now_s += DT_S
        for name, agent in street.agents.items():
            x, y = street.frame.to_xy(np.array(street.cells[name]))
            agent.pose = (float(x), float(y), 0.0)
            agent.advance(street.now_s, street.now_s)
        for agent in street.agents.values():
            for note in agent.outgoing():
                for other in street.agents.values():
                    if other is not agent:
                        other.receive(note, street.now_s)
    assert all('two robots claim one cell' in agent.mismatch for agent in street.agents.values())
    assert all(agent.team == () and agent.velocities(DT_S) == (0.0, 0.0) for agent in street.agents.values())
    assert cells != street.cells


@pytest.mark.parametrize(('goal', 'words'), [((9, 0), 'off the 8 x 8 map'), (None, 'inside an obstacle')])
def test_a_goal_where_no_robot_can_go_is_refused_and_the_old_one_stays(goal, words) -> None:
    street = Street(random_instance(8, 0.3, 2, seed=0))
    street.spin()
    agent = street.agents['robot_0']
    before = agent.goal
    wall = tuple(np.argwhere(street.instance.grid)[0].tolist())
    with pytest.raises(ValueError, match=words) as caught:
        agent.set_goal(goal or wall)
    assert agent.goal == before and '\n' not in str(caught.value)
