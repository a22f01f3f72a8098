"""A tiny Qwen2.5 with an adapter that does something, shared by the tests of this room."""

import jax
import pytest

from aflow_jax.qwen2 import Qwen2Config, init_adapter, init_random


@pytest.fixture(scope="session")
def model():
    config = Qwen2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=97,
        tie_word_embeddings=True,
    )
    # Weights 10 times the usual ones: otherwise every next token is equally likely.
    return jax.tree.map(
        lambda weight: weight * 10 if weight.ndim > 1 else weight, init_random(config, jax.random.key(0))
    )


@pytest.fixture(scope="session")
def adapter(model):
    fresh = init_adapter(model.config, 4, 8, "q_proj,v_proj,down_proj", jax.random.key(1))
    keys = iter(jax.random.split(jax.random.key(2), 32))
    return fresh.replace_weights(
        jax.tree.map(lambda weight: 0.05 * jax.random.normal(next(keys), weight.shape), fresh.weights)
    )
