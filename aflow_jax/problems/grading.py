"""How a problem's answers are graded, as its source and its fields have it: one answer for all who grade."""

from __future__ import annotations

import re

from aflow_jax.problems.problem import Problem
from aflow_jax.problems.sources import Grading, default_sources

_OPTION_LINE = re.compile(r"^\s*\(?([A-J])[.):]\s+(\S.*?)\s*$", re.MULTILINE)


def grading_of(problem: Problem) -> Grading:
    """Return the rule that grades the problem's answers.

    It is the source's, but a question without options, whatever its source, is one of words. Raises UserError where the
    source is not a row of configs/datasets.yaml.
    """
    grading = default_sources().named(problem.source).grading
    return Grading.F1 if grading == Grading.OPTION and not parse_options(problem.question) else grading


def gold_answers(problem: Problem) -> list[str]:
    """Return the right answers: several where the source joins alternatives by `|`."""
    alternatives = default_sources().named(problem.source).alternatives
    golds = [gold for gold in problem.answer.split("|") if gold.strip()] if alternatives else []
    return golds or [problem.answer]


def parse_options(question: str) -> dict[str, str]:
    """Return the options of a question by letter: its last lines `A. …`, `B. …`, in order without a gap."""
    options: dict[str, str] = {}
    for letter, text in _OPTION_LINE.findall(question):
        if letter == "A":
            options = {}
        if len(options) < 10 and letter == "ABCDEFGHIJ"[len(options)]:
            options[letter] = text
    return options


def describe_grading(problem: Problem) -> str:
    """Return in a few words what decides on an answer to the problem."""
    match grading_of(problem):
        case Grading.NUMBER:
            return "equal as numbers; the judge where an answer does not parse"
        case Grading.LATEX:
            return "equal as mathematics; the judge where an answer does not parse"
        case Grading.TESTS if problem.test is None:
            return "the judge alone: there are no tests"
        case Grading.TESTS:
            return "hidden tests in the sandbox"
        case Grading.OPTION:
            return "the option, by letter or text; the judge where none is named"
        case Grading.F1 if len(gold_answers(problem)) > 1:
            return "token F1, the best of several golds; the judge below 1"
    return "token F1; the judge below 1"
