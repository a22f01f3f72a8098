"""What is said of a workflow without running it."""

import pytest
from hypothesis import given, settings
from random_workflows import ANY_WORKFLOWS, WORKFLOWS

from aflow_jax.workflow import (
    Branch,
    Call,
    Chain,
    Limits,
    Loop,
    distance,
    format,
    nesting,
    operators_of,
    parse,
    worst_case_calls,
)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("Custom", 1),
        ("Custom -> Format", 2),
        ("(Custom -> Format) * 3", 6),
        ("[Custom, Programmer -> Format] -> ScEnsemble", 4),
        ("Review ? (Revise -> Format) : Custom", 3),
        ("Review ? done : done", 1),
        ("((Test ? Revise : done) * 2 -> Custom) * 4", 20),
    ],
)
def test_the_worst_case_unrolls_loops_and_takes_the_longer_arm(text, calls):
    assert worst_case_calls(parse(text)) == calls


@given(ANY_WORKFLOWS)
@settings(max_examples=150, deadline=None)
def test_nesting_is_the_least_that_the_limit_must_allow(workflow):
    text, depth = format(workflow), nesting(workflow)
    roomy = {"characters": 10**5, "calls": 10**6, "branches": 8, "instruction": 400}
    assert parse(text, limits=Limits(nesting=depth, **roomy)) == workflow
    if depth:
        with pytest.raises(Exception, match="nesting"):
            parse(text, limits=Limits(nesting=depth - 1, **roomy))


def test_operators_come_as_written():
    workflow = parse("[Custom, Programmer] -> (Test ? Revise : done) * 2 -> Custom")
    assert operators_of(workflow) == ("Custom", "Programmer", "Test", "Revise", "Custom")


def test_graphs_that_no_text_can_write_cannot_be_built():
    body = Chain((Call("Custom"),))
    for times in (0, 6):
        with pytest.raises(ValueError, match="1 to 5"):
            Loop(body, times)
    with pytest.raises(ValueError, match="cannot decide a branch"):
        Branch(Call("Custom"), body, None)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("Custom", "Custom", 0.0),
        ("Custom", "Programmer", 2 * 1 / (2 + 2 + 1)),
        ("Custom", 'Custom("x")', 2 * 0.5 / (2 + 2 + 0.5)),
        ("Custom", "Custom -> Format", 2 * 1 / (2 + 3 + 1)),
        ("(Custom) * 2", "(Custom) * 3", 2 * 1 / (4 + 4 + 1)),
        ("Review ? Revise : done", "Review ? done : Revise", 2 * 2 / (6 + 6 + 2)),
    ],
)
def test_distance_counts_the_edits(first, second, expected):
    assert distance(parse(first), parse(second)) == pytest.approx(expected)


@given(WORKFLOWS, WORKFLOWS, WORKFLOWS)
@settings(max_examples=80, deadline=None)
def test_distance_is_a_metric_between_0_and_1(first, second, third):
    there = distance(first, second)
    assert there == distance(second, first)
    assert 0 <= there <= 1
    assert (there == 0) == (first == second)
    assert there <= distance(first, third) + distance(third, second) + 1e-12
