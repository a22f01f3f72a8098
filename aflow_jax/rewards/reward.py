"""The reward of a rollout: the rules, the judge where they leave it open, and the weighted sum of the components."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from aflow_jax.problems.problem import Problem
from aflow_jax.rewards.components import efficiency, repetition, simplicity, text_format
from aflow_jax.rewards.faults import GradingUnavailable
from aflow_jax.rewards.grade import DEFAULT_WEIGHTS, Grade, rule_async
from aflow_jax.rewards.judge import Judge
from aflow_jax.rewards.symbolic import SymbolicUnavailable, shared_pool
from aflow_jax.sandbox import SandboxUnavailable
from aflow_jax.workflow import Outcome, Workflow, WorkflowError, operators_of
from aflow_jax.workflow.trace import Execution

Result = TypeVar("Result")

_ATTEMPTS = 3
_BACKOFF_SECONDS = 0.5


class Grader:
    """Grades rollouts; a grade that the infrastructure denies makes the rollout void."""

    def __init__(self, judge: Judge | None = None, *, weights: Mapping[str, float] = DEFAULT_WEIGHTS) -> None:
        """Take the judge, or None to let the rules alone decide, and the weights of the components by name."""
        # Its workers start in the background, long before the first rollout needs them.
        shared_pool()
        self._judge = judge
        self._weights = dict(weights)

    async def grade(
        self,
        problem: Problem,
        completion: str,
        workflow: Workflow | None,
        fault: WorkflowError | None,
        execution: Execution,
    ) -> tuple[Execution, Grade]:
        """Return the execution, with its outcome changed where grading made the rollout void, and the grade.

        Exactly one of `workflow` and `fault` is None. A void rollout's grade is 0 throughout and means nothing.
        """
        if execution.outcome.is_void:
            return execution, self._void()
        try:
            grade = await grade_rollout(
                problem, execution, fault or workflow, completion=completion, judge=self._judge, weights=self._weights
            )
        except GradingUnavailable as error:
            return replace(execution, outcome=error.outcome, answer=None, error=str(error)), self._void()
        return execution, grade

    def _void(self) -> Grade:
        return Grade.of(dict.fromkeys(self._weights, 0.0), self._weights)


async def grade_rollout(
    problem: Problem,
    execution: Execution | None,
    workflow: Workflow | WorkflowError,
    *,
    completion: str,
    judge: Judge | None = None,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
) -> Grade:
    """Grade a rollout: `reward = Σ weight · component`, each component in [0, 1].

    Efficiency and simplicity are multiplied by correctness. Of a policy fault only the format counts: 1 for a workflow
    that failed in its run, else how far the text got.

    Args:
        problem: what was asked.
        execution: how the workflow ran; None where there was none to run.
        workflow: the graph, or why the text is none.
        completion: the policy's whole text.
        judge: is asked where the rules leave the answer open; None lets the rules decide.
        weights: by component: correctness, efficiency, simplicity, format, repetition.

    Raises:
        GradingUnavailable: the sandbox or the judge cannot be had: the rollout is void.
        ValueError: the execution is void already, or lacks although there is a workflow.
    """
    fault = workflow if isinstance(workflow, WorkflowError) else None
    components = dict.fromkeys(DEFAULT_WEIGHTS, 0.0) | {"format": text_format(fault)}
    if fault is not None:
        return Grade.of(components, weights)
    if execution is None or execution.outcome.is_void:
        raise ValueError("only a rollout that ran, and is not void, can be graded")
    if execution.outcome is not Outcome.SCORED:
        return Grade.of(components, weights)
    correctness, judged = await _correctness(problem, execution.answer, judge)
    usage = execution.usage
    components |= {
        "correctness": correctness,
        "efficiency": correctness * efficiency(usage.calls, usage.tokens, usage.usd),
        "simplicity": correctness * simplicity(len(operators_of(workflow))),
        "repetition": repetition(completion, workflow),
    }
    return Grade.of(components, weights, judged=judged)


async def _correctness(problem: Problem, answer: str | None, judge: Judge | None) -> tuple[float, bool]:
    """Return the level, and whether the judge was asked."""
    ruling = await with_machine(lambda: rule_async(problem, answer))
    if ruling.settled or judge is None or answer is None:
        return ruling.level, False
    return (1.0 if await judge.is_right(problem, answer) else ruling.level), True


async def with_machine(grade: Callable[[], Awaitable[Result]]) -> Result:
    """Run what needs the sandbox or the symbolic checker, up to three times with backoff where they fail.

    Raises:
        GradingUnavailable: they failed each time.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return await grade()
        except (SandboxUnavailable, SymbolicUnavailable) as error:
            if attempt == _ATTEMPTS - 1:
                raise GradingUnavailable(Outcome.SANDBOX_UNAVAILABLE, str(error)) from error
            await asyncio.sleep(_BACKOFF_SECONDS * 2**attempt)
    raise AssertionError("the last attempt returns or raises")
