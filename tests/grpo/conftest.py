"""A tiny Qwen2.5 with an adapter that does something, shared by the tests of this room."""

import jax
import pytest

from aflow_jax.qwen2 import Qwen2Config, init_adapter, init_random

CONFIG = Qwen2Config(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=97,
    tie_word_embeddings=True,
)


@pytest.fixture(scope="session")
def model():
    # Matrices 2 times the usual ones: otherwise every next token is equally likely.
    return jax.jit(
        lambda key: jax.tree.map(lambda weight: weight * 2 if weight.ndim > 1 else weight, init_random(CONFIG, key))
    )(jax.random.key(0))


@pytest.fixture(scope="session")
def adapter():
    def make(key):
        fresh = init_adapter(CONFIG, 4, 8, ("q_proj", "v_proj", "down_proj"), key)
        leaves, structure = jax.tree.flatten(fresh)
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(
            structure, [0.05 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
        )

    return jax.jit(make)(jax.random.key(1))
