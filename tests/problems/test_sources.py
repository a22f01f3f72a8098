"""The table of sources."""

import pytest

from aflow_jax.errors import UserError
from aflow_jax.problems import (
    DOMAINS,
    DatasetType,
    Grading,
    Problem,
    Sources,
    default_sources,
    gold_answers,
    grading_of,
)

ROW = "gsm8k: {domain: math, weight: 1.0, split: {train: train}, grading: number, metric: solve_rate}\n"


def test_every_source_has_its_domain_and_grading():
    assert {dataset.value: (dataset.domain, dataset.grading) for dataset in DatasetType} == {
        "gsm8k": ("math", "number"),
        "math": ("math", "latex"),
        "humaneval": ("code", "tests"),
        "mbpp": ("code", "tests"),
        "hotpotqa": ("qa", "f1"),
        "drop": ("qa", "f1"),
        "squad_v2": ("qa", "f1"),
        "commonsenseqa": ("qa", "option"),
        "mmlu": ("qa", "option"),
        "synthetic_math": ("math", "number"),
        "synthetic_code": ("code", "tests"),
        "synthetic_qa": ("qa", "f1"),
    }
    assert set(default_sources()) == set(DatasetType)
    assert [source.name for source in default_sources().values() if source.alternatives] == ["drop", "squad_v2"]
    assert {source.domain for source in default_sources().values()} == set(DOMAINS)


def test_names_are_found_whatever_their_case_and_dashes():
    assert default_sources().named("SQuAD-v2").name == "squad_v2"
    with pytest.raises(UserError, match="nearest known one is 'humaneval'"):
        default_sources().named("humaneval+")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("math", "maths", "domain is 'maths'"),
        ("number", "f1", "a math source uses number or latex"),
        ("1.0", "-1", "weight is -1"),
        ("metric: solve_rate", "metrics: x", "unknown key 'metrics'; the nearest known one is 'metric'"),
        (", metric: solve_rate", "", "metric is missing"),
        ("{train: train}", "train", "split is 'train'"),
        ("}\n", "", "not YAML"),
        ("e}\n", "e, hub: x}\n", "hub is 'x': use repository, configurations, revision and licence"),
        (
            "e}\n",
            "e, hub: {repository: a, configurations: [c], revision: x, licence: MIT}}\n",
            "hub.revision is 'x'",
        ),
    ],
)
def test_a_bad_row_is_refused_with_its_name(tmp_path, old, new, reason):
    path = tmp_path / "datasets.yaml"
    path.write_text(ROW)
    assert Sources.load(path)["gsm8k"].weight == 1
    path.write_text(ROW.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        Sources.load(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_published_source_has_a_commit_and_a_licence_and_the_projects_own_has_none():
    for dataset in DatasetType:
        hub = dataset.source.hub
        assert (hub is None) == dataset.value.startswith("synthetic_")
        assert hub is None or (len(hub.revision) == 40 and hub.licence and hub.configurations)


def test_what_a_problem_is_graded_by_is_its_sources_rule_unless_it_has_no_options():
    def problem(source: DatasetType, question: str = "Q?", answer: str = "a|b") -> Problem:
        return Problem(question, answer, source.value, source.domain)

    for dataset in DatasetType:
        expected = Grading.F1 if dataset.grading == Grading.OPTION else dataset.grading
        assert grading_of(problem(dataset)) == expected
        assert gold_answers(problem(dataset)) == (["a", "b"] if dataset.source.alternatives else ["a|b"])
    assert grading_of(problem(DatasetType.MMLU, "Q?\n\nA. x\nB. y")) == Grading.OPTION
    assert gold_answers(problem(DatasetType.DROP, answer="|")) == ["|"]
