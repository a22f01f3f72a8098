"""Models with quantised weights: the same as with the matrices that they stand for, on every path and from a file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import LENGTHS, SHAPES, make_model, tokens, write_model

from aflow_jax.grpo import token_logprobs
from aflow_jax.qwen2 import (
    Qwen2,
    decode_step,
    init_adapter,
    init_random,
    load_pretrained,
)
from aflow_jax.qwen2.matmul import matmul
from aflow_jax.qwen2.quantize import QUANTIZATIONS, QuantizedWeight, dequantize, quantize

CONFIG = SHAPES["heads 4 over 4, untied"].config()
# Compiled without optimisation, which takes XLA far longer than the run.
QUICK = {"xla_backend_optimization_level": 0}


def unpacked(model: Qwen2) -> Qwen2:
    """Return the model with plain arrays in place of quantised weights."""

    def plain(weight):
        return jax.lax.map(dequantize, weight) if isinstance(weight, QuantizedWeight) else weight

    return jax.tree.map(plain, model, is_leaf=lambda leaf: isinstance(leaf, QuantizedWeight))


@pytest.fixture(scope="module", params=QUANTIZATIONS)
def quantized(request, tmp_path_factory) -> Qwen2:
    return make_model(CONFIG, tmp_path_factory.mktemp("model")).quantized(request.param)


def test_every_path_gives_what_the_dequantised_matrices_give(quantized):
    rows, adapter = tokens(), init_adapter(CONFIG, 2, 2, "q_proj,o_proj,up_proj,down_proj", jax.random.key(0))
    filled = jax.tree.map(lambda leaf: leaf + 0.02, adapter.weights)

    def evaluate(model: Qwen2, remat: str) -> tuple:
        def loss(weights: dict) -> jax.Array:
            logprobs = token_logprobs(model, adapter.replace_weights(weights), rows, LENGTHS, remat=remat)
            return logprobs.sum()

        hidden, cache = model.prefill(rows[:, :-1], np.maximum(LENGTHS - 1, 1), cache_length=24)
        after, _ = decode_step(model.unstacked(None), rows[:, -1], np.maximum(LENGTHS - 1, 1), cache)
        return hidden, after, model.logits(rows), jax.value_and_grad(loss)(filled)

    evaluate = jax.jit(evaluate, static_argnums=1, compiler_options=QUICK)
    found, expected = evaluate(quantized, "full"), evaluate(unpacked(quantized), "none")
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_a_file_is_quantised_as_its_float32_weights_are(tmp_path, kind, dtype):
    folder = write_model(CONFIG, tmp_path)
    loaded, exact = load_pretrained(folder, dtype, kind), load_pretrained(folder).quantized(kind)
    assert loaded.dtype == dtype
    for name, weight in loaded.layer_weights().items():
        other = exact.layer_weights()[name]
        assert weight.dtype == dtype
        if not isinstance(weight, QuantizedWeight):
            np.testing.assert_array_equal(weight, other.astype(dtype))
            continue
        assert weight.shape == other.shape
        # Of another compiled program the last bit of a logarithm, and with it a code in a thousand, may differ.
        assert np.mean(np.asarray(weight.codes) != np.asarray(other.codes)) < 1e-3
        for found, expected in zip(jax.tree.leaves(weight), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(np.float32(found), np.float32(expected), rtol=1e-5, atol=1)


def test_random_models_are_made_quantised(quantized):
    kind = quantized.layer_weights()["q_proj"].kind
    made = init_random(CONFIG, jax.random.key(0), jnp.float16, kind)
    expected = init_random(CONFIG, jax.random.key(0), jnp.float16).quantized(kind)
    assert jax.tree.structure(made) == jax.tree.structure(expected)
    for found, exact in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        assert found.shape == exact.shape
        assert found.dtype == exact.dtype
        np.testing.assert_allclose(np.float32(found), np.float32(exact), rtol=1e-5, atol=1)


@pytest.mark.parametrize(("kind", "codes"), [("int8", "s8["), ("nf4", "u8[")])
def test_a_loop_holds_its_weights_quantised(kind, codes):
    weight = quantize(jnp.ones((256, 256)), kind)

    def loop(inputs: jax.Array, weight: QuantizedWeight) -> jax.Array:
        return jax.lax.fori_loop(0, 100, lambda _, state: jnp.tanh(matmul(state, weight)), inputs)

    lines = jax.jit(loop).lower(jnp.ones((2, 256)), weight).compile().as_text().splitlines()
    (carried,) = (line for line in lines if " while(" in line)
    assert codes in carried
    assert "f32[256,256]" not in carried, "dequantised before the loop, for all of its steps"
