"""Code problems whose own answers fail their tests: found, named, left out, and checked once."""

import asyncio
import json
from pathlib import Path

import pytest

from aflow_jax import references
from aflow_jax.assembly import ProblemSets, without_unsound
from aflow_jax.config import load_config
from aflow_jax.errors import UserError
from aflow_jax.problems import Problem, generate_problems
from aflow_jax.references import unsound_problems

ADD = "def add(a, b):\n    return a + b"
HOSTILE = {
    "wrong": "def check(candidate):\n    assert candidate(1, 2) == 4",
    "exits": "import os\ndef check(candidate):\n    candidate(1, 2)\n    os._exit(0)",
    "raises SystemExit": "def check(candidate):\n    candidate(1, 2)\n    raise SystemExit(0)",
    "never calls": "def check(candidate):\n    assert True",
    "no asserts": "pass",
    "no program": "def check(candidate:",
    "replaces the function": "def add(a, b):\n    return 4\ndef check(candidate):\n    assert 4 == 4",
}


def code(test: str | None, answer: str = ADD, entry_point: str = "add", name: str = "") -> Problem:
    return Problem("Add two numbers.", answer, "mbpp", "code", entry_point=entry_point, test=test, id=name)


SOUND = [
    code("def check(candidate):\n    assert candidate(1, 2) == 3", name="check"),
    code("assert add(1, 2) == 3", name="bare"),
    code("assert add('{', '}') == '{}'", name="braces"),
    code(None, name="no tests"),
    Problem("1 + 1?", "2", "gsm8k", "math", id="math"),
]


def check(problems: list[Problem], cache: Path | None = None) -> list[str]:
    return [unsound.problem.id for unsound in asyncio.run(unsound_problems(problems, cache))]


def test_hostile_and_wrong_rows_are_found_among_sound_ones():
    hostile = [code(test, name=name) for name, test in HOSTILE.items()]
    broken = code(SOUND[0].test, answer="def add(a, b):\n    raise KeyboardInterrupt", name="raises")
    assert check([SOUND[0], *hostile, *SOUND[1:], broken]) == [*HOSTILE, "raises"]


def test_tests_that_loop_end_in_time_and_are_not_condemned_for_good(tmp_path, monkeypatch):
    monkeypatch.setattr("aflow_jax.rewards.code_rules.TIMEOUT_SECONDS", 5.0)
    cache = tmp_path / "verdicts.json"
    loop = code("def check(candidate):\n    while True:\n        candidate(1, 2)", name="loop")
    [unsound] = asyncio.run(unsound_problems([loop, SOUND[0]], cache))
    assert unsound.problem is loop
    assert unsound.reason.startswith("timeout, 0 of 1 tests pass")
    assert list(json.loads(cache.read_text()).values()) == [None]


def test_a_second_load_runs_nothing_that_has_not_changed(tmp_path, monkeypatch):
    cache = tmp_path / "verdicts.json"
    problems = [SOUND[0], code(HOSTILE["wrong"], name="wrong")]
    ran = []
    run = references.try_reference

    async def counted(problem: Problem):
        ran.append(problem.id)
        return await run(problem)

    monkeypatch.setattr(references, "try_reference", counted)
    assert check(problems, cache) == check(problems, cache) == ["wrong"]
    assert ran == ["check", "wrong"]
    check([code(SOUND[0].test, answer=ADD + " + 0", name="changed")], cache)
    assert ran == ["check", "wrong", "changed"]


def test_a_cache_that_is_none_is_a_users_mistake(tmp_path):
    (tmp_path / "verdicts.json").write_text("[1]")
    with pytest.raises(UserError, match=r"verdicts\.json: not a file of reference verdicts: delete it"):
        check(SOUND[:1], tmp_path / "verdicts.json")


def test_a_run_leaves_unsound_problems_out_of_both_splits_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wrong = code(HOSTILE["wrong"], name="mbpp/7")
    problems = ProblemSets(train=[SOUND[0], wrong], test=[SOUND[4], code(HOSTILE["wrong"], name="mbpp/8")])
    said: list[str] = []

    def sets(*overrides: str) -> ProblemSets:
        config = load_config("configs/training.yaml", list(overrides))
        return asyncio.run(without_unsound(config, problems, said.append))

    assert sets("check_references=false") == problems
    assert said == []
    assert sets() == ProblemSets(train=[SOUND[0]], test=[SOUND[4]])
    assert said[0].startswith("left out, as their own answers fail their tests: mbpp/7: error, 0 of 1 tests pass: ")
    assert "mbpp/8" in said[0]
    assert (tmp_path / "aflow_jax" / "references.json").exists()


def test_the_projects_own_code_problems_are_sound():
    assert check(generate_problems("code", 40, seed=5)) == []
