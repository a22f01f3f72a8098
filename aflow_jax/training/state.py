"""The little beside the learner's arrays that a run carries from step to step, and its form in a checkpoint."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from aflow_jax.llm import Budget
from aflow_jax.runs import Place


@dataclass
class RunState:
    """Where a run is.

    Attributes:
        budget: what the executor and the judge spent.
        recent_voids: void rollouts of each of the last steps, the newest last.
        place: what the learner's state is after; None before the first update.
        unwritten: the metrics of this GRPO step, until its evaluation completes them; in the stages before, what step
            0 will tell of them.
        num_tokens: prompt and completion tokens of all rollouts so far.
        best: the evaluation that was best so far, the first of equals: its step, accuracy and reward.
        not_finite: steps in a row, up to this one, whose loss or gradient was not finite.
    """

    budget: Budget
    recent_voids: deque[int]
    place: Place | None = None
    unwritten: dict[str, float] | None = None
    num_tokens: int = 0
    best: dict[str, float] | None = None
    not_finite: int = 0

    @property
    def step(self) -> int | None:
        """The GRPO step that the learner's state is after; None before step 0."""
        return self.place.step if self.place and self.place.stage == "step" else None

    @property
    def next_line(self) -> int:
        """The first step of which metrics.jsonl has no complete line."""
        if self.step is None:
            return 0
        return self.step if self.unwritten is not None else self.step + 1

    @property
    def best_place(self) -> Place | None:
        """The checkpoint of the best evaluation."""
        return Place("step", int(self.best["step"])) if self.best else None

    def note_evaluation(self, step: int, accuracy: float, reward: float) -> None:
        """Take note of an evaluation, which may be the best so far: by accuracy, then by reward."""
        if self.best is None or (accuracy, reward) > (self.best["accuracy"], self.best["reward"]):
            self.best = {"step": step, "accuracy": accuracy, "reward": reward}

    def details(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the arrays, as plain data."""
        budget = self.budget
        return {
            "num_tokens": self.num_tokens,
            "recent_voids": list(self.recent_voids),
            "not_finite": self.not_finite,
            "unwritten": self.unwritten,
            "best": self.best,
            "spent": {"calls": budget.spent_calls, "tokens": budget.spent_tokens, "usd": budget.spent_usd},
        }

    def take_up(self, place: Place, details: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.place = place
        self.num_tokens = details["num_tokens"]
        self.recent_voids.extend(details["recent_voids"])
        self.not_finite = details["not_finite"]
        self.unwritten = details["unwritten"]
        self.best = details["best"]
        spent, budget = details["spent"], self.budget
        budget.spent_calls, budget.spent_tokens, budget.spent_usd = spent["calls"], spent["tokens"], spent["usd"]
