from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_jax.rewards.latex import normalise
from aflow_jax.rewards.literals import number_spans, numbers_equal, parse_number, word_value


def value(text: str) -> Fraction | None:
    number = parse_number(normalise(text))
    return None if number is None else number.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("72", 72),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("1{,}000", 1000),
        (r"1,\!000", 1000),
        ("1 000 000", 10**6),
        ("$5", 5),
        (r"\$5.50", Fraction(11, 2)),
        ("-$3", -3),
        ("€ 12", 12),
        ("-0", 0),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("3/4", Fraction(3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        (r"\dfrac34", Fraction(3, 4)),
        ("6 1/6", Fraction(37, 6)),
        (r"6\frac{1}{6}", Fraction(37, 6)),
        ("2½", Fraction(5, 2)),
        ("1.5e3", 1500),
        (r"1.5 \times 10^{3}", 1500),
        ("1.5 x 10^3", 1500),
        ("2 * 10**-2", Fraction(1, 50)),
        ("10^{6}", 10**6),
        ("5 million", 5_000_000),
        ("12 apples", 12),
        (r"20\text{ square units}", 20),
        (r"2400 \mbox{ cm}^2", 2400),
        (r"45^\circ", 45),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"-1.1\overline{6}", Fraction(-7, 6)),
        ("ninety degrees", 90),
        ("= 7", 7),
        ("twelve", 12),
        ("twenty-five", 25),
        ("minus four", -4),
        ("one hundred and five", 105),
        ("three thousand two hundred", 3200),
        (r"\mbox{four}", 4),
    ],
)
def test_a_number_is_read_exactly(text: str, expected: Fraction) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "x", "2x", "2 pi", "3 sqrt(2)", "1,2", "1, 2", "5 or 6", "1/0", "often", "tenth", "1e999999", "4:30", "2_3"],
)
def test_what_is_no_single_number_is_none(text: str) -> None:
    assert value(text) is None


@given(st.fractions(max_denominator=10**6))
@settings(max_examples=100, deadline=None)
def test_every_fraction_is_read_back_in_every_dress(fraction: Fraction) -> None:
    top, bottom = fraction.numerator, fraction.denominator
    assert value(f"{top}/{bottom}") == fraction
    assert value(rf"\frac{{{top}}}{{{bottom}}}") == fraction
    assert value(f"{top:,}") == top


@pytest.mark.parametrize(
    ("gold", "answer", "asks_percent", "equal"),
    [
        ("10%", "10", False, True),
        ("10%", "0.1", False, True),
        ("10%", "10%", False, True),
        ("10", "10%", True, True),
        ("10", "10%", False, False),
        ("0.1", "10%", False, True),
        ("1/3", "0.333333", False, True),
        ("1/3", "0.33333", False, False),
        ("2/3", "0.66666667", False, True),
        ("2/3", "0.66666666", False, False),
        ("100", "100.000001", False, False),
        ("8 cm", "8", False, True),
        ("8 cm", "8 centimeters", False, True),
        ("8 cm", "8 m", False, False),
        ("80 cents", "80 dollars", False, False),
        ("8", "8 m", False, True),
        ("0", "-0.0", False, True),
    ],
)
def test_equality_of_numbers(gold: str, answer: str, asks_percent: bool, equal: bool) -> None:
    numbers = [parse_number(normalise(text)) for text in (gold, answer)]
    assert all(numbers)
    assert numbers_equal(*numbers, asks_percent=asks_percent) is equal


def test_number_words_are_whole_words() -> None:
    assert word_value("ten") == 10
    assert [word_value(word) for word in ("often", "tent", "weight", "eighty-ten", "someone")] == [None] * 5


def test_numbers_in_prose() -> None:
    text = "In 2019, B2 cost $1,200.50 (12 %) or 3/4 of x1."
    assert [text[start:end] for start, end in number_spans(text)] == ["2019", "$1,200.50", "12 %", "3/4"]
