"""Mathematical answers: exact first, then by structure, then symbolically.

Numbers are compared as fractions, lists, sets, tuples, intervals, unions and matrices entry by entry, words as words;
what is left goes to math-verify in a killable process. Closeness earns nothing.
"""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import dataclass

from aflow_jax.rewards.extract import extract_in_domain, is_blank, is_code
from aflow_jax.rewards.latex import is_words, key, normalise, words_key
from aflow_jax.rewards.literals import Number, numbers_equal, parse_number
from aflow_jax.rewards.ruling import Ruling
from aflow_jax.rewards.structure import (
    read_collection,
    read_matrix,
    split_equation,
    split_union,
    without_membership,
)
from aflow_jax.rewards.symbolic import LIMIT_SECONDS, SymbolicPool, shared_pool

EQUAL, NOT_EQUAL, NO_ANSWER = 1.0, 0.2, 0.0

_LONGEST_ANSWER = 2_000
_LONGEST_NAME = 200
_NAME = re.compile(
    r"(?:\\?[A-Za-z]+'?|⟨[^⟩]*⟩)(?:_(?:\{\w+\}|\w))?\s*(?:\([^()=]*\))?(?:\s*\^\s*\{?-1\}?\s*\([^()=]*\))?"
)
_BASE = re.compile(r"(?:⟨)?\(?(-?[0-9A-Za-z.]+)\)?(?:⟩)?_(?:\{(\w+)\}|⟨(\w+)⟩|(\w+))")
_OPERATION = re.compile(r"[-+*/^!]|\\(?:frac|sqrt|times|cdot|cos|sin|tan|log|lceil|lfloor|binom)")
_RELATION = re.compile(r"[=<>,]|\\(?:le|ge|ne|in)(?![A-Za-z])|^[\[(]")
_CLOCK = re.compile(r"(\d{1,2}(?::\d{2})+)\s*⟨?\s*(?:([ap])\.?\s?m\.?)?\s*⟩?", re.IGNORECASE)


def grade_math(gold: str, text: str, question: str = "", *, pool: SymbolicPool | None = None) -> Ruling:
    """Rule on an answer to a question of mathematics: 1 equal, .2 an answer that is not equal, 0 no answer.

    An expression that merely restates the question's own is not an answer to it. The ruling is left open where the
    answer cannot be read as mathematics.

    Raises:
        SymbolicUnavailable: the checker's processes cannot be started.
    """
    gold_text = normalise(gold)
    if words_key(gold_text) == "undefined" and re.search(r"\bundefined\W*\Z", text, re.IGNORECASE):
        return Ruling(EQUAL)
    answer = extract_in_domain(text, "math")
    if answer is None and is_words(gold_text) and not is_blank(text) and not is_code(text):
        # Prose without a number may still name a day, or a shape.
        answer = text.strip()
    if answer is None or is_blank(answer) or is_code(answer):
        return Ruling(NO_ANSWER)
    if len(answer) > _LONGEST_ANSWER:
        return Ruling(NOT_EQUAL)
    comparison = Comparator(question, pool)
    if _restates(question, answer) and key(gold_text) != key(normalise(answer)):
        return Ruling(NOT_EQUAL)
    if comparison.equal(gold_text, normalise(answer)):
        return Ruling(EQUAL)
    # Where the gold is words the extraction may have cut them: the whole text is tried too.
    if is_words(gold_text) and len(text) <= _LONGEST_NAME and comparison.equal(gold_text, normalise(text)):
        return Ruling(EQUAL)
    return Ruling(NOT_EQUAL, settled=not comparison.unread)


@dataclass
class Comparator:
    """Compares normalised answers to one question, within one time limit.

    Attributes:
        question: decides what percent signs and the order of a list mean.
        pool: the symbolic workers; None is the process's own.
        unread: whether an answer was met that could not be read as mathematics.
    """

    question: str = ""
    pool: SymbolicPool | None = None
    unread: bool = False

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + LIMIT_SECONDS
        self._asks_percent = bool(re.search(r"percent|%", self.question, re.IGNORECASE))
        ordering = r"\b(?:order|ordered|respectively)\b"
        self._ordered = bool(re.search(ordering, self.question, re.IGNORECASE)) and not re.search(
            r"(?:increasing|ascending|descending|decreasing|numerical|any) order", self.question, re.IGNORECASE
        )

    def equal(self, gold: str, answer: str) -> bool:
        """Whether two normalised answers are the same."""
        if key(gold) == key(answer):
            return True
        gold_number, number = parse_number(gold), parse_number(answer)
        if gold_number and number:
            return numbers_equal(gold_number, number, asks_percent=self._asks_percent)
        if is_words(gold) or is_words(answer):
            return self._words(gold, answer)
        for compare in (
            self._clocks,
            self._equations,
            self._bases,
            self._signs,
            self._matrices,
            self._unions,
            self._collections,
        ):
            verdict = compare(gold, answer)
            if verdict is not None:
                return verdict
        return self._symbolic(gold, answer, gold_number)

    def _words(self, gold: str, answer: str) -> bool:
        if is_words(gold) and words_key(gold) == words_key(answer):
            return True
        # "x = 5" is no word but `is_words` saw one: a name with its value.
        parts = split_equation(answer)
        if len(parts) == 2 and not is_words(gold):
            return self.equal(gold, parts[1])
        self.unread = True
        return False

    def _equations(self, gold: str, answer: str) -> bool | None:
        """`x = 5` for `5` and the other way round; of a chain `a = b`, any part of a gold, the last of an answer."""
        golds, answers = split_equation(gold), split_equation(answer)
        if len(golds) == 1 and len(answers) == 1:
            return None
        if len(golds) > 1 and len(answers) > 1:
            named = [_NAME.fullmatch(parts[0]) for parts in (golds, answers)]
            if all(named):
                return key(golds[0]) == key(answers[0]) and self.equal(golds[-1], answers[-1])
            return None
        if len(golds) > 1:
            parts = golds[1:] if _NAME.fullmatch(golds[0]) else golds
            if not _NAME.fullmatch(golds[0]) and not all(parse_number(part) for part in golds):
                return None
            return any(self.equal(part, answer) for part in parts)
        # "x = 5" or a sum worked out, "2 + 3 = 5"; an equation where a value is asked for stays what it is.
        if _NAME.fullmatch(answers[0]) or not re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", "".join(answers[:-1]))):
            return self.equal(gold, answers[-1])
        return None

    def _clocks(self, gold: str, answer: str) -> bool | None:
        """Times of day: the same digits, and the same half of the day where both name it."""
        golds, answers = _CLOCK.fullmatch(gold), _CLOCK.fullmatch(answer)
        if golds is None or answers is None:
            return None
        halves = {(match.group(2) or "").lower() for match in (golds, answers)} - {""}
        return golds.group(1).lstrip("0") == answers.group(1).lstrip("0") and len(halves) <= 1

    def _bases(self, gold: str, answer: str) -> bool | None:
        """Numerals with a base: the digits must be the same, and the base where both give it."""
        golds, answers = _BASE.fullmatch(gold.replace(" ", "")), _BASE.fullmatch(answer.replace(" ", ""))
        if golds is None and answers is None:
            return None
        if golds and answers:
            return [part for part in golds.groups() if part] == [part for part in answers.groups() if part]
        based, other = (golds, answer) if golds else (answers, gold)
        assert based is not None
        return None if re.search(r"[a-z]", based.group(1)) else based.group(1) == key(other)

    def _signs(self, gold: str, answer: str) -> bool | None:
        """`a \\pm b` is the list of both."""
        if r"\pm" not in gold + answer:
            return None

        def both(text: str) -> str:
            return text if r"\pm" not in text else text.replace(r"\pm", "+") + " , " + text.replace(r"\pm", "-")

        return self.equal(both(gold), both(answer))

    def _matrices(self, gold: str, answer: str) -> bool | None:
        golds, answers = read_matrix(gold), read_matrix(answer)
        if golds is None and answers is None:
            return None
        # A column may be written as a tuple.
        if golds is None or answers is None:
            tuple_, rows = (read_collection(gold), answers) if golds is None else (read_collection(answer), golds)
            if tuple_ is None or tuple_.kind != "()" or rows is None or any(len(row) != 1 for row in rows):
                return False
            column = [[item] for item in tuple_.items]
            golds, answers = (column, rows) if golds is None else (rows, column)
        if [len(row) for row in golds] != [len(row) for row in answers]:
            return False
        pairs = zip(itertools.chain(*golds), itertools.chain(*answers), strict=True)
        return all(self.equal(one, other) for one, other in pairs)

    def _unions(self, gold: str, answer: str) -> bool | None:
        golds, answers = (split_union(without_membership(text)) for text in (gold, answer))
        if len(golds) == 1 and len(answers) == 1:
            return None
        if len(golds) != len(answers):
            return False
        return self._same_members([part.strip() for part in golds], [part.strip() for part in answers])

    def _collections(self, gold: str, answer: str) -> bool | None:
        golds, answers = read_collection(without_membership(gold)), read_collection(without_membership(answer))
        if golds is None and answers is None:
            return None
        if golds is None or answers is None:
            # A list of one, `{5}`, is its member where the gold is a bare value; everything else is another shape.
            one, other = (golds, answer) if answers is None else (answers, gold)
            assert one is not None
            if one.kind == "{}" and len(one.items) == 1:
                return self.equal(one.items[0], other)
            return (
                None if r"\infty" in gold + answer or re.search(r"[<>]|\\[lg]e(?![A-Za-z])", gold + answer) else False
            )
        loose = {golds.kind, answers.kind} <= {"", "{}"}
        if (golds.kind != answers.kind and not loose) or len(golds.items) != len(answers.items):
            return False
        if loose and not (self._ordered and golds.kind == ""):
            return self._same_members(golds.items, answers.items)
        return all(self.equal(one, other) for one, other in zip(golds.items, answers.items, strict=True))

    def _same_members(self, golds: list[str], answers: list[str]) -> bool:
        left = list(answers)
        for gold in golds:
            match = next((one for one in left if key(one) == key(gold)), None) or next(
                (one for one in left if self.equal(gold, one)), None
            )
            if match is None:
                return False
            left.remove(match)
        return not left

    def _symbolic(self, gold: str, answer: str, gold_number: Number | None) -> bool:
        if is_blank(answer) or not re.search(r"[\w\\]", answer):
            self.unread = True
            return False
        left = self._deadline - time.monotonic()
        if left <= 0:
            return False
        gold = _without_unit(gold) if gold_number is None else gold
        found = (self.pool or shared_pool()).compare(_for_parser(gold), _for_parser(_without_unit(answer)), limit=left)
        self.unread = self.unread or not found.parsed
        return found.equal


def _restates(question: str, answer: str) -> bool:
    """Whether the answer is the question's own expression handed back unevaluated."""
    said = normalise(answer)
    asked = key(said)
    if len(asked) < 4 or parse_number(said) is not None or asked not in key(normalise(question)):
        return False
    # Relations, intervals and lists may stand in the question and be the answer.
    return bool(_OPERATION.search(asked)) and not _RELATION.search(asked)


def _without_unit(text: str) -> str:
    """Drop the unit after an expression: `12\\sqrt{13} ⟨feet⟩`, `2400 ⟨cm⟩^2`."""
    text = re.sub(r"^\s*\$", "", text)
    return re.sub(
        r"(?<=\S)\s*⟨[^⟩]*⟩\s*(?:\^\s*\{?[23]\}?)?\s*$|(?<=[\d})])\s+(?!and|or)[A-Za-z]{3,}(?: [A-Za-z]+)*$", "", text
    )


def _for_parser(text: str) -> str:
    """Spell an expression as the LaTeX parser wants it: text as text, functions' arguments in parentheses."""
    text = re.sub(r"⟨([^⟩]*)⟩", r"\\text{\1}", text)
    text = re.sub(
        r"(\\(?:sin|cos|tan|cot|sec|csc|log|ln))\s*(\^\s*(?:\{[^{}]*\}|\w))?\s+(\\?[A-Za-z]+|\d+)(?![\w({\\])",
        r"\1\2(\3)",
        text,
    )
    text = text.replace("$", "")
    return re.sub(r"(?<!\\)\*", r"\\cdot ", text)
