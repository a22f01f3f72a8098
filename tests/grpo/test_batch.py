"""Batches: what the rows hold, and that microbatches lose and invent nothing, and share what prompts have in common."""

import numpy as np
import pytest

from aflow_jax.grpo.batch import Batch
from aflow_jax.grpo.microbatches import bucket, split_into_microbatches

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


def sequences(part):
    """Each loss token of a microbatch: (its row of the batch, its place, the sequence up to it)."""
    packing, width = part.packing, part.mask.shape[1]
    samples = packing.lengths.shape[1]
    for at, column in np.argwhere(part.mask):
        group, sample = divmod(int(at), samples)
        prompt = part.tokens[group, : packing.prompt_lengths[group]]
        completion = part.tokens[group, packing.prompt_width + sample * width :][: column + 1]
        yield at, column, (*prompt.tolist(), *completion.tolist())


def read_back(parts):
    """Every loss token of the microbatches: (advantage, logprob, the sequence up to it) in a set."""
    return {
        (float(part.advantages[at]), round(float(part.logprobs[at, column]), 4), sequence)
        for part in parts
        for at, column, sequence in sequences(part)
    }


def expected(rows):
    return {
        (row + 1.0, round(-0.1 * token, 4), tuple(PROMPTS[row] + COMPLETIONS[row][: at + 1]))
        for row in rows
        for at, token in enumerate(COMPLETIONS[row])
    }


def test_rows_are_prompt_then_completion():
    batch = make_batch()
    np.testing.assert_array_equal(batch.tokens[0, :6], [5, 6, 7, 20, 21, 0])
    np.testing.assert_array_equal(np.flatnonzero(batch.loss_mask[0]), [3, 4])
    np.testing.assert_array_equal(batch.lengths, [5, 4, 3, 44, 2])


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 50])
@pytest.mark.parametrize("prompts", [PROMPTS, [[5, 6, 7]] * 5, [[8], [9, 10], [8], [9, 10], [8]]])
def test_every_loss_token_is_in_exactly_one_microbatch(rows, prompts, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PROMPTS", prompts)
    parts = split_into_microbatches(make_batch(prompts=prompts), rows)
    assert read_back(parts) == expected(range(5))
    assert sum(int(part.mask.sum()) for part in parts) == sum(map(len, COMPLETIONS))
    for part in parts:
        assert part.whole_sequences <= rows
        assert np.all((part.packing.prompt_lengths >= 1) & (part.packing.prompt_lengths <= part.packing.prompt_width))


def test_void_and_truncated_rows_are_left_out():
    batch = make_batch(void=[False, True, False, False, False], truncated=[False, False, False, True, False])
    assert read_back(split_into_microbatches(batch, 2)) == expected([0, 2, 3, 4])
    assert read_back(split_into_microbatches(batch, 2, mask_truncated=True)) == expected([0, 2, 4])
    assert split_into_microbatches(make_batch(void=[True] * 5), 2) == []


def groups(problems, samples, prompt, completion, **changes):
    count = problems * samples
    return Batch.from_rollouts(
        prompts=[[1 + problem] * prompt for problem in range(problems) for _ in range(samples)],
        completions=[[2] * completion] * count,
        logprobs=[[0.0] * completion] * count,
        advantages=[0.0] * count,
        **changes,
    )


@pytest.mark.parametrize(
    ("rows", "prompt", "completion", "shapes"),
    [
        (32, 1024, 256, [(4, 8)]),  # all at once
        (2, 1024, 256, [(1, 4)] * 8),  # two whole sequences' positions hold a prompt and six completions: not eight
        (2, 1024, 128, [(1, 8)] * 4),
        (2, 256, 1024, [(1, 2)] * 16),
        (1, 1024, 128, [(1, 1)] * 32),
    ],
)
def test_completions_of_one_prompt_share_its_run_as_far_as_there_is_room(rows, prompt, completion, shapes):
    parts = split_into_microbatches(groups(4, 8, prompt, completion), rows)
    assert [part.packing.lengths.shape for part in parts] == shapes
    assert all(part.tokens.size <= rows * (prompt + completion) for part in parts)


def test_short_sequences_take_the_room_of_long_ones():
    """Where one of 4,096 tokens has room, four prompts of 256 with their eight completions of 64 have it together."""
    (part,) = split_into_microbatches(groups(4, 8, 256, 64), 1, longest=4096)
    assert part.packing.lengths.shape == (4, 8)
    parts = split_into_microbatches(groups(4, 8, 1024, 512), 2, longest=4096)
    assert [part.packing.lengths.shape for part in parts] == [(1, 8)] * 4
    assert split_into_microbatches(groups(1, 1, 4000, 500), 1, longest=4096)[0].packing.lengths.shape == (1, 1)


def test_few_void_rows_bring_no_new_shape():
    def shapes(void):
        parts = split_into_microbatches(groups(4, 8, 64, 64, void=void), 8)
        return {(part.tokens.shape, part.mask.shape) for part in parts}

    assert shapes([row in (3, 17) for row in range(32)]) <= shapes(None)


def test_where_prompts_seldom_come_twice_those_that_do_need_no_microbatch_of_their_own(monkeypatch):
    prompts = [[5, 6, 7], [8], [9, 10], [5, 6, 7], [15]]
    monkeypatch.setattr(f"{__name__}.PROMPTS", prompts)
    completions = [[20, 21], [22, 23, 24], [25], [27], [26]]
    monkeypatch.setattr(f"{__name__}.COMPLETIONS", completions)
    batch = make_batch(
        prompts=prompts, completions=completions, logprobs=[[-0.1 * token for token in row] for row in completions]
    )
    assert len(split_into_microbatches(batch, 8)) > 1
    (part,) = split_into_microbatches(batch, 8, share_prompts=False)
    assert read_back([part]) == expected(range(5))


def test_many_steps_have_few_shapes():
    """Prompts and completions as workflows have them, one in ten void; each shape is a compiled program."""
    random, shapes = np.random.default_rng(0), set()
    for _ in range(50):
        prompts = [[1 + problem] * length for problem, length in enumerate(random.integers(900, 1300, 4))]
        lengths = (250 * random.lognormal(0, 0.3, (4, 1)) * random.lognormal(0, 0.35, (4, 8))).astype(int).ravel()
        batch = Batch.from_rollouts(
            prompts=[prompt for prompt in prompts for _ in range(8)],
            completions=[[2] * length for length in lengths],
            logprobs=[[0.0] * length for length in lengths],
            advantages=[0.0] * 32,
            void=random.random(32) < 0.1,
        )
        shapes |= {(part.tokens.shape, part.mask.shape) for part in split_into_microbatches(batch, 2)}
    assert len(shapes) <= 28


def test_every_device_gets_completions_where_there_are_enough():
    """Eight devices and four prompts with eight completions each: none shares as many as would leave devices idle."""
    (part,) = split_into_microbatches(groups(4, 8, 64, 64), 32, multiple=8)
    assert part.packing.lengths.shape == (8, 4)
    assert part.mask.any(axis=1).all()


@pytest.mark.parametrize("rows", [1, 7, 16])
@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("samples", [1, 5])
def test_at_most_half_of_a_microbatch_is_padding(rows, multiple, samples):
    random = np.random.default_rng(rows)
    for _ in range(25):
        lengths = 32 + random.lognormal(4, random.uniform(0.2, 1.5), random.integers(1, 30)).astype(int)
        count = len(lengths)
        batch = Batch.from_rollouts(
            prompts=[[1 + row // samples] * (32 + row // samples) for row in range(count)],
            completions=[[2] * length for length in lengths],
            logprobs=[[0.0] * length for length in lengths],
            advantages=[0.0] * count,
        )
        parts = split_into_microbatches(batch, rows, multiple=multiple)
        assert sum(int(part.mask.sum()) for part in parts) == lengths.sum()
        for part in parts:
            assert len(part.tokens) % multiple == 0
            assert len(part.tokens) == multiple or part.packed_tokens >= 0.5 * part.tokens.size


def test_buckets_waste_at_most_half():
    sizes = sorted({bucket(length) for length in range(1, 8000)})
    assert sizes == [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 5120, 6144, 7168, 8192]
    assert all(length <= bucket(length) < 1.5 * length for length in range(32, 9000))


def test_a_loss_token_that_nothing_predicts_is_refused():
    with pytest.raises(ValueError, match="row 1 has its first token in the loss"):
        split_into_microbatches(make_batch(prompts=[[5], [], [9], [11], [15]]), 2)
