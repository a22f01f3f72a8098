"""Token log-probabilities in chunks: the values and gradients of the whole, in a fraction of the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aflow_jax.grpo.logprobs import _chunk_statistics, _logprob_slope, target_statistics, token_logprobs
from aflow_jax.qwen2 import Qwen2Config, init_random

LENGTHS = jnp.array([11, 4, 1])


@pytest.fixture(scope="module")
def tokens(model):
    return jax.random.randint(jax.random.key(3), (3, 11), 0, model.config.vocab_size)


def whole_distribution(model, adapter, tokens, temperature):
    return jax.nn.log_softmax(model.logits(tokens, LENGTHS, adapter) / temperature)


@pytest.mark.parametrize("chunk", [1, 7, 1000, None])
@pytest.mark.parametrize("temperature", [1.0, 0.15])
def test_each_position_holds_the_logprob_of_its_token(model, adapter, tokens, temperature, chunk):
    logprobs = token_logprobs(model, adapter, tokens, LENGTHS, temperature, chunk=chunk)
    distribution = np.asarray(whole_distribution(model, adapter, tokens, temperature))
    for row, length in enumerate(LENGTHS):
        assert logprobs[row, 0] == 0
        for t in range(1, length):
            assert logprobs[row, t] == pytest.approx(distribution[row, t - 1, tokens[row, t]], abs=1e-5)
        assert np.all(np.asarray(logprobs)[row, int(length) :] == 0)


@pytest.mark.parametrize("chunk", [4, None])
def test_gradient_equals_that_of_whole_logits(model, adapter, tokens, chunk):
    weight = jax.random.normal(jax.random.key(4), (3, 10))
    entropy_weight = jax.random.normal(jax.random.key(5), (3, 10))

    def chunked(weights):
        hidden = model.hidden(tokens, None, adapter.replace_weights(weights))
        logprobs, entropies = target_statistics(
            model, hidden[:, :-1], tokens[:, 1:], 0.7, chunk=chunk, entropy_gradient=True
        )
        return (weight * logprobs + entropy_weight * entropies).sum()

    def whole(weights):
        logits = model.logits(tokens, None, adapter.replace_weights(weights))[:, :-1] / 0.7
        distribution = jax.nn.log_softmax(logits)
        logprobs = jnp.take_along_axis(distribution, tokens[:, 1:, None], -1)[..., 0]
        entropies = -(jnp.exp(distribution) * distribution).sum(-1)
        return (weight * logprobs + entropy_weight * entropies).sum()

    value, gradient = jax.jit(jax.value_and_grad(chunked))(adapter.weights)
    expected, expected_gradient = jax.jit(jax.value_and_grad(whole))(adapter.weights)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    for got, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_entropy_has_no_gradient_unless_asked(model, tokens):
    hidden = model.hidden(tokens)[:, :-1]

    def entropy(hidden):
        return target_statistics(model, hidden, tokens[:, 1:], 1.0)[1].sum()

    np.testing.assert_array_equal(jax.grad(entropy)(hidden), jnp.zeros_like(hidden))


def test_logits_of_all_positions_are_never_held():
    config = Qwen2Config(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=50_000,
        tie_word_embeddings=True,
    )
    model = jax.eval_shape(lambda: init_random(config, jax.random.key(0)))
    batch, width, chunk = 4, 256, 64

    def gradient(model, hidden, targets):
        def loss(hidden):
            logprobs, entropies = target_statistics(model, hidden, targets, 1.0, chunk=chunk)
            return (logprobs + entropies).sum()

        return jax.value_and_grad(loss)(hidden)

    hidden = jax.ShapeDtypeStruct((batch, width, config.hidden_size), jnp.float32)
    targets = jax.ShapeDtypeStruct((batch, width), jnp.int32)
    temporary = jax.jit(gradient).lower(model, hidden, targets).compile().memory_analysis().temp_size_in_bytes
    chunk_bytes = chunk * config.vocab_size * 4
    assert temporary < 5 * chunk_bytes < 0.35 * batch * width * config.vocab_size * 4


def test_the_slope_of_large_logits_is_as_exact_as_that_of_small_ones():
    # Integers, so that float32 holds them and their differences whatever is added to them.
    small = np.random.default_rng(0).integers(-8, 8, (4, 300)).astype(np.float32)
    targets = np.arange(4)
    for offset in (0.0, 1e4, -1e4):
        _, _, distribution = jax.jit(_chunk_statistics)(small + np.float32(offset), targets)
        weights = np.exp(small.astype(np.float64))
        exact = (np.arange(300) == targets[:, None]) - weights / weights.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(jax.jit(_logprob_slope)(distribution, targets), exact, rtol=2e-6, atol=1e-9)
