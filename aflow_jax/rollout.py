"""Rollouts: sample workflows, run each as soon as its text is complete, grade the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aflow_jax.problems import Problem
from aflow_jax.qwen2 import Adapter
from aflow_jax.rewards import Grade, Grader
from aflow_jax.sampling import Completion, Driver, Request, SamplingParams
from aflow_jax.workflow import (
    Execution,
    Executor,
    Limits,
    Outcome,
    Workflow,
    WorkflowError,
    WorkflowFormat,
    graph_record,
    read_answer,
)
from aflow_jax.workflow import format as format_workflow


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


@dataclass(frozen=True)
class Collected:
    """Rollouts, and the seconds that they took.

    Attributes:
        rollouts: in the order of problems and samples.
        times: `time/sample` while the device sampled, `time/execute` from the first workflow's start to the last
            grade, `time/wait` from the end of sampling to the last grade.
    """

    rollouts: list[Rollout]
    times: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RolloutCollector:
    """Makes rollouts: the driver samples in its thread while the executor runs what is complete on the event loop.

    Attributes:
        driver: samples the policy's texts.
        executor: runs workflows.
        grader: grades answers.
        operators: the names that workflows may use.
        limits: bounds of a workflow.
        workflow_format: what the policy writes workflows in.
        prompt_tokens: makes the policy's prompt for a problem.
    """

    driver: Driver
    executor: Executor
    grader: Grader
    operators: tuple[str, ...]
    limits: Limits
    workflow_format: WorkflowFormat
    prompt_tokens: Callable[[Problem], tuple[int, ...]]

    async def collect(
        self,
        problems: Sequence[Problem],
        *,
        samples: int,
        seed: tuple[int, ...],
        params: SamplingParams,
        adapter: Adapter | None,
    ) -> Collected:
        """Make `samples` rollouts for each problem, ordered by problem and sample whatever ends first.

        All randomness follows from `seed`, the problem's position and the sample's number.

        Raises:
            UserError: a prompt is too long, the endpoint refuses the key, or a budget is spent: no rollout can go on.
        """
        seeds = [tuple((*seed, position, sample) for sample in range(samples)) for position in range(len(problems))]
        requests = [
            Request(prompt_tokens=self.prompt_tokens(problem), seeds=own)
            for problem, own in zip(problems, seeds, strict=True)
        ]
        started = first = time.perf_counter()
        tasks: dict[tuple[int, int], asyncio.Task[Rollout]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                async with self.driver.submit(requests, params, adapter) as stream:
                    async for completion in stream.completions():
                        if not tasks:
                            first = time.perf_counter()
                        place = (completion.request, completion.sample)
                        problem = problems[completion.request]
                        tasks[place] = group.create_task(self._run(problem, completion, seeds[place[0]][place[1]]))
                sampled = time.perf_counter()
        except ExceptionGroup as errors:
            # What ends all rollouts, such as a refused key, ends them for one reason: the first says it.
            raise errors.exceptions[0] from None
        ended = time.perf_counter()
        times = {"time/sample": sampled - started, "time/execute": ended - first, "time/wait": ended - sampled}
        return Collected([tasks[place].result() for place in sorted(tasks)], times)

    async def _run(self, problem: Problem, completion: Completion, seed: tuple[int, ...]) -> Rollout:
        workflow = fault = None
        try:
            workflow = read_answer(completion.text, self.workflow_format, self.operators, self.limits)
        except WorkflowError as error:
            fault, execution = error, Execution.not_run(Outcome(error.code))
        else:
            execution = await self.executor.run(workflow, problem, seed=seed)
        execution, grade = await self.grader.grade(problem, completion.text, workflow, fault, execution)
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
