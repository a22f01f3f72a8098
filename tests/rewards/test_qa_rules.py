import pytest

from aflow_jax.problems.problem import Problem
from aflow_jax.rewards import grade_answer
from aflow_jax.rewards.qa_rules import (
    choose_option,
    f1,
    grade_f1,
    grade_options,
    is_abstention,
    normalise,
    parse_options,
)

QUESTION = "Where was it signed?\n\nA. New York\nB. Boston\nC. the harbour\nD. a bank\nE. Berlin"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat's, hat!", "cats hat"),
        ("1,600,000", "1600000"),
        (".15", "0.15"),
        ("20.0", "20"),
        ("-5", "-5"),
        ("(1994)", "1994"),
        ("$5.50.", "5.5"),
        ("two", "2"),
        ("often ten", "often 10"),
        ("“Löwenherz”", "löwenherz"),
        ("30-yard", "30yard"),
    ],
)
def test_normalisation(text: str, normal: str) -> None:
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("gold", "answer", "score"),
    [
        ("France", "france.", 1.0),
        ("July 14, 1991", "14 July 1991", 1.0),
        ("July 14, 1991", "July 1991", 0.8),
        ("Antony Armstrong-Jones, 1st Earl of Snowdon", "Antony Armstrong-Jones", 0.6),
        ("30-yard", "30 yard", 1.0),
        ("9 December 2015", "2015", 0.5),
        ("1.5", "15", 0.0),
        ("5", "-5", 0.0),
        ("yes", "no", 0.0),
        ("yes", "yes no", 0.0),
        ("the", "the", 1.0),
        ("a b c d", "", 0.0),
        ("U.S.", "US", 1.0),
        ("O'Brien", "OBrien", 1.0),
        ("Barack Obama", "President Barack Obama", 0.8),
        ("Saint Louis", "St. Louis", 0.5),
        ("July 14, 1991", "14/7/1991", 0.0),
        ("1991", "in 1991", 2 / 3),
        ("3", "three", 1.0),
        ("3", "threesome", 0.0),
    ],
)
def test_token_f1(gold: str, answer: str, score: float) -> None:
    assert f1(gold, answer) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "level"),
    [
        ("alpha beta gamma delta", 1.0),
        ("alpha beta gamma", 1.0),  # F1 6/7
        ("alpha beta", 0.7),  # 2/3
        ("alpha", 0.4),  # 2/5
        ("alpha one two three four five six", 0.2),  # 2/11
        ("one two", 0.0),
    ],
)
def test_levels_of_f1(answer: str, level: float) -> None:
    assert grade_f1(["alpha beta gamma delta"], answer).level == level


def test_the_best_of_the_alternatives_counts_where_the_source_has_them() -> None:
    drop = Problem("How long?", "88|33 yards", "drop", "qa")
    assert grade_answer(drop, "33-yards").correctness == 1.0
    hotpot = Problem("Which?", "a|b c d e f g h i j k", "hotpotqa", "qa")
    assert grade_answer(hotpot, "zeta").correctness == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        "unanswerable",
        "Unanswerable.",
        "The question is unanswerable.",
        "It cannot be answered from the context.",
        "No answer",
        "<answer>unanswerable</answer>",
        "not mentioned in the passage",
        "The answer is: unanswerable",
        "I don't know.",
        "unknown",
        "There is no answer.",
        "It's unanswerable",
        "The answer cannot be determined",
        "The passage does not say",
        "The context does not provide this information.",
        "The passage doesn't mention who built it.",
    ],
)
def test_an_unanswerable_question_is_answered_by_saying_so(answer: str) -> None:
    assert grade_f1(["unanswerable"], answer).level == 1.0
    assert grade_f1(["France"], answer).level == 0.0
    assert grade_f1(["France"], answer).settled


def test_an_answer_that_only_mentions_the_lack_is_no_abstention() -> None:
    assert not is_abstention("France, although it is not mentioned in the passage")
    assert not is_abstention("The passage does not say, but France")
    assert grade_f1(["unanswerable"], "France").level == 0.0
    assert grade_f1(["unanswerable"], "France, or unanswerable").level == 0.0


@pytest.mark.parametrize(
    "answer", ["", "{}", "None", "null", "def f():\n    return 'France'", "```python\nprint('France')\n```"]
)
def test_no_answer_is_wrong_and_needs_no_judge(answer: str) -> None:
    for ruling in (grade_f1(["France"], answer), grade_options("B", answer, QUESTION)):
        assert ruling.level == 0.0 and ruling.settled


def test_below_one_the_rules_leave_it_open() -> None:
    assert not grade_f1(["France"], "the country of the Franks").settled
    assert grade_f1(["France"], "France").settled


def test_the_options_of_a_question() -> None:
    assert parse_options(QUESTION) == {"A": "New York", "B": "Boston", "C": "the harbour", "D": "a bank", "E": "Berlin"}
    assert parse_options("Statement 1 | x. Statement 2 | y.\n\nA. True, True\nB. False, False") == {
        "A": "True, True",
        "B": "False, False",
    }
    assert parse_options("No options here.") == {}


@pytest.mark.parametrize(
    "answer",
    [
        "B",
        "b",
        "B.",
        "(B)",
        "B)",
        "[B]",
        "**B**",
        "B. Boston",
        "(B) Boston",
        "B: Boston",
        "B - Boston",
        "Boston",
        "boston.",
        "Option B",
        "The answer is B.",
        "The correct answer is (B) Boston",
        "Answer: B",
        r"\boxed{B}",
        "<answer>B</answer>",
        "I think so, therefore the answer is **B**.",
        "B. It was signed there in 1773.",
        "The correct option is B",
        "I choose B",
        "It's option (b)",
        "B because it lies by the sea",
        "B (Boston)",
        r"$\boxed{\text{(B)}}$",
    ],
)
def test_the_right_option_in_its_usual_dresses(answer: str) -> None:
    assert grade_options("B", answer, QUESTION).level == 1.0


@pytest.mark.parametrize(
    ("answer", "chosen"),
    [
        ("Boston", "B"),
        ("Berlin", "E"),
        ("bank", "D"),
        ("a bank", "D"),
        ("A. Boston", None),
        ("A bank in the city", None),
        ("Bostonians did it", None),
        ("B and C", None),
        ("A, B", None),
        ("A or B", None),
        ("Both", None),
        ("Bost", None),
        ("Boston, not New York", None),
        ("Option A is wrong. B", None),
        ("The answer is not B", None),
        ("B / Boston", None),
        ("I", None),
        ("Because of the tea", None),
        ("F", None),
        ("", None),
    ],
)
def test_a_letter_is_an_option_only_as_one(answer: str, chosen: str | None) -> None:
    assert choose_option(answer, parse_options(QUESTION)) == chosen


def test_another_option_is_wrong_without_a_judge_and_no_option_is_left_open() -> None:
    assert grade_options("B", "E", QUESTION).settled and grade_options("B", "E", QUESTION).level == 0.0
    assert not grade_options("B", "in the city of tea", QUESTION).settled
    assert grade_options("E", "Boston", QUESTION).level == 0.0
