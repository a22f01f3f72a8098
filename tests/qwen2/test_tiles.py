"""Matrices in tiles give the products of the matrices themselves."""

import jax
import numpy as np
import pytest

from aflow_jax.qwen2.matmul import matmul, output_matmul
from aflow_jax.qwen2.tiles import GROUP_BYTES, TILE, tile


@pytest.mark.parametrize(("outputs", "inputs"), [(TILE, 16), (150, 40), (6 * TILE + 1, 4000)], ids=str)
def test_a_product_with_tiles_is_the_product_with_the_matrix(outputs, inputs):
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(outputs, inputs)).astype(np.float32)
    rows = generator.normal(size=(3, 2, inputs)).astype(np.float32)
    tiled = jax.jit(tile)(weight)
    assert (len(tiled.groups) > 1) == (weight.nbytes > GROUP_BYTES)
    exact = rows.astype(np.float64) @ weight.astype(np.float64).T
    for product in (matmul, output_matmul):
        ours = jax.jit(product)(rows, tiled)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, exact, atol=1e-6 * np.abs(exact).max() * inputs**0.5)
