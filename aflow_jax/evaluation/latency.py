"""How long a workflow takes by the seconds of its operators, whatever else runs beside it."""

from __future__ import annotations

from collections.abc import Sequence

from aflow_jax.workflow import Branch, Call, Chain, Loop, OperatorCall, Parallel, Workflow

Steps = list[tuple[tuple[int, ...], float]]
"""The way to each operator call from where one stands, and its seconds."""


def critical_seconds(workflow: Workflow, trace: Sequence[OperatorCall]) -> float:
    """Return the seconds on the critical path of a run: stages one after the other, branches side by side."""
    return _seconds(workflow, [(call.place, call.latency) for call in trace])


def _seconds(node: Chain | Call | Parallel | Branch | Loop, steps: Steps) -> float:
    if not steps:
        return 0.0
    match node:
        case Call():
            return sum(seconds for _, seconds in steps)
        case Chain(stages=stages):
            return sum(_seconds(stage, _below(steps, index)) for index, stage in enumerate(stages))
        case Parallel(branches=branches):
            return max(_seconds(branch, _below(steps, index)) for index, branch in enumerate(branches))
        case Loop(body=body, times=times):
            return sum(_seconds(body, _below(steps, iteration)) for iteration in range(times))
        case Branch(check=check, on_fault=on_fault, on_pass=on_pass):
            parts = enumerate((check, on_fault, on_pass))
            return sum(_seconds(part, _below(steps, index)) for index, part in parts if part is not None)
    raise TypeError(f"{type(node).__name__} is no stage of a workflow")


def _below(steps: Steps, index: int) -> Steps:
    return [(place[1:], seconds) for place, seconds in steps if place and place[0] == index]
