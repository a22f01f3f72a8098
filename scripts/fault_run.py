"""A training run in which the executor LLM fails in every way, and what that does to rewards: nothing.

    python scripts/fault_run.py [--config configs/quickstart.yaml] [--steps 20] [--rate 0.1] [--out docs/faults.md]

Trains against the simulator while it commits each fault at the given rate, all of them together, and then runs every
recorded workflow again against a simulator without faults, with the same seeds. A rollout that no fault has voided must
have the same outcome, answer and reward both times; none may be missing; the voids in the metrics must be those in the
files.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np

from aflow_jax.assembly import load_problem_sets, workflow_limits
from aflow_jax.clients import Clients
from aflow_jax.collector import RolloutCollector
from aflow_jax.config import Config, load_config
from aflow_jax.llm import Budget, LLMClient, start_simulator
from aflow_jax.problems import BatchSchedule
from aflow_jax.rewards import Grader, Judge
from aflow_jax.rollout import Rollout
from aflow_jax.sampling import Completion, Request, SamplingParams
from aflow_jax.train import main as train
from aflow_jax.training.loop import TRAINING
from aflow_jax.workflow import Executor, Outcome

FAULTS = (
    "rate_limit", "server_error", "unavailable", "hang", "cut", "truncated_json", "malformed_json", "empty_content",
    "wrong_schema", "refusal", "stall",
)  # fmt: skip
COMPARED = ("outcome", "answer", "correctness", "reward")


@dataclass(frozen=True)
class Result:
    """What a run under faults came to.

    Attributes:
        steps: that it made.
        rollouts: recorded; `expected` is steps · B · K.
        outcomes: how many rollouts ended how.
        counted_voids: voids by the metrics.
        differing: unaffected rollouts that end otherwise without faults.
        calls, retries: of the executor, by the metrics.
        seconds: of the run.
        call_timeout: seconds that a request had.
    """

    steps: int
    rollouts: int
    expected: int
    outcomes: dict[str, int]
    counted_voids: int
    differing: list[str]
    calls: int
    retries: int
    seconds: float
    call_timeout: float

    @property
    def voids(self) -> int:
        """Void rollouts in the files."""
        return sum(count for name, count in self.outcomes.items() if Outcome(name).is_void)

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, graded wrongly or counted wrongly."""
        return self.rollouts == self.expected and self.counted_voids == self.voids and not self.differing


def main() -> int:
    """Make the run and the comparison; return 0 where the claim holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.yaml", help="settings with a simulator")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.1, help="of each fault")
    parser.add_argument("--out", type=Path, help="Markdown file for the figures")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="further settings")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.config, options.steps, options.rate, [f"run_dir={folder}/run", *options.overrides])
    command = f"python scripts/fault_run.py {' '.join(sys.argv[1:])}".strip()
    text = describe(result, options.rate, command)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0 if result.holds else 1


def measure(path: str | Path, steps: int, rate: float, overrides: Sequence[str]) -> Result:
    """Train under faults, run what was recorded again without, and compare."""
    faults = json.dumps(dict.fromkeys(FAULTS, rate) | {"stall_seconds": 30.0, "retry_after_seconds": 1.0})
    settings = [
        f"max_steps={steps}", "eval_every=0", "call_timeout=2", "void_limit.ratio=1.0", f"simulator.faults={faults}",
        *overrides,
    ]  # fmt: skip
    started = time.monotonic()
    if train(["--config", str(path), *settings]) != 0:
        raise SystemExit("the run under faults did not complete")
    seconds = time.monotonic() - started
    config = load_config(path, settings)
    metrics = [json.loads(line) for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()][1:]
    records = {step: read_records(config, step) for step in range(1, steps + 1)}
    replayed = asyncio.run(replay(config, records))
    flat = [(step, record) for step in records for record in records[step]]
    size = config.rollout_batch_size * config.num_return_sequences_in_group
    return Result(
        steps=len(metrics),
        rollouts=len(flat),
        expected=steps * size,
        outcomes=dict(Counter(record["outcome"] for _, record in flat)),
        counted_voids=round(sum(line["void_ratio"] * size for line in metrics)),
        differing=[
            f"step {step}: {record['workflow']}: {ended(record)} under faults, {ended_calmly(calm)} without"
            for (step, record), calm in zip(flat, replayed, strict=True)
            if not Outcome(record["outcome"]).is_void and ended(record) != ended_calmly(calm)
        ],
        calls=round(sum(line["executor/calls"] for line in metrics)),
        retries=round(sum(line["executor/retries"] for line in metrics)),
        seconds=seconds,
        call_timeout=config.call_timeout,
    )


def read_records(config: Config, step: int) -> list[dict[str, Any]]:
    """Return a step's recorded rollouts."""
    with gzip.open(config.run_folder / "rollouts" / f"step_{step:06d}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def ended(record: dict[str, Any]) -> tuple[object, ...]:
    """Return how a recorded rollout ended."""
    return tuple(record[name] for name in COMPARED)


def ended_calmly(rollout: Rollout) -> tuple[object, ...]:
    """Return the same of a rollout made again."""
    grade, execution = rollout.grade, rollout.execution
    return (str(execution.outcome), execution.answer, grade.correctness, grade.reward)


async def replay(config: Config, records: dict[int, list[dict[str, Any]]]) -> list[Rollout]:
    """Run the recorded texts of every step against a simulator without faults."""
    problems = load_problem_sets(config, lambda _: None)
    schedule = BatchSchedule(problems.train, config.domain_ratios, config.rollout_batch_size, config.seed)
    rollouts: list[Rollout] = []
    known = config.run_folder / "simulator_problems.jsonl"
    with start_simulator(known, seed=config.seed, skills=config.simulator.skills) as simulator:
        client = LLMClient(simulator.endpoint(), max_concurrency=config.max_concurrent_calls)
        for step, recorded in records.items():
            collector = RolloutCollector(
                driver=Recorded([record["text"] for record in recorded], config.num_return_sequences_in_group),
                clients=Clients(client, client, Budget()),
                executor=Executor(client, operators=config.aflow_operators),
                grader=Grader(Judge(client), weights=config.reward_weights.model_dump()),
                operators=tuple(config.aflow_operators),
                limits=workflow_limits(config),
                workflow_format=config.workflow_format,
                prompt_tokens=lambda problem: (0,),
            )
            collected = await collector.collect(
                schedule.batch(step - 1),
                samples=config.num_return_sequences_in_group,
                seed=(config.seed, TRAINING, step),
                params=SamplingParams(max_new_tokens=config.max_new_tokens),
                adapter=None,
            )
            rollouts += collected.rollouts
        await client.aclose()
    return rollouts


class Recorded:
    """Stands where the sampler stands, and gives the texts that it once gave."""

    def __init__(self, texts: Sequence[str], samples: int) -> None:
        self._texts = texts
        self._samples = samples

    def submit(self, requests: Sequence[Request], *_: object) -> Self:
        """Return the stream of completions."""
        return self

    async def completions(self) -> AsyncIterator[Completion]:
        """Yield every text, by problem and sample."""
        for place, text in enumerate(self._texts):
            request, sample = divmod(place, self._samples)
            yield Completion(
                prompt_tokens=(0,),
                tokens=(0,),
                logprobs=np.zeros(1),
                finish_reason="stop",
                text=text,
                request=request,
                sample=sample,
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


def describe(result: Result, rate: float, command: str) -> str:
    """Return the figures as Markdown."""
    outcomes = "\n".join(f"| {name} | {count} |" for name, count in sorted(result.outcomes.items()))
    unaffected = result.rollouts - result.voids
    worst = "".join(f"\n- {line}" for line in result.differing[:20])
    return f"""# A run under faults

`{command}`

Training on the quick start's problems while the simulated executor commits each of {len(FAULTS)} faults at a rate of
{rate:g}, all together: {", ".join(FAULTS)}. A stall lasts 30 s and a hang for ever; a request has
{result.call_timeout:g} s, and a call, with its retries and the waits between them, four times that. Then every recorded
workflow runs again, with the same seeds, against a simulator without faults.

| | |
|---|---|
| steps completed | {result.steps} |
| rollouts recorded, of {result.expected} | {result.rollouts} |
| replies used / requests sent again | {result.calls} / {result.retries} |
| void rollouts in the files / by the metrics | {result.voids} / {result.counted_voids} |
| unaffected rollouts | {unaffected} |
| of these with another outcome, answer, correctness or reward without faults | {len(result.differing)} |
| seconds | {result.seconds:.0f} |
{worst}
| outcome | rollouts |
|---|---|
{outcomes}

{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, JAX {version("jax")}, openai \
{version("openai")}."""


if __name__ == "__main__":
    sys.exit(main())
