"""What the page knows of every rollout before one is opened: a row each, as columns with dictionaries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

_INSTRUCTION = re.compile(r'\("(?:[^"\\]|\\.)*"\)')
_QUESTION_CHARACTERS = 160


class Row(NamedTuple):
    """One rollout in the list.

    Attributes:
        outcome: how it ended.
        domain: the problem's.
        source: the problem's.
        shape: its workflow without instructions; None where the text is no workflow.
        question: the start of what was asked.
        reward: as graded.
        correctness: as graded.
        advantage: what the update took it for.
        tokens: of the policy's text.
        calls: LLM calls of the executor.
        usd: their price; None where it is not known.
        seconds: the operator calls' latencies added up.
    """

    outcome: str
    domain: str
    source: str
    shape: str | None
    question: str
    reward: float
    correctness: float
    advantage: float
    tokens: int
    calls: int
    usd: float | None
    seconds: float


_CODED = ("outcome", "domain", "source", "shape", "question")


def row_of(record: Mapping[str, Any]) -> Row:
    """Return the row of a record of rollouts/."""
    problem, usage = record["problem"], record["usage"]
    question = " ".join(record["question"][: 2 * _QUESTION_CHARACTERS].split())
    return Row(
        outcome=record["outcome"],
        domain=problem["domain"],
        source=problem["source"],
        shape=None if record["workflow"] is None else shape_of(record["workflow"]),
        question=question[:_QUESTION_CHARACTERS],
        reward=round(record["reward"], 4),
        correctness=round(record["correctness"], 4),
        advantage=round(record["advantage"], 4),
        tokens=record["tokens"],
        calls=usage["calls"],
        usd=None if usage["usd"] is None else round(usage["usd"], 7),
        seconds=round(sum(call["latency"] for call in record["trace"]), 3),
    )


def shape_of(workflow: str) -> str:
    """Return a workflow's canonical text without its instructions: what it does, whatever it tells its operators."""
    return _INSTRUCTION.sub("", workflow)


def as_columns(files: Iterable[Sequence[Row]]) -> dict[str, Any]:
    """Return the rows of all files, one file after the other, as a list for each field.

    Texts that repeat stand once: the columns outcome, domain, source, shape and question hold places in
    `dictionaries`, or None.
    """
    dictionaries: dict[str, dict[str, int]] = {name: {} for name in _CODED}
    columns: dict[str, list[Any]] = {name: [] for name in Row._fields}
    for rows in files:
        for row in rows:
            for name, value in zip(Row._fields, row, strict=True):
                known = dictionaries.get(name)
                if known is not None and value is not None:
                    value = known.setdefault(value, len(known))
                columns[name].append(value)
    return {"columns": columns, "dictionaries": {name: list(known) for name, known in dictionaries.items()}}
