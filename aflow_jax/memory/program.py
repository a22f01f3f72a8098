"""A traced program as a list of operations."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

from jax.extend import core

CONTROL = {"scan", "while", "cond"}
_VIEWS = {"reshape", "squeeze", "expand_dims", "transpose", "copy", "stop_gradient"}
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")


@dataclasses.dataclass(slots=True)
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
    numbers, operations = itertools.count(), []

    def name(var: Any, names: dict[Any, int | None]) -> int | None:
        if isinstance(var, core.Literal):
            return None
        if var not in names:
            names[var] = next(numbers)
        return names[var]

    def visit(jaxpr: core.Jaxpr, names: dict[Any, int | None]) -> None:
        for equation in jaxpr.eqns:
            primitive, params = equation.primitive.name, equation.params
            inputs = [name(var, names) for var in equation.invars]
            called = None
            if primitive not in CONTROL:
                called = next((params[key] for key in _CALLED if key in params), None)
            if called is not None:
                called = getattr(called, "jaxpr", called)
                inner = dict(zip(called.invars, inputs, strict=True))
                visit(called, inner)
                outputs = [name(var, inner) for var in called.outvars]
                names.update(zip(equation.outvars, outputs, strict=True))
            elif primitive in _VIEWS:
                names[equation.outvars[0]] = inputs[0]
            else:
                outputs = [name(var, names) for var in equation.outvars]
                avals = [var.aval for var in equation.outvars]
                input_avals = [var.aval for var in equation.invars]
                operations.append(Operation(primitive, inputs, outputs, avals, input_avals, params))

    outermost: dict[Any, int | None] = {}
    visit(jaxpr, outermost)
    return operations, lambda var: name(var, outermost)


def needed(operations: list[Operation], wanted: set[Any]) -> list[Operation]:
    """Return the operations that the named results come of."""
    kept = []
    for operation in reversed(operations):
        if not wanted.isdisjoint(operation.outputs):
            kept.append(operation)
            wanted.update(operation.inputs)
    return kept[::-1]
