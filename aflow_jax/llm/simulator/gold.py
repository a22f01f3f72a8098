"""Right, wrong and short answers to a known problem."""

import re
import string
from fractions import Fraction

from aflow_jax.llm.simulator.book import Entry, ProblemBook
from aflow_jax.llm.simulator.draws import index
from aflow_jax.llm.simulator.programs import BUGS, buggy_program, reference_program

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_WRONG_CHOICES = 6  # a wrong model is wrong in a few ways, so that wrong candidates sometimes agree


def right_answer(entry: Entry) -> str:
    """Return what a model that is right answers; a program for a code problem."""
    return reference_program(entry) if entry.domain == "code" else entry.golds[0]


def wrong_answer(entry: Entry, book: ProblemBook, *draw: object) -> str:
    """Return a plausible answer that is wrong; `draw` decides which."""
    choice = index(_WRONG_CHOICES, "wrong", *draw)
    if entry.domain == "code":
        return buggy_program(entry, BUGS[choice % len(BUGS)])
    if entry.domain == "math" and (number := _number(entry.answer)) is not None:
        return _wrong_number(number, choice)
    return _wrong_text(entry, book, choice)


def is_right(entry: Entry, text: str) -> bool:
    """Whether a text gives the gold answer, as far as a simulated reader can tell."""
    if entry.domain == "code":
        return _squeezed(_unfenced(text)) == _squeezed(reference_program(entry))
    if entry.domain == "math":
        gold = _number(entry.answer)
        if gold is not None:
            return _number(short_answer(entry, text)) == gold
        return _squeezed(entry.answer) in _squeezed(text)
    return any(_contains(text, gold) for gold in entry.golds)


def short_answer(entry: Entry, text: str) -> str:
    """Return the answer inside a text: the last number, the gold answer where it is there, else the last line."""
    if entry.domain == "code":
        return text
    if entry.domain == "math" and _number(entry.answer) is not None:
        numbers = _NUMBER.findall(text)
        return numbers[-1] if numbers else text.strip()
    present = [gold for gold in entry.golds if _contains(text, gold)]
    last_line = (text.strip().splitlines() or [""])[-1]
    return present[0] if present else last_line


def _wrong_number(number: Fraction, choice: int) -> str:
    wrong = (number + 1, number - 1, number * 2, number + 10, -number if number else Fraction(7), number / 2 + 3)[
        choice
    ]
    wrong = number + 5 if wrong == number else wrong
    return str(wrong.numerator) if wrong.denominator == 1 else f"{float(wrong):.4g}"


def _wrong_text(entry: Entry, book: ProblemBook, choice: int) -> str:
    gold = entry.golds[0]
    if re.fullmatch(r"[A-J]", gold):
        options = sorted(set(re.findall(r"^\s*\(?([A-J])[.):]", entry.question, re.MULTILINE)) - {gold}) or ["A", "B"]
        return next(option for option in options[choice % len(options) :] + options if option != gold)
    if gold.lower() in ("yes", "no"):
        return "no" if gold.lower() == "yes" else "yes"
    others = book.answers(entry.domain)
    words = [word for word in re.findall(r"\w{4,}", entry.context) if word[0].isupper()]
    for step in range(len(others) + len(words)):
        pool = words if words and (choice + step) % 2 else others
        candidate = pool[index(len(pool), "text", entry.question, choice, step)]
        if candidate and not _overlaps(candidate, entry):
            return candidate
    return f"something other than {choice}"


def _overlaps(candidate: str, entry: Entry) -> bool:
    words = set(_plain(candidate).split())
    return not words or any(words & set(_plain(gold).split()) for gold in entry.golds)


def _contains(text: str, gold: str) -> bool:
    if re.fullmatch(r"[A-J]", gold):  # an option's letter, which the plain form would take for an article
        letters = re.findall(r"\b[A-J]\b", text)
        return bool(letters) and letters[-1] == gold
    return bool(_plain(gold)) and f" {_plain(gold)} " in f" {_plain(text)} "


def _plain(text: str) -> str:
    """Return lower-case words without punctuation and articles, as SQuAD's evaluation normalises."""
    text = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _number(text: str) -> Fraction | None:
    text = text.strip().replace(",", "").lstrip("$").rstrip("%.")
    if len(text) > 40 or not re.fullmatch(r"-?\d+(\.\d+)?(/0*[1-9]\d*)?", text):
        return None
    numerator, _, denominator = text.partition("/")
    return Fraction(numerator) / Fraction(denominator or "1")


def _unfenced(text: str) -> str:
    match = re.search(r"```[^\n]*\n(.*?)```", text, re.DOTALL)
    return match.group(1) if match else text


def _squeezed(text: str) -> str:
    return "".join(text.split())
