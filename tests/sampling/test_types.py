"""Settings out of range are refused by name."""

import pytest

from aflow_jax.errors import UserError
from aflow_jax.rounding import rounded_count
from aflow_jax.sampling import Request, SamplingParams
from aflow_jax.sampling.sizes import bucket


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", 1.0),
        ("stop_token_ids", tuple(range(9))),
        ("stop", ("",)),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(UserError, match=f"^{name} must be"):
        SamplingParams(**({"max_new_tokens": 4} | {name: value}))


def test_a_request_needs_a_prompt_and_seeds_of_32_bits():
    with pytest.raises(ValueError, match="prompt_tokens is empty"):
        Request(prompt_tokens=(), seeds=((0,),))
    for entry in ((-1,), (2**32,), (0,) * 9):
        with pytest.raises(ValueError, match="seeds"):
            Request(prompt_tokens=(1,), seeds=(entry,))


def test_buckets_are_few_and_never_too_small():
    sizes = [bucket(length) for length in range(1, 8193)]
    assert all(size >= length for length, size in enumerate(sizes, 1))
    assert sorted(set(sizes)) == [64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192]


def test_slots_are_of_few_counts_with_few_idle():
    counts = [rounded_count(wanted) for wanted in range(1, 65)]
    assert all(wanted <= count <= 1.34 * wanted for wanted, count in enumerate(counts, 1))
    assert len(set(counts)) == 16
