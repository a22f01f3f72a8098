"""When two answers count as the same, without grading either: for majorities."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aflow_jax.problems.problem import Problem


def answer_key(problem: Problem, answer: str) -> str:
    """Return what equal answers share: SQuAD's normal form for qa, the bare expression for math, the lines for code."""
    if problem.domain == "code":
        return "\n".join(line.rstrip() for line in answer.splitlines() if line.strip())
    if problem.domain == "math":
        return _math_key(answer)
    return _words(answer) or answer.strip()


def leaders(problem: Problem, answers: Sequence[str]) -> list[str]:
    """Return the most frequent answers, one of each kind (its first), in order; more than one means a tie."""
    groups: dict[str, list[str]] = {}
    for answer in answers:
        groups.setdefault(answer_key(problem, answer), []).append(answer)
    most = max(map(len, groups.values()), default=0)
    return [group[0] for group in groups.values() if len(group) == most]


def _words(text: str) -> str:
    text = re.sub(r"[^\w\s]", "", text.lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _math_key(text: str) -> str:
    """Return the final expression of a text, free of markup and spacing; equal numbers become the same digits."""
    text = text.rsplit("####", 1)[-1]
    text = _last_boxed(text) or text
    text = (
        re.sub(r"\\[,;!:]|\\(?:left|right)\b|\\?[$]|\s", "", text)
        .replace("\\dfrac", "\\frac")
        .replace("\\tfrac", "\\frac")
    )
    text = text.rstrip(".")
    if re.fullmatch(r"[-+]?[\d,]*\.?\d*", text) and re.search(r"\d", text):
        sign = "-" if text.startswith("-") else ""
        whole, _, fraction = text.lstrip("+-").replace(",", "").partition(".")
        digits = (whole.lstrip("0") or "0") + ("." + fraction.rstrip("0") if fraction.rstrip("0") else "")
        return digits if digits == "0" else sign + digits
    return text.lower()


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for index in range(begin - 1, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[begin:index]
    return None
