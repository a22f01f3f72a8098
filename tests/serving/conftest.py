"""A server of a tiny model and an adapter on it."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from served import KEY, serving

from aflow_jax.qwen2 import create_checkpoint, init_adapter, load_pretrained, load_tokenizer
from aflow_jax.sampling import Driver, Engine
from aflow_jax.serving import ServerSettings

# Words of the chat template, so that they are tokens, and prompts short.
TEMPLATE = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.\nsystem\nuser\nassistant\n"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    create_checkpoint(
        folder,
        texts=["the quick brown fox jumps over the lazy dog\n" * 4, TEMPLATE * 4],
        seed=0,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=420,
        max_position_embeddings=1024,
    )
    return folder


@pytest.fixture(scope="session")
def served_model(model_folder):
    return load_pretrained(model_folder, "float32")


@pytest.fixture(scope="session")
def engine(served_model, model_folder):
    """Of one slot, so that there are few programs: batching is shown elsewhere."""
    return Engine(served_model, load_tokenizer(model_folder), slots=1, prompt_max_length=128, chunk_length=4)


@pytest.fixture(scope="session")
def settings(served_model, engine):
    fresh = init_adapter(served_model.config, 4, 8, "q_proj,v_proj", jax.random.key(1))
    generator = np.random.default_rng(0)
    adapter = fresh.replace_weights(
        jax.tree.map(lambda leaf: generator.normal(scale=0.3, size=leaf.shape).astype(np.float32), fresh.weights)
    )
    return ServerSettings(
        adapters={"base": None, "policy": adapter},
        tokenizer=engine.tokenizer,
        vocab_size=served_model.config.vocab_size,
        max_model_len=128,
        max_body_bytes=20_000,
    )


@pytest.fixture(scope="session")
def server(engine, settings):
    with Driver(engine, max_waiting=512) as driver, serving(driver, settings) as served:
        yield served


@pytest.fixture(scope="session")
def locked_server(engine, settings):
    """One that demands a key."""
    with Driver(engine) as driver, serving(driver, replace(settings, api_key=KEY)) as served:
        yield served


@pytest.fixture(scope="session")
def wide_engine(served_model, model_folder):
    """Of several slots, for long completions."""
    return Engine(served_model, load_tokenizer(model_folder), slots=8, prompt_max_length=1024, chunk_length=2)


@pytest.fixture(scope="session")
def wide_settings(settings):
    return replace(settings, max_model_len=1024)
