"""A rollout: one workflow written for one problem, from its text to its grade."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from aflow_jax.problems import Problem
from aflow_jax.rewards import Grade
from aflow_jax.sampling import Completion
from aflow_jax.workflow import Execution, Outcome, Workflow, WorkflowError, graph_record
from aflow_jax.workflow import format as format_workflow

_EXECUTION, _GRADE = TypeAdapter(Execution), TypeAdapter(Grade)


@dataclass(frozen=True)
class Rollout:
    """One workflow written for one problem, from its text to its grade.

    Attributes:
        problem: what was asked.
        completion: what the policy wrote.
        workflow: its graph; None where the text is not a workflow, and `fault` says why.
        execution: how it ran; where it could not run, the outcome alone.
        grade: correctness and reward.
    """

    problem: Problem
    completion: Completion
    workflow: Workflow | None
    fault: WorkflowError | None
    execution: Execution
    grade: Grade

    @property
    def outcome(self) -> Outcome:
        """How the rollout ended."""
        return self.execution.outcome


def sent(rollout: Rollout) -> list[Any]:
    """Return how a rollout ran and was graded, as plain data for `received`."""
    parts = ((_EXECUTION, rollout.execution), (_GRADE, rollout.grade))
    return [adapter.dump_python(value, mode="json") for adapter, value in parts]


def received(
    problem: Problem, completion: Completion, workflow: Workflow | None, fault: WorkflowError | None, data: list[Any]
) -> Rollout:
    """Return the rollout that another process ran and graded, and `sent`."""
    execution, grade = _EXECUTION.validate_python(data[0]), _GRADE.validate_python(data[1])
    return Rollout(problem, completion, workflow, fault, execution, grade)


def as_record(rollout: Rollout, prompt: str, advantage: float) -> dict[str, Any]:
    """Return a rollout as plain data, for the files in rollouts/: `graph` is the workflow as nested data.

    Args:
        rollout: to be recorded.
        prompt: the text that its completion goes on from.
        advantage: what the update took it for; an evaluation's rollouts have none.
    """
    execution, grade = rollout.execution, rollout.grade
    return {
        "problem": {"id": rollout.problem.id, "source": rollout.problem.source, "domain": rollout.problem.domain},
        "question": rollout.problem.question,
        "gold": rollout.problem.answer,
        "prompt": prompt,
        "text": rollout.completion.text,
        "tokens": len(rollout.completion.tokens),
        "finish_reason": rollout.completion.finish_reason,
        "workflow": None if rollout.workflow is None else format_workflow(rollout.workflow),
        "graph": graph_record(rollout.workflow),
        "fault": None if rollout.fault is None else str(rollout.fault),
        "outcome": str(execution.outcome),
        "error": execution.error,
        "answer": execution.answer,
        "trace": [call.as_record() for call in execution.trace],
        "usage": execution.usage.as_record(),
        "correctness": grade.correctness,
        "components": grade.components,
        "reward": grade.reward,
        "judged": grade.judged,
        "advantage": advantage,
    }
