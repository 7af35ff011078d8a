"""What each robot sees, as `processor` says, for many fleets at once."""

from __future__ import annotations

import torch
from torch import Tensor

from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.processor import FAR, LOG_SCALE, UNREACHABLE


def observe_batch(
    grids: Tensor,
    fleet: Tensor,
    cells: Tensor,
    goals: Tensor,
    distances: Tensor,
    waited: Tensor,
    history: Tensor,
    field_of_view: int,
) -> tuple[Tensor, Tensor]:
    """Observations of many fleets at once, equal to those of `observe`, on the tensors' device.

    Fit to be captured as a CUDA graph. Robots come in B rows of S slots; a row may hold several fleets, told apart by
    `fleet`.

    Args:
        grids: (F, H, W) bool.
        fleet: (B, S) int64 fleet of each robot.
        cells: (B, S, 2) int64.
        goals: (B, S, 2) int64.
        distances: (B, S, H, W) int16.
        waited: (B, S) float32.
        history: (B, S, A) int64.
        field_of_view: F, odd.

    Returns:
        image (B, S, 8, F, F) and vector (B, S, V), float32.
    """
    batch, slots = fleet.shape
    height, width = grids.shape[1:]
    reach = field_of_view // 2
    ring = reach + 1
    span = torch.arange(-ring, ring + 1, device=cells.device)
    rows = cells[..., 0, None, None] + span[:, None]  # (B, S, F + 2, 1)
    columns = cells[..., 1, None, None] + span[None, :]  # (B, S, 1, F + 2)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    flat = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)  # (B, S, F + 2, F + 2)
    of_fleet = (fleet[..., None, None] * (height * width) + flat).flatten()
    wall = grids.flatten()[of_fleet].view_as(flat) | ~inside
    path = distances.flatten(2).gather(2, flat.flatten(2)).view_as(flat)
    path = path.masked_fill(wall, UNREACHABLE)

    occupied = torch.zeros(grids.numel(), dtype=torch.bool, device=cells.device)
    here = fleet * (height * width) + cells[..., 0] * width + cells[..., 1]
    occupied.scatter_(0, here.flatten(), True)
    others = occupied[of_fleet].view_as(flat) & inside
    others = others[..., 1:-1, 1:-1].clone()
    others[..., reach, reach] = False

    inner = path[..., 1:-1, 1:-1]
    known = inner < UNREACHABLE
    shifted = (path[..., :-2, 1:-1], path[..., 2:, 1:-1], path[..., 1:-1, :-2], path[..., 1:-1, 2:])
    to_goal = goals - cells  # (B, S, 2)
    goal_map = _stamp(to_goal, (to_goal.abs() <= reach).all(-1), reach)  # (B, S, F * F)
    offset = cells[:, None] - cells[:, :, None]  # (B, S, S, 2)
    seen = (offset.abs() <= reach).all(-1) & (offset != 0).any(-1) & (fleet[:, None] == fleet[:, :, None])
    toward = (goals[:, None] - cells[:, :, None]).clamp(-reach, reach) + reach
    spot = toward[..., 0] * field_of_view + toward[..., 1]  # (B, S, S)
    # Unseen robots write into one spare pixel that is cut off again.
    spot = spot.masked_fill(~seen, field_of_view**2)
    goals_seen = torch.zeros(batch, slots, field_of_view**2 + 1, dtype=torch.bool, device=cells.device)
    goals_seen.scatter_(2, spot, True)
    side = (field_of_view, field_of_view)
    image = torch.stack(
        [
            *((after < inner) & known for after in shifted),
            wall[..., 1:-1, 1:-1],
            others,
            goal_map.unflatten(-1, side),
            goals_seen[..., :-1].unflatten(-1, side),
        ],
        2,
    ).float()

    straight = to_goal.float().square().sum(-1).sqrt()
    length = path[..., ring, ring].float()
    length = length.masked_fill(length >= UNREACHABLE, FAR)
    own = torch.stack(
        [
            to_goal[..., 0] / straight.clamp(min=1.0),
            to_goal[..., 1] / straight.clamp(min=1.0),
            straight.log1p() / LOG_SCALE,
            length.log1p() / LOG_SCALE,
            (straight == 0).float(),
            waited.floor().log1p() / LOG_SCALE,
            waited - waited.floor(),
        ],
        -1,
    )
    moves = history[..., None] == torch.arange(len(MOVES), device=cells.device)
    return image, torch.cat([own, moves.flatten(2).float()], -1)


def _stamp(offset: Tensor, inside: Tensor, reach: int) -> Tensor:
    """Set one pixel per robot: (B, S, 2) offsets -> (B, S, F * F) bool, nothing where not inside."""
    side = 2 * reach + 1
    spot = (offset[..., 0] + reach) * side + offset[..., 1] + reach
    pixels = torch.arange(side * side, device=offset.device)
    return (spot[..., None] == pixels) & inside[..., None]
