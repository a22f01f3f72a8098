"""The workflow as a graph: what the parser makes, the executor runs and the formatter prints.

Graphs are always in normal form, so that equal graphs mean equal workflows and `parse(format(graph)) == graph`:
chains hold no chains (a group inside a chain changes nothing), and branches, loop bodies and arms are chains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHECKERS = ("Review", "Test")  # the operators that may decide a branch
MAX_LOOP = 5


@dataclass(frozen=True)
class Call:
    """One operator, with its instruction where it was given one."""

    operator: str
    instruction: str | None = None


@dataclass(frozen=True)
class Chain:
    """Stages run one after the other. The top of every workflow is a chain."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        flat: list[Stage] = []
        for stage in self.stages:
            flat.extend(stage.stages if isinstance(stage, Chain) else (stage,))
        if not flat:
            raise ValueError("a chain needs at least one stage")
        object.__setattr__(self, "stages", tuple(flat))


@dataclass(frozen=True)
class Parallel:
    """Branches run side by side on copies of the state; two or more."""

    branches: tuple[Chain, ...]

    def __post_init__(self) -> None:
        if len(self.branches) < 2:
            raise ValueError("a parallel needs at least two branches")
        object.__setattr__(self, "branches", tuple(as_chain(branch) for branch in self.branches))


@dataclass(frozen=True)
class Branch:
    """A checker and its two arms: `on_fault` runs when it finds a fault, `on_pass` otherwise; None is `done`.

    A `done` ends the loop around the branch, where there is one; elsewhere it only ends the branch.
    """

    check: Call
    on_fault: Chain | None
    on_pass: Chain | None

    def __post_init__(self) -> None:
        if self.check.operator not in CHECKERS:
            raise ValueError(f"{self.check.operator} cannot decide a branch: only {' or '.join(CHECKERS)} can")
        for name in ("on_fault", "on_pass"):
            arm = getattr(self, name)
            object.__setattr__(self, name, None if arm is None else as_chain(arm))


@dataclass(frozen=True)
class Loop:
    """A body run up to `times` times (1 to MAX_LOOP); a `done` inside it ends it."""

    body: Chain
    times: int

    def __post_init__(self) -> None:
        if not 1 <= self.times <= MAX_LOOP:
            raise ValueError(f"a loop runs 1 to {MAX_LOOP} times, not {self.times}")
        object.__setattr__(self, "body", as_chain(self.body))


Stage = Call | Parallel | Branch | Loop
Workflow = Chain


def as_chain(node: Stage | Chain) -> Chain:
    """Return the node as a chain: itself, or a chain of that one stage."""
    return node if isinstance(node, Chain) else Chain((node,))


def graph_record(node: Stage | Chain | None) -> dict[str, Any] | None:
    """Return the graph as plain data for JSON: each node's `kind` and its fields; `done` is None."""
    match node:
        case None:
            return None
        case Call(operator=operator, instruction=instruction):
            return {"kind": "call", "operator": operator, "instruction": instruction}
        case Chain(stages=stages):
            return {"kind": "chain", "stages": [graph_record(stage) for stage in stages]}
        case Parallel(branches=branches):
            return {"kind": "parallel", "branches": [graph_record(branch) for branch in branches]}
        case Branch(check=check, on_fault=on_fault, on_pass=on_pass):
            arms = {"on_fault": graph_record(on_fault), "on_pass": graph_record(on_pass)}
            return {"kind": "branch", "check": graph_record(check), **arms}
        case Loop(body=body, times=times):
            return {"kind": "loop", "times": times, "body": graph_record(body)}
