"""A traced program as a list of operations."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

from jax.extend import core

CONTROL = {"scan", "while", "cond"}
_VIEWS = {"reshape", "squeeze", "expand_dims", "transpose", "copy", "stop_gradient"}
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")


@dataclasses.dataclass
class Operation:
    """One step of a program; its inputs and outputs by name, None for a literal."""

    name: str
    inputs: list[Any]
    outputs: list[Any]
    avals: list[Any]
    input_avals: list[Any]
    params: dict[str, Any]


def operations_of(jaxpr: core.Jaxpr) -> tuple[list[Operation], Callable[..., Any]]:
    """Return the operations with calls inlined and views left out, and how a variable is named in them."""
    frames, renamed, operations = itertools.count(1), {}, []

    def name(var: Any, frame: int = 0) -> Any:
        return None if isinstance(var, core.Literal) else renamed.get((frame, var), (frame, var))

    def visit(jaxpr: core.Jaxpr, frame: int) -> None:
        for equation in jaxpr.eqns:
            primitive, inputs = equation.primitive.name, [name(var, frame) for var in equation.invars]
            called = None
            if primitive not in CONTROL:
                called = next((equation.params[key] for key in _CALLED if key in equation.params), None)
            if called is not None:
                inner = next(frames)
                called = getattr(called, "jaxpr", called)
                renamed.update({(inner, var): key for var, key in zip(called.invars, inputs, strict=True)})
                visit(called, inner)
                outputs = [name(var, inner) for var in called.outvars]
                renamed.update({(frame, var): key for var, key in zip(equation.outvars, outputs, strict=True)})
            elif primitive in _VIEWS:
                renamed[frame, equation.outvars[0]] = inputs[0]
            else:
                outputs = [name(var, frame) for var in equation.outvars]
                avals = [var.aval for var in equation.outvars]
                input_avals = [var.aval for var in equation.invars]
                operations.append(Operation(primitive, inputs, outputs, avals, input_avals, equation.params))

    visit(jaxpr, 0)
    return operations, name


def needed(operations: list[Operation], wanted: set[Any]) -> list[Operation]:
    """Return the operations that the named results come of."""
    kept = []
    for operation in reversed(operations):
        if any(key in wanted for key in operation.outputs):
            kept.append(operation)
            wanted.update(operation.inputs)
    return kept[::-1]
