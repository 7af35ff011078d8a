"""The PlanStep service: a fleet as arrays and back."""

from __future__ import annotations

import array

import numpy as np
from numpy.typing import NDArray

from attn_robotics.systems.sparc.step import MAX_CELLS, StepPlan
from attn_robotics_interfaces.srv import PlanStep


def from_plan_step(
    request: PlanStep.Request,
) -> tuple[NDArray[np.bool_], NDArray[np.int32], NDArray[np.int32]]:
    """Grid (H, W), cells (N, 2) and goals (N, 2) of a request.

    Raises:
        ValueError: sizes that disagree.
    """
    height, width = int(request.height), int(request.width)
    if not 0 < height * width <= MAX_CELLS or len(request.grid) != height * width:
        raise ValueError(f'grid has {len(request.grid)} cells for {height} x {width}; 1 to {MAX_CELLS} are possible')
    names = ('rows', 'columns', 'goal_rows', 'goal_columns')
    lengths = {len(getattr(request, name)) for name in names}
    if len(lengths) > 1:
        raise ValueError(f'{", ".join(names)} must be equally long, got {sorted(lengths)}')
    grid = np.frombuffer(request.grid, np.uint8).reshape(height, width) != 0
    rows, columns, goal_rows, goal_columns = (np.array(getattr(request, name), np.int32) for name in names)
    return grid, np.stack([rows, columns], axis=-1), np.stack([goal_rows, goal_columns], axis=-1)


def to_plan_step(plan: StepPlan, response: PlanStep.Response) -> PlanStep.Response:
    """Fill in a response."""
    response.success = True
    response.actions = array.array('B', plan.actions.astype(np.uint8).tobytes())
    response.next_rows = array.array('i', np.ascontiguousarray(plan.next_cells[:, 0]).tobytes())
    response.next_columns = array.array('i', np.ascontiguousarray(plan.next_cells[:, 1]).tobytes())
    response.preferences = array.array('f', np.ascontiguousarray(plan.log_probs, np.float32).tobytes())
    return response


def refusal(response: PlanStep.Response, line: str) -> PlanStep.Response:
    """Fill in why there is no plan, in one line."""
    response.success = False
    response.message = ' '.join(line.split())
    return response
