"""How close the executor comes to the ideal schedule, and what it costs: 1,000 workflows of 5 calls each.

    python scripts/bench_executor.py [--workflows 1000] [--in-flight 256] [--median 1.0] [--p95 4.0]

The executor and the real client run here, the simulator in a process of its own with lognormal latencies. The ideal
schedule is what a scheduler without any cost of its own needs for the very latencies that the simulator drew. CPU time
is this process's. "executor alone" is the load with an endpoint inside this process, without HTTP; "openai alone" is
what the `openai` package takes for as many requests of the same size, and the difference to it is our own. Ctrl-C is
tried on a process of its own with all of the workflows in flight, half of them in programs that never end.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import httpx2

from aflow_jax.llm import LLMClient, Reply, start_simulator
from aflow_jax.llm.simulator.draws import digest, lognormal
from aflow_jax.problems import Problem, generate_problems, save_problems
from aflow_jax.workflow import Execution, Executor, Outcome, parse

WORKFLOW = parse("Custom -> Revise -> Revise -> Revise -> Format")
CALLS = 5


class Immediate:
    """An endpoint inside this process that answers at once: what remains is the executor's own cost."""

    async def complete(self, messages: list[dict[str, str]], **_: object) -> Reply:
        """Return a reply that has every field that the workflow's operators ask for."""
        return Reply("<solution>1</solution><answer>1</answer>", 1, 1, 0.0, 0.0)


def main() -> None:
    """Run both loads and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workflows", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--median", type=float, default=1.0, help="seconds")
    parser.add_argument("--p95", type=float, default=4.0, help="seconds")
    parser.add_argument("--hang", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hang:
        hang(options.workflows, options.in_flight)
    problems = [
        replace(problem, question=f"Number {number}. {problem.question}")  # no two alike
        for number, problem in enumerate(generate_problems("math", options.workflows, seed=0))
    ]
    calls = options.workflows * CALLS

    start = time.process_time()
    asyncio.run(execute(problems, Immediate(), options.in_flight))
    print(f"executor alone      {(time.process_time() - start) / calls * 1e3:.2f} ms CPU per operator call")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problems.jsonl"
        save_problems(path, problems)
        with start_simulator(path, latency=(options.median, options.p95)) as simulator:
            base = peak_mb()
            wall, cpu, latencies = asyncio.run(
                through_client(problems, simulator, options.in_flight, (options.median, options.p95))
            )
            memory = peak_mb()
        with start_simulator(path) as simulator:
            bare = asyncio.run(openai_alone(simulator, min(calls, 2000))) * 1e3
    ideal, own = ideal_seconds(latencies, options.in_flight), cpu / calls * 1e3
    print(f"openai alone        {bare:.2f} ms CPU per request")
    print(f"with the client     {own:.2f} ms CPU per operator call, {own - bare:.2f} our own, {cpu / wall:.2f} cores")
    print(f"wall time           {wall:.1f} s, {wall / ideal:.3f} x the ideal schedule's {ideal:.1f} s")
    print(f"memory              {memory - base:.0f} MB above the {base:.0f} MB before")
    print(
        f"Ctrl-C              {seconds_to_end(options.workflows, options.in_flight):.1f} s until the process has ended"
    )


class Hanging:
    """An endpoint that never answers, but for programs, which never end."""

    async def complete(self, messages: list[dict[str, str]], **_: object) -> Reply:
        """Return a program's reply, or nothing for ten minutes."""
        if "Programmer" not in messages[0]["content"]:
            await asyncio.sleep(600)
        return Reply("<code>def solve():\n    while True: pass</code>", 1, 1, 0.0, 0.0)


def hang(workflows: int, in_flight: int) -> None:
    """Start workflows that never end, say when they are under way, and leave at Ctrl-C."""
    halves = [parse("Custom"), parse("Programmer")]

    async def step() -> None:
        executor = Executor(Hanging(), max_calls_in_flight=in_flight)
        problems = generate_problems("math", workflows, seed=0)
        runs = [executor.run(halves[n % 2], problem, seed=(0, n)) for n, problem in enumerate(problems)]
        asyncio.get_running_loop().call_later(3.0, lambda: print("under way", flush=True))
        await asyncio.gather(*runs)

    try:
        asyncio.run(step())
    except KeyboardInterrupt:
        sys.exit(130)


def seconds_to_end(workflows: int, in_flight: int) -> float:
    """Return how long a process with all workflows in flight takes to end after Ctrl-C, its sandboxes with it."""
    command = [sys.executable, __file__, "--hang", "--workflows", str(workflows), "--in-flight", str(in_flight)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        below = descendants(process.pid)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
        seconds = time.monotonic() - start
    finally:
        process.kill()
    if code != 130:
        raise SystemExit(f"after Ctrl-C the process ended with {code}")
    if left := [pid for pid in below if Path(f"/proc/{pid}").exists()]:
        raise SystemExit(f"after Ctrl-C {len(left)} of {len(below)} processes run on")
    return seconds


def descendants(pid: int) -> set[int]:
    """Return the processes below one."""
    children = [
        int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
    ]
    return set(children).union(*map(descendants, children))


class Timed:
    """A client that notes the latency that the simulator draws for each request."""

    def __init__(self, client: LLMClient, latency: tuple[float, float]) -> None:
        self.client, self.latency = client, latency
        self.drawn: dict[str, list[float]] = {}
        self.asked: dict[str, int] = {}

    async def complete(self, messages: list[dict[str, str]], **chance) -> Reply:
        """Return the reply; the problem, which is in every message, tells the workflow."""
        body = self.client._body(messages, max_tokens=None, **chance)  # what the simulator's draw depends on
        content = digest(0, json.dumps(body, sort_keys=True))
        self.asked[content] = self.asked.get(content, 0) + 1
        problem = messages[1]["content"].partition("</problem>")[0]
        self.drawn.setdefault(problem, []).append(lognormal(*self.latency, "latency", content, self.asked[content]))
        return await self.client.complete(messages, **chance)


async def through_client(
    problems: list[Problem], simulator, in_flight: int, latency: tuple[float, float]
) -> tuple[float, float, list[list[float]]]:
    """Return wall and CPU seconds of all workflows against the simulator, and each workflow's latencies."""
    client = LLMClient(simulator.endpoint(), max_concurrency=in_flight)
    timed = Timed(client, latency)
    try:
        await client.check()
        wall, cpu = time.monotonic(), time.process_time()
        await execute(problems, timed, in_flight)
        return time.monotonic() - wall, time.process_time() - cpu, list(timed.drawn.values())
    finally:
        await client.aclose()


async def openai_alone(simulator, requests: int) -> float:
    """Return the CPU seconds that the `openai` package takes for a request, one connection each."""
    client = LLMClient(simulator.endpoint())
    body = client._body([{"role": "user", "content": "x" * 600}], temperature=0.0, seed=None, max_tokens=None)
    connections = [client._exchange._open() for _ in range(16)]

    async def work(connection) -> None:
        for _ in range(requests // len(connections)):
            await connection.post("/chat/completions", cast_to=httpx2.Response, body=body)

    start = time.process_time()
    await asyncio.gather(*map(work, connections))
    seconds = time.process_time() - start
    for connection in connections:
        await connection.close()
    await client.aclose()
    return seconds / requests


async def execute(problems: list[Problem], client, in_flight: int) -> list[Execution]:
    """Run the workflow on every problem at once; all must end well, and nothing may be left running."""
    executor = Executor(client, max_calls_in_flight=in_flight)
    runs = [executor.run(WORKFLOW, problem, seed=(0, number)) for number, problem in enumerate(problems)]
    executions = await asyncio.gather(*runs)
    failed = [execution.error for execution in executions if execution.outcome != Outcome.SCORED]
    left = len(asyncio.all_tasks()) - 1
    if failed or left:
        raise SystemExit(f"{len(failed)} workflows failed ({failed[:1]}), {left} tasks were left running")
    return executions


def ideal_seconds(latencies: list[list[float]], in_flight: int) -> float:
    """Return the makespan of these chains of calls, first come first served, on slots that cost nothing."""
    ready = [(0.0, number, 0) for number in range(len(latencies))]
    slots = [0.0] * in_flight
    end = 0.0
    while ready:
        asked, number, call = heapq.heappop(ready)
        done = max(asked, heapq.heappop(slots)) + latencies[number][call]
        heapq.heappush(slots, done)
        end = max(end, done)
        if call + 1 < len(latencies[number]):
            heapq.heappush(ready, (done, number, call + 1))
    return end


def peak_mb() -> float:
    """Return this process's peak of resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
