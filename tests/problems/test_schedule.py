"""Batches: the exact mix, the orders, and that they follow from the seed and the step alone."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_jax.errors import UserError
from aflow_jax.problems import BatchSchedule, Problem

THIRDS = {"math": 0.333, "code": 0.333, "qa": 0.334}


def pool(**sizes: int) -> list[Problem]:
    return [
        Problem(f"{domain} {number}", "1", "math", domain, id=f"{domain}/{number}")
        for domain, size in sizes.items()
        for number in range(size)
    ]


def schedule(ratios=THIRDS, batch_size=5, seed=0, **sizes) -> BatchSchedule:
    return BatchSchedule(pool(**(sizes or {"math": 7, "code": 11, "qa": 13})), ratios, batch_size, seed)


def test_a_batch_is_a_pure_function_of_seed_and_step():
    forward = [schedule(seed=4).batch(step) for step in range(20)]
    other = schedule(seed=4)
    assert [other.batch(step) for step in reversed(range(20))] == forward[::-1]
    assert [schedule(seed=5).batch(step) for step in range(20)] != forward


def test_counts_are_the_largest_remainders_and_what_is_owed_is_carried_over():
    batches = schedule({"math": 0.5, "code": 0.3, "qa": 0.2}, batch_size=3)
    # Owed before the steps: (1.5, .9, .6), (2, .8, .2), (1.5, .7, .8), (2, .6, .4); whole parts go first.
    assert [tuple(batches.counts(step).values()) for step in range(4)] == [(1, 1, 1), (2, 1, 0), (1, 1, 1), (2, 1, 0)]
    totals = [sum(batches.counts(step)[domain] for step in range(10)) for domain in ("math", "code", "qa")]
    assert totals == [15, 9, 6]


@given(st.lists(st.integers(0, 50), min_size=3, max_size=3).filter(any), st.integers(1, 9), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_over_any_number_of_steps_each_domain_has_its_share_to_within_a_batchs_rounding(weights, batch_size, steps):
    ratios = dict(zip(("math", "code", "qa"), weights, strict=True))
    batches = schedule(ratios, batch_size)
    drawn = Counter(problem.domain for step in range(steps) for problem in batches.batch(step))
    assert drawn.total() == batch_size * steps
    for domain, weight in ratios.items():
        assert abs(drawn[domain] - batch_size * steps * weight / sum(weights)) < 2
        assert weight or not drawn[domain]


def test_every_domain_is_reached_by_batches_of_one():
    batches = schedule({"math": 0.9, "code": 0.09, "qa": 0.01}, batch_size=1)
    drawn = Counter(batches.batch(step)[0].domain for step in range(200))
    assert drawn == {"math": 180, "code": 18, "qa": 2}


def test_each_epoch_of_a_domain_goes_through_all_its_problems_in_a_fresh_order():
    batches = schedule({"math": 1}, batch_size=4, math=10)
    drawn = [problem.id for step in range(5) for problem in sorted(batches.batch(step), key=lambda p: p.id)]
    assert Counter(drawn) == Counter({f"math/{number}": 2 for number in range(10)})
    one_by_one = schedule({"math": 1}, batch_size=1, math=10)
    order = [one_by_one.batch(step)[0].id for step in range(30)]
    epochs = [order[:10], order[10:20], order[20:]]
    assert all(set(epoch) == set(order) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_mix_that_cannot_be_drawn_is_a_users_mistake():
    for ratios, reason in (
        ({"math": -1.0}, "domain_ratios.math is -1.0"),
        ({"math": float("nan")}, "domain_ratios.math is nan"),
        ({"math": 0, "code": 0}, "all 0"),
        ({"math": 1, "poetry": 1}, "no problem is of that domain"),
    ):
        with pytest.raises(UserError, match=reason):
            schedule(ratios)
    with pytest.raises(UserError, match="rollout_batch_size is 0"):
        schedule(batch_size=0)
