"""Dynamic sampling: groups that teach nothing give way to further ones that do, as far as they are found."""

import asyncio
from types import SimpleNamespace

import pytest

from aflow_jax.training.refill import refill, teaches


def group(name: str, *correctness: float, void: tuple[int, ...] = ()) -> list[SimpleNamespace]:
    """Rollouts of a group; their rewards all differ, which is to play no part."""
    return [
        SimpleNamespace(
            name=f"{name}{place}",
            grade=SimpleNamespace(correctness=value, reward=place / 10),
            outcome=SimpleNamespace(is_void=place in void),
        )
        for place, value in enumerate(correctness)
    ]


def refilled(scheduled: list, further: list[list], max_rounds: int = 2):
    asked = []

    async def collect(number: int, problems: int) -> SimpleNamespace:
        asked.append((number, problems))
        return SimpleNamespace(rollouts=[rollout for one in further[number - 1] for rollout in one])

    rollouts = [rollout for one in scheduled for rollout in one]
    result = asyncio.run(refill(rollouts, 2, max_rounds, collect))
    return result, asked


def names(rollouts: list) -> str:
    return " ".join(rollout.name for rollout in rollouts)


@pytest.mark.parametrize(
    ("values", "void", "expected"),
    [((1.0, 0.2), (), True), ((1.0, 1.0), (), False), ((0.0, 0.0), (), False), ((1.0, 0.0), (1,), False)],
)
def test_a_group_teaches_where_the_correctness_of_what_is_not_void_differs(values, void, expected) -> None:
    assert teaches(group("a", *values, void=void)) is expected


def test_a_batch_that_teaches_is_left_alone() -> None:
    result, asked = refilled([group("a", 1, 0), group("b", 0, 1)], [])
    assert (names(result.chosen), result.left, asked) == ("a0 a1 b0 b1", [], [])
    assert result.metrics["dynamic_sampling/frac_without_signal"] == 0


def test_groups_are_replaced_in_as_many_rounds_as_are_needed_and_no_rollout_is_lost() -> None:
    scheduled = [group("a", 1, 1), group("b", 1, 0), group("c", 0, 0)]
    result, asked = refilled(scheduled, [[group("d", 0, 0), group("e", 0.4, 1)], [group("f", 1, 0.2)]])
    assert asked == [(1, 2), (2, 1)]
    assert names(result.chosen) == "b0 b1 e0 e1 f0 f1"
    assert names(result.left) == "a0 a1 c0 c1 d0 d1"
    assert result.metrics == {
        "dynamic_sampling/rounds": 2,
        "dynamic_sampling/groups": 6,
        "dynamic_sampling/frac_without_signal": 0,
    }


def test_the_rounds_are_capped_and_the_batch_keeps_its_size() -> None:
    result, asked = refilled([group("a", 1, 1), group("b", 1, 0)], [[group("c", 1, 1)], [group("d", 1, 1)]])
    assert asked == [(1, 1), (2, 1)]
    assert names(result.chosen) == "b0 b1 a0 a1"
    assert result.metrics["dynamic_sampling/frac_without_signal"] == 0.5
