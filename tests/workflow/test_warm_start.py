"""Demonstrations: well formed, and silent about which of a domain's workflows pays."""

import json
from collections import Counter, defaultdict

import pytest

from aflow_jax.errors import UserError
from aflow_jax.problems import generate_problems
from aflow_jax.workflow import (
    answer_text,
    demonstrations,
    format,
    load_demonstrations,
    operator_names,
    operators_of,
    parse,
    parse_completion,
    read_answer,
)
from aflow_jax.workflow.warm_start import STANDARD_WORKFLOWS, standard_workflows

PROBLEMS = generate_problems(None, 3000, seed=0)
OFFERED = ("Custom", "AnswerGenerate", "Programmer", "Test", "Review", "Revise", "ScEnsemble")
ROW = {"question": "Q?", "answer": "A", "source": "hotpotqa"}


def test_each_problem_has_an_answer_of_the_operators_offered():
    pairs = demonstrations(PROBLEMS[:300], OFFERED, seed=0)
    assert [problem for problem, _ in pairs] == PROBLEMS[:300]
    for _, answer in pairs:
        assert set(operators_of(parse_completion(answer))) <= set(OFFERED)
    assert pairs == demonstrations(PROBLEMS[:300], OFFERED, seed=0) != demonstrations(PROBLEMS[:300], OFFERED, seed=1)


def test_a_domains_shapes_are_drawn_uniformly_so_that_none_is_taught_to_be_better():
    counts = defaultdict(Counter)
    for problem, answer in demonstrations(PROBLEMS, operator_names(), seed=0):
        assert answer.startswith(f"A {problem.domain} problem.\n<workflow>")
        counts[problem.domain][answer] += 1
    for domain, answers in counts.items():
        expected = 1000 / len(STANDARD_WORKFLOWS[domain])
        assert len(answers) == len(STANDARD_WORKFLOWS[domain])
        # Binomial: four standard deviations either way.
        assert all(abs(count - expected) < 4 * expected**0.5 for count in answers.values())


def test_every_domain_is_shown_workflows_that_do_not_suit_it():
    for domain in STANDARD_WORKFLOWS:
        assert {"Custom", "AnswerGenerate", "Programmer"} <= set(STANDARD_WORKFLOWS[domain])


@pytest.mark.parametrize("domain", STANDARD_WORKFLOWS)
def test_standard_workflows_are_canonical_and_differ(domain):
    workflows = standard_workflows(domain, operator_names())
    assert [format(workflow) for workflow in workflows] == list(STANDARD_WORKFLOWS[domain])
    assert len(set(workflows)) == len(workflows) >= 8


def test_operators_that_make_no_standard_workflow_are_a_users_mistake():
    with pytest.raises(UserError, match="no standard workflow for math uses only Test, Revise"):
        demonstrations(PROBLEMS[:1], ("Test", "Revise"), seed=0)


def test_a_users_file_gives_answers_or_expressions(tmp_path):
    answer = "First think.\n<workflow>Custom</workflow>"
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({**ROW, "workflow": text}) + "\n" for text in (answer, "Custom->Revise")))
    pairs = load_demonstrations(path)
    assert [text for _, text in pairs] == [answer, "<workflow>Custom -> Revise</workflow>"]
    assert pairs[0][0].domain == "qa"


def test_demonstrations_come_in_the_format_that_the_policy_is_to_write(tmp_path):
    language = demonstrations(PROBLEMS[:40], operator_names(), seed=0)
    aflow = demonstrations(PROBLEMS[:40], operator_names(), seed=0, workflow_format="aflow")
    for (_, first), (_, second) in zip(language, aflow, strict=True):
        assert "class Workflow" in second
        assert read_answer(second, "aflow") == read_answer(first)
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({**ROW, "workflow": text}) + "\n" for text in (aflow[0][1], "Custom->Revise")))
    pairs = load_demonstrations(path, workflow_format="aflow")
    assert [text for _, text in pairs] == [aflow[0][1], answer_text(parse("Custom -> Revise"), "aflow")]
    path.write_text(json.dumps({**ROW, "workflow": "<workflow>Custom</workflow>"}) + "\n")
    with pytest.raises(UserError, match=":1: workflow: PARSE at column 11: line 1 of the module"):
        load_demonstrations(path, workflow_format="aflow")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (ROW, "missing field 'workflow'"),
        ({**ROW, "workflow": "Costum"}, "workflow: PARSE at column 1"),
        ({**ROW, "workflow": "<workflow>Costum</workflow>"}, "workflow: PARSE at column 11"),
        ({**ROW, "workflow": "Format"}, "Format is not offered"),
        ({**ROW, "source": "x", "workflow": "Custom"}, "unknown source"),
    ],
)
def test_a_bad_demonstration_is_refused_with_its_line(tmp_path, row, reason):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({**ROW, "workflow": "Custom"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError) as caught:
        load_demonstrations(path, OFFERED)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert reason in str(caught.value)
