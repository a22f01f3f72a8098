"""Few shapes serve every length and count."""

from aflow_jax.rounding import rounded_count
from aflow_jax.sampling.sizes import (
    PAGE_TOKENS,
    PREFILL_TOKENS,
    bucket,
    page_count,
    page_length,
    prefill_rows,
    prefix_room,
)


def test_buckets_and_counts_are_the_smallest_that_are_enough():
    for size, few in ((bucket, 20), (rounded_count, 40), (page_count, 90)):
        known = sorted({size(wanted) for wanted in range(1, 5000)})
        assert len(known) < few
        for wanted in range(1, 5000):
            assert size(wanted) == next(at for at in known if at >= wanted)


def test_prompts_are_run_together_up_to_a_bound_of_tokens_and_longer_ones_alone():
    for length in {bucket(length) for length in range(1, 5000)}:
        for waiting in range(1, 80):
            rows = prefill_rows(length, waiting)
            assert rows == 1 or (rows <= waiting and rows * length <= PREFILL_TOKENS)
    assert [prefill_rows(256, waiting) for waiting in (1, 3, 4, 5, 100)] == [1, 1, 4, 4, 4]
    assert prefill_rows(64, 100) == 16
    assert prefill_rows(4096, 100) == 1


def test_a_page_is_as_short_as_its_queries_let_it_be():
    for longest in (1, 64, 100, 512, 700, 3000):
        for queries in (1, 2, 7, 56):
            page = page_length(longest, queries, longest)
            assert page <= bucket(longest)
            assert page == bucket(longest) or PAGE_TOKENS * queries <= page < 2 * PAGE_TOKENS * queries
            assert bucket(longest) % page == 0
    assert page_length(20, 7, 32768) == 256, "a prompt of 32,768 tokens would be in too many pages"


def test_a_prefix_is_of_whole_pages_where_it_is_longer_than_one():
    assert [prefix_room(length, 96) for length in (64, 96, 128, 192, 256)] == [64, 96, 192, 192, 288]
