"""Few shapes serve every length and count."""

from aflow_jax.sampling.sizes import PREFILL_TOKENS, bucket, prefill_rows, slot_count


def test_buckets_and_counts_are_the_smallest_that_are_enough():
    for size in (bucket, slot_count):
        known = sorted({size(wanted) for wanted in range(1, 5000)})
        assert len(known) < 40
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
