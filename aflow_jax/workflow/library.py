"""The operator library: what each operator does, as the policy is told (configs/operator.json)."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aflow_jax.errors import UserError
from aflow_jax.paths import packaged_config


@dataclass(frozen=True)
class OperatorCard:
    """One row of configs/operator.json.

    Attributes:
        description: what the operator does, one or two sentences.
        interface: what it receives and what it gives.
    """

    description: str
    interface: str


def load_library(path: str | Path) -> dict[str, OperatorCard]:
    """Read a file in the format of configs/operator.json; raise UserError naming the operator and the field."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): give the operators' descriptions") from None
    except ValueError as error:
        raise UserError(f"{path}: malformed JSON: {error}") from None
    if not isinstance(rows, dict) or not rows:
        raise UserError(f"{path}: expected an object with one entry for each operator")
    return {name: _card(path, name, row) for name, row in rows.items()}


@functools.cache
def operator_library() -> Mapping[str, OperatorCard]:
    """Return the operators that ship with the package, by name."""
    return load_library(packaged_config("operator.json"))


@functools.cache
def operator_names() -> tuple[str, ...]:
    """Return the names of all operators, in the order of the library."""
    return tuple(operator_library())


def _card(path: str | Path, name: str, row: object) -> OperatorCard:
    if not isinstance(row, dict) or set(row) != {"description", "interface"}:
        raise UserError(f"{path}: {name} needs a description and an interface, and nothing else")
    for field, value in row.items():
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{path}: the {field} of {name} is not a text")
    return OperatorCard(**row)
