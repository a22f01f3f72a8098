"""The project's own problems: many, distinct, the splits apart, and right."""

import ast
import subprocess
import sys

import pytest

from aflow_jax.errors import UserError
from aflow_jax.problems import DOMAINS, generate_problems
from aflow_jax.problems.synthetic import code, math, qa

SIZES = {"train": 900, "test": 400}


@pytest.fixture(scope="module")
def generated():
    return {
        (domain, split): generate_problems(domain, size, seed=1, split=split)
        for domain in DOMAINS
        for split, size in SIZES.items()
    }


def test_there_are_many_templates():
    assert len(math.TEMPLATES) >= 20
    assert len(code.TEMPLATES) >= 25
    assert len(qa.TEMPLATES) >= 12


def test_problems_are_distinct_and_short(generated):
    for (domain, split), problems in generated.items():
        assert len({problem.question for problem in problems}) == len(problems) == SIZES[split]
        assert len({problem.id for problem in problems}) == len(problems)
        assert all(problem.domain == domain and problem.source == f"synthetic_{domain}" for problem in problems)
        assert max(len(problem.question.split()) for problem in problems) <= 60
        assert max(len((problem.context or "").split()) for problem in problems) <= 60


def test_no_problem_is_in_both_splits_whatever_the_seed(generated):
    for domain in DOMAINS:
        tested = {problem.question for problem in generated[domain, "test"]}
        for seed in (1, 2):
            assert not tested & {problem.question for problem in generate_problems(domain, 900, seed=seed)}


def test_the_same_arguments_give_the_same_problems_and_a_larger_count_only_adds():
    few, many = (generate_problems(None, count, seed=9) for count in (20, 50))
    assert many[:20] == few
    assert generate_problems(None, 20, seed=10) != few
    assert [problem.domain for problem in few[:6]] == [*DOMAINS, *DOMAINS]


def test_answers_to_math_problems_are_whole_numbers(generated):
    assert all(str(int(problem.answer)) == problem.answer for problem in generated["math", "train"])


def test_answers_to_qa_problems_follow_from_the_context(generated):
    for problem in generated["qa", "train"]:
        assert problem.answer in problem.context or problem.answer.isdigit()


def test_reference_code_passes_its_tests_and_a_constant_function_does_not(generated):
    problems = generated["code", "train"][:300]
    programs = []
    for problem in problems:
        constant = problem.test.splitlines()[1].partition(" == ")[2]
        wrong = f"def {problem.entry_point}(*arguments):\n    return {constant}\n"
        programs.append((problem.answer, problem.entry_point, problem.test, wrong))
    script = f"""
for answer, name, test, wrong in {programs!r}:
    space = {{}}
    exec(answer + test, space)
    space["check"](space[name])
    exec(wrong, space)
    try:
        space["check"](space[name])
    except AssertionError:
        continue
    raise SystemExit(f"{{name}}: a constant passes")
"""
    ran = subprocess.run([sys.executable, "-I", "-"], input=script, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_examples_in_code_questions_are_right(generated):
    for problem in generated["code", "test"][:60]:
        lines = problem.question.splitlines()
        examples = [(lines[i][4:], lines[i + 1]) for i in range(len(lines)) if lines[i].startswith(">>> ")]
        assert len(examples) == 2
        hidden = [line for line in problem.test.splitlines() if "assert" in line]
        assert len(hidden) >= 6
        for call, expected in examples:
            ast.literal_eval(expected)
            assert call.removeprefix(problem.entry_point) not in problem.test


def test_what_cannot_be_generated_is_a_users_mistake():
    for arguments, reason in (
        (("poetry", 1, 0), "unknown domain 'poetry'"),
        ((None, 1, 0, "dev"), "unknown split 'dev'"),
        ((None, -1, 0), "0 or more"),
    ):
        with pytest.raises(UserError, match=reason):
            generate_problems(*arguments)
