"""After a step nothing of it runs on: no task, no program, no connection, however its workflows ended."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aflow_jax.llm import LLMClient, start_simulator
from aflow_jax.problems import generate_problems, save_problems
from aflow_jax.sandbox import configure_sandbox
from aflow_jax.workflow import Executor, Outcome, parse

REPOSITORY = Path(__file__).resolve().parents[2]
PROBLEMS = generate_problems("math", 6, seed=0)
ENDLESS = "<code>\ndef solve():\n    while True: pass\n</code>"


class Endless:
    """An endpoint whose every program never ends."""

    async def complete(self, messages, **_):
        from aflow_jax.llm import Reply

        return Reply(ENDLESS, 1, 1, 0.0, 0.0)


def descendants() -> dict[int, int]:
    """Return the living processes below this one, with their parents; those that only wait to be reaped are over."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            parents[int(entry.name)] = int(parent)
    found = {os.getpid(): 0}
    while grown := {child: parent for child, parent in parents.items() if parent in found and child not in found}:
        found |= grown
    del found[os.getpid()]
    return found


def sockets() -> int:
    names = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(name.startswith("socket:") for name in names)


def settled(count, wanted) -> object:
    """Return a count once it is what is wanted, or after a while: the kernel ends what was killed in its own time."""
    for _ in range(200):
        if (found := count()) == wanted:
            break
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    path = tmp_path_factory.mktemp("nothing") / "problems.jsonl"
    save_problems(path, PROBLEMS)
    with start_simulator(path, latency=(0.2, 0.8), faults={"hang": 0.1, "cut": 0.1, "server_error": 0.1}) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def started_sandbox():
    """Programs are forked from processes that stay: those are there before anything is counted."""
    from aflow_jax.sandbox import run_program

    configure_sandbox()
    for source in ("def solve(): return 1", "import numpy\ndef solve(): return 1"):
        assert run_program(source).value == 1


@pytest.mark.parametrize("ending", ["ends", "times out", "is cancelled"])
def test_no_task_and_no_connection_is_left(simulator, ending):
    workflow = parse("[Custom, AnswerGenerate, Programmer] -> ScEnsemble -> (Review ? Revise : done) * 2")
    before = sockets()

    async def step() -> list[Outcome]:
        client = LLMClient(simulator.endpoint(), backoff=0.01, timeout=1.0)
        executor = Executor(client, timeout=0.3 if ending == "times out" else 60)
        runs = asyncio.gather(*(executor.run(workflow, problem, seed=(n,)) for n, problem in enumerate(PROBLEMS)))
        if ending == "is cancelled":
            await asyncio.sleep(0.3)
            runs.cancel()
        executions = (await asyncio.gather(runs, return_exceptions=True))[0]
        await client.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return [] if isinstance(executions, BaseException) else [execution.outcome for execution in executions]

    outcomes = asyncio.run(step())
    assert (Outcome.WORKFLOW_TIMEOUT in outcomes) == (ending == "times out")
    assert settled(sockets, before) == before


@pytest.mark.parametrize("ending", ["times out", "is cancelled"])
def test_no_program_is_left_in_a_sandbox(ending):
    before, open_sockets = descendants(), sockets()

    async def step() -> None:
        executor = Executor(Endless(), timeout=0.5 if ending == "times out" else 60, max_sandboxes_in_flight=3)
        workflow = parse("[Programmer, Programmer, Programmer]")
        runs = asyncio.gather(*(executor.run(workflow, problem, seed=(n,)) for n, problem in enumerate(PROBLEMS[:2])))
        while len(descendants()) < len(before) + 3:
            await asyncio.sleep(0.02)
        if ending == "is cancelled":
            runs.cancel()
        executions = (await asyncio.gather(runs, return_exceptions=True))[0]
        if ending == "times out":
            assert {execution.outcome for execution in executions} == {Outcome.WORKFLOW_TIMEOUT}

    asyncio.run(step())
    assert settled(descendants, before) == before
    assert settled(sockets, open_sockets) == open_sockets


INTERRUPTED = """
import asyncio, sys
from aflow_jax.llm import Reply
from aflow_jax.problems import generate_problems
from aflow_jax.workflow import Executor, parse

class Hanging:
    async def complete(self, messages, **_):
        if "Programmer" in messages[0]["content"]:
            return Reply("<code>def solve():\\n    while True: pass</code>", 1, 1, 0.0, 0.0)
        await asyncio.sleep(600)

async def step():
    executor = Executor(Hanging(), max_calls_in_flight=256)
    workflow = parse("[Custom, Programmer] -> ScEnsemble")
    problems = generate_problems("math", 200, seed=0)
    runs = [asyncio.create_task(executor.run(workflow, problem, seed=(0,))) for problem in problems]
    await asyncio.sleep(2)
    print("running", flush=True)
    await asyncio.gather(*runs)

try:
    asyncio.run(step())
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_ends_a_step_with_everything_beneath_it():
    before = descendants()
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "running\n"
    below = set(descendants()) - set(before) - {process.pid}
    assert below  # sandboxes that run on
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert settled(lambda: {pid for pid in below if Path(f"/proc/{pid}").exists()}, set()) == set()
