"""What robots see and how they stand to each other, in one Triton kernel: `processor.observe_batch` of one map.

Launched one by one, the hundred small operations of the definition take longer than the network.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import on_device_of, power_of_two
from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.processor import FAR, LOG_SCALE, UNREACHABLE

OWN = 7  # features of the vector before the last actions


@triton.jit
def _path(grid, field, row, column, height, width, real, UNREACHABLE: tl.constexpr):
    """Path length and wall of cells; off the map is wall."""
    inside = real & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    at = row * width + column
    wall = tl.load(grid + at, mask=inside, other=1) != 0
    length = tl.load(field + at, mask=inside, other=UNREACHABLE).to(tl.int32)
    return tl.where(wall, UNREACHABLE, length), wall


@triton.jit
def _observe(
    state, grid, fields, image, vector, relation, robots, height, width, features,
    SIDE: tl.constexpr, PIXELS: tl.constexpr, FEATURES: tl.constexpr, ACTIONS: tl.constexpr, BLOCK: tl.constexpr,
    WINDOW: tl.constexpr, CLIP: tl.constexpr, RADIUS: tl.constexpr, MANHATTAN: tl.constexpr,
    UNREACHABLE: tl.constexpr, FAR: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """One robot."""
    robot = tl.program_id(0)
    stride = 5 + ACTIONS
    reach: tl.constexpr = SIDE // 2
    mine = state + robot * stride
    row, column = tl.load(mine).to(tl.int32), tl.load(mine + 1).to(tl.int32)
    goal_row, goal_column = tl.load(mine + 2).to(tl.int32), tl.load(mine + 3).to(tl.int32)
    field = fields + robot.to(tl.int64) * height * width

    pixel = tl.arange(0, PIXELS)
    real = pixel < SIDE * SIDE
    y, x = row + pixel // SIDE - reach, column + pixel % SIDE - reach
    here, wall = _path(grid, field, y, x, height, width, real, UNREACHABLE)
    to = image + robot.to(tl.int64) * 8 * SIDE * SIDE + pixel
    area: tl.constexpr = SIDE * SIDE
    for action in tl.static_range(4):
        step_down = -1 if action == 0 else (1 if action == 1 else 0)
        step_right = -1 if action == 2 else (1 if action == 3 else 0)
        after, _ = _path(grid, field, y + step_down, x + step_right, height, width, real, UNREACHABLE)
        tl.store(to + action * area, ((after < here) & (here < UNREACHABLE)).to(tl.float32), mask=real)
    tl.store(to + 4 * area, wall.to(tl.float32), mask=real)
    tl.store(to + 6 * area, ((y == goal_row) & (x == goal_column)).to(tl.float32), mask=real)

    # Few others are in view: each writes its own cell into an empty picture.
    empty = tl.zeros((PIXELS,), tl.float32)
    tl.store(to + 5 * area, empty, mask=real)
    tl.store(to + 7 * area, empty, mask=real)
    tl.debug_barrier()
    picture = image + robot.to(tl.int64) * 8 * area
    occupied = tl.full((BLOCK,), 1.0, tl.float32)
    for start in range(0, robots, BLOCK):
        other = start + tl.arange(0, BLOCK)
        there = other < robots
        at = state + other * stride
        down = tl.load(at, mask=there, other=0).to(tl.int32) - row
        right = tl.load(at + 1, mask=there, other=0).to(tl.int32) - column
        steps = tl.abs(down) + tl.abs(right)
        seen = there & (tl.abs(down) <= reach) & (tl.abs(right) <= reach) & (steps > 0)
        spot = (down + reach) * SIDE + right + reach
        tl.store(picture + 5 * area + spot, occupied, mask=seen)
        goal_down = tl.load(at + 2, mask=there, other=0).to(tl.int32) - row
        goal_right = tl.load(at + 3, mask=there, other=0).to(tl.int32) - column
        goal_down = tl.minimum(tl.maximum(goal_down, -reach), reach) + reach
        goal_right = tl.minimum(tl.maximum(goal_right, -reach), reach) + reach
        tl.store(picture + 7 * area + goal_down * SIDE + goal_right, occupied, mask=seen)
        far = steps if MANHATTAN else down * down + right * right
        heard = far <= (RADIUS if MANHATTAN else RADIUS * RADIUS)
        number = tl.minimum(steps, CLIP)
        if WINDOW >= 0:
            near = (tl.abs(down) <= WINDOW) & (tl.abs(right) <= WINDOW)
            exact = (down + WINDOW) * (2 * WINDOW + 1) + right + WINDOW
            number = tl.where(near, exact, (2 * WINDOW + 1) * (2 * WINDOW + 1) + number)
        tl.store(relation + robot.to(tl.int64) * robots + other, tl.where(heard, number, -1), mask=there)

    to_goal_down, to_goal_right = (goal_row - row).to(tl.float32), (goal_column - column).to(tl.float32)
    straight = tl.sqrt(to_goal_down * to_goal_down + to_goal_right * to_goal_right)
    length, _ = _path(grid, field, row, column, height, width, True, UNREACHABLE)
    length = tl.where(length >= UNREACHABLE, FAR, length.to(tl.float32))
    waited = tl.load(mine + 4)
    whole = tl.floor(waited)
    unit = 1.0 / tl.maximum(straight, 1.0)
    index = tl.arange(0, FEATURES)
    age, move = (index - 7) // 5, (index - 7) % 5
    did = tl.load(mine + 5 + age, mask=(index >= 7) & (index < features), other=-1.0).to(tl.int32)
    value = tl.where(did == move, 1.0, 0.0)
    value = tl.where(index == 0, to_goal_down * unit, value)
    value = tl.where(index == 1, to_goal_right * unit, value)
    value = tl.where(index == 2, tl.log(1.0 + straight) / SCALE, value)
    value = tl.where(index == 3, tl.log(1.0 + length) / SCALE, value)
    value = tl.where(index == 4, tl.where(straight == 0.0, 1.0, 0.0), value)
    value = tl.where(index == 5, tl.log(1.0 + whole) / SCALE, value)
    value = tl.where(index == 6, waited - whole, value)
    tl.store(vector + robot * features + index, value, mask=index < features)


def observe_fleet(state: Tensor, grid: Tensor, fields: Tensor, config: SparcConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Observations and relations of one fleet on one map.

    Args:
        state: (N, 5 + A) float32: row, column, goal's row and column, priority, last actions newest first.
        grid: (H, W) bool, True where an obstacle stands.
        fields: (N, H, W) int16 path distances.
        config: of the network.

    Returns:
        image (N, 8, F, F) and vector (N, 7 + 5 A), float32, as `processor.observe_batch` makes them, and (N, N) int32
        relation rows as `SparcNetwork.neighbour_relation` makes them.
    """
    robots, side, actions = len(state), config.field_of_view, config.history
    features = OWN + 5 * actions
    image = torch.empty((robots, 8, side, side), device=state.device)
    vector = torch.empty((robots, features), device=state.device)
    relation = torch.empty((robots, robots), dtype=torch.int32, device=state.device)
    with on_device_of(state):
        _observe[(robots,)](
            state, grid.view(torch.uint8), fields, image, vector, relation, robots, *grid.shape, features,
            SIDE=side, PIXELS=power_of_two(side * side), FEATURES=power_of_two(features), ACTIONS=actions, BLOCK=128,
            WINDOW=config.offset_window if config.relation == 'offset' else -1, CLIP=config.distance_clip,
            RADIUS=config.mask_radius, MANHATTAN=config.mask_metric == 'manhattan',
            UNREACHABLE=UNREACHABLE, FAR=FAR, SCALE=LOG_SCALE, num_warps=4,
        )  # fmt: skip
    return image, vector, relation
