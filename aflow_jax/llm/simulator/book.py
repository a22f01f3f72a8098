"""The problems that the simulator knows, found again inside a prompt."""

import html
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aflow_jax.errors import UserError

_DOMAINS = ("math", "code", "qa")
_SOURCES = {
    "gsm8k": "math",
    "math": "math",
    "humaneval": "code",
    "mbpp": "code",
    "hotpotqa": "qa",
    "drop": "qa",
    "squad_v2": "qa",
    "commonsenseqa": "qa",
    "mmlu": "qa",
}
_ANCHOR_WORDS = 4


@dataclass(frozen=True)
class Entry:
    """A known problem.

    Attributes:
        place: its row in the file, from 0.
        question: what is asked.
        answer: the gold answer; for code the reference program.
        golds: the alternatives of a qa answer; otherwise the answer alone.
        domain: "math", "code" or "qa".
        context: passages, or "".
        entry_point: the function that code must define, or "".
    """

    place: int
    question: str
    answer: str
    golds: tuple[str, ...]
    domain: str
    context: str
    entry_point: str


class ProblemBook:
    """Known problems, indexed by the first words of their questions."""

    def __init__(self, entries: list[Entry]) -> None:
        self._twins: dict[tuple[str, ...], list[Entry]] = {}
        self._anchors: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        self._answers: dict[str, list[str]] = {domain: [] for domain in _DOMAINS}
        for entry in entries:
            question = tuple(_words(entry.question))
            if question not in self._twins:
                self._anchors.setdefault(question[:_ANCHOR_WORDS], []).append(question)
            self._twins.setdefault(question, []).append(entry)
            self._answers[entry.domain].append(entry.golds[0])
        self.size = len(entries)

    def find(self, text: str, *, evidence: str = "") -> Entry | None:
        """Return the problem whose whole question is in the text, the longest where several are, else None.

        Words are compared; punctuation, case, space and HTML escapes do not matter. Of problems that ask the same
        about different passages, the one whose passage is in `evidence` is meant; failing that, whose answer is.
        """
        words = tuple(_words(text))
        question = words if words in self._twins else self._longest_question(words)
        if question is None:
            return None
        twins = self._twins[question]
        if len(twins) == 1:
            return twins[0]
        given = " ".join(_words(evidence))
        by_passage = [entry for entry in twins if entry.context and " ".join(_words(entry.context)) in given]
        by_answer = [entry for entry in twins if " ".join(_words(entry.golds[0])) in given]
        return (by_passage or by_answer or twins)[0]

    def _longest_question(self, words: tuple[str, ...]) -> tuple[str, ...] | None:
        longest: tuple[str, ...] | None = None
        for start in range(len(words)):
            for length in range(1, _ANCHOR_WORDS + 1):
                for question in self._anchors.get(words[start : start + length], ()):
                    longer = longest is None or len(question) > len(longest)
                    if longer and words[start : start + len(question)] == question:
                        longest = question
        return longest

    def answers(self, domain: str) -> list[str]:
        """Return the gold answers of a domain's problems, in the file's order."""
        return self._answers[domain]


def read_book(path: Path) -> ProblemBook:
    """Read a JSONL file of problems: `question`, `answer`, `domain` or `source`, and where they apply the others.

    Raises:
        UserError: the file cannot be read, or a line is malformed; the message gives file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the simulator cannot read its problems ({error})") from None
    entries = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            entries.append(_read_row(line, f"{path}:{number}", len(entries)))
    if not entries:
        raise UserError(f"{path}: holds no problems; the simulator needs at least one")
    return ProblemBook(entries)


def _read_row(line: str, place: str, count: int) -> Entry:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{place}: must be an object with question and answer")
    question, answer = row.get("question", row.get("problem")), row.get("answer", row.get("ground_truth"))
    if not isinstance(question, str) or not _words(question) or answer is None:
        raise UserError(f"{place}: question or answer is missing")
    domain = _domain(row)
    answer = str(answer)
    golds = tuple(part.strip() for part in answer.split("|") if part.strip()) if domain == "qa" else (answer.strip(),)
    return Entry(
        place=count,
        question=question,
        answer=answer,
        golds=golds or ("",),
        domain=domain,
        context=str(row.get("context") or ""),
        entry_point=str(row.get("entry_point") or ""),
    )


def _domain(row: dict[str, Any]) -> str:
    for key in ("domain", "problem_type"):
        if row.get(key) in _DOMAINS:
            return str(row[key])
    known = _SOURCES.get(str(row.get("source", "")).lower())
    if known:
        return known
    if row.get("entry_point") or row.get("test"):
        return "code"
    return "math" if re.fullmatch(r"-?[\d.,/]+", str(row["answer"]).strip()) and not row.get("context") else "qa"


def _words(text: str) -> list[str]:
    if "&" in text:
        text = html.unescape(text)
    return re.findall(r"\w+", text.lower())
