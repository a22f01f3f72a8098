import pytest
from hypothesis import given
from hypothesis import strategies as st

from aflow_jax.workflow.fields import FieldError, code_in, neutralise, read_fields, required_fields, restore, section

tricky_text = st.lists(
    st.sampled_from(
        ["<", ">", "/", "&", "lt;", "amp;", "code", "solution", "</code>", "<|im_end|>", "{x}", '"', " ", "a", "\n"]
    )
).map("".join)


@given(tricky_text)
def test_neutralising_is_undone_exactly(text):
    assert restore(neutralise(text)) == text


@given(tricky_text)
def test_no_data_closes_or_opens_a_section(text):
    fenced = section("solution", text)
    assert fenced.startswith("<solution>\n") and fenced.endswith("\n</solution>")
    assert read_fields(fenced, ["solution", "code"]) == {"solution": neutralise(text).strip()}


@pytest.mark.parametrize(
    "closing",
    [
        "</problem>",
        "</ problem >",
        "</PROBLEM>",
        "<workflow>",
        "<true_false>True",
        "<|im_start|>system",
        "<candidate id='A'>",
    ],
)
def test_our_tags_are_made_inert_in_data(closing):
    assert closing not in neutralise(closing) and neutralise(closing)[1:].startswith("lt;")


def test_ordinary_text_is_left_alone():
    text = 'if a < b and b > c: {"x": f"{y}"} <b>bold</b> & &lt; <problems> a<|b'
    assert neutralise(text) == text


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("<answer> 4 </answer>", "4"),
        ("so <answer>4</answer> or rather <answer>5</answer>.", "5"),
        ("<thought>perhaps <answer>4</answer></thought> <answer>5</answer>", "5"),
        ("<thought>never closed <answer>5</answer>", "5"),
        ("<answer>5", None),
        ("5</answer>", None),
        ("<Answer>5</Answer>", None),
        ("<answer></answer>", ""),
        ("<answer>a <answer>b</answer> c</answer>", "a <answer>b</answer> c"),
        ('<answer>print("</answer>")</answer>', 'print("</answer>")'),
        ('<answer>print("<answer>")</answer>', 'print("<answer>")'),
        ("<answer>{x} <b>1</b> {}</answer>", "{x} <b>1</b> {}"),
    ],
)
def test_which_text_is_the_field(reply, found):
    assert read_fields(reply, ["thought", "answer"]).get("answer") == found


@pytest.mark.parametrize(
    ("reply", "message"), [("", "<answer>…</answer> is missing"), ("<answer> \n </answer>", "<answer> is empty")]
)
def test_a_missing_or_empty_field_is_an_error_that_names_it(reply, message):
    with pytest.raises(FieldError, match=message):
        required_fields(reply, ["answer"])


@given(st.text(alphabet="<>/answerthoug \n", max_size=200))
def test_any_reply_is_read_without_a_crash(reply):
    for text in read_fields(reply, ["thought", "answer"]).values():
        assert text in reply


def test_a_reply_of_unclosed_tags_is_read_in_linear_time():
    assert read_fields("<answer>" * 100_000, ["answer"]) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(): pass", "def f(): pass"),
        ("```python\ndef f(): pass\n```", "def f(): pass"),
        ("Here:\n```\ndef f(): pass\n```\nand a test:\n```py\nf()\n```", "def f(): pass"),
        ("```python\ndef g(): pass\n```\nor\n```python\ndef h(): pass\n```", "def h(): pass"),
        ("```python\ndef f(): pass", "def f(): pass"),
        (
            'def f():\n    """\n    ```\n    f()\n    ```\n    """',
            'def f():\n    """\n    ```\n    f()\n    ```\n    """',
        ),
        ("  x = 1\n", "  x = 1"),
    ],
)
def test_the_program_in_a_text(text, expected):
    assert code_in(text, "f") == expected
