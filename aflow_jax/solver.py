"""Solving questions with a trained policy, from Python: `from aflow_jax import Solver`.

with Solver("runs/quickstart") as solver:
    solution = solver.solve("What is 17 * 23?")
    print(solution.workflow, solution.answer, solution.usage.calls)
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aflow_jax.assembly import (
    ExecutionParts,
    ProblemSets,
    RunParts,
    executor_of,
    load_problem_sets,
    open_execution,
    open_parts,
    workflow_limits,
)
from aflow_jax.commands import NEWEST
from aflow_jax.errors import UserError
from aflow_jax.problems import Problem, default_sources
from aflow_jax.sampling import Request
from aflow_jax.settings_for_use import settings_for_use
from aflow_jax.workflow import (
    Execution,
    OperatorCall,
    Outcome,
    Usage,
    Watcher,
    Workflow,
    WorkflowError,
    parse,
    read_answer,
)
from aflow_jax.workflow import format as format_workflow

Result = TypeVar("Result")


@dataclass(frozen=True)
class Solution:
    """What came of a question.

    Attributes:
        answer: None where the run ended without one.
        outcome: SCORED where an answer came out (nobody graded it), else what was at fault.
        error: what went wrong, in words, or None.
        workflow: in the workflow language; None where the policy wrote none.
        text: all that the policy wrote; "" for a workflow that was given.
        trace: each operator's run, in the order of the workflow.
        usage: the executor's calls, tokens and US dollars; dollars are None where the price is unknown.
    """

    answer: str | None
    outcome: Outcome
    error: str | None
    workflow: str | None
    text: str
    trace: tuple[OperatorCall, ...]
    usage: Usage


class Solver:
    """A policy, or none, and an executor LLM, ready to solve questions. A context manager; usable from any thread."""

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        which: str = NEWEST,
        config: str | Path | None = None,
        overrides: Sequence[str] = (),
        writes_workflows: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Load the policy and reach the executor; that takes from seconds to minutes.

        Args:
            checkpoint: a run folder, which means one of its checkpoints, or a checkpoints/step_N folder; None takes the
                base model as it is.
            which: of a run folder's checkpoints, "newest" or "best" by the evaluations inside training.
            config: a file of settings or a preset's name; None is the run's own, without a checkpoint `training`.
            overrides: `key=value` settings over it.
            writes_workflows: False loads no policy: `solve` needs a workflow each time then.
            say: hears lines about what is loaded, the checkpoint first.

        Raises:
            UserError: a mistake in what was named, an endpoint that refuses the key or cannot be reached.
        """
        self._scratch = tempfile.TemporaryDirectory(prefix="aflow_jax_")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="solver", daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self._solved, self._closed = 0, False
        try:
            settings = settings_for_use(checkpoint, config, overrides, Path(self._scratch.name), which=which, say=say)
            self._config, self._adapter = settings.config, settings.adapter
            self._parts: ExecutionParts = self._wait(self._open(writes_workflows, say))
        except BaseException:
            self.close()
            raise

    def solve(
        self,
        question: str,
        *,
        context: str | None = None,
        entry_point: str | None = None,
        source: str | None = None,
        workflow: str | None = None,
        wrote: Callable[[str], None] = lambda workflow: None,
        watcher: Watcher | None = None,
    ) -> Solution:
        """Have a workflow written for the question, unless one is given, and run it.

        Args:
            question: what is asked.
            context: passages that every operator gets.
            entry_point: the function that code must define; makes the question one of code.
            source: a row of configs/datasets.yaml, which decides the domain; None: `source_of`.
            workflow: in the workflow language, instead of the policy's.
            wrote: hears the workflow before it runs.
            watcher: hears of each operator as it starts and ends; both are called from a thread of the solver's.

        Raises:
            UserError: an unknown source, a workflow that does not parse, a prompt that is too long, a refused key, a
                budget that is spent.
        """
        problem = problem_of(question, context=context, entry_point=entry_point, source=source)
        given = None if workflow is None else _parsed(workflow)
        if given is None and not isinstance(self._parts, RunParts):
            raise UserError("no policy is loaded: give a workflow, or a Solver that writes workflows")
        self._solved += 1
        return self._wait(self._solve(problem, given, (self._config.seed, self._solved), wrote, watcher))

    def close(self) -> None:
        """End what was started: the simulator, the device's thread, connections. Nothing can be solved after that."""
        if self._closed:
            return
        self._closed = True
        self._wait(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._scratch.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _open(self, writes_workflows: bool, say: Callable[[str], None]) -> ExecutionParts:
        # The simulator of a run answers what it knows, and that is the run's problems.
        problems = load_problem_sets(self._config, lambda line: None) if self._config.simulator else ProblemSets([], [])
        if writes_workflows:
            return await self._stack.enter_async_context(open_parts(self._config, problems, say))
        known = [*problems.train, *problems.test]
        return await self._stack.enter_async_context(open_execution(self._config, known, say))

    async def _solve(
        self,
        problem: Problem,
        workflow: Workflow | None,
        seed: tuple[int, ...],
        wrote: Callable[[str], None],
        watcher: Watcher | None,
    ) -> Solution:
        text, operators = "", None
        if workflow is None:
            text, operators = await self._write(problem, seed), self._config.aflow_operators
            try:
                workflow = read_answer(text, self._config.workflow_format, operators, workflow_limits(self._config))
            except WorkflowError as fault:
                return _solution(Execution.not_run(Outcome(fault.code), str(fault)), None, text)
        written = format_workflow(workflow)
        wrote(written)
        executor = executor_of(self._config, self._parts.clients, operators)
        return _solution(await executor.run(workflow, problem, seed=seed, watcher=watcher), written, text)

    async def _write(self, problem: Problem, seed: tuple[int, ...]) -> str:
        """Return the policy's answer."""
        parts = self._parts
        if not isinstance(parts, RunParts):
            raise TypeError("a policy needs parts with a model")
        request = Request(prompt_tokens=parts.policy.prompt_tokens(problem), seeds=(seed,))
        params = parts.policy.sampling_params(self._config.evaluation.temperature)
        async with parts.driver.submit([request], params, self._adapter) as stream:
            (completion,) = [completion async for completion in stream.completions()]
        return completion.text

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run something on the solver's event loop; Ctrl-C cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def problem_of(
    question: str, *, context: str | None = None, entry_point: str | None = None, source: str | None = None
) -> Problem:
    """Return a question as a problem without an answer; raise UserError where the source is unknown."""
    if not question.strip():
        raise UserError("the question is empty: say what is asked")
    if entry_point is not None and not entry_point.isidentifier():
        raise UserError(f"entry point {entry_point!r} is not the name of a function")
    row = default_sources().named(source or source_of(question, context, entry_point))
    return Problem(question, "", row.name, row.domain, context=context, entry_point=entry_point, id="question")


def source_of(question: str, context: str | None, entry_point: str | None) -> str:
    """Return the source whose kind a question is taken for: mbpp with an entry point, hotpotqa with a context or
    without a digit, else gsm8k."""
    if entry_point is not None:
        return "mbpp"
    return "hotpotqa" if context or not re.search(r"\d", question) else "gsm8k"


def _parsed(text: str) -> Workflow:
    try:
        return parse(text)
    except WorkflowError as error:
        raise UserError(f"workflow: {error}") from None


def _solution(execution: Execution, workflow: str | None, text: str) -> Solution:
    return Solution(
        execution.answer, execution.outcome, execution.error, workflow, text, execution.trace, execution.usage
    )
