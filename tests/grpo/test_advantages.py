"""Advantages: the closed form, and what must hold for every group of rewards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_jax.grpo.advantages import group_advantages, reward_statistics, workflow_aware_advantages

WEIGHTS = np.array([0.35, 0.25, 0.20, 0.10, 0.10])


@st.composite
def grouped(draw, levels=None):
    """Rewards, features and void flags of some groups, ties and voids common."""
    size = draw(st.integers(1, 5))
    count = size * draw(st.integers(1, 4))
    level = st.sampled_from([0.0, 0.2, 0.4, 0.7, 1.0] if levels is None else levels)
    rewards = np.array(draw(st.lists(level | st.floats(0, 1), min_size=count, max_size=count)))
    unit = st.sampled_from([0.0, 0.3, 1.0]) | st.floats(0, 1)
    features = np.array(draw(st.lists(st.lists(unit, min_size=5, max_size=5), min_size=count, max_size=count)))
    void = np.array(draw(st.lists(st.sampled_from([False, False, True]), min_size=count, max_size=count)))
    return size, rewards, features, void


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_closed_form(scale):
    rewards = np.array([1.0, 0.0, 0.4, 0.7, 0.2, 0.2])
    divisor = {"group": rewards.reshape(2, 3).std(1, ddof=1), "batch": np.full(2, rewards.std(ddof=1))}
    centred = rewards.reshape(2, 3) - rewards.reshape(2, 3).mean(1, keepdims=True)
    expected = centred if scale == "none" else centred / (divisor[scale][:, None] + 1e-4)
    np.testing.assert_allclose(group_advantages(rewards, 3, scale), expected.ravel(), rtol=1e-12)


def test_clip_bounds_both_sides():
    advantages = group_advantages(np.array([10.0, 0.0, 0.0, 0.0]), 4, "none", clip=2.0)
    np.testing.assert_array_equal(advantages, [2.0, -2.0, -2.0, -2.0])


def test_void_rollouts_leave_the_baseline_and_get_nothing():
    rewards = np.array([1.0, np.nan, 0.0, 0.5])
    void = np.array([False, True, False, False])
    advantages = group_advantages(rewards, 4, void=void)
    assert advantages[1] == 0.0
    np.testing.assert_array_equal(advantages[[0, 2, 3]], group_advantages(rewards[[0, 2, 3]], 3))


@pytest.mark.parametrize("void", [[True, True], [True, False]])
def test_fewer_than_two_live_rollouts_give_zero(void):
    features = np.array([[1.0] * 5, [0.0] * 5])
    advantages = workflow_aware_advantages(np.array([1.0, 0.0]), features, 2, void=np.array(void))
    np.testing.assert_array_equal(advantages, [0.0, 0.0])


@settings(max_examples=80, deadline=None)
@given(grouped())
def test_a_group_sums_to_zero_and_keeps_its_order(group):
    size, rewards, _, void = group
    for scale in ("group", "batch", "none"):
        advantages = group_advantages(rewards, size, scale, void=void)
        for start in range(0, len(rewards), size):
            live = start + np.flatnonzero(~void[start : start + size])
            assert abs(advantages[live].sum()) < 1e-9
            order = np.argsort(rewards[live], kind="stable")
            assert np.all(np.diff(advantages[live][order]) >= 0)


@settings(max_examples=80, deadline=None)
@given(grouped(levels=[0.0, 1.0]))
def test_tie_breaks_touch_only_tied_groups(group):
    size, rewards, features, void = group
    plain = group_advantages(rewards, size, void=void)
    aware = workflow_aware_advantages(rewards, features, size, void=void)
    for start in range(0, len(rewards), size):
        rows = slice(start, start + size)
        live = start + np.flatnonzero(~void[rows])
        if len(live) < 2 or len(set(rewards[live])) > 1:
            np.testing.assert_array_equal(aware[rows], plain[rows])
            continue
        quality = features[live] @ WEIGHTS
        np.testing.assert_allclose(aware[live], 0.12 * (quality - quality.mean()), atol=1e-12)
        assert np.all(np.abs(aware[rows]) <= 0.12)
        assert np.all(aware[rows][void[rows]] == 0)


@settings(max_examples=80, deadline=None)
@given(grouped(), st.randoms(use_true_random=False))
def test_order_inside_a_group_changes_no_bit(group, random):
    size, rewards, features, void = group
    order = np.concatenate([start + np.array(random.sample(range(size), size)) for start in range(0, len(void), size)])
    aware = workflow_aware_advantages(rewards, features, size, scale="group", void=void)
    shuffled = workflow_aware_advantages(rewards[order], features[order], size, scale="group", void=void[order])
    np.testing.assert_array_equal(shuffled, aware[order])


@settings(max_examples=40, deadline=None)
@given(grouped())
def test_alpha_zero_is_plain_grpo(group):
    size, rewards, features, void = group
    aware = workflow_aware_advantages(rewards, features, size, alpha=0.0, void=void)
    np.testing.assert_array_equal(aware, group_advantages(rewards, size, void=void))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=5, max_size=5), st.integers(2, 7), st.floats(0, 1))
def test_identical_workflows_stay_exactly_tied(row, size, reward):
    aware = workflow_aware_advantages(np.full(size, reward), np.tile(row, (size, 1)), size)
    np.testing.assert_array_equal(aware, np.zeros(size))


def test_heavy_weights_never_exceed_alpha():
    features = np.array([[1.0] * 5, [0.0] * 5])
    aware = workflow_aware_advantages(np.zeros(2), features, 2, alpha=0.1, weights=(3, 3, 3, 3, 3))
    np.testing.assert_allclose(aware, [0.1, -0.1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 3}, "4 rewards do not fill groups of 3"),
        ({"rewards": np.array([0.0, np.inf, 0.0, 0.0])}, "rollout 1 is not finite"),
        ({"features": np.full((4, 5), 1.5)}, r"feature 0 of rollout 0 is 1.5, outside \[0, 1\]"),
        ({"features": np.zeros((4, 3))}, "features must have the shape"),
        ({"scale": "std"}, "scale must be group, batch or none"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"rewards": np.zeros(4), "features": np.zeros((4, 5)), "group_size": 2} | change
    with pytest.raises(ValueError, match=message):
        workflow_aware_advantages(**arguments)


def test_statistics_count_only_what_is_live():
    rewards = np.array([1.0, 0.0, 0.5, 0.5, np.nan, 1.0])
    void = np.array([False, False, False, False, True, False])
    statistics = reward_statistics(rewards, 2, void=void)
    assert statistics == pytest.approx(
        {"reward": 0.6, "reward_std": np.sqrt(0.5) / 2, "frac_reward_zero_std": 0.5, "void_ratio": 1 / 6}
    )
    assert reward_statistics(np.full(2, np.nan), 2, void=np.array([True, True])) == {"void_ratio": 1.0}
