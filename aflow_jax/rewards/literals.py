"""Numbers as people write them, read exactly.

`1,234.50`, `$5`, `12 %`, `-\\frac{3}{4}`, `6 1/6`, `1.5 \\times 10^{3}`, `5 million`, `twelve`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# Beyond this many digits a number is no answer, and exact arithmetic on it would be the attack.
MAX_EXPONENT = 400

# fmt: off
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
_NUMBER_WORDS = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * (value + 2) for value, word in enumerate(_TENS)
}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d{1,3}(?:[ ]\d{3})+(?![\d/])|\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"""
    (?P<sign>[+-]?)\s*
    (?: 10\^(?:\{{(?P<power3>[+-]?\d+)\}}|(?P<power4>-?\d))
      | (?P<whole>\d+\s*)? \\frac\{{(?P<top_sign>-?)(?P<top>{_DIGITS})\}}\{{(?P<bottom>{_DIGITS})\}}
      | (?P<whole2>\d+\s+)? (?P<top2>{_DIGITS})\s*/\s*(?P<bottom2>-?{_DIGITS})
      | (?P<digits>{_DIGITS}) (?: [eE](?P<exponent>[+-]?\d+)
                                | \s*(?:\\times|\\cdot|[x×*])\s*10\s*(?:\^|\*\*)\s*
                                  (?:\{{(?P<power>[+-]?\d+)\}}|(?P<power2>[+-]?\d+)) )? )
    """,
    re.VERBOSE,
)
_IN_PROSE = re.compile(
    r"(?<![\w.\\])-?[$€£¥]?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+\s+\d+/\d+|\d+(?:\.\d+)?(?:/\d+(?:\.\d+)?)?|\.\d+)"
    r"(?:[eE][+-]?\d+)?(?:\s*\\?%)?(?![A-Za-z]*\d)"
)
_REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\overline\{(\d+)\}")
_UNIT = re.compile(
    r"\s*(?P<dash>-?)(?P<unit>⟨[^⟩]*⟩|[A-Za-z][A-Za-z .]*[A-Za-z]|[A-Za-z])\s*(?:\^\s*\{?(?P<power>[23])\}?)?\s*"
)
_ALIASES = {
    "cm": "centimeter cm centimetre",
    "m": "meter metre m",
    "mm": "millimeter mm millimetre",
    "km": "kilometer km kilometre",
    "inch": "inch in inche",
    "foot": "foot feet ft",
    "yard": "yard yd",
    "mile": "mile mi",
    "second": "second sec s",
    "minute": "minute min",
    "hour": "hour hr h",
    "day": "day",
    "week": "week",
    "month": "month",
    "year": "year yr",
    "gram": "gram g",
    "kg": "kilogram kg",
    "pound": "pound lb",
    "ounce": "ounce oz",
    "liter": "liter litre l",
    "ml": "milliliter ml millilitre",
    "gallon": "gallon gal",
    "dollar": "dollar usd buck",
    "cent": "cent",
    "euro": "euro eur",
    "degree": "degree deg",
    "radian": "radian rad",
    "mph": "mph",
}
_KNOWN_UNITS = {alias: unit for unit, aliases in _ALIASES.items() for alias in aliases.split()}
# Words that are part of an expression, never a unit after a number.
_OPERATORS = frozenset(
    {"pi", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "infinity", "inf", "oo", "and", "or"}
    | {"over", "mod", "to", "by", "times", "plus", "minus", "through", "dozen", "dozens", "half", "halves", "third"}
    | {"thirds", "squared", "cubed"}
)


@dataclass(frozen=True)
class Number:
    """An exact number as written.

    Attributes:
        value: its value, the percent sign left aside.
        percent: whether a percent sign or the word stands after it.
        unit: its unit in canonical form where it is a known one, else "".
        decimals: digits after the point, 0 for an integer; None for a fraction.
    """

    value: Fraction
    percent: bool = False
    unit: str = ""
    decimals: int | None = 0


def parse_number(text: str) -> Number | None:
    """Read a normalised text (see `latex.normalise`) that is one number, perhaps with currency, percent or unit.

    Returns None where it is anything else: an expression, several numbers, words.
    """
    text = text.strip()
    while (inner := re.fullmatch(r"\(([^()]*)\)|\{([^{}]*)\}", text)) and re.search(r"\d", text):
        text = (inner.group(1) or inner.group(2) or "").strip()
    words = _from_words(text)
    if words is not None:
        return words
    repeating = _REPEATING.fullmatch(text)
    if repeating:
        return _repeating(*repeating.groups())
    text = re.sub(r"^⟨?\s*(?:USD|US(?=\s*\$))\s*⟩?\s*(?=[+-]?\s*[$\d.])", "", text).replace("$$", "$")
    currency = re.match(r"([+-]?)\s*([$€£¥])\s*([+-]?)", text)
    unit = ""
    if currency:
        unit = {"$": "dollar", "€": "euro", "£": "sterling", "¥": "yen"}[currency.group(2)]
        text = currency.group(1) + currency.group(3) + text[currency.end() :]
    match = _NUMBER.match(text)
    if match is None:
        return None
    value = _value(match)
    if value is None:
        return None
    return _with_tail(value, _decimals(match), text[match.end() :], unit)


def number_spans(text: str) -> list[tuple[int, int]]:
    """Return where the numbers in a prose text are, as (start, end); digits inside words are not numbers."""
    return [match.span() for match in _IN_PROSE.finditer(text)]


def is_number_word(word: str) -> bool:
    """Whether a whole word is a number: `twelve`, `twenty-five`; never a part of one, as `ten` in `often`."""
    return word_value(word) is not None


def word_value(word: str) -> int | None:
    """Return the number that a whole word names, or None."""
    word = word.lower()
    if word in _NUMBER_WORDS:
        return _NUMBER_WORDS[word]
    tens, dash, unit = word.partition("-")
    if dash and tens in _TENS and unit in _UNITS[1:10]:
        return _NUMBER_WORDS[tens] + _NUMBER_WORDS[unit]
    return None


def numbers_equal(gold: Number, answer: Number, *, asks_percent: bool) -> bool:
    """Whether two numbers are the same quantity.

    A decimal is equal to a fraction that it rounds to at six places or more; nothing else is rounded. Percent goes as
    the gold demands: where the gold has the sign, `12`, `12%` and `0.12` are all right for `12%`; where it has none,
    the sign is idle if the question asks for a percentage, and divides by 100 if it does not. Two units that are both
    known must agree.
    """
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    if gold.percent and not answer.percent:
        return _same(gold.value, answer) or _same(gold.value / 100, answer)
    if answer.percent and not gold.percent and not asks_percent:
        return answer.value / 100 == gold.value
    return _same(gold.value, answer)


def _same(gold: Fraction, answer: Number) -> bool:
    if gold == answer.value:
        return True
    if not answer.decimals or answer.decimals < 6:
        return False
    return abs(gold - answer.value) * 2 <= Fraction(1, 10**answer.decimals)


def _repeating(sign: str, whole: str, start: str, period: str) -> Number | None:
    if len(start) + len(period) > MAX_EXPONENT:
        return None
    value = Fraction(int(whole or 0)) + (Fraction(int(period), 10 ** len(period) - 1) + int(start or 0)) / 10 ** len(
        start
    )
    return Number(-value if sign else value, decimals=None)


def _value(match: re.Match[str]) -> Fraction | None:
    groups = match.groupdict()
    top, bottom = groups["top"] or groups["top2"], groups["bottom"] or groups["bottom2"]
    whole = groups["whole"] or groups["whole2"]
    if top is not None:
        divisor = _digits(bottom)
        if divisor == 0:
            return None
        value = _digits(top) / divisor
        value = -value if groups["top_sign"] else value
        value += int(whole) if whole else 0
    elif groups["digits"] is not None:
        power = groups["exponent"] or groups["power"] or groups["power2"] or "0"
        if len(groups["digits"]) > MAX_EXPONENT or len(power) > 4 or abs(int(power)) > MAX_EXPONENT:
            return None
        value = _digits(groups["digits"]) * Fraction(10) ** int(power)
    else:
        power = groups["power3"] or groups["power4"]
        if len(power) > 4 or abs(int(power)) > MAX_EXPONENT:
            return None
        value = Fraction(10) ** int(power)
    return -value if groups["sign"] == "-" else value


def _digits(text: str) -> Fraction:
    return Fraction(re.sub(r"[, ]", "", text).rstrip("."))


def _decimals(match: re.Match[str]) -> int | None:
    digits = match.group("digits")
    if digits is None:
        return None
    point = digits.replace(" ", "").rstrip(".").rpartition(".")
    exponent = int(match.group("exponent") or match.group("power") or match.group("power2") or 0)
    return max(0, (len(point[2]) if point[1] else 0) - exponent)


def _with_tail(value: Fraction, decimals: int | None, tail: str, unit: str) -> Number | None:
    """Read what stands after the digits: a percent sign, a scale, a unit; None where it is anything else."""
    tail = tail.strip()
    percent = re.match(r"\\?%|⟨?\s*per\s?cent(?:age)?\b\s*⟩?", tail, re.IGNORECASE)
    if percent:
        tail = tail[percent.end() :].strip()
    scale = re.match(r"(?:⟨\s*)?(thousand|million|billion|trillion|hundred)\b(?:\s*⟩)?", tail, re.IGNORECASE)
    if scale and not percent:
        value, tail = value * _SCALES[scale.group(1).lower()], tail[scale.end() :].strip()
        decimals = None
    if tail:
        named = _UNIT.fullmatch(tail)
        if named is None:
            return None
        name = _unit(named.group("unit"), named.group("power"), marked=named.group("unit").startswith("⟨"))
        if name is None:
            return None
        unit = unit or name
    return Number(value, percent is not None, unit, decimals)


def _unit(text: str, power: str | None, *, marked: bool) -> str | None:
    """Return the canonical unit, "" for a noun that is none, None where the text is no unit but mathematics."""
    words = [word.lower().rstrip(".") for word in text.strip("⟨⟩ ").split() if word.strip(".")]
    if not words or any(word in _OPERATORS for word in words) or len(words) > 6:
        return None
    singular = [word if word in _KNOWN_UNITS else word.removesuffix("s") for word in words]
    known = [_KNOWN_UNITS[word] for word in singular if word in _KNOWN_UNITS]
    if known:
        power = power or ("2" if words[0] in ("square", "sq") else "3" if words[0] == "cubic" else "")
        return "/".join(known) + power
    return "" if marked or all(len(word) > 2 for word in words[:1]) else None


def _from_words(text: str) -> Number | None:
    """Read number words: `twelve`, `minus four`, `two hundred and five`, `three thousand`."""
    words = re.sub(r"[⟨⟩]", " ", text).lower().split()
    if not words or not all(re.fullmatch(r"[a-z]+(?:-[a-z]+)?\.?", word) for word in words):
        return None
    words = [word.rstrip(".") for word in words]
    negative = words[0] in ("minus", "negative")
    total = current = 0
    found = False
    unit = ""
    for place, word in enumerate(words[negative:], start=int(negative)):
        value = word_value(word)
        if value is not None:
            current, found = current + value, True
        elif word in _SCALES and found:
            current *= _SCALES[word]
            if _SCALES[word] > 100:
                total, current = total + current, 0
        elif word != "and" or not found:
            named = _unit(" ".join(words[place:]), None, marked=False) if found else None
            if named is None:
                return None
            unit = named
            break
    return Number(Fraction(-(total + current) if negative else total + current), unit=unit) if found else None
