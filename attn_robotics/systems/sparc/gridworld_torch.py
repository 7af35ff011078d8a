"""The grid world of `gridworld`, for thousands of fleets at once on the CPU or a GPU, step for step the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attn_robotics.systems.sparc.actions import MOVES, STAY
from attn_robotics.systems.sparc.distance_fields import UNREACHABLE
from attn_robotics.systems.sparc.gridworld import Rewards


@dataclass(frozen=True)
class BatchStep:
    """What one step did to B fleets of N robots; all tensors on the world's device."""

    cells: Tensor  # (B, N, 2) int64 rows and columns after it
    moved: Tensor  # (B, N) int64 executed actions
    rewards: Tensor  # (B, N) float32
    refused: Tensor  # (B, N) bool
    on_goal: Tensor  # (B, N) bool
    blocking: Tensor  # (B, N) bool
    solved: Tensor  # (B,) bool
    done: Tensor  # (B,) bool


class BatchedGridWorld:
    """B fleets of N robots, each on its own map of H x W cells.

    Args:
        grids: (B, H, W) bool, True where an obstacle stands.
        starts: (B, N, 2) rows and columns, all different within a fleet.
        goals: (B, N, 2) rows and columns, all different within a fleet.
        max_steps: a fleet's episode ends after so many steps.
        rewards: what a step is worth.
        blocking: look for blocking robots; costs a search per pair of neighbours.

    Attributes:
        cells: (B, N, 2) int64.
        goals: (B, N, 2) int64.
        steps: (B,) int64 steps since each fleet's start.
    """

    def __init__(
        self,
        grids: Tensor,
        starts: Tensor,
        goals: Tensor,
        *,
        max_steps: int = 256,
        rewards: Rewards | None = None,
        blocking: bool = False,
    ) -> None:
        if grids.ndim != 3 or grids.dtype != torch.bool:
            raise ValueError(f'grids must be (B, H, W) booleans, got {grids.dtype} {tuple(grids.shape)}')
        if starts.shape != goals.shape or starts.ndim != 3 or len(starts) != len(grids) or starts.shape[2] != 2:
            raise ValueError(
                f'starts and goals must be ({len(grids)}, N, 2), got {tuple(starts.shape)} and {tuple(goals.shape)}'
            )
        self.grids = grids
        self.max_steps = max_steps
        self.rewards = rewards or Rewards()
        self._looks_for_blocking = blocking
        self._size = (grids.shape[1], grids.shape[2])
        device = grids.device
        self._moves = torch.as_tensor(MOVES, dtype=torch.int64, device=device)
        self._offset = torch.arange(len(grids), device=device)[:, None] * grids[0].numel()  # (B, 1)
        # Written and wiped at the robots' cells only, so that a step costs nothing per map cell.
        self._owner = torch.full((grids.numel(),), -1, dtype=torch.int64, device=device)
        self._arrivals = torch.zeros(grids.numel(), dtype=torch.int32, device=device)
        self.cells = starts.long()
        self.goals = goals.long()
        self.steps = torch.zeros(len(grids), dtype=torch.int64, device=device)

    def replace(self, fleets: Tensor, grids: Tensor, starts: Tensor, goals: Tensor) -> None:
        """Give some fleets a new episode.

        Args:
            fleets: (K,) int64 which.
            grids: (K, H, W) bool.
            starts: (K, N, 2).
            goals: (K, N, 2).
        """
        self.grids[fleets] = grids
        self.cells = self.cells.index_copy(0, fleets, starts.long())
        self.goals = self.goals.index_copy(0, fleets, goals.long())
        self.steps[fleets] = 0

    def step(self, actions: Tensor) -> BatchStep:
        """Move every robot of every fleet.

        Args:
            actions: (B, N) integer wishes, in the order of `actions.NAMES`.

        Returns:
            What happened.
        """
        moved, refused = self._settle(actions.long())
        self.cells = self.cells + self._moves[moved]
        self.steps = self.steps + 1
        on_goal = (self.cells == self.goals).all(-1)
        worth = self.rewards
        rewards = torch.where(moved == STAY, worth.stay_off_goal, worth.move)
        rewards = torch.where(on_goal, worth.on_goal, rewards)
        rewards = torch.where(refused, worth.collision, rewards)
        blocking = torch.zeros_like(refused)
        if self._looks_for_blocking:
            blocking = find_blocking(
                self.grids, self.cells, self.goals, worth.field_of_view // 2, worth.blocking_detour
            )
            rewards = rewards + blocking * worth.blocking
        solved = on_goal.all(-1)
        return BatchStep(
            cells=self.cells,
            moved=moved,
            rewards=rewards.float(),
            refused=refused,
            on_goal=on_goal,
            blocking=blocking,
            solved=solved,
            done=solved | (self.steps >= self.max_steps),
        )

    def _flat(self, cells: Tensor) -> Tensor:
        return self._offset + cells[..., 0] * self._size[1] + cells[..., 1]

    def _settle(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Refuse colliding moves as `conflicts.all_stay` does: executed actions and who was refused, (B, N) each."""
        height, width = self._size
        wish = self.cells + self._moves[actions]  # (B, N, 2)
        inside = (wish[..., 0] >= 0) & (wish[..., 0] < height) & (wish[..., 1] >= 0) & (wish[..., 1] < width)
        here = self._flat(self.cells).flatten()  # (B * N,)
        there = self._flat(wish).flatten()
        there = torch.where(inside.flatten(), there, here)
        refused = ~inside.flatten() | self.grids.flatten()[there]
        raw = there  # what each robot wishes, for finding pairs that change places
        target = torch.where(refused, here, there)

        robots = torch.arange(len(here), device=here.device)
        self._owner[here] = robots
        other = self._owner[target]
        crosses = (other >= 0) & (other != robots) & (raw[other.clamp(min=0)] == here)
        self._owner[here] = -1
        refused = refused | crosses
        target = torch.where(refused, here, target)

        one = torch.ones_like(target, dtype=torch.int32)
        self._arrivals.index_add_(0, target, one)
        while True:
            loses = (target != here) & (self._arrivals[target] > 1)
            if not bool(loses.any()):
                break
            lost = loses.int()
            self._arrivals.index_add_(0, target, -lost)
            self._arrivals.index_add_(0, here, lost)
            target = torch.where(loses, here, target)
            refused = refused | loses
        self._arrivals[target] = 0
        refused = refused.view_as(actions)
        return torch.where(refused, STAY, actions), refused


def distance_fields(grids: Tensor, goals: Tensor) -> Tensor:
    """Path distance of every cell to every goal, as `distance_fields.distance_fields`.

    Args:
        grids: (B, H, W) bool.
        goals: (B, N, 2) rows and columns on free cells.

    Returns:
        (B, N, H, W) int16, UNREACHABLE on obstacles and where no path leads to the goal.
    """
    batch, robots = goals.shape[:2]
    height, width = grids.shape[1:]
    front = torch.zeros(batch, robots, height * width, dtype=torch.bool, device=grids.device)
    front.scatter_(2, (goals[..., 0] * width + goals[..., 1]).long()[..., None], True)
    front = front.view(batch, robots, height, width)
    free = ~grids[:, None]
    fields = torch.where(front, 0, UNREACHABLE).to(torch.int16)
    step = 0
    while bool(front.any()):
        step += 1
        front = _spread(front) & free & (fields == UNREACHABLE)
        fields = torch.where(front, step, fields).to(torch.int16)
    return fields


def _spread(front: Tensor) -> Tensor:
    """Cells of (..., H, W) bool that lie beside a marked one."""
    beside = torch.zeros_like(front)
    beside[..., 1:, :] |= front[..., :-1, :]
    beside[..., :-1, :] |= front[..., 1:, :]
    beside[..., :, 1:] |= front[..., :, :-1]
    beside[..., :, :-1] |= front[..., :, 1:]
    return beside


def find_blocking(grids: Tensor, cells: Tensor, goals: Tensor, reach: int, detour: int) -> Tensor:
    """Find robots that rest on their goal in another's way, as `gridworld.find_blocking`.

    Args:
        grids: (B, H, W) bool.
        cells: (B, N, 2).
        goals: (B, N, 2).
        reach: rows and columns seen to each side.
        detour: steps that are still no blocking.

    Returns:
        (B, N) bool.
    """
    height, width = grids.shape[1:]
    resting = (cells == goals).all(-1)  # (B, N)
    seen = ((cells[:, None] - cells[:, :, None]).abs() <= reach).all(-1)  # (B, N, N)
    blocking = torch.zeros_like(resting)
    fleet, rester, walker = torch.nonzero(resting[:, :, None] & ~resting[:, None] & seen, as_tuple=True)  # (P,)
    if not len(fleet):
        return blocking
    flat = cells[..., 0] * width + cells[..., 1]  # (B, N)
    goal = (goals[..., 0] * width + goals[..., 1])[fleet, walker]
    here, start = flat[fleet, rester], flat[fleet, walker]
    # Robots out of sight write into one spare cell that is cut off again.
    spots = torch.where(seen[fleet, rester], flat[fleet], height * width)  # (P, N)
    walls = torch.cat([grids.flatten(1)[fleet], grids.new_zeros(len(fleet), 1)], 1).scatter(1, spots, True)[:, :-1]
    pairs = torch.arange(len(fleet), device=cells.device)
    walls[pairs, goal] = False
    opened = walls.clone()
    opened[pairs, here] = False
    free = ~torch.cat([walls, opened]).view(-1, height, width)  # (2 P, H, W)
    lengths = _path_lengths(free, start.repeat(2), goal.repeat(2))
    around, through = lengths.chunk(2)
    blocked = (through >= 0) & ((around < 0) | (around > through + detour))
    blocking[fleet[blocked], rester[blocked]] = True
    return blocking


def _path_lengths(free: Tensor, starts: Tensor, goals: Tensor) -> Tensor:
    """Shortest paths on maps (P, H, W) between flat cells (P,): (P,) int64, -1 where there is none."""
    rows = torch.arange(len(free), device=free.device)
    lengths = torch.full_like(starts, -1)
    front = torch.zeros_like(free).flatten(1)
    front[rows, starts] = True
    front = front.view_as(free)
    seen = front.clone()
    step = 0
    while bool(front.any()):
        hit = front.flatten(1)[rows, goals] & (lengths < 0)
        lengths = torch.where(hit, step, lengths)
        front = _spread(front) & free & ~seen & (lengths < 0)[:, None, None]
        seen |= front
        step += 1
    return lengths
