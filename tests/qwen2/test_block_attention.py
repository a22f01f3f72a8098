"""Attention in blocks, its values and gradients against the dense formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aflow_jax.qwen2.block_attention import block_attention

ROWS, HEADS, GROUPS, WIDTH = 2, 6, 2, 8
BOTH = jax.jit(lambda arrays, gradient: (block_attention(*arrays), jax.vjp(block_attention, *arrays)[1](gradient)))


def arrays(length: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Query, key, value, and a gradient of the output."""
    chance = np.random.default_rng(length)
    shapes = [(ROWS, length, count, WIDTH) for count in (HEADS, GROUPS, GROUPS, HEADS)]
    *inputs, gradient = (chance.standard_normal(shape, np.float32) for shape in shapes)
    return [2 * inputs[0], *inputs[1:]], gradient


def dense(inputs: list[np.ndarray], gradient: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The output and the gradients of query, key and value, in float64 and with every score held."""
    query, key, value, gradient = (array.astype(np.float64) for array in (*inputs, gradient))
    key, value = (np.repeat(array, HEADS // GROUPS, axis=2) for array in (key, value))
    scores = np.einsum("bthw,bshw->bhts", query, key) * WIDTH**-0.5
    scores = np.where(np.tri(query.shape[1], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    slopes = np.einsum("bthw,bshw->bhts", gradient, value)
    slopes = weights * (slopes - (weights * slopes).sum(axis=-1, keepdims=True)) * WIDTH**-0.5

    def grouped(each: np.ndarray) -> np.ndarray:
        return each.reshape(*each.shape[:2], GROUPS, -1, WIDTH).sum(axis=3)

    return np.einsum("bhts,bshw->bthw", weights, value), [
        np.einsum("bhts,bshw->bthw", slopes, key),
        grouped(np.einsum("bhts,bthw->bshw", slopes, query)),
        grouped(np.einsum("bhts,bthw->bshw", weights, gradient)),
    ]


@pytest.mark.parametrize("length", [1, 300], ids=["one token", "several blocks, the last one short"])
def test_values_and_gradients_are_the_dense_formulas(length):
    inputs, gradient = arrays(length)
    out, slopes = BOTH(inputs, gradient)
    expected, expected_slopes = dense(inputs, gradient)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    for found, wanted in zip(slopes, expected_slopes, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("starts", [(0, 0), (70, 3), (170, 170)])
def test_queries_may_start_behind_the_first_key(starts):
    """As in the rows whole, of which only these positions' outputs are looked at."""
    (query, key, value), gradient = arrays(300)
    length = 130
    inside = np.arange(length) + np.array(starts)[:, None]

    def own(heads):
        return np.take_along_axis(heads, inside[..., None, None], axis=1)

    rest = np.zeros_like(gradient)
    np.put_along_axis(rest, inside[..., None, None], own(gradient), axis=1)
    expected, slopes = dense([query, key, value], rest)
    out, pull = jax.vjp(lambda *heads: block_attention(*heads, np.array(starts)), own(query), key, value)
    np.testing.assert_allclose(out, own(expected), atol=2e-6)
    for found, wanted in zip(pull(own(gradient)), (own(slopes[0]), *slopes[1:]), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_no_array_of_all_scores_is_held():
    """At 2048 tokens they would take 400 MB, forward or backward."""
    length = 2048
    shapes = [jax.ShapeDtypeStruct((ROWS, length, count, WIDTH), jnp.float32) for count in (HEADS, GROUPS, GROUPS)]
    compiled = BOTH.lower(shapes, shapes[0]).compile()
    all_scores = 4 * ROWS * HEADS * length**2
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * all_scores


def test_bfloat16_gives_its_own_dtype_within_its_precision():
    inputs, gradient = arrays(130)
    out, slopes = BOTH([jnp.bfloat16(array) for array in inputs], jnp.bfloat16(gradient))
    expected, expected_slopes = dense(inputs, gradient)
    assert {array.dtype for array in (out, *slopes)} == {jnp.dtype(jnp.bfloat16)}
    for found, wanted in zip((out, *slopes), (expected, *expected_slopes), strict=True):
        assert np.abs(np.float64(found) - wanted).max() < 0.02 * np.abs(wanted).max()
