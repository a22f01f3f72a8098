"""Questions: exact match and token F1 after SQuAD's normalisation, options by letter or text."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter

from aflow_jax.problems.grading import parse_options
from aflow_jax.rewards.extract import extract_in_domain, is_blank, is_code
from aflow_jax.rewards.literals import word_value
from aflow_jax.rewards.ruling import Ruling

UNANSWERABLE = "unanswerable"

_LEVELS = ((0.8, 1.0), (0.5, 0.7), (0.3, 0.4), (0.1, 0.2))
_LONGEST_ANSWER = 4_000
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)")
# A letter by itself, in brackets, or before a stop, a dash, a bracket or a reason; then what follows it.
_LETTER = re.compile(
    r"(?:\(([A-Ja-j])\)|\[([A-Ja-j])\]|([A-J])(?=[.):,]|\s*$|\s+(?:[-–—(]|because\b|since\b))|([a-j])(?=[.):]|\s*$))"
    r"[.):,\s–—-]*(.*)",
    re.DOTALL,
)
_CHOOSING = r"(?:i\s+(?:would\s+)?(?:choose|pick|select)|it\s+is|it's)\s+"
_NAMING = r"(?:the\s+)?(?:correct|right|best|final)?\s*(?:answer|option|choice)\b\s*(?:is\b|[:=])?\s*"
_LEAD = re.compile(rf"^(?:{_CHOOSING}(?:{_NAMING})*|(?:{_NAMING})+)", re.IGNORECASE)
_SECOND_LETTER = re.compile(r"(?:and|or|&|/|,)?\s*\(?[b-jB-J]\)?(?:\W|$)")
_MARKUP = "$*_`\"' \n\t"
_NOT = r"(?:(?:does|do|did|can|could|is|was)\s?(?:not|n't)|cannot)"
_ABSTENTION = re.compile(
    r"(?:(?:(?:this|the|that|there)\s+)?(?:question|answer|information)?\s*(?:it\s+)?(?:(?:it's|is|was)\s+)?"
    r"(?:unanswerable|unknown|not\s+answerable|no\s+(?:answer|information)|impossible\s+to\s+(?:answer|say|tell)"
    rf"|{_NOT}\s+be\s+(?:answered|determined|found|known)"
    r"|not\s+(?:stated|mentioned|given|specified|provided|known|enough\s+information))"
    r"(?:\s+(?:in|from|by|based\s+on|using|with|is\s+given|is\s+possible|to)\b[^.]*)?"
    rf"|i\s+{_NOT}\s+(?:know|tell|answer)(?:\s+(?:it|that|this|the\s+(?:question|answer)))?"
    rf"|(?:the|this)\s+(?:passage|context|text|paragraph|article)\s+{_NOT}\s+(?:say|mention|state|specify|give|provide"
    r"|answer|contain|tell)\b(?:(?!\b(?:but|however|although|though|yet)\b)[^.,;:])*)",
    re.IGNORECASE,
)


def grade_options(gold: str, text: str, question: str) -> Ruling:
    """Rule on the choice of an option, by its letter or its text: 1 the right one, 0 another or none.

    A text that names no option is left open; a letter with another option's text names none.
    """
    answer = extract_in_domain(text, "qa")
    if answer is None or is_blank(answer) or is_code(answer):
        return Ruling(0.0)
    options = parse_options(question)
    chosen = choose_option(answer[:_LONGEST_ANSWER], options)
    right = gold.strip().strip("().").upper()
    if chosen is not None:
        return Ruling(float(chosen == right))
    return Ruling(0.0, settled=False)


def grade_f1(golds: list[str], text: str) -> Ruling:
    """Rule on a short answer: the best over the gold ones of exact match or token F1, in levels.

    1 from .8; .7 from .5; .4 from .3; .2 from .1; else 0. `yes` and `no` match exactly or not at all, as in HotpotQA's
    metric; `unanswerable` by any usual way of saying so, and by nothing else. Below 1 it is left open, unless there is
    no answer or the text says that there is none where there is one.
    """
    answer = extract_in_domain(text, "qa")
    if answer is None or is_blank(answer) or is_code(answer):
        return Ruling(0.0)
    answer = answer[:_LONGEST_ANSWER]
    if is_abstention(answer):
        return Ruling(1.0 if any(is_abstention(gold) for gold in golds) else 0.0)
    score = max(f1(gold, answer) for gold in golds)
    level = next((level for least, level in _LEVELS if score >= least), 0.0)
    return Ruling(level, settled=level == 1.0)


def f1(gold: str, answer: str) -> float:
    """Return the token F1 of two texts, 1 where they match exactly (Rajpurkar et al. 2016, SQuAD's evaluation)."""
    return max(
        _overlap(normalise(gold, split_hyphens=split), normalise(answer, split_hyphens=split), gold, answer)
        for split in (False, True)
    )


def normalise(text: str, *, split_hyphens: bool = False) -> str:
    """SQuAD's normalisation: no case, punctuation, articles, or surplus space; numbers are read before their points go.

    `1,600,000` is `1600000`, `.15` is `0.15`, `-5` stays apart from `5`, and a whole word that names a number is that
    number. Hyphens inside words go, or with `split_hyphens` become spaces.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("−", "-")
    if split_hyphens:
        text = re.sub(r"(?<=\w)[-–—](?=\w)", " ", text)
    words = [_word(token) for token in text.split()]
    return " ".join(word for word in words if word not in ("", "a", "an", "the"))


def is_abstention(text: str) -> bool:
    """Whether a text says, and says nothing else than, that the question has no answer."""
    return _ABSTENTION.fullmatch(text.strip(_EDGES + " .\n\t")) is not None


def choose_option(answer: str, options: dict[str, str]) -> str | None:
    """Return the letter that an answer chooses, or None where it chooses none.

    `B`, `(B)`, `B.`, `B. its text`, `Option B`, `its text`; a letter inside a word, or before another option's text, is
    none.
    """
    bare = re.sub(r"\\(?:text|mathrm|textbf)\{([^{}]*)\}", r"\1", answer).strip(_MARKUP)
    for candidate in dict.fromkeys((bare, _LEAD.sub("", bare).strip(_MARKUP).strip())):
        for choose in (_by_exact_text, _by_letter, _by_text):
            letter = choose(candidate, options)
            if letter is not None:
                return letter or None
    return None


def _by_exact_text(answer: str, options: dict[str, str]) -> str | None:
    """The one option whose text this is, letter for letter; a bare capital letter is the option's own."""
    named = [letter for letter, text in options.items() if _option_key(text) == _option_key(answer)]
    if re.fullmatch(r"\W*[A-J]\W*|\W*[a-j]\W+", answer):
        return None
    return named[0] if len(named) == 1 else None


def _by_letter(answer: str, options: dict[str, str]) -> str | None:
    """The letter that leads the answer; "" where another option's text or a second letter follows it."""
    match = _LETTER.fullmatch(answer.replace("**", ""))
    if match is None:
        return None
    letter = next(filter(None, match.groups()[:4])).upper()
    rest = match.group(5)
    if letter not in (options or "ABCDEFGHIJ"):
        return None
    others = [text for other, text in options.items() if other != letter]
    own = _option_key(rest) == _option_key(options.get(letter, ""))
    contradicted = _option_key(rest) in map(_option_key, others) or _SECOND_LETTER.match(rest)
    return "" if contradicted and not own else letter


def _by_text(answer: str, options: dict[str, str]) -> str | None:
    """The one option whose text this is after normalisation."""
    named = [letter for letter, text in options.items() if normalise(text) and normalise(text) == normalise(answer)]
    return named[0] if len(named) == 1 else None


def _option_key(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .")


def _overlap(gold: str, answer: str, raw_gold: str, raw_answer: str) -> float:
    if not gold or not answer:
        # A gold that normalises away, "A" or "The", is matched as it is written.
        same = raw_gold.strip().strip(_EDGES).casefold() == raw_answer.strip().strip(_EDGES).casefold()
        return float(same and not is_blank(raw_answer))
    if gold == answer:
        return 1.0
    if gold in ("yes", "no", UNANSWERABLE):
        return 0.0
    golds, answers = gold.split(), answer.split()
    common = (Counter(golds) & Counter(answers)).total()
    return 2 * common / (len(golds) + len(answers))


def _word(token: str) -> str:
    bare = token.strip(_EDGES)
    for number in (bare, bare.rstrip(".")):
        if _NUMBER.fullmatch(number):
            return _number(number)
    bare = "".join(character for character in token if not _is_punctuation(character))
    value = word_value(bare)
    return bare if value is None else str(value)


def _number(text: str) -> str:
    """Return the shortest spelling of a decimal number."""
    whole, _, decimals = text.replace(",", "").lstrip("+-").partition(".")
    digits = (whole.lstrip("0") or "0") + ("." + decimals.rstrip("0") if decimals.rstrip("0") else "")
    return f"-{digits}" if text.startswith("-") and digits != "0" else digits


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


# What may stand around a number or a phrase without being part of it; a point may lead a decimal, a minus a number.
_EDGES = "$€£!\"#%&'()*,/:;<=>?@[\\]^_`{|}~“”‘’«»…"
