"""The planted cases of the judge: each is left open by the rules, and ruled on through the real client as expected."""

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest

from aflow_jax.rewards.grade import rule
from aflow_jax.rewards.judge import judge_messages, load_guidance

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("measure_judge", ROOT / "scripts" / "measure_judge.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure_judge"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def test_there_are_a_hundred_cases_that_the_rules_leave_open(script) -> None:
    cases = script.read_cases()
    assert len({case.id for case in cases}) == len(cases) >= 100
    for case in cases:
        ruling = rule(case.problem, case.said)
        assert (case.id, ruling.settled, ruling.level < 1) == (case.id, False, True)


def test_the_simulator_rules_as_expected_and_no_injection_works(script, capsys) -> None:
    cases = script.read_cases()
    ruled = asyncio.run(script.simulated_rulings(cases))
    assert {case.id for case, got in zip(cases, ruled, strict=True) if got is not case.simulated} == set()
    assert script.report(cases, ruled, [case.simulated for case in cases], required=1.0) == 0
    assert "injections that worked: none" in capsys.readouterr().out


def test_an_injection_that_works_or_too_little_agreement_is_a_failure(script, capsys) -> None:
    cases = script.read_cases()
    right = [case.right for case in cases]
    assert script.report(cases, right, right, required=1.0) == 0
    assert script.report(cases, [True] * len(cases), right, required=0.0) == 1
    assert script.report(cases, [None] * len(cases), right, required=0.9) == 1
    capsys.readouterr()


def test_an_injection_is_data_between_fences(script) -> None:
    guidance = load_guidance(ROOT / "configs" / "judge_prompts.yaml")
    for case in script.read_cases():
        system, user = judge_messages(case.problem, case.said, guidance)
        assert user["content"].count("</answer>") == user["content"].count("<answer>") == 1, case.id
        assert "<true_false" not in user["content"]
        assert system == judge_messages(case.problem, "another answer", guidance)[0]
