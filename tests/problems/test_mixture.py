"""Drawing a set of problems: exact shares, no repeats, nothing held out."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_jax.problems import Problem, apportion, content_hash, draw_mixture, generate_problems

THIRDS = {"math": 0.333, "code": 0.333, "qa": 0.334}
WORDS = "abcdefghijklmnopqrst"


def pool(**sizes: int) -> list[Problem]:
    domains = {"gsm8k": "math", "math": "math", "mbpp": "code", "drop": "qa", "mmlu": "qa"}
    return [
        Problem(f"{source} {WORDS[n % 20]} {WORDS[n // 20]} {n}", "1", source, domains[source], id=f"{source}/{n}")
        for source, size in sizes.items()
        for n in range(size)
    ]


@given(st.integers(0, 500), st.lists(st.integers(1, 60), min_size=1, max_size=5))
@settings(max_examples=80, deadline=None)
def test_apportionment_sums_and_stays_within_one_of_the_exact_share(total: int, weights: list[int]):
    counts = apportion(total, {str(n): weight for n, weight in enumerate(weights)})
    assert sum(counts.values()) == total
    for n, weight in enumerate(weights):
        assert abs(counts[str(n)] - total * weight / sum(weights)) < 1


def test_domains_and_sources_have_their_exact_shares():
    drawn = draw_mixture(pool(gsm8k=90, math=90, mbpp=90, drop=90, mmlu=90), 100, THIRDS, seed=1)
    # drop weighs .25 and mmlu .15 in configs/datasets.yaml: 34 · 25/40 = 21.25.
    assert Counter(problem.source for problem in drawn.problems) == {
        "gsm8k": 17, "math": 16, "mbpp": 33, "drop": 21, "mmlu": 13,
    }  # fmt: skip
    assert not drawn.short


def test_what_a_source_lacks_the_others_give_then_the_filling_and_then_it_is_short():
    def fill(domain: str) -> list[Problem]:
        return generate_problems(domain, 5 if domain == "code" else 50, 0)

    drawn = draw_mixture(pool(gsm8k=3, math=90, mbpp=20, drop=4), 100, THIRDS, seed=1, fill=fill)
    assert Counter(problem.source for problem in drawn.problems) == {
        "gsm8k": 3, "math": 30, "mbpp": 20, "synthetic_code": 5, "drop": 4, "synthetic_qa": 30,
    }  # fmt: skip
    assert drawn.short == {"code": 8}


def test_the_same_seed_draws_the_same_and_another_another():
    first, again, other = (draw_mixture(pool(gsm8k=90, mbpp=90, drop=90), 30, THIRDS, seed) for seed in (1, 1, 2))
    assert first == again
    assert {problem.id for problem in first.problems} != {problem.id for problem in other.problems}


def test_no_problem_is_drawn_twice_or_held_out_and_each_reason_is_counted():
    long = "Ada counts the trays that are left on the shelf at noon, and doubles what she finds by night: how many"
    held = [Problem(f"{long} 1?", "1", "math", "math"), Problem(f"{long} 2?", "1", "math", "math")]
    problems = [
        held[0],
        Problem(f"{long.replace('Ada', 'Eve')} 2?", "1", "gsm8k", "math"),
        *[Problem(f"{long} 3?", "1", "gsm8k", "math")] * 2,
        Problem(f"{long.replace('Ada', 'Eve')} 3?", "1", "gsm8k", "math"),
    ]
    drawn = draw_mixture(problems, 10, {"math": 1}, seed=1, held_out=held)
    assert len(drawn.problems) == 1
    assert drawn.short == {"math": 9}
    assert drawn.removed["math", "held out"] == drawn.removed["gsm8k", "nearly held out"] == 1
    assert drawn.removed["gsm8k", "duplicate"] + drawn.removed["gsm8k", "nearly a duplicate"] == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_the_splits_of_generated_problems_share_nothing(seed: int):
    test, train = (generate_problems(None, count, seed, split) for count, split in ((60, "test"), (300, "train")))
    drawn = draw_mixture(train, 90, THIRDS, seed, held_out=test).problems
    assert len(drawn) == 90
    assert not {content_hash(problem) for problem in drawn} & {content_hash(problem) for problem in test}
