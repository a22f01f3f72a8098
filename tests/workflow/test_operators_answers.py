import pytest

from aflow_jax.problems import Problem
from aflow_jax.workflow.answers import answer_key, leaders

MATH, QA, CODE = (Problem("q", "a", "s", domain) for domain in ("math", "qa", "code"))


@pytest.mark.parametrize(
    ("problem", "first", "second"),
    [
        (MATH, "42", " 42.00 "),
        (MATH, "1,234", "$1234$"),
        (MATH, r"It is \boxed{\frac{1}{2}}.", r"\dfrac{1}{2}"),
        (MATH, "-0", "0"),
        (MATH, "work\n#### 7", "+7"),
        (MATH, "x + 1", "x+1"),
        (QA, "The  Eiffel tower.", "eiffel Tower"),
        (CODE, "def f():\n\n    return 1  ", "def f():\n    return 1"),
    ],
)
def test_equal_answers_have_equal_keys(problem, first, second):
    assert answer_key(problem, first) == answer_key(problem, second)


@pytest.mark.parametrize(
    ("problem", "first", "second"),
    [
        (MATH, "42", "-42"),
        (MATH, "3.5", "35"),
        (MATH, "0.5", "0.05"),
        (MATH, r"\frac{1}{2}", r"\frac{2}{1}"),
        (MATH, "", "0"),
        (QA, "a", "the"),
        (CODE, "if x:\n    y", "if x:\n        y"),
    ],
)
def test_different_answers_have_different_keys(problem, first, second):
    assert answer_key(problem, first) != answer_key(problem, second)


@pytest.mark.parametrize(
    ("answers", "leading"),
    [
        ([], []),
        (["1"], ["1"]),
        (["2", "1", "1.0"], ["1"]),
        (["2", "1"], ["2", "1"]),
        (["3", "2", "1", "2", "1"], ["2", "1"]),
    ],
)
def test_leaders_are_the_most_frequent_in_order_of_appearance(answers, leading):
    assert leaders(MATH, answers) == leading
