"""A tiny Qwen2.5 with its tokenizer, and an adapter that does something, shared by the tests of this room."""

import jax
import numpy as np
import pytest

from aflow_jax.qwen2 import create_checkpoint, init_adapter, load_pretrained, load_tokenizer

VOCABULARY = 320


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    create_checkpoint(
        folder,
        texts=["the quick brown fox jumps over the lazy dog " * 4],
        seed=0,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=1024,
    )
    return folder


@pytest.fixture(scope="session")
def model(folder):
    return load_pretrained(folder, "float32")


@pytest.fixture(scope="session")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def adapter(model):
    fresh = init_adapter(model.config, 4, 8, "q_proj,v_proj,down_proj", jax.random.key(1))
    generator = np.random.default_rng(0)
    # Every matrix random, B not zero: an untrained adapter would change nothing.
    return fresh.replace_weights(
        jax.tree.map(lambda leaf: generator.normal(scale=0.1, size=leaf.shape).astype(np.float32), fresh.weights)
    )


@pytest.fixture(scope="session")
def prompts():
    """Twenty random prompts of unequal length, the first one the longest."""
    generator = np.random.default_rng(5)
    lengths = [70, *generator.integers(1, 64, 19)]
    return [tuple(generator.integers(0, 250, length).tolist()) for length in lengths]
