"""How a normalised answer is built: equations, lists, sets, tuples, intervals, matrices."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aflow_jax.rewards.literals import parse_number

_EQUATION = re.compile(r"(?<![<>!\\:])(?:=|\\approx(?![A-Za-z])|\\equiv(?![A-Za-z]))")
_OPEN, _CLOSE = "([{", ")]}"


@dataclass(frozen=True)
class Collection:
    """Several values.

    Attributes:
        kind: its brackets: "()", "[]", "[)", "(]", "{}" for a set, "" for a bare list.
        items: the values, as written.
    """

    kind: str
    items: list[str]


def read_collection(text: str) -> Collection | None:
    """Read `(a, b)`, `[a, b)`, `\\{a, b\\}` or the bare list `a, b`; None for a single value."""
    text = text.strip()
    braces = re.fullmatch(r"\\\{(.*)\\\}", text, re.DOTALL)
    if braces and _closes_at_end("{" + braces.group(1).replace("\\{", "{").replace("\\}", "}") + "}"):
        return Collection("{}", split_list(braces.group(1)))
    # A set as Python prints it.
    if re.fullmatch(r"\{[^{}\\]*,[^{}\\]*\}", text):
        return Collection("{}", split_list(text[1:-1]))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _closes_at_end(text):
        items = split_list(text[1:-1])
        return Collection(text[0] + text[-1], items) if len(items) > 1 else None
    if parse_number(text) is not None:
        return None
    items = split_list(text)
    return Collection("", items) if len(items) > 1 else None


def split_list(text: str) -> list[str]:
    """Split at the commas, semicolons, `and` and `or` that stand in no bracket."""
    items, depth, current = [], 0, ""
    for token in re.split(r"(\\[{}]|[()\[\]{},;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))", text):
        if token.strip("\\") in _OPEN and token.strip("\\"):
            depth += 1
        elif token.strip("\\") in _CLOSE and token.strip("\\"):
            depth -= 1
        if depth == 0 and token in (",", ";", "and", "or"):
            items.append(current)
            current = ""
        else:
            current += token
    items.append(current)
    return [item.strip() for item in items if item.strip()]


def _closes_at_end(text: str) -> bool:
    """Whether the first bracket is closed by the last character, as in `(1, 2)` but not in `(1)(2)`."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth <= 0:
            return position == len(text) - 1
    return False


def split_equation(text: str) -> list[str]:
    """Split at equality signs, where the text is one equation and no list of them."""
    if len(split_list(text)) > 1 and not re.match(r"\s*\\?[A-Za-z](?:_\w)?\s*=[^=]*$", text):
        return [text]
    return [part.strip() for part in _EQUATION.split(text) if part.strip()] or [text]


def read_matrix(text: str) -> list[list[str]] | None:
    """Read a matrix by rows, in LaTeX or as Python prints it; None for anything else."""
    rows = re.fullmatch(r"(?:Matrix\()?\[\s*(\[[^\[\]]*\](?:\s*,\s*\[[^\[\]]*\])*)\s*\]\)?", text.strip())
    if rows:
        return [split_list(row) for row in re.findall(r"\[([^\[\]]*)\]", rows.group(1))]
    match = re.fullmatch(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", text.strip(), re.DOTALL)
    if match is None or r"\begin" in match.group(1):
        return None
    lines = [row for row in re.split(r"\\\\|\\cr\b", match.group(1)) if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in lines]


def without_membership(text: str) -> str:
    """`x \\in S` is S."""
    return re.sub(r"^\s*[A-Za-z]\s*\\in(?![A-Za-z])", "", text).strip()


def split_union(text: str) -> list[str]:
    """Split a union of sets, `A \\cup B`, at its signs; `x < 2 or x > 5` is one too, its parts as intervals."""
    if r"\cup" not in text:
        parts = [_as_interval(part) for part in re.split(r"(?<![A-Za-z\\])or(?![A-Za-z])", text)]
        return [text] if len(parts) == 1 or None in parts else [part for part in parts if part]
    return re.split(r"\\cup(?![A-Za-z])", text)


def _as_interval(relation: str) -> str | None:
    """`x < 2` as `(-\\infty, 2)`, `1 \\le x < 2` as `[1, 2)`; None for anything else."""
    sides = re.split(r"(<|>|\\[lg]e(?![A-Za-z]))", relation)
    signs, sides = sides[1::2], [side.strip() for side in sides[::2]]
    if len(sides) == 2 and re.fullmatch(r"[A-Za-z]", sides[1]):
        sides, signs = sides[::-1], [_TURNED[signs[0]]]
    if len(sides) == 2 and re.fullmatch(r"[A-Za-z]", sides[0]):
        closed, below = signs[0].startswith("\\"), signs[0] in ("<", r"\le")
        low, high = (r"(-\infty", sides[1]) if below else (("[" if closed else "(") + sides[1], r"\infty")
        return f"{low}, {high}{']' if closed and below else ')'}"
    if len(sides) == 3 and re.fullmatch(r"[A-Za-z]", sides[1]) and {*signs} <= {"<", r"\le"}:
        return f"{'(' if signs[0] == '<' else '['}{sides[0]}, {sides[2]}{')' if signs[1] == '<' else ']'}"
    return None


_TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
