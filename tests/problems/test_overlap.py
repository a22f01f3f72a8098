"""Which problems count as one: by what is asked, and nearly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_jax.problems import NearDuplicates, Problem, content_hash, decontaminate
from aflow_jax.problems.overlap import NEAR, jaccard, shingles

QUESTION = (
    "A baker makes twelve trays of rolls before dawn, and sells all of them but 7 by noon at the corner of the square. "
    "How many trays are left when the market closes in the evening?"
)


def asked(question: str, context: str | None = None) -> Problem:
    return Problem(question, "1", "math", "math", context=context)


def nearly(one: Problem, other: Problem) -> bool:
    found = NearDuplicates([one]).find(other)
    assert (NearDuplicates([other]).find(one) is None) == (found is None)
    return found is not None


def test_training_problems_that_are_in_the_test_split_are_removed():
    test = [asked("What is  x + 2?"), asked("Who?", "A passage."), asked(QUESTION)]
    train = [
        asked("what is X + 2"),
        asked("What is x - 2?"),
        asked("Who?", "Another."),
        asked("Who?", "A passage"),
        asked(QUESTION.replace("baker", "cook")),
        asked(QUESTION.replace("7", "8")),
    ]
    assert decontaminate(train, test) == ([train[1], train[2], train[5]], 3)


def test_the_content_hash_is_of_what_is_asked():
    problem = Problem("Q?", "A", "math", "math")
    assert content_hash(problem) == content_hash(Problem("q", "B", "gsm8k", "math", id="x"))
    assert content_hash(problem) != content_hash(Problem("Q?", "A", "math", "math", context="C"))


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("baker", "cook", True),
        ("corner of the square", "corner of that square", True),
        ("A baker", "One day a baker", True),
        ("7", "17", False),
        ("7", "seven", False),
        ("How many trays are left when", "How many rolls does nobody buy before", False),
    ],
)
def test_a_word_changed_is_the_same_problem_and_a_number_changed_is_another(old: str, new: str, same: bool):
    assert nearly(asked(QUESTION), asked(QUESTION.replace(old, new))) == same


def test_a_question_about_another_passage_is_another_problem():
    passage = "The fair of Arden is held every May. In May a goose is the first prize, and a pie the second. " * 3
    assert nearly(asked(QUESTION, passage), asked(QUESTION, passage[:-60]))
    assert not nearly(asked(QUESTION, passage), asked(QUESTION, "Nothing of the kind is known of the fair of Elm."))
    assert not nearly(asked(QUESTION, passage), asked(QUESTION))


def test_short_and_empty_questions_are_near_only_what_equals_them():
    assert nearly(asked("Who was he?"), asked("who was HE"))
    assert not nearly(asked("Who was he?"), asked("Who was she?"))
    assert not nearly(asked("?"), asked("Who?"))


words = st.lists(st.sampled_from("abcdefg"), max_size=14).map(" ".join)


@given(st.lists(words, max_size=8), words)
@settings(max_examples=200, deadline=None)
def test_the_search_finds_exactly_what_comparing_all_pairs_finds(questions: list[str], question: str):
    similar = [one for one in questions if jaccard(shingles(one), shingles(question)) >= NEAR]
    found = NearDuplicates(map(asked, questions)).find(asked(question))
    assert found == (asked(similar[0]) if similar else None)
