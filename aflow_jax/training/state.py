"""The little beside the learner's arrays that a run carries from step to step, and its form in a checkpoint."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from aflow_jax.llm import Budget


@dataclass
class RunState:
    """Where a run is.

    Attributes:
        budget: what the executor and the judge spent.
        recent_voids: void rollouts of each of the last steps, the newest last.
        step: the GRPO step that the learner's state is after; None until the warm start is done.
        unwritten: the metrics of `step`, until its evaluation completes them.
        num_tokens: prompt and completion tokens of all rollouts so far.
    """

    budget: Budget
    recent_voids: deque[int]
    step: int | None = None
    unwritten: dict[str, float] | None = field(default=None)
    num_tokens: int = 0

    @property
    def next_line(self) -> int:
        """The first step of which metrics.jsonl has no complete line."""
        if self.step is None:
            return 0
        return self.step if self.unwritten is not None else self.step + 1

    def details(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the arrays, as plain data."""
        budget = self.budget
        return {
            "num_tokens": self.num_tokens,
            "recent_voids": list(self.recent_voids),
            "unwritten": self.unwritten,
            "spent": {"calls": budget.spent_calls, "tokens": budget.spent_tokens, "usd": budget.spent_usd},
        }

    def take_up(self, step: int, details: dict[str, Any]) -> None:
        """Go on from the checkpoint of `step`."""
        self.step = step
        self.num_tokens = details["num_tokens"]
        self.unwritten = details["unwritten"]
        self.recent_voids.extend(details["recent_voids"])
        spent, budget = details["spent"], self.budget
        budget.spent_calls, budget.spent_tokens, budget.spent_usd = spent["calls"], spent["tokens"], spent["usd"]
