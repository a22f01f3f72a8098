"""A small model and a trained adapter on it, to be exchanged with other libraries."""

from pathlib import Path

import jax
import numpy as np
import pytest
from exchange import CONFIG, LOGITS
from golden_models import write_model

from aflow_jax.qwen2 import TARGETS, Adapter, init_adapter, load_pretrained


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return write_model(CONFIG, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def adapter() -> Adapter:
    new = init_adapter(CONFIG, 3, 6, TARGETS, jax.random.key(1), dropout=0.1)
    noise = np.random.default_rng(5)
    return new.replace_weights(
        jax.tree.map(lambda leaf: leaf + 0.1 * noise.standard_normal(leaf.shape, np.float32), new.weights)
    )


@pytest.fixture(scope="session")
def expected(base, adapter) -> np.ndarray:
    """Our logits with the adapter, which no exchange may change."""
    return np.asarray(LOGITS(load_pretrained(base, "float32"), adapter))
