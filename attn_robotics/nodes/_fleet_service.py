"""One joint decision on demand, without topics."""

from __future__ import annotations

from collections import Counter

from rclpy.node import Node

from attn_robotics.conversions.plan_step import from_plan_step, refusal, to_plan_step
from attn_robotics.nodes._fleet_params import SparcFleetParams
from attn_robotics.ros.deferred import Deferred, DeferredService
from attn_robotics.systems.sparc.step import StepPlanner
from attn_robotics.systems.sparc.weights_card import WeightsError
from attn_robotics_interfaces.srv import PlanStep


class PlanStepService:
    """The service `~/plan_step`, answered in a thread of its own.

    Args:
        node: serves.
        params: weights and seed of the planner, which are loaded with the first call.
        dropped: counts requests that were refused.
    """

    def __init__(self, node: Node, params: SparcFleetParams, dropped: Counter[str]) -> None:
        self._params, self._dropped = params, dropped
        self._planner: StepPlanner | None = None
        self._service = DeferredService(node, PlanStep, '~/plan_step', self._answer, refusal, own_thread=True)

    def close(self) -> None:
        """Refuse what waits and end."""
        self._service.close('the planner is being cleaned up')

    def _answer(self, request: PlanStep.Request, deferred: Deferred) -> None:
        response = deferred.response
        try:
            if self._planner is None:
                self._planner = StepPlanner(self._params.load_policy(), seed=self._params.seed)
            plan = self._planner.plan(*from_plan_step(request), reset=request.reset)
            to_plan_step(plan, response)
        except (ValueError, WeightsError) as error:
            self._dropped['bad plan_step'] += 1
            refusal(response, str(error))
        deferred.answer(response)
