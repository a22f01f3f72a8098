"""What can be said of a workflow without running it: its operators, its worst case, how far it is from another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aflow_jax.workflow.graph import Branch, Call, Chain, Loop, Parallel, Stage, Workflow


def operators_of(workflow: Workflow) -> tuple[str, ...]:
    """Return the names of the operators as they are written, from left to right, repeats included."""
    return tuple(call.operator for call in _calls(workflow))


def worst_case_calls(workflow: Workflow) -> int:
    """Return the most operator calls that a run can make.

    A loop counts its body as often as it may run, a branch its check and the longer arm, a parallel all its branches.
    """
    return sum(_stage_calls(stage) for stage in workflow.stages)


def nesting(workflow: Workflow) -> int:
    """Return how deeply the brackets of the canonical text are nested: loops, parallels, and arms that are groups."""
    return max(_stage_nesting(stage) for stage in workflow.stages)


def distance(first: Workflow, second: Workflow) -> float:
    """Return how different two workflows are: 0 exactly for identical ones, at most 1, symmetric.

    The edit distance `d` of the two trees (Selkow 1977: nodes are relabelled, whole subtrees inserted or deleted at a
    cost of 1 a node; a change of instruction alone costs ½), normalised to `2d / (|first| + |second| + d)`, which
    keeps it a metric (Li and Liu 2007, "A Normalized Levenshtein Distance Metric").
    """
    if first == second:
        return 0.0
    first_tree, second_tree = _tree(first), _tree(second)
    edits = _edit_distance(first_tree, second_tree)
    return 2 * edits / (first_tree.size + second_tree.size + edits)


def _calls(stage: Stage | Chain) -> Iterator[Call]:
    match stage:
        case Call():
            yield stage
        case Chain(stages):
            for inner in stages:
                yield from _calls(inner)
        case Parallel(branches):
            for branch in branches:
                yield from _calls(branch)
        case Loop(body, _):
            yield from _calls(body)
        case Branch(check, on_fault, on_pass):
            yield check
            for arm in (on_fault, on_pass):
                if arm is not None:
                    yield from _calls(arm)


def _stage_calls(stage: Stage) -> int:
    match stage:
        case Call():
            return 1
        case Parallel(branches):
            return sum(map(worst_case_calls, branches))
        case Loop(body, times):
            return times * worst_case_calls(body)
        case Branch(_, on_fault, on_pass):
            return 1 + max(0 if arm is None else worst_case_calls(arm) for arm in (on_fault, on_pass))
    raise TypeError(f"{type(stage).__name__} is no stage of a workflow")


def _stage_nesting(stage: Stage) -> int:
    match stage:
        case Call():
            return 0
        case Parallel(branches):
            return 1 + max(map(nesting, branches))
        case Loop(body, _):
            return 1 + nesting(body)
        case Branch(_, on_fault, on_pass):
            return max(0 if arm is None or _is_call(arm) else 1 + nesting(arm) for arm in (on_fault, on_pass))
    raise TypeError(f"{type(stage).__name__} is no stage of a workflow")


def _is_call(arm: Chain) -> bool:
    return len(arm.stages) == 1 and isinstance(arm.stages[0], Call)


@dataclass(frozen=True)
class _Tree:
    """A labelled ordered tree. The first part of the label says what the node is, the second is its instruction."""

    label: tuple[str, str | None]
    children: tuple[_Tree, ...] = ()
    size: int = 1


def _tree(stage: Stage | Chain | None) -> _Tree:
    match stage:
        case None:
            return _Tree(("done", None))
        case Call(operator, instruction):
            return _Tree((operator, instruction))
        case Chain(stages):
            label, parts = "->", stages
        case Parallel(branches):
            label, parts = "[]", branches
        case Loop(body, times):
            label, parts = f"*{times}", (body,)
        case Branch(check, on_fault, on_pass):
            label, parts = "?", (check, on_fault, on_pass)
    children = tuple(map(_tree, parts))
    return _Tree((label, None), children, 1 + sum(child.size for child in children))


def _edit_distance(first: _Tree, second: _Tree) -> float:
    """Selkow's recurrence: the labels' cost, and the alignment of the children as sequences."""
    row = [0.0]
    for child in second.children:
        row.append(row[-1] + child.size)
    for deleted in first.children:
        above, row = row, [row[0] + deleted.size]
        for column, inserted in enumerate(second.children, start=1):
            row.append(
                min(
                    above[column] + deleted.size,
                    row[-1] + inserted.size,
                    above[column - 1] + _edit_distance(deleted, inserted),
                )
            )
    return _label_cost(first.label, second.label) + row[-1]


def _label_cost(first: tuple[str, str | None], second: tuple[str, str | None]) -> float:
    if first == second:
        return 0.0
    return 0.5 if first[0] == second[0] else 1.0
