"""What a run leaves behind: its outcome, its answer, and every operator call on the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from math import fsum
from typing import Any

from aflow_jax.llm import Reply
from aflow_jax.workflow.outcome import Outcome


@dataclass(frozen=True)
class Usage:
    """What was spent on LLM calls; `usd` is None where the model's price is not known."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def as_record(self) -> dict[str, Any]:
        """Return the fields as plain data for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, replies: Iterable[Reply]) -> Usage:
        """Return the sum over replies, bit for bit the same in whatever order they came."""
        replies = list(replies)
        prices = [reply.usd for reply in replies]
        return cls(
            calls=len(replies),
            prompt_tokens=sum(reply.prompt_tokens for reply in replies),
            completion_tokens=sum(reply.completion_tokens for reply in replies),
            usd=None if None in prices else fsum(prices),
        )

    @classmethod
    def total(cls, usages: Iterable[Usage]) -> Usage:
        """Return the sum of usages."""
        usages = list(usages)
        prices = [usage.usd for usage in usages]
        return cls(
            calls=sum(usage.calls for usage in usages),
            prompt_tokens=sum(usage.prompt_tokens for usage in usages),
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            usd=None if None in prices else fsum(prices),
        )


@dataclass(frozen=True)
class OperatorCall:
    """One operator's run.

    Attributes:
        operator: its name.
        instruction: what the workflow told it, if anything.
        inputs: the fields of the state that it received, empty ones left out; the problem is the rollout's.
        outputs: what it replied or found out.
        solution_before: the answer that the state stood for before it ran.
        solution_after: and afterwards.
        calls: LLM calls made, format retries included; the next three are their sums.
        latency: seconds from start to end, waits for free slots included; no part of a trace's equality.
        error: why it did not end well, or None.
        place: the way to it through the graph: the stage's index in a chain; then, in a parallel, the branch's index
            and the way in it; in a loop, the iteration from 0 and the way in the body; in a branch, 0 for the check,
            or 1 (fault) or 2 (pass) and the way in that arm.
    """

    operator: str
    instruction: str | None
    inputs: dict[str, str | tuple[str, ...]]
    outputs: dict[str, str]
    solution_before: str
    solution_after: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None
    latency: float = field(compare=False)
    error: str | None = None
    place: tuple[int, ...] = ()

    @property
    def usage(self) -> Usage:
        """What the call spent."""
        return Usage(self.calls, self.prompt_tokens, self.completion_tokens, self.usd)

    def as_record(self) -> dict[str, Any]:
        """Return the fields as plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Execution:
    """A finished run.

    Attributes:
        outcome: SCORED when an answer came out (it is still to be graded), else the fault.
        answer: what came out; None unless the outcome is SCORED.
        trace: the operator calls, ordered by their place in the workflow whenever they ran.
        usage: what all of them spent.
        error: what went wrong, in words, or None.
    """

    outcome: Outcome
    answer: str | None
    trace: tuple[OperatorCall, ...]
    usage: Usage
    error: str | None = None

    @classmethod
    def not_run(cls, outcome: Outcome, error: str | None = None) -> Execution:
        """Return the execution of a text that is no workflow: the fault, and nothing done."""
        return cls(outcome, None, (), Usage(), error)
