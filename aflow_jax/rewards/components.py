"""The parts of the reward beside correctness, as pure functions into [0, 1]."""

from __future__ import annotations

import itertools
import re

from aflow_jax.workflow import Branch, Call, Chain, Loop, Parallel, Workflow, WorkflowError

CALL_LIMIT = 24
OPERATOR_LIMIT = 10
USD_SCALE = 0.002
TOKEN_SCALE = 8_000
NGRAM = 4

_ELEMENT = re.compile(r"<workflow>.*?</workflow>", re.DOTALL)


def efficiency(calls: int, tokens: int, usd: float | None) -> float:
    """Return how little a run spent: the mean of saved calls and cheapness.

    Saved calls are `1 − (calls − 1) / (CALL_LIMIT − 1)`, bounded to [0, 1]: 1 for one call or none, 0 from 24 on.
    Cheapness is `1 / (1 + cost / scale)`: ½ at 0.002 US dollars, or at 8,000 tokens where the price is unknown or 0.
    """
    saved = min(1.0, max(0.0, 1 - (calls - 1) / (CALL_LIMIT - 1)))
    cost = usd / USD_SCALE if usd else tokens / TOKEN_SCALE
    return (saved + 1 / (1 + cost)) / 2


def simplicity(operator_count: int) -> float:
    """Return `1 − (n − 1) / (OPERATOR_LIMIT − 1)` for a workflow of n written operators, bounded to [0, 1]."""
    return min(1.0, max(0.0, 1 - (operator_count - 1) / (OPERATOR_LIMIT - 1)))


def text_format(fault: WorkflowError | None) -> float:
    """Return how far the policy's text got towards a workflow: 1 where it is one, else the error's progress."""
    return 1.0 if fault is None else min(1.0, max(0.0, fault.progress))


def repetition(completion: str, workflow: Workflow) -> float:
    """Return how little is said twice: the lesser share of distinct word 4-grams and of calls that are no echo.

    The 4-grams are those of the text around the `<workflow>` element; branches of a parallel may well be equal. An
    echo is an operator that directly follows itself in a chain, with the same instruction.
    """
    words = _ELEMENT.sub(" ", completion).lower().split()
    grams = [tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]
    distinct = len(set(grams)) / len(grams) if grams else 1.0
    calls, echoes = _echoes(workflow)
    return min(distinct, 1 - echoes / calls)


def _echoes(stage: Workflow | Call | Parallel | Branch | Loop) -> tuple[int, int]:
    """Return the number of calls written in a stage, and how many of them echo the one before."""
    match stage:
        case Call():
            return 1, 0
        case Chain(stages):
            inner = [_echoes(one) for one in stages]
            echoes = sum(isinstance(one, Call) and one == other for one, other in itertools.pairwise(stages))
            return sum(calls for calls, _ in inner), echoes + sum(own for _, own in inner)
        case Parallel(branches):
            parts: tuple[Workflow | Call, ...] = branches
        case Loop(body, _):
            parts = (body,)
        case Branch(check, on_fault, on_pass):
            parts = (check, *(arm for arm in (on_fault, on_pass) if arm is not None))
        case _:
            raise TypeError(f"{type(stage).__name__} is no stage of a workflow")
    inner = [_echoes(part) for part in parts]
    return sum(calls for calls, _ in inner), sum(echoes for _, echoes in inner)
