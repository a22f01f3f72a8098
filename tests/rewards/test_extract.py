import pytest

from aflow_jax.errors import UserError
from aflow_jax.rewards import extract_answer
from aflow_jax.rewards.extract import extract_code, is_blank, is_code, last_boxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("48 / 2 = 24\n#### 72", "72"),
        ("#### Step 1\nWe add.\n#### 1,234", "1,234"),
        (r"so \boxed{\frac{1}{2}} and not \boxed{\sqrt{\frac{3}{4}}}.", r"\sqrt{\frac{3}{4}}"),
        (r"\boxed 7 it is", "7"),
        ("I think <answer>5</answer> of 9", "5"),
        ("<answer>The answer is 5.</answer>", "5."),
        ("First 3, then 4. The answer is 12 because 3 * 4 = 12.", "12"),
        ("The answer is 5. I checked it 2 times.", "5"),
        (r"\boxed{\text{all numbers above } 5}", r"\text{all numbers above } 5"),
        ("<answer>It is 5 apples.</answer>", "5"),
        ("The answer is:\n\n$$\n\\frac{3}{4}\n$$\nwhich is 0.75 of it.", r"$\frac{3}{4}$"),
        ("**Final Answer:** 18", "18"),
        ("She has 3 apples and buys 4, so in total she has 7 of them.", "7"),
        (r"Hence the length is $\frac{3}{4}$ of the side.", r"\frac{3}{4}"),
        ("There are twelve of them in the whole garden.", "twelve"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        ("(3, 4)", "(3, 4)"),
        ("3 : 4", "3 : 4"),
        ("Sunday", "Sunday"),
        # Marks rank in this order, wherever they stand.
        (r"\boxed{4} <answer>3</answer> The answer is 2. 1", "4"),
        ("The answer is 2.\n#### 5\n<answer>3</answer>", "5"),
    ],
)
def test_the_answer_of_a_mathematical_text(text: str, answer: str) -> None:
    assert extract_answer(text, "math") == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "{}",
        "None",
        "null",
        "nan",
        "[]",
        "$$",
        "`None`",
        r"\boxed{}",
        "<answer></answer>",
        r"\boxed{None}",
        "def solve():\n    return 5",
        "```python\nprint(5)\n```",
        "print(5)",
        "import math\nmath.sqrt(2)",
        "return 5",
        "lambda: 5",
        "No one knows what it is, as far as I can tell.",
        "It often rains in the network, said the tenant.",
    ],
)
def test_no_answer_is_none(text: str) -> None:
    assert extract_answer(text, "math") is None


def test_a_number_word_is_never_found_inside_a_word() -> None:
    assert extract_answer("They often weigh the freight at the stone bridge with someone.", "gsm8k") is None
    assert extract_answer("After that they often see seven of the boats.", "gsm8k") == "seven"


def test_digits_inside_words_and_identifiers_are_no_numbers() -> None:
    assert extract_answer("She got 42 points with model B2 and x1 in round v3a.", "gsm8k") == "42"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Paris", "Paris"),
        ("<answer>Paris</answer> is what I found.", "Paris"),
        ("I looked at it. The answer is: J. R. R. Tolkien", "J. R. R. Tolkien"),
        ("The answer is St. Louis. It lies on the river.", "St. Louis"),
        ("Answer: 9 December 2015", "9 December 2015"),
        ("A whole sentence about it.", "A whole sentence about it."),
    ],
)
def test_the_answer_to_a_question(text: str, answer: str) -> None:
    assert extract_answer(text, "hotpotqa") == answer


def test_code_comes_out_of_its_fence_and_the_block_with_the_entry_point_wins() -> None:
    text = "Use it so:\n```python\nprint(f(1))\nprint(f(2))\n```\nwith\n```python\ndef f(x):\n    return x\n```\n"
    assert extract_code(text, "f") == "def f(x):\n    return x"
    assert extract_answer("def f(x):\n    return x\n", "mbpp") == "def f(x):\n    return x"
    assert extract_answer("None", "mbpp") is None


def test_boxes_need_balanced_braces() -> None:
    assert last_boxed(r"\boxed{a_{1}} \boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert last_boxed(r"\boxed{1} \boxed{2") == "1"
    assert last_boxed("nothing") is None


def test_an_assignment_or_a_call_of_a_function_is_no_program() -> None:
    assert not is_code("x = 5")
    assert not is_code("sqrt(2)")
    assert is_code("x = 5\nprint(x)")
    assert is_code("class A:\n    pass")
    assert is_blank("```\n```") and not is_blank("0")


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(UserError, match="gsm8k"):
        extract_answer("5", "gsm9k")


def test_a_hostile_text_of_megabytes_is_read_all_the_same() -> None:
    for text in (
        "\\boxed{" * 100_000,
        "the answer is " * 100_000,
        "1," * 500_000,
        "<answer>" * 100_000,
        " " * 10**6 + "5",
    ):
        extract_answer(text, "math")


def test_a_program_is_no_answer_whatever_its_variables_are_called() -> None:
    for program in ("def solve():\n    answer = 667\n    return answer", "import math\nanswer = 667\nprint(answer)"):
        assert extract_answer(program, "gsm8k") is None
        assert extract_answer(program, "hotpotqa") is None
    assert extract_answer("from the table we get\n\\boxed{667}", "math") == "667"
