"""Several processes make one batch of rollouts: each runs its own problems', and all have all of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from aflow_jax.collector import RolloutCollector
from aflow_jax.errors import UserError
from aflow_jax.llm import Budget, Counters
from aflow_jax.problems import Problem
from aflow_jax.processes import Processes
from aflow_jax.rewards import Grade
from aflow_jax.sampling import Completion, Request, SamplingParams
from aflow_jax.workflow import Execution, Limits, Outcome, Usage

PROBLEMS = [Problem(question=f"{n}+1?", answer=str(n + 1), source="gsm8k", domain="math") for n in range(3)]
TEXTS = ["<workflow>Custom</workflow>", "no workflow", "<workflow>Programmer -> Review</workflow>"]


class InMemory(Processes):
    """One of two processes of a test, which exchange through a list."""

    def __init__(self, index: int, results: list[Any], met: asyncio.Barrier) -> None:
        self.index, self.count, self.results, self.met = index, 2, results, met

    async def share(self, work: Coroutine[Any, Any, Any]) -> list[Any]:
        self.results[self.index] = await work
        await self.met.wait()
        return list(self.results)


@dataclass
class Sampler:
    """Draws the texts, two for each problem, and knows how many were taken."""

    taken: int = 0

    @contextlib.asynccontextmanager
    async def submit(self, requests: list[Request], params: SamplingParams, adapter: None) -> AsyncIterator["Sampler"]:
        self.wanted = [(at, sample) for at, request in enumerate(requests) for sample in range(len(request.seeds))]
        yield self

    async def completions(self) -> AsyncIterator[Completion]:
        while self.wanted:
            request, sample = self.wanted.pop(0)
            self.taken += 1
            await asyncio.sleep(0)
            yield Completion(
                prompt_tokens=(1,), tokens=(2, 3), logprobs=np.zeros(2), finish_reason="stop",
                text=TEXTS[(request + sample) % 3], request=request, sample=sample,
            )  # fmt: skip


@dataclass
class Parts:
    """Executor and grader, which note for whom they worked."""

    fails: bool = False
    ran: list[str] = field(default_factory=list)

    async def run(self, workflow: object, problem: Problem, *, seed: tuple[int, ...]) -> Execution:
        self.ran.append(problem.question)
        if self.fails:
            raise UserError("the key is refused")
        return Execution(Outcome.SCORED, f"{problem.answer} of {seed}", (), Usage(1, 10, 5, 0.001))

    async def grade(self, problem: Problem, text: str, workflow: object, fault: object, execution: Execution) -> tuple:
        value = 1.0 if execution.answer else 0.0
        return execution, Grade(value, {"correctness": value}, 0.65 * value)


class Counted:
    """Clients of which nobody asks anything."""

    def __init__(self) -> None:
        self.budget = Budget()

    def counting(self) -> contextlib.nullcontext:
        return contextlib.nullcontext()

    def take(self) -> dict[str, Counters]:
        return {"executor": Counters(calls=3, tokens=40, usd=0.5, latencies=[0.1])}


def collector(parts: Parts, sampler: Sampler, processes: Processes) -> RolloutCollector:
    return RolloutCollector(
        driver=sampler, clients=Counted(), executor=parts, grader=parts,
        operators=("Custom", "Programmer", "Review"), limits=Limits(),
        workflow_format="language", prompt_tokens=lambda problem: (1,), processes=processes,
    )  # fmt: skip


async def collect(parts: Parts, sampler: Sampler, processes: Processes) -> list:
    params = SamplingParams(max_new_tokens=4)
    making = collector(parts, sampler, processes)
    return (await making.collect(PROBLEMS, samples=2, seed=(7,), params=params, adapter=None)).rollouts


def test_each_process_runs_its_own_problems_and_all_have_the_rollouts_of_one() -> None:
    async def both() -> tuple[list, list, list, Parts, Parts]:
        alone = await collect(Parts(), Sampler(), Processes())
        results, met, parts = [None, None], asyncio.Barrier(2), (Parts(), Parts())
        first, second = await asyncio.gather(
            *(collect(parts[at], Sampler(), InMemory(at, results, met)) for at in range(2))
        )
        return alone, first, second, *parts

    alone, first, second, parts, others = asyncio.run(both())

    def seen(rollouts: list) -> list:
        return [(r.problem, r.completion.text, r.workflow, str(r.fault), r.execution, r.grade) for r in rollouts]

    assert seen(first) == seen(second) == seen(alone)
    assert set(parts.ran) <= {"0+1?", "2+1?"}
    assert set(others.ran) == {"1+1?"}
    assert len(parts.ran) + len(others.ran) == sum(r.workflow is not None for r in alone)


def test_what_all_spent_is_known_to_each() -> None:
    async def both() -> tuple[list, list]:
        results, met = [None, None], asyncio.Barrier(2)
        making = [collector(Parts(), Sampler(), InMemory(at, results, met)) for at in range(2)]
        params = SamplingParams(max_new_tokens=4)
        collected = await asyncio.gather(
            *(one.collect(PROBLEMS, samples=2, seed=(7,), params=params, adapter=None) for one in making)
        )
        return [one.spent["executor"] for one in collected], [one.clients.budget for one in making]

    spent, budgets = asyncio.run(both())
    assert [(one.calls, one.tokens, one.usd) for one in spent] == [(6, 80, 1.0)] * 2
    # Each has charged its own calls itself: what it learns of is the other's.
    assert [(one.spent_calls, one.spent_tokens, one.spent_usd) for one in budgets] == [(3, 40, 0.5)] * 2


def test_a_process_that_cannot_go_on_samples_to_the_end_with_the_others() -> None:
    async def failing() -> int:
        sampler = Sampler()
        with pytest.raises(UserError, match="the key is refused"):
            await collect(Parts(fails=True), sampler, InMemory(0, [None, None], asyncio.Barrier(1)))
        return sampler.taken

    assert asyncio.run(failing()) == 6
