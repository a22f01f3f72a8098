"""Batches: what the rows hold, and that microbatches lose and invent nothing."""

import numpy as np
import pytest

from aflow_jax.grpo.batch import Batch, bucket, split_into_microbatches

PROMPTS = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14], [15]]
COMPLETIONS = [[20, 21], [22, 23, 24], [25], list(range(30, 70)), [26]]


def make_batch(**changes):
    arguments = {
        "prompts": PROMPTS,
        "completions": COMPLETIONS,
        "logprobs": [[-0.1 * token for token in completion] for completion in COMPLETIONS],
        "advantages": [1.0, 2.0, 3.0, 4.0, 5.0],
    }
    return Batch.from_rollouts(**arguments | changes)


def read_back(parts):
    """Every loss token of the microbatches: (advantage, token, logprob, context) in a set."""
    found = set()
    for part in parts:
        for row, column in np.argwhere(part.mask):
            position = part.starts[row] + column
            context = tuple(part.tokens[row, :position])
            token, logprob = part.tokens[row, position], part.logprobs[row, column]
            found.add((float(part.advantages[row]), int(token), round(float(logprob), 4), context))
    return found


def expected(rows):
    return {
        (row + 1.0, token, round(-0.1 * token, 4), tuple(PROMPTS[row] + COMPLETIONS[row][:at]))
        for row in rows
        for at, token in enumerate(COMPLETIONS[row])
    }


def test_rows_are_prompt_then_completion():
    batch = make_batch()
    np.testing.assert_array_equal(batch.tokens[0, :6], [5, 6, 7, 20, 21, 0])
    np.testing.assert_array_equal(np.flatnonzero(batch.loss_mask[0]), [3, 4])
    np.testing.assert_array_equal(batch.lengths, [5, 4, 3, 44, 2])


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 50])
def test_every_loss_token_is_in_exactly_one_microbatch(rows):
    parts = split_into_microbatches(make_batch(), rows)
    assert read_back(parts) == expected(range(5))
    assert sum(int(part.mask.sum()) for part in parts) == sum(map(len, COMPLETIONS))
    assert len({part.mask.shape[1] for part in parts}) == 1
    for part in parts:
        assert len(part.tokens) <= rows
        assert np.all((part.lengths >= 1) & (part.lengths <= part.tokens.shape[1]))


def test_void_and_truncated_rows_are_left_out():
    batch = make_batch(void=[False, True, False, False, False], truncated=[False, False, False, True, False])
    assert read_back(split_into_microbatches(batch, 2)) == expected([0, 2, 3, 4])
    assert read_back(split_into_microbatches(batch, 2, mask_truncated=True)) == expected([0, 2, 4])
    assert split_into_microbatches(make_batch(void=[True] * 5), 2) == []


def test_a_void_row_brings_no_new_shape():
    whole = split_into_microbatches(make_batch(), 2)
    partial = split_into_microbatches(make_batch(void=[True, False, False, False, False]), 2)
    assert {part.tokens.shape for part in partial} <= {part.tokens.shape for part in whole}


@pytest.mark.parametrize("rows", [1, 7, 16])
@pytest.mark.parametrize("multiple", [1, 4])
def test_at_most_half_of_a_microbatch_is_padding(rows, multiple):
    random = np.random.default_rng(rows)
    for _ in range(50):
        lengths = 32 + random.lognormal(4, random.uniform(0.2, 1.5), random.integers(1, 30)).astype(int)
        count = len(lengths)
        batch = Batch.from_rollouts(
            prompts=[[1]] * count,
            completions=[[2] * length for length in lengths],
            logprobs=[[0.0] * length for length in lengths],
            advantages=[0.0] * count,
        )
        parts = split_into_microbatches(batch, rows, multiple=multiple)
        assert sum(int(part.mask.sum()) for part in parts) == lengths.sum()
        for part in parts:
            used = part.lengths[part.mask.any(axis=1)].sum()
            assert len(part.tokens) % multiple == 0
            assert len(part.tokens) == multiple or used >= 0.5 * part.tokens.size


def test_buckets_waste_at_most_half():
    sizes = sorted({bucket(length) for length in range(1, 2000)})
    assert sizes == [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]
    assert all(length <= bucket(length) < 1.5 * length for length in range(32, 5000))


def test_a_loss_token_that_nothing_predicts_is_refused():
    with pytest.raises(ValueError, match="row 1 has its first token in the loss"):
        split_into_microbatches(make_batch(prompts=[[5], [], [9], [11], [15]]), 2)
