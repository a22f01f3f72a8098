"""Published rows become problems, one function a source."""

from dataclasses import replace
from pathlib import Path

import pytest
from published_rows import ROWS, as_published

from aflow_jax.errors import UserError
from aflow_jax.problems import DatasetType, Problem, default_sources, load_problems, published_row
from aflow_jax.problems.dataset import problem_from_row
from aflow_jax.problems.published import last_box

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "problems"


def convert(source: str, row, split: str = "validation", index: int = 0) -> Problem:
    ours = published_row(source, row, split=split, index=index)
    return problem_from_row(ours, default_sources(), default_id="none")


def test_every_published_source_is_converted():
    assert set(ROWS) == {source.name for source in default_sources().values() if source.hub}
    assert {convert(source, row).source for source, row in ROWS.items()} == set(ROWS)


def test_answers_are_what_the_rules_take():
    assert {source: convert(source, row).answer for source, row in ROWS.items()} == {
        "gsm8k": "1200",
        "math": "\\left\\{\\frac{1}{2}, \\{2\\}\\right\\}",
        "humaneval": 'def add(a, b):\n    """Add."""\n    return a + b\n',
        "mbpp": ROWS["mbpp"]["code"].replace("\r\n", "\n"),
        "hotpotqa": "Ada",
        "drop": "7|seven",
        "squad_v2": "1041|in 1041",
        "commonsenseqa": "C",
        "mmlu": "B",
    }


def test_questions_contexts_tests_and_ids():
    mbpp = convert("mbpp", ROWS["mbpp"])
    assert mbpp.question == "Write a function to double a pair.\n\ndef double(pair, by=2):"
    assert mbpp.test == (
        "ZERO = 0\n\ndef check(candidate):\n    assert double(Pair(2)) == 2\n"
        "    assert double(Pair(3), by=3) == 3\n\ncheck(double)\n"
    )
    assert (mbpp.entry_point, mbpp.id) == ("double", "mbpp/601")
    assert convert("hotpotqa", ROWS["hotpotqa"]).context == "A\nAda did. She was first.\n\nB\nBen did not."
    assert convert("commonsenseqa", ROWS["commonsenseqa"]).question == "Where is it?\n\nA. here\nB. there\nC. far away"
    assert convert("mmlu", ROWS["mmlu"], index=7).id == "mmlu/validation/7"


def test_spans_are_alternatives_where_several_people_answered_and_parts_where_one_did():
    row = {**ROWS["drop"], "answers_spans": {"spans": ["Ada", "Ben"], "types": ["span", "span"]}}
    assert convert("drop", row, "validation").answer == "Ada|Ben"
    assert convert("drop", row, "train").answer == "Ada and Ben"


def test_a_question_that_cannot_be_answered_says_so():
    assert (
        convert("squad_v2", {**ROWS["squad_v2"], "answers": {"text": [], "answer_start": []}}).answer == "unanswerable"
    )


@pytest.mark.parametrize(
    ("source", "change", "reason"),
    [
        ("gsm8k", {"answer": "42"}, "no line with ####"),
        ("math", {"solution": "It is 3."}, r"no \\boxed answer"),
        ("math", {"solution": "\\boxed{\\frac{1}{2}"}, "never closed"),
        ("mbpp", {"test_list": ["assert True"]}, "no function of the code is called by every test"),
        ("mbpp", {"code": "def f(:"}, "no Python"),
        ("drop", {"answers_spans": {"spans": [" "], "types": []}}, "it has no answer"),
        ("squad_v2", {"answers": {"text": ["a|b"]}}, r"holds \|"),
        ("squad_v2", {"answers": ["a"]}, "not in its format"),
        ("commonsenseqa", {"answerKey": ""}, "answerKey '' is none of A, B, C"),
        ("mmlu", {"answer": 4}, "answer 4 is none of 4 choices"),
        ("synthetic_qa", {}, "not published anywhere"),
    ],
)
def test_a_malformed_row_is_refused_with_the_reason(source: str, change: dict, reason: str):
    with pytest.raises(UserError, match=reason):
        convert(source, {**ROWS.get(source, {}), **change})


def test_a_function_called_check_is_tested_by_bare_asserts():
    row = {
        **ROWS["mbpp"],
        "code": "def check(x):\n    return x",
        "test_list": ["assert check(1) == 1"],
        "test_setup_code": "",
    }
    assert convert("mbpp", row).test == "assert check(1) == 1\n"


def test_a_missing_field_is_named():
    for source, row in ROWS.items():
        for name in published_fields(source):
            with pytest.raises(UserError, match=f"{source} has no field '{name}'"):
                convert(source, {key: value for key, value in row.items() if key != name})


def published_fields(source: str) -> list[str]:
    unread = {"level", "type", "supporting_facts", "section_id", "title", "subject", "question_concept"}
    return [name for name in ROWS[source] if name not in unread | {"challenge_test_list"}]


@pytest.mark.parametrize(
    ("solution", "box"),
    [
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("$\\boxed 7$", "7"),
        ("\\fbox{\\text{(A)}}", "\\text{(A)}"),
        ("\\boxed{\\{1, 2\\}}.", "\\{1, 2\\}"),
        ("\\boxed{a \\\\{b}}", "a \\\\{b}"),
    ],
)
def test_the_last_box_with_its_braces_matched(solution: str, box: str):
    assert last_box(solution) == box


@pytest.mark.skipif(not REAL.is_dir(), reason="the real problems (../shared/data/problems) are not on this machine")
@pytest.mark.parametrize("path", sorted(REAL.glob("*.jsonl")) or [REAL], ids=lambda path: path.name)
def test_every_real_problem_comes_back_from_its_published_form(path: Path):
    for index, problem in enumerate(load_problems(path)):
        again = convert(problem.source, as_published(problem), index=index)
        assert again.domain == DatasetType(again.source).domain
        assert replace(_spaced(again), id=problem.id) == _spaced(problem)


def _spaced(problem: Problem) -> Problem:
    """Return the problem without the spaces that say nothing: options are brought into one line each."""
    return replace(problem, question=" ".join(problem.question.split()), answer=problem.answer.strip())
