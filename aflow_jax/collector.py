"""Rollouts of many problems: sample workflows, run each as soon as its text is complete, grade the answers.

    start ──► sampling, one collection at a time ──► completions ──► executions, all at once ──► rollouts

A collection's workflows may still run while the next one is sampled: that is the pipeline of `async_generation_ratio`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from aflow_jax.clients import Clients, Spent, as_plain, joined
from aflow_jax.problems import Problem
from aflow_jax.processes import Processes
from aflow_jax.qwen2 import Adapter
from aflow_jax.rewards import Grader
from aflow_jax.rollout import Rollout, received, sent
from aflow_jax.sampling import Completion, Driver, Request, SamplingParams
from aflow_jax.workflow import (
    Execution,
    Executor,
    Limits,
    Outcome,
    Workflow,
    WorkflowError,
    WorkflowFormat,
    read_answer,
)

Seed = tuple[int, ...]
Place = tuple[int, int]
"""Position of a problem among those collected, and number of a sample of it."""
Source = AbstractAsyncContextManager[AsyncIterator[Completion]]


@dataclass(frozen=True)
class Collected:
    """Rollouts, what they spent, and the seconds that they took.

    Attributes:
        rollouts: in the order of problems and samples.
        spent: what the calls for them came to, and for nothing else that went on at the time.
        times: `time/sample` while the device sampled, `time/execute` from the first workflow's start to the last
            grade, `time/wait` from the end of sampling to the last grade.
    """

    rollouts: list[Rollout]
    spent: Spent
    times: dict[str, float]


class Collection:
    """Rollouts under way. Await `sampled` and `collected`, or `cancel`; an error is raised by whichever is awaited."""

    def __init__(self, task: asyncio.Task[Collected], completions: asyncio.Future[list[Completion]]) -> None:
        self._task = task
        self._completions = completions
        task.add_done_callback(lambda _: completions.cancel())  # nobody waits for what will not come

    async def sampled(self) -> list[Completion]:
        """Return all completions, in the order of problems and samples, once the last is there."""
        await asyncio.wait({self._task, self._completions}, return_when=asyncio.FIRST_COMPLETED)
        if self._completions.cancelled():
            await self._task  # raises what ended it
        return self._completions.result()

    def completions(self) -> list[Completion]:
        """Return what `sampled` returned before."""
        return self._completions.result()

    async def collected(self) -> Collected:
        """Return the rollouts when all are graded."""
        return await self._task

    async def cancel(self) -> None:
        """End what goes on, and return when it has ended."""
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # seen: what else ended it is no news to one who cancels


@dataclass(frozen=True, kw_only=True)
class RolloutCollector:
    """Makes rollouts: the driver samples in its thread while the executor runs what is complete on the event loop.

    Attributes:
        driver: samples the policy's texts.
        clients: the executor's and the judge's, which count the calls of each collection apart.
        executor: runs workflows.
        grader: grades answers.
        operators: the names that workflows may use.
        limits: bounds of a workflow.
        workflow_format: what the policy writes workflows in.
        prompt_tokens: makes the policy's prompt for a problem.
        processes: all sample together, and each executes and grades the rollouts of its own problems.
        device: held by whoever samples, first come first served; an update takes it too, so that caches and gradients
            are never on the device together.
    """

    driver: Driver
    clients: Clients
    executor: Executor
    grader: Grader
    operators: tuple[str, ...]
    limits: Limits
    workflow_format: WorkflowFormat
    prompt_tokens: Callable[[Problem], tuple[int, ...]]
    processes: Processes = field(default_factory=Processes)
    device: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def collect(
        self,
        problems: Sequence[Problem],
        *,
        samples: int,
        seed: Seed,
        params: SamplingParams,
        adapter: Adapter | None,
    ) -> Collected:
        """Make `samples` rollouts for each problem, ordered by problem and sample whatever ends first.

        All randomness follows from `seed`, the problem's position and the sample's number.

        Raises:
            UserError: a prompt is too long, the endpoint refuses the key, or a budget is spent: no rollout can go on.
        """
        collection = self.start(problems, samples=samples, seed=seed, params=params, adapter=adapter)
        return await collection.collected()

    def start(
        self,
        problems: Sequence[Problem],
        *,
        samples: int,
        seed: Seed,
        params: SamplingParams,
        adapter: Adapter | None,
    ) -> Collection:
        """Begin what `collect` does, behind the collections that wait for the device; the adapter is taken now."""
        requests = [
            Request(prompt_tokens=self.prompt_tokens(problem), seeds=tuple((*seed, place, n) for n in range(samples)))
            for place, problem in enumerate(problems)
        ]

        @asynccontextmanager
        async def sampling() -> AsyncIterator[AsyncIterator[Completion]]:
            async with self.device, self.driver.submit(requests, params, adapter) as stream:
                try:
                    yield stream.completions()
                except asyncio.CancelledError:
                    if self.processes.count > 1:
                        # No process can leave device programs that all run together: they come to their end first.
                        async for _ in stream.completions():
                            continue
                    raise

        return self._begin(sampling(), problems, seed)

    def start_from(self, completions: Sequence[Completion], problems: Sequence[Problem], *, seed: Seed) -> Collection:
        """Begin with completions that `start` sampled before, of the same problems and seed."""

        async def again() -> AsyncIterator[Completion]:
            for completion in completions:
                yield completion

        return self._begin(nullcontext(again()), problems, seed)

    def _begin(self, source: Source, problems: Sequence[Problem], seed: Seed) -> Collection:
        sampled = asyncio.get_running_loop().create_future()
        return Collection(asyncio.create_task(self._collect(source, problems, seed, sampled)), sampled)

    async def _collect(
        self, source: Source, problems: Sequence[Problem], seed: Seed, all_sampled: asyncio.Future[list[Completion]]
    ) -> Collected:
        texts: dict[Place, Completion] = {}
        own: dict[Place, Rollout] = {}
        times: dict[str, float] = {}

        async def share() -> dict[str, Any]:
            rollouts, spent, seconds = await self._run_own(source, problems, seed, texts, all_sampled)
            own.update(rollouts)
            times.update(seconds)
            others = [] if self.processes.count == 1 else [[*place, sent(rollouts[place])] for place in rollouts]
            return {"rollouts": others, "spent": as_plain(spent)}

        parts = await self.processes.share(share())
        for part in parts:
            for position, sample, data in part["rollouts"]:
                place = (position, sample)
                if place not in own:
                    read = self._read(texts[place])
                    own[place] = received(problems[position], texts[place], *read, data)
        spent = joined([part["spent"] for part in parts])
        self._charge(joined([part["spent"] for at, part in enumerate(parts) if at != self.processes.index] or [{}]))
        return Collected([own[place] for place in sorted(own)], spent, times)

    async def _run_own(
        self,
        source: Source,
        problems: Sequence[Problem],
        seed: Seed,
        texts: dict[Place, Completion],
        all_sampled: asyncio.Future[list[Completion]],
    ) -> tuple[dict[Place, Rollout], Spent, dict[str, float]]:
        """Take all completions into `texts`, and run and grade those of this process's problems."""
        tasks: dict[Place, asyncio.Task[Rollout]] = {}
        try:
            with self.clients.counting():
                async with asyncio.TaskGroup() as group:
                    async with source as completions:
                        started = first = time.perf_counter()
                        async for completion in completions:
                            place = (completion.request, completion.sample)
                            texts[place] = completion
                            if not self.processes.owns(completion.request):
                                continue
                            if not tasks:
                                first = time.perf_counter()
                            run = self._run(problems[completion.request], completion, (*seed, *place))
                            tasks[place] = group.create_task(run)
                    sampled = time.perf_counter()
                    all_sampled.set_result([texts[place] for place in sorted(texts)])
                spent = self.clients.take()
        except ExceptionGroup as errors:
            # What ends all rollouts, such as a refused key, ends them for one reason: the first says it.
            raise errors.exceptions[0] from None
        ended = time.perf_counter()
        times = {"time/sample": sampled - started, "time/execute": ended - first, "time/wait": ended - sampled}
        return {place: task.result() for place, task in tasks.items()}, spent, times

    def _charge(self, spent: Spent) -> None:
        """Have the budget know what other processes spent."""
        budget = self.clients.budget
        for counters in spent.values():
            budget.spent_calls += counters.calls - counters.cache_hits
            budget.spent_tokens += counters.tokens
            budget.spent_usd += counters.usd or 0.0

    async def _run(self, problem: Problem, completion: Completion, seed: Seed) -> Rollout:
        workflow, fault = self._read(completion)
        if fault is None:
            execution = await self.executor.run(workflow, problem, seed=seed)
        else:
            execution = Execution.not_run(Outcome(fault.code))
        execution, grade = await self.grader.grade(problem, completion.text, workflow, fault, execution)
        return Rollout(problem, completion, workflow, fault, execution, grade)

    def _read(self, completion: Completion) -> tuple[Workflow | None, WorkflowError | None]:
        try:
            return read_answer(completion.text, self.workflow_format, self.operators, self.limits), None
        except WorkflowError as error:
            return None, error
