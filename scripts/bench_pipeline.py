"""How long a step takes with sampling ahead and without, where the executor LLM is slow: medians of 3 s, p95 of 12 s.

    python scripts/bench_pipeline.py --steps 6

The trainer's own pipeline, collector, executor and client run against the simulator. The device is a clock: it samples
for `--sample` seconds, its completions ending over the last two thirds of them, and updates for `--update` seconds, so
that figures hardly depend on what else the machine does. All rows run side by side.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aflow_jax.clients import Clients
from aflow_jax.collector import Collection, RolloutCollector
from aflow_jax.llm import Budget, LLMClient, start_simulator
from aflow_jax.problems import Problem, generate_problems, save_problems
from aflow_jax.rewards import Grader, Judge
from aflow_jax.rollout import Rollout
from aflow_jax.sampling import Completion, Request, SamplingParams
from aflow_jax.training.pipeline import Pipeline
from aflow_jax.workflow import Executor, Limits, operator_names

SHAPES = ((2, 5), (4, 8), (8, 8), (8, 16))  # K, B
TEXTS = (
    "Custom",
    "AnswerGenerate",
    "AnswerGenerate -> Review ? Revise : done",
    "[AnswerGenerate, AnswerGenerate, AnswerGenerate] -> ScEnsemble",
    'Custom("Make a plan first.") -> AnswerGenerate -> Format',
)


@dataclass(frozen=True)
class Clock:
    """Stands for the sampling thread: its completions end at their times."""

    seconds: float
    draw: random.Random

    @asynccontextmanager
    async def submit(self, requests: Sequence[Request], params: SamplingParams, adapter: None) -> AsyncIterator[Clock]:
        places = [(place, number) for place, one in enumerate(requests) for number in range(len(one.seeds))]
        ends = [*sorted(self.draw.uniform(self.seconds / 3, self.seconds) for _ in places[1:]), self.seconds]
        self.draw.shuffle(places)
        yield Writing(places, ends, self.draw)


@dataclass(frozen=True)
class Writing:
    """The completions of one call of `submit`."""

    places: list[tuple[int, int]]
    ends: list[float]
    draw: random.Random

    async def completions(self) -> AsyncIterator[Completion]:
        began = time.monotonic()
        for (request, sample), end in zip(self.places, self.ends, strict=True):
            await asyncio.sleep(max(0.0, began + end - time.monotonic()))
            text = f"<workflow>{self.draw.choice(TEXTS)}</workflow>"
            yield Completion(
                prompt_tokens=(1,), tokens=(2,), logprobs=np.zeros(1, np.float32), finish_reason="stop", text=text,
                request=request, sample=sample,
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TimedCollector(RolloutCollector):
    """Notes how long each rollout took from its text to its grade: the longest of a step is its critical path."""

    seconds: dict[int, list[float]] = field(default_factory=dict)

    async def _run(self, problem: Problem, completion: Completion, seed: tuple[int, ...]) -> Rollout:
        began = time.monotonic()
        try:
            return await super()._run(problem, completion, seed)
        finally:
            self.seconds.setdefault(seed[0], []).append(time.monotonic() - began)


async def steps(
    arguments, problems: list[Problem], client: LLMClient, k: int, b: int, *, ahead: bool
) -> dict[str, float]:
    """Make the steps of one row; return its means in seconds a step, the first left out."""
    draw = random.Random(k * b)
    collector = TimedCollector(
        driver=Clock(arguments.sample, draw),
        clients=Clients(client, client, Budget()),
        executor=Executor(client, operators=operator_names(), max_calls_in_flight=10**6),
        grader=Grader(Judge(client)),
        operators=operator_names(),
        limits=Limits(),
        workflow_format="language",
        prompt_tokens=lambda problem: (1,),
    )

    def start(step: int) -> Collection:
        batch = [problems[(step * b + place) % len(problems)] for place in range(b)]
        params = SamplingParams(max_new_tokens=1, temperature=1.0)
        return collector.start(batch, samples=k, seed=(step,), params=params, adapter=None)

    pipeline = Pipeline(start, lambda step, completions: start(step), ahead=ahead, last=arguments.steps)
    ends = [time.monotonic()]
    for step in range(1, arguments.steps + 1):
        await pipeline.rollouts(step)
        await pipeline.settle(step)
        async with collector.device:
            await asyncio.sleep(arguments.update)
        pipeline.drop(step)
        ends.append(time.monotonic())
    device = arguments.sample + arguments.update
    paths = [max(collector.seconds.get(step, [0.0])) for step in range(2, arguments.steps + 1)]
    return {
        "step": (ends[-1] - ends[1]) / (arguments.steps - 1),
        "path": statistics.mean(paths),
        "bound": statistics.mean(max(device, path) for path in paths),
    }


async def table(arguments, simulator, problems: list[Problem]) -> list[str]:
    client = LLMClient(simulator.endpoint(), max_concurrency=10**6)
    rows = [(k, b, ahead) for k, b in SHAPES for ahead in (False, True)]
    runs = [steps(arguments, problems, client, k, b, ahead=ahead) for k, b, ahead in rows]
    found = dict(zip(rows, await asyncio.gather(*runs), strict=True))
    await client.aclose()
    lines = ["| K | B | plain, s a step | ahead, s a step | longest rollout, s | ahead / bound | plain / ahead |"]
    lines.append("|---|---|---|---|---|---|---|")
    for k, b in SHAPES:
        plain, ahead = found[k, b, False], found[k, b, True]
        lines.append(
            f"| {k} | {b} | {plain['step']:.1f} | {ahead['step']:.1f} | {ahead['path']:.1f} | "
            f"{ahead['step'] / ahead['bound']:.2f} | {plain['step'] / ahead['step']:.2f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--sample", type=float, default=20.0, help="seconds that the device samples in a step")
    parser.add_argument("--update", type=float, default=10.0, help="seconds of an update")
    parser.add_argument("--median", type=float, default=3.0, help="of the LLM's latency, in seconds")
    parser.add_argument("--p95", type=float, default=12.0, help="of the LLM's latency, in seconds")
    arguments = parser.parse_args()
    problems = generate_problems("qa", 200, seed=7)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problems.jsonl"
        save_problems(path, problems)
        with start_simulator(path, seed=1, latency=(arguments.median, arguments.p95)) as simulator:
            lines = asyncio.run(table(arguments, simulator, problems))
    print(f"device: {arguments.sample:g} s of sampling and {arguments.update:g} s of update; {arguments.steps} steps")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
