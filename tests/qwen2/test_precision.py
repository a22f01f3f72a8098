"""16-bit bases: float16 survives what overflows it, forward and backward; bfloat16 stays near float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import SHAPES, VOCABULARY, make_model

from aflow_jax.qwen2 import Qwen2, decode_step, init_adapter
from aflow_jax.qwen2.matmul import matmul, output_matmul

ROWS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 10)).astype(np.int32)
ADAPTED = "q_proj,v_proj,gate_proj,down_proj"
# Compiled without optimisation, which takes XLA far longer than the run.
QUICK = {"xla_backend_optimization_level": 0}


def relative_error(found, exact) -> float:
    found, exact = (np.asarray(array, np.float64) for array in (found, exact))
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def plant_outliers(model: Qwen2) -> Qwen2:
    """Make the first layer's MLP write about 1e6 into one channel, out of products above float16's 65,504."""
    weights = {name: np.array(weight) for name, weight in model.layer_weights().items()}
    weights["gate_proj"][0, :3] *= 220
    weights["up_proj"][0, :3] *= 220
    weights["down_proj"][0, 5, :3] = 8.0
    return Qwen2(
        model.config,
        embedding=model.embedding.get_value(),
        layers={name: jnp.asarray(weight) for name, weight in weights.items()},
        final_norm=model.final_norm.get_value(),
        lm_head=None,
    )


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Qwen2:
    return plant_outliers(make_model(SHAPES["heads 4 over 4, tied"].config(), tmp_path_factory.mktemp("model")))


def rounded(model: Qwen2) -> tuple[Qwen2, Qwen2]:
    """Return the model in float16, and in float32 with the same, rounded, weights."""
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), model)
    return half, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)


def test_float16_with_outliers_of_1e6_stays_within_2_percent_forward_and_backward(planted):
    half, exact = rounded(planted)
    residual, _ = exact._scan(ROWS, None, None, None, "none", keep_cache=False)
    assert np.abs(residual).max() > 1e6, "the planted outliers should reach the residual stream"

    adapter = init_adapter(planted.config, 2, 2, ADAPTED, jax.random.key(0))
    noise = np.random.default_rng(1)
    adapter = adapter.replace_weights(
        jax.tree.map(lambda leaf: leaf + 0.02 * noise.standard_normal(leaf.shape, np.float32), adapter.weights)
    )

    @functools.partial(jax.jit, compiler_options=QUICK)
    def evaluate(model: Qwen2) -> tuple[jax.Array, dict]:
        def loss(weights: dict) -> tuple[jax.Array, jax.Array]:
            logits = model.logits(ROWS, None, adapter.replace_weights(weights))
            # As small as one token's share of a large batch: gradients are below what float16 can hold.
            return 1e-5 * jnp.mean(jax.nn.log_softmax(logits)[..., 0]), logits

        gradients, logits = jax.grad(loss, has_aux=True)(adapter.weights)
        return logits, gradients

    (logits, gradients), (exact_logits, exact_gradients) = evaluate(half), evaluate(exact)
    assert np.isfinite(logits).all()
    assert relative_error(logits, exact_logits) < 2e-2
    errors = jax.tree.map(relative_error, gradients, exact_gradients)
    assert max(jax.tree.leaves(errors)) < 2e-2, errors


def test_float16_decodes_as_it_prefills(planted):
    half, _ = rounded(planted)
    positions = np.array([9, 9], np.int32)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def evaluate(model: Qwen2) -> tuple:
        before, cache = model.prefill(ROWS[:, :9], positions, cache_length=12)
        after, cache = decode_step(model.unstacked(), ROWS[:, 9], positions, cache)
        return model.logits(ROWS), before, after, cache

    full, before, after, cache = evaluate(half)
    assert before.dtype == after.dtype == cache.keys[0].dtype == half.dtype == jnp.float16
    assert relative_error(half.unembed(before), full[:, 8]) < 5e-3
    assert relative_error(half.unembed(after), full[:, 9]) < 1e-2


@pytest.mark.parametrize("product", [matmul, output_matmul])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_float16_products_hold_for_rows_of_any_size(product, scale):
    noise = np.random.default_rng(0)
    inputs = np.float32(scale * noise.standard_normal((3, 64)))
    inputs[1] = 0
    weight = noise.standard_normal((5, 64)).astype(np.float16)
    found, pull = jax.vjp(lambda inputs: product(inputs, jnp.asarray(weight)), jnp.asarray(inputs))
    assert found.dtype == jnp.float32
    exact = np.float64(inputs) @ np.float64(weight).T
    assert relative_error(found, exact) < 1e-3
    assert not np.asarray(found[1]).any()
    gradient = np.float32(scale * noise.standard_normal((3, 5)))
    assert relative_error(pull(jnp.asarray(gradient))[0], np.float64(gradient) @ np.float64(weight)) < 1e-3
