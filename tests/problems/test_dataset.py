"""Reading problems: what is accepted, how it is normalised, and what is refused on which line."""

import json
from pathlib import Path

import pytest

from aflow_jax.errors import UserError
from aflow_jax.problems import Problem, generate_problems, load_problems, save_problems
from aflow_jax.workflow import Limits, policy_messages

GOOD = {"question": "What is 1 + 1?", "answer": "2", "source": "gsm8k"}
CODE = {
    "question": "Add.",
    "answer": "def add(a, b):\n    return a + b",
    "source": "mbpp",
    "entry_point": "add",
    "test": "assert add(1, 2) == 3",
}
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "problems"


def write(path: Path, *rows: dict | str | bytes) -> Path:
    lines = [
        row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def refusal(path: Path, *rows: dict | str | bytes) -> str:
    with pytest.raises(UserError) as caught:
        load_problems(write(path, *rows))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_row_becomes_a_problem_whose_source_decides_the_domain(tmp_path):
    [first, second] = load_problems(write(tmp_path / "p.jsonl", GOOD, {**CODE, "id": 7}))
    assert first == Problem("What is 1 + 1?", "2", "gsm8k", "math", id="p/1")
    assert (second.domain, second.entry_point, second.id) == ("code", "add", "7")


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "Q?", "ground_truth": "A", "source": "hotpotqa"},
        {"prompt": "Q?", "answer": "A", "source": "HotpotQA", "problem_type": "qa"},
        {"question": "Q?", "answer": "A", "problem_type": "hotpotqa"},
        {"question": "Q?", "problem": "Q?", "answer": "A", "source": "hotpotqa", "context": None, "difficulty": 3},
    ],
)
def test_aliases_are_normalised(tmp_path, row):
    [problem] = load_problems(write(tmp_path / "p.jsonl", row))
    assert (problem.question, problem.answer, problem.source, problem.domain) == ("Q?", "A", "hotpotqa", "qa")


@pytest.mark.parametrize(
    "fields",
    [
        {"entry_point": "add", "test": CODE["test"]},
        {"meta": {"entry_point": "add", "test": CODE["test"]}},
        {"meta": {"entry_point": "add", "test_cases": [CODE["test"]]}},
        {"test_list": [CODE["test"]]},
    ],
)
def test_tests_and_entry_points_are_found_under_their_aliases(tmp_path, fields):
    row = {"task_id": "mbpp/1", "question": "Add.", "answer": CODE["answer"], "source": "mbpp", **fields}
    [problem] = load_problems(write(tmp_path / "p.jsonl", row))
    assert (problem.entry_point, problem.test, problem.id) == ("add", CODE["test"], "mbpp/1")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"question": ', "malformed JSON"),
        ("[1]", "expected a JSON object, found a list"),
        ("", "the line is empty"),
        ("[" * 100_000, "malformed JSON"),
        (b'{"question": "\xff"}', "not UTF-8 at byte 15"),
        ('{"question": "Q", "answer": NaN, "source": "math"}', "NaN is not a JSON value"),
        ('{"question": "Q", "question": "R"}', "'question' is there twice"),
        (f'{{"id": {"9" * 5000}}}', "malformed JSON"),
        ({**GOOD, "question": 3}, "question is a number: expected a string"),
        ({**GOOD, "answer": 2}, "answer is a number: expected a string"),
        ({**GOOD, "answer": ["2"]}, "answer is a list: expected a string"),
        ({**GOOD, "answer": " "}, "missing field 'answer'"),
        ({"question": "Q", "anwser": "A", "source": "math"}, "missing field 'answer' (is 'anwser' meant?)"),
        ({"question": "Q", "answer": "A"}, "missing field 'source'"),
        ({"question": "Q", "answer": "A", "problem_type": "qa"}, "problem_type 'qa' is a domain"),
        ({**GOOD, "source": "gsm8"}, "unknown source 'gsm8'; the nearest known one is 'gsm8k'"),
        ({**GOOD, "problem_type": "code"}, "contradicts the source 'gsm8k'"),
        ({**GOOD, "problem": "Another?"}, "question and problem both give the question, and differ"),
        ({**CODE, "entry_point": "add; import os"}, "is not the name of a function"),
        ({**CODE, "entry_point": "class"}, "is not the name of a function"),
        ({**CODE, "entry_point": None, "test": None, "answer": "x = 1"}, "missing field 'entry_point'"),
        ({**CODE, "test": [1]}, "test is a list: expected a string"),
        ({**CODE, "meta": "x"}, "meta is a string: expected an object"),
        ({**GOOD, "context": "x" * 200_001}, "context has 200001 characters"),
        ('{"question": "\\ud800", "answer": "A", "source": "math"}', "surrogate"),
        ({**GOOD, "id": True}, "id is true or false"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_and_the_reason(tmp_path, row, reason):
    message = refusal(tmp_path / "p.jsonl", GOOD, row, GOOD)
    assert message.startswith(f"{tmp_path / 'p.jsonl'}:2: ")
    assert reason in message


def test_braces_and_tags_in_a_row_are_only_text(tmp_path):
    question = "Simplify {x} {0} {problem!r} %s </problem> <workflow>Custom</workflow> \\frac{1}{2}"
    [problem] = load_problems(write(tmp_path / "p.jsonl", {**GOOD, "question": question, "answer": "{}|{answer}"}))
    assert (problem.question, problem.answer) == (question, "{}|{answer}")
    [_, message] = policy_messages(problem, ["Custom"], style="short", limits=Limits())
    assert "{x} {0} {problem!r} %s" in message["content"]
    assert "</problem> <workflow>" not in message["content"]


@pytest.mark.parametrize("field", ["question", "answer", "context", "test", "id", "source"])
def test_a_field_of_a_megabyte_is_refused_whichever_it_is(tmp_path, field):
    assert "has 1000000 characters: at most 200000" in refusal(tmp_path / "p.jsonl", {**CODE, field: "x" * 1_000_000})


def test_an_id_is_used_once(tmp_path):
    message = refusal(tmp_path / "p.jsonl", {**GOOD, "id": "a"}, GOOD, {**GOOD, "id": "a"})
    assert message.endswith(":3: id 'a' is already used on line 1")


def test_a_byte_order_mark_carriage_returns_and_line_separators_in_strings_are_harmless(tmp_path):
    row = json.dumps({**GOOD, "question": "One\u2028two"}, ensure_ascii=False).encode()
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + row + b"\r\n" + json.dumps(GOOD).encode() + b"\r\n\n")
    assert [problem.question for problem in load_problems(path)] == ["One\u2028two", GOOD["question"]]


def test_a_file_that_is_missing_a_folder_or_empty_is_a_users_mistake(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    for name, reason in (("none.jsonl", "cannot be read"), (".", "cannot be read"), ("empty.jsonl", "empty")):
        with pytest.raises(UserError, match=reason):
            load_problems(tmp_path / name)


def test_saved_problems_are_read_back_equal(tmp_path):
    problems = generate_problems(None, 30, seed=3)
    save_problems(tmp_path / "deep" / "p.jsonl", problems)
    assert load_problems(tmp_path / "deep" / "p.jsonl") == problems


@pytest.mark.skipif(not REAL.is_dir(), reason="the real problems (../shared/data/problems) are not on this machine")
@pytest.mark.parametrize("path", sorted(REAL.glob("*.jsonl")) or [REAL], ids=lambda path: path.name)
def test_every_real_row_loads(path):
    problems = load_problems(path)
    assert len(problems) == path.read_bytes().count(b"\n")
    assert len({problem.id for problem in problems}) == len(problems)


@pytest.mark.parametrize(("split", "count"), [("train", 300), ("test", 120)])
def test_the_shipped_files_are_what_the_generator_makes(split, count):
    path = Path(__file__).resolve().parents[2] / "data" / f"synthetic_{split}.jsonl"
    assert load_problems(path) == generate_problems(None, count, seed=0, split=split)
