"""Workflows that nobody learnt, to compare a policy with: fixed graphs, run by the same executor as any other."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from aflow_jax.evaluation.names import CHAIN_OF_THOUGHT, HAND_WRITTEN, SINGLE_CALL
from aflow_jax.workflow import Call, Chain, Parallel, Workflow, parse

MAX_SELF_CONSISTENCY = 64

_FIXED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        SINGLE_CALL: dict.fromkeys(("math", "code", "qa"), "Custom"),
        CHAIN_OF_THOUGHT: dict.fromkeys(("math", "code", "qa"), "AnswerGenerate"),
        HAND_WRITTEN: {
            "math": "[Programmer, AnswerGenerate, Programmer] -> ScEnsemble",
            "code": "CustomCodeGenerate -> (Test ? Revise : done) * 3",
            "qa": "AnswerGenerate -> Review ? Revise : done -> Format",
        },
    }
)


def fixed_workflow(name: str, domain: str) -> Workflow:
    """Return the workflow of a baseline for a domain: single_call, chain_of_thought or hand_written."""
    return parse(_FIXED[name][domain])


def self_consistency(samples: int) -> Workflow:
    """Return chain of thought, sampled so often, and settled by the majority (Wang et al. 2022).

    One sample is chain of thought itself. The number may exceed workflow_limits.branches, which bounds the policy.
    """
    if samples == 1:
        return Chain((Call("AnswerGenerate"),))
    return Chain((Parallel((Chain((Call("AnswerGenerate"),)),) * samples),))


def samples_at_cost(tokens: float, tokens_of_one: float) -> int:
    """Return how many samples cost about so many tokens: at least 1, at most MAX_SELF_CONSISTENCY."""
    if tokens_of_one <= 0:
        return 1
    return max(1, min(MAX_SELF_CONSISTENCY, round(tokens / tokens_of_one)))
