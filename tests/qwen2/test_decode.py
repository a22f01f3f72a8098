"""Prefill and decoding give what one full forward pass gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import SHAPES, VOCABULARY, make_model

from aflow_jax.qwen2 import KVCache, Sharing, decode_step, decode_tokens, empty_cache, init_adapter
from aflow_jax.qwen2.attention import cached_attention

PROMPT_LENGTHS = np.array([6, 1, 4], np.int32)
STEP = jax.jit(lambda model, tokens, positions, cache: model.decode_step(tokens, positions, cache))
PROMPT_WIDTH, CACHE_LENGTH, STEPS = 8, 16, 5


@pytest.mark.parametrize(
    ("name", "with_adapter"), [("heads 14 over 2, tied (0.5B)", True), ("heads 8 over 1, untied", False)]
)
def test_prefill_then_decoding_equals_the_full_forward_pass(name, with_adapter, tmp_path):
    model = make_model(SHAPES[name].config(), tmp_path)
    adapter = None
    if with_adapter:
        adapter = init_adapter(model.config, 4, 8, "q_proj,v_proj,o_proj,up_proj", jax.random.key(0), dropout=0.5)
        adapter = adapter.replace_weights(jax.tree.map(lambda leaf: leaf + 0.05, adapter.weights))
    rows = np.random.default_rng(0).integers(0, VOCABULARY, (3, CACHE_LENGTH)).astype(np.int32)

    full = np.asarray(jax.jit(lambda model, adapter: model.logits(rows, None, adapter))(model, adapter))
    prefill = jax.jit(lambda model, adapter, tokens: model.prefill(
        tokens, PROMPT_LENGTHS, adapter, cache_length=CACHE_LENGTH))  # fmt: skip
    hidden, cache = prefill(model, adapter, rows[:, :PROMPT_WIDTH])
    weights = jax.jit(lambda model, adapter: model.unstacked(adapter))(model, adapter)
    step = jax.jit(decode_step)

    for count in range(STEPS):
        expected = full[np.arange(3), PROMPT_LENGTHS - 1 + count]
        np.testing.assert_allclose(weights.unembed(hidden), expected, atol=1e-5 * np.abs(full).max(), rtol=0)
        positions = PROMPT_LENGTHS + count
        hidden, cache = step(weights, rows[np.arange(3), positions], positions, cache)


@pytest.mark.parametrize("name", ["heads 14 over 2, tied (0.5B)", "heads 8 over 1, untied"])
@pytest.mark.parametrize("count", [1, 3])
def test_rows_that_share_a_prompt_are_decoded_as_if_each_had_its_own(name, count, tmp_path):
    model = make_model(SHAPES[name].config(), tmp_path)
    random = np.random.default_rng(0)
    lengths, prompt_of = np.array([6, 4], np.int32), np.array([1, 0, 1, 1])
    prompts = random.integers(0, VOCABULARY, (2, 6)).astype(np.int32)
    new = random.integers(0, VOCABULARY, (4, 6)).astype(np.int32)
    _, whole = model.prefill(prompts, lengths, cache_length=6)
    # Pages of 4 tokens: the first prompt is in pages 3 and 0, the second one in page 2, and page 1 is free.
    held = KVCache(
        keys=tuple(pages(at.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1) for at in whole.keys),
        values=tuple(pages(at.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for at in whole.values),
    )
    sharing = Sharing(
        lengths=np.array([2, 0, 4, 4], np.int32),
        readers=np.array([[1, 0, 0], [0, 0, 0], [3, 0, 2], [1, 0, 0]], np.int32),
        pages=np.array([[2, 1], [3, 0], [2, 0], [2, 3]], np.int32),
        prompt_lengths=lengths[prompt_of],
        reader=np.array([1, 0, 2, 0], np.int32),
    )
    cache = empty_cache(model.config, batch=4, length=8, dtype=model.dtype)
    weights, run = model.unstacked(None), jax.jit(decode_tokens)
    for at in range(0, 6, count):
        hidden, cache = run(weights, new[:, at : at + count], lengths[prompt_of] + at, cache, (held, sharing))
        for row in range(4):
            prompt = prompts[prompt_of[row], : lengths[prompt_of[row]]]
            text = np.concatenate([prompt, new[row, : at + count]])
            expected = model.logits(text[None])[0, -count:]
            np.testing.assert_allclose(weights.unembed(hidden[row]), expected, atol=2e-5, rtol=1e-4)


def pages(of_prompts):
    """Cut [2, 6, ...] as the test above has it; a free page holds anything finite."""
    first, second = np.asarray(of_prompts)
    cut = np.full((4, 4, *first.shape[1:]), 1e3, first.dtype)
    cut[3], cut[0, :2], cut[2] = first[:4], first[4:], second[:4]
    return cut


def test_a_row_that_sees_nothing_is_finite(tmp_path):
    model = make_model(SHAPES["heads 4 over 4, tied"].config(), tmp_path)
    nothing = np.zeros(1, np.int32)
    sharing = Sharing(
        lengths=nothing, readers=nothing[None], pages=nothing[None], prompt_lengths=nothing, reader=nothing
    )
    held, cache = (empty_cache(model.config, batch=1, length=4, dtype=model.dtype) for _ in range(2))
    hidden, _ = decode_step(model.unstacked(None), nothing, nothing - 1, cache, (held, sharing))
    assert np.isfinite(hidden).all()


def test_attention_to_a_long_prompt_does_not_overflow_float16():
    places, width = 4096, 8
    query, keys = jnp.zeros((1, 1, 1, width), jnp.float16), jnp.zeros((1, 1, width, 1), jnp.float16)
    values = jnp.full((1, 1, 1, width), 60, jnp.float16)
    held_keys, held_values = (
        jnp.zeros((1, 1, width, places), jnp.float16),
        jnp.full((1, 1, places, width), 60, jnp.float16),
    )
    one = np.zeros(1, np.int32)
    sharing = Sharing(lengths=one + places, readers=one[None], pages=one[None], prompt_lengths=one + places, reader=one)
    attended = cached_attention(query, keys, values, one[None], (held_keys, held_values, sharing, 1))
    np.testing.assert_allclose(attended, 60, rtol=1e-3)


def test_decoding_from_an_empty_cache_needs_no_prefill(tmp_path):
    model = make_model(SHAPES["heads 4 over 4, tied"].config(), tmp_path)
    rows = np.random.default_rng(1).integers(0, VOCABULARY, (2, 6)).astype(np.int32)
    cache = empty_cache(model.config, batch=2, length=8, dtype=model.dtype)
    for at in range(6):
        hidden, cache = STEP(model, rows[:, at], np.full(2, at, np.int32), cache)
    logits = jax.jit(lambda model: model.logits(rows))(model)
    np.testing.assert_allclose(model.unembed(hidden), logits[:, -1], atol=1e-5, rtol=1e-5)


def test_what_lies_in_the_cache_behind_a_row_does_not_matter(tmp_path):
    model = make_model(SHAPES["heads 4 over 4, tied"].config(), tmp_path)
    rows = np.random.default_rng(1).integers(0, VOCABULARY, (2, 5)).astype(np.int32)
    lengths = np.array([5, 2], np.int32)
    _, clean = jax.jit(lambda model: model.prefill(rows, lengths, cache_length=8))(model)
    behind = np.arange(8) >= lengths[:, None, None, None]
    dirty = KVCache(
        keys=tuple(jnp.where(behind, 1e4, keys) for keys in clean.keys),
        values=tuple(jnp.where(behind.swapaxes(2, 3), 1e4, values) for values in clean.values),
    )
    outputs = [STEP(model, rows[:, 0], lengths, cache)[0] for cache in (clean, dirty)]
    np.testing.assert_array_equal(*outputs)


def test_a_prompt_wider_than_the_cache_is_refused(tmp_path):
    model = make_model(SHAPES["heads 4 over 4, tied"].config(), tmp_path)
    with pytest.raises(ValueError, match="cache_length 4"):
        model.prefill(np.zeros((1, 5), np.int32), np.array([5]), cache_length=4)
