"""Runs workflows on problems with the executor LLM; all rollouts of a step run on one event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from aflow_jax.errors import UserError
from aflow_jax.llm import LLMFault
from aflow_jax.problems.problem import Problem
from aflow_jax.sandbox import SandboxUnavailable
from aflow_jax.workflow.answers import leaders
from aflow_jax.workflow.concurrency import Deadline, side_by_side
from aflow_jax.workflow.faults import OperatorFault
from aflow_jax.workflow.graph import Branch, Call, Chain, Loop, Parallel, Stage, Workflow
from aflow_jax.workflow.measures import operators_of
from aflow_jax.workflow.operators import OPERATORS, Operator, Step
from aflow_jax.workflow.outcome import Outcome
from aflow_jax.workflow.session import Client, Resources, Session
from aflow_jax.workflow.state import State
from aflow_jax.workflow.trace import Execution, OperatorCall, Usage


class Watcher(Protocol):
    """Hears of each operator of a run, on the run's event loop, between its steps. It must not block or raise.

    `place` is the way to the operator through the graph, as in `OperatorCall.place`.
    """

    def started(self, operator: str, place: tuple[int, ...]) -> None:
        """An operator starts."""

    def ended(self, call: OperatorCall) -> None:
        """An operator has ended, well or not."""


class Executor:
    """Runs workflows. It belongs to one event loop, and starts nothing that outlives a `run`."""

    def __init__(
        self,
        client: Client,
        *,
        operators: Sequence[str] | None = None,
        timeout: float = 600.0,
        max_calls_in_flight: int = 64,
        max_sandboxes_in_flight: int = 4,
        program_timeout: float = 30.0,
        test_timeout: float = 15.0,
    ) -> None:
        """Take a client, which stays the caller's to close.

        Args:
            client: the executor LLM.
            operators: the names that workflows may use; all where None.
            timeout: seconds that a workflow may run, waits for a free slot not counted.
            max_calls_in_flight: LLM calls at a time, over all workflows; the client's own bound should not be lower.
            max_sandboxes_in_flight: model-written programs at a time, over all workflows.
            program_timeout: seconds that a program may run.
            test_timeout: seconds that the public tests of one version of the code may take.

        Raises:
            UserError: an operator that does not exist.
        """
        self._operators = dict(OPERATORS) if operators is None else {name: _known(name) for name in operators}
        self._timeout = timeout
        self._resources = Resources(
            client,
            asyncio.Semaphore(max_calls_in_flight),
            asyncio.Semaphore(max_sandboxes_in_flight),
            program_timeout,
            test_timeout,
        )

    async def run(
        self, workflow: Workflow, problem: Problem, *, seed: tuple[int, ...], watcher: Watcher | None = None
    ) -> Execution:
        """Run a workflow on a problem; every fault of the policy or the infrastructure is an outcome.

        The result is a function of workflow, problem, seed and what LLM and sandbox answer, never of timing.

        Args:
            workflow: the graph.
            problem: what to solve; its gold answer and hidden tests are not looked at.
            seed: the rollout's, from which every sampled call derives its own.
            watcher: hears of each operator as it starts and ends.

        Raises:
            UserError: the endpoint refuses the key, or a budget is exhausted (BudgetExhausted): no rollout can go on.
        """
        unknown = sorted(set(operators_of(workflow)) - set(self._operators))
        if unknown:
            return Execution.not_run(Outcome.PARSE, f"{', '.join(unknown)}: not among the operators offered")
        records: list[OperatorCall] = []
        run = _Run(self._operators, self._resources, Deadline(self._timeout), len(seed), watcher)
        answer, error = None, None
        try:
            async with run.deadline:
                state, _ = await run.chain(workflow, State(problem), _Place(seed, records))
            answer = state.answer or None
            outcome = Outcome.SCORED if answer else Outcome.EMPTY_ANSWER
            error = None if answer else "the workflow ended without a solution"
        except OperatorFault as fault:
            outcome, error = fault.outcome, str(fault)
        except LLMFault as fault:
            outcome, error = Outcome(fault.kind), str(fault)
        except SandboxUnavailable as fault:
            outcome, error = Outcome.SANDBOX_UNAVAILABLE, str(fault)
        except TimeoutError:
            if not run.deadline.expired():
                raise
            outcome, error = Outcome.WORKFLOW_TIMEOUT, f"the workflow ran for more than {self._timeout:g} seconds"
        usage = Usage.total(call.usage for call in records)
        return Execution(outcome, answer, tuple(records), usage, error)


def worst_case_llm_calls(node: Stage | Chain) -> int:
    """Return how many LLM calls a workflow makes at most: every retry, rewrite and round of a loop taken."""
    match node:
        case Call(operator=name):
            return OPERATORS[name].worst_case_llm_calls
        case Chain(stages=parts) | Parallel(branches=parts):
            return sum(map(worst_case_llm_calls, parts))
        case Branch(check=check, on_fault=on_fault, on_pass=on_pass):
            arms = [worst_case_llm_calls(arm) for arm in (on_fault, on_pass) if arm is not None]
            return worst_case_llm_calls(check) + max(arms, default=0)
        case Loop(body=body, times=times):
            return times * worst_case_llm_calls(body)


@dataclass(frozen=True)
class _Place:
    """Where in the workflow something runs.

    Attributes:
        seed: the rollout's seed and the way through the graph: what chance depends on there.
        records: where its operator calls are noted.
        in_loop: whether a `done` there ends a loop. A parallel's branch has none to end: the loop around the parallel
            belongs to its siblings too.
        sampled: whether calls there are sampled, being in a branch that repeats another.
    """

    seed: tuple[int, ...]
    records: list[OperatorCall]
    in_loop: bool = False
    sampled: bool = False

    def at(self, *steps: int) -> _Place:
        return replace(self, seed=(*self.seed, *steps))


@dataclass(frozen=True)
class _Run:
    """One rollout's way through its graph. Methods return the state after, and whether `done` ended the loop around.

    Attributes:
        root: the length of the rollout's own seed: what follows it in a place's seed is the way through the graph.
        watcher: hears of each operator, where there is one.
    """

    operators: dict[str, Operator]
    resources: Resources
    deadline: Deadline
    root: int
    watcher: Watcher | None

    async def chain(self, chain: Chain, state: State, place: _Place) -> tuple[State, bool]:
        for index, stage in enumerate(chain.stages):
            state, done = await self._stage(stage, state, place.at(index))
            if isinstance(stage, Parallel) and not self._is_ensemble(chain.stages[index + 1 : index + 2]):
                state = _settled(state)
            if done:
                return state, True
        return state, False

    async def _stage(self, stage: Stage, state: State, place: _Place) -> tuple[State, bool]:
        match stage:
            case Call():
                return await self._call(stage, state, place), False
            case Parallel():
                return await self._parallel(stage, state, place), False
            case Branch():
                return await self._branch(stage, state, place)
            case Loop():
                return await self._loop(stage, state, place), False

    async def _branch(self, branch: Branch, state: State, place: _Place) -> tuple[State, bool]:
        state = await self._call(branch.check, state, place.at(0))
        faulty = state.verdict == "fail"
        arm = branch.on_fault if faulty else branch.on_pass
        if arm is None:
            return state, place.in_loop
        return await self.chain(arm, state, place.at(1 if faulty else 2))

    async def _loop(self, loop: Loop, state: State, place: _Place) -> State:
        for iteration in range(loop.times):
            state, done = await self.chain(loop.body, state, replace(place.at(iteration), in_loop=True))
            if done:
                break
        return state

    async def _parallel(self, parallel: Parallel, state: State, place: _Place) -> State:
        repeats = Counter(parallel.branches)
        places = [
            _Place((*place.seed, index), [], sampled=place.sampled or repeats[branch] > 1)
            for index, branch in enumerate(parallel.branches)
        ]
        branches = zip(parallel.branches, places, strict=True)
        try:
            ends = await side_by_side([self.chain(branch, state, its_place) for branch, its_place in branches])
        finally:
            for its_place in places:
                place.records.extend(its_place.records)
        return replace(state, candidates=tuple(end.answer for end, _ in ends if end.answer))

    async def _call(self, call: Call, state: State, place: _Place) -> State:
        operator = self.operators[call.operator]
        session = Session(self.resources, self.deadline, place.seed, place.sampled)
        clock = asyncio.get_running_loop()
        start, step, error = clock.time(), Step(state), None
        way = place.seed[self.root :]
        if self.watcher is not None:
            self.watcher.started(call.operator, way)
        try:
            step = await operator.run(state, call.instruction, session)
        except OperatorFault as fault:
            error = f"{fault.outcome}: {fault}"
            raise
        except (LLMFault, SandboxUnavailable) as fault:
            error = f"{type(fault).__name__}: {fault}"
            raise
        except asyncio.CancelledError:
            error = "cancelled"
            raise
        finally:
            record = _record(operator, call, state, step, session, clock.time() - start, error)
            place.records.append(replace(record, place=way))
            if self.watcher is not None:
                self.watcher.ended(place.records[-1])
        return step.state

    def _is_ensemble(self, following: Sequence[Stage]) -> bool:
        return any(isinstance(stage, Call) and self.operators[stage.operator].is_ensemble for stage in following)


def _known(name: str) -> Operator:
    if name not in OPERATORS:
        raise UserError(f"aflow_operators: there is no operator {name!r}; there are {', '.join(OPERATORS)}")
    return OPERATORS[name]


def _settled(state: State) -> State:
    """Settle a parallel that no ensemble follows: the most frequent answer, the first on a tie, without an LLM call."""
    winners = leaders(state.problem, state.candidates)
    state = replace(state, candidates=())
    return state.with_answer(winners[0]) if winners else state


def _record(
    operator: Operator, call: Call, before: State, step: Step, session: Session, latency: float, error: str | None
) -> OperatorCall:
    usage = Usage.of(session.replies)
    received = {name: getattr(before, name) for name in operator.receives}
    return OperatorCall(
        operator=call.operator,
        instruction=call.instruction,
        inputs={name: value for name, value in received.items() if value},
        outputs=step.outputs,
        solution_before=before.answer,
        solution_after=step.state.answer,
        calls=usage.calls,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        usd=usage.usd,
        latency=latency,
        error=error,
    )
