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
        self._exact: dict[str, Entry] = {}
        self._anchors: dict[tuple[str, ...], list[tuple[tuple[str, ...], Entry]]] = {}
        self._answers: dict[str, list[str]] = {domain: [] for domain in _DOMAINS}
        for entry in entries:
            words = tuple(_words(entry.question))
            if not words:
                continue
            self._exact.setdefault(" ".join(words), entry)
            self._anchors.setdefault(words[:_ANCHOR_WORDS], []).append((words, entry))
            self._answers[entry.domain].append(entry.golds[0])
        self.size = len(self._exact)

    def find(self, text: str) -> Entry | None:
        """Return the problem whose whole question is in the text, the longest where several are, else None.

        Words are compared; punctuation, case, space and HTML escapes do not matter.
        """
        words = _words(text)
        if (entry := self._exact.get(" ".join(words))) is not None:
            return entry
        best: tuple[int, Entry] | None = None
        for start in range(len(words)):
            for length in range(1, _ANCHOR_WORDS + 1):
                for question, entry in self._anchors.get(tuple(words[start : start + length]), ()):
                    longer = best is None or len(question) > best[0]
                    if longer and tuple(words[start : start + len(question)]) == question:
                        best = (len(question), entry)
        return best[1] if best else None

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
    if not isinstance(question, str) or not question.strip() or answer is None:
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
