"""The grade of an answer by the rules of its source, without any model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aflow_jax.problems.grading import gold_answers, grading_of
from aflow_jax.problems.problem import Problem
from aflow_jax.problems.sources import Grading
from aflow_jax.rewards.code_rules import grade_code, grade_code_async
from aflow_jax.rewards.math_rules import grade_math
from aflow_jax.rewards.qa_rules import grade_f1, grade_options
from aflow_jax.rewards.ruling import Ruling

DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"correctness": 0.65, "efficiency": 0.15, "simplicity": 0.10, "format": 0.05, "repetition": 0.05}
)


@dataclass(frozen=True)
class Grade:
    """How good a rollout, or an answer alone, is.

    Attributes:
        correctness: 0, .2, .4, .7 or 1.
        components: each in [0, 1], by the names of the reward's weights; an answer graded alone has only correctness.
        reward: the weighted sum of the components.
        judged: whether the LLM judge was asked.
    """

    correctness: float
    components: Mapping[str, float]
    reward: float
    judged: bool = False

    @classmethod
    def of(cls, components: Mapping[str, float], weights: Mapping[str, float], *, judged: bool = False) -> Grade:
        """Make the grade whose reward is the weighted sum of the components."""
        reward = sum(weights[name] * value for name, value in components.items())
        return cls(components["correctness"], dict(components), reward, judged)


def grade_answer(problem: Problem, answer: str | None) -> Grade:
    """Grade an answer by the rules alone; no LLM is asked.

    Blocks: for up to 2 s on mathematics (at the process's first use also for the start of the checker), 15 s on code.

    Raises:
        SandboxUnavailable, SymbolicUnavailable: the machine cannot check it.
        UserError: the problem's source is not a row of configs/datasets.yaml.
    """
    return Grade.of({"correctness": rule(problem, answer).level}, DEFAULT_WEIGHTS)


async def grade_answer_async(problem: Problem, answer: str | None) -> Grade:
    """Do as `grade_answer`, without blocking the event loop."""
    ruling = await rule_async(problem, answer)
    return Grade.of({"correctness": ruling.level}, DEFAULT_WEIGHTS)


def rule(problem: Problem, answer: str | None) -> Ruling:
    """Return the level of an answer, and whether the rules stand by it."""
    if answer is None:
        return Ruling(0.0)
    match grading_of(problem):
        case Grading.TESTS:
            return grade_code(problem, answer)
        case Grading.NUMBER | Grading.LATEX:
            return grade_math(problem.answer, answer, problem.question)
        case Grading.OPTION:
            return grade_options(problem.answer, answer, problem.question)
        case Grading.F1:
            return grade_f1(gold_answers(problem), answer)


async def rule_async(problem: Problem, answer: str | None) -> Ruling:
    """Do as `rule`; code in the sandbox's own way, the rest in a thread."""
    if answer is not None and grading_of(problem) == Grading.TESTS:
        return await grade_code_async(problem, answer)
    return await asyncio.to_thread(rule, problem, answer)
