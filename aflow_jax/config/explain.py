"""What is wrong with a setting, in one line: its key, what was given, what it must be."""

from __future__ import annotations

import difflib
from types import UnionType
from typing import Any, get_args

from pydantic import ValidationError

from aflow_jax.config.sections import Section
from aflow_jax.config.settings import Config


def in_one_line(error: ValidationError, path: str) -> str:
    """Return the first of the problems with the settings in `path`, and how many more there are."""
    problems = error.errors()
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{path}: {_explain(first)}{more}"


def _explain(problem: dict[str, Any]) -> str:
    location = [part for part in problem["loc"] if isinstance(part, str) and part != "[key]"]
    name = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _section_at(location[:-1]).model_fields
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        mend = (
            f"did you mean {'.'.join([*location[:-1], near[0]])!r}?" if near else f"known keys are {', '.join(known)}"
        )
        return f"unknown key {name!r}: {mend}"
    if problem["type"] == "value_error":
        reason = str(problem["ctx"]["error"])
        return f"{name!r}: {reason}" if name else reason
    bounds = _bounds(location)
    expected = f"must be {bounds}" if bounds else problem["msg"][0].lower() + problem["msg"][1:]
    return f"{name!r} is {problem['input']!r}: {expected}"


def _section_at(location: list[str]) -> type[Section]:
    section: type[Section] = Config
    for name in location:
        section = next(part for part in _parts(section.model_fields[name].annotation) if issubclass(part, Section))
    return section


def _parts(annotation: Any) -> tuple[type, ...]:
    """Return the types of a setting: one, or those of a union such as `int | None`; none for containers."""
    members = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return tuple(member for member in members if isinstance(member, type) and not get_args(member))


def _bounds(location: list[str]) -> str:
    """Return the type and range of a plain setting in words, or "" where it has none."""
    try:
        field = _section_at(location[:-1]).model_fields[location[-1]]
    except (KeyError, StopIteration):
        return ""
    kinds = [kind.__name__ for kind in _parts(field.annotation) if kind in (int, float, bool, str)]
    if not kinds:
        return ""
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}[kinds[0]]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{sign} {getattr(rule, attribute)}"
        for rule in field.metadata
        for attribute, sign in signs.items()
        if getattr(rule, attribute, None) is not None
    ]
    return " and ".join([f"{words} {limits[0]}", *limits[1:]]) if limits else words
