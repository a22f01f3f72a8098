"""Quantised weights: the codes that bitsandbytes has, bytes at every size, and products that keep nothing unpacked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aflow_jax.qwen2 import PUBLISHED_SIZES, init_random, published_shape, quantized_product
from aflow_jax.qwen2.matmul import matmul
from aflow_jax.qwen2.quantize import BLOCK, NF4_LEVELS, QUANTIZATIONS, QuantizedWeight, dequantize, quantize

_quantize = jax.jit(quantize, static_argnames=("kind", "dtype"))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def relative_error(found, exact) -> float:
    found, exact = (np.asarray(array, np.float64) for array in (found, exact))
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def unpacked_codes(weight: QuantizedWeight) -> np.ndarray:
    """NF4 codes [O, N, 64] in the order of the weights."""
    bytes_ = np.asarray(weight.codes).reshape(weight.shape[0], -1, BLOCK)
    return np.stack([bytes_ & 15, bytes_ >> 4], axis=2).reshape(weight.shape[0], -1, BLOCK)


def test_int8_rounds_each_channel_to_127ths_of_its_largest():
    weight = np.array([[1.27, -0.5, 0.004, 0.006], [0, 0, 0, 0], [-2.54, 0.02, 2.53, 0]], np.float32)
    found = _quantize(weight, "int8")
    np.testing.assert_array_equal(found.codes, [[127, -50, 0, 1], [0, 0, 0, 0], [-127, 1, 126, 0]])
    np.testing.assert_allclose(dequantize(found), [[1.27, -0.5, 0, 0.01], [0] * 4, [-2.54, 0.02, 2.52, 0]], atol=1e-6)


def test_nf4_keeps_its_16_levels_exactly_at_any_scale():
    # Powers of two within 8 octaves are scales that 8 bits of logarithm, 255 steps apart, can be trusted with.
    blocks = np.tile(NF4_LEVELS, (6, 4)) * np.float32([[1], [8], [8], [1], [1], [8]])
    found = _quantize(blocks.reshape(2, 3 * BLOCK), "nf4")
    np.testing.assert_array_equal(unpacked_codes(found)[0, 0], np.tile(np.arange(16), 4))
    np.testing.assert_allclose(dequantize(found), blocks.reshape(2, -1), rtol=1e-6)


def test_a_block_of_outliers_or_zeros_leaves_the_others_their_scales():
    weight = normal(16, 1024)
    weight[3, :64] *= 1e4
    weight[5, 64:128] = 0
    found = np.asarray(dequantize(_quantize(weight, "nf4")))
    assert not found[5, 64:128].any()
    # Rounding a scale's logarithm costs half a step of log2(1e4) / 255 octaves at most: 2%, beside NF4's own 9%.
    largest, exact = (np.abs(array).reshape(16, -1, BLOCK).max(-1) for array in (found, weight))
    np.testing.assert_allclose(largest, exact, rtol=2 ** (0.5 * np.log2(4e4) / 255) - 1)
    assert relative_error(np.delete(found, 3, 0), np.delete(weight, 3, 0)) < 0.095


def weights_of_many_kinds() -> dict[str, np.ndarray]:
    outliers = normal(256, 512)
    outliers[:2] *= 220
    return {
        "normal": normal(256, 512),
        "heavy tails": np.random.default_rng(0).standard_t(4, (256, 512)).astype(np.float32),
        "channels of different size": normal(256, 512) * np.exp(normal(256, 1, seed=1)),
        "outlier channels": outliers,
    }


@pytest.mark.parametrize("name", weights_of_many_kinds())
def test_codes_are_those_of_bitsandbytes_and_scales_are_at_least_as_good(name):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes").functional
    weight = weights_of_many_kinds()[name]

    codes, largest, _ = functional.int8_vectorwise_quant(torch.tensor(weight))
    int8 = _quantize(weight, "int8")
    differing = np.int32(int8.codes) - codes.numpy()
    # Ties alone, of products that round differently in their last bit.
    assert np.abs(differing).max() <= 1
    assert (differing != 0).mean() < 3e-5
    np.testing.assert_allclose(int8.scales, largest.numpy() / 127, rtol=1e-6)

    packed, state = functional.quantize_4bit(torch.tensor(weight), quant_type="nf4", compress_statistics=True)
    packed = packed.numpy().reshape(*weight.shape[:1], -1, BLOCK // 2)
    nf4 = _quantize(weight, "nf4")
    differing = unpacked_codes(nf4) != np.stack([packed >> 4, packed & 15], axis=-1).reshape(unpacked_codes(nf4).shape)
    # Ties alone: bitsandbytes multiplies by a reciprocal where we divide.
    assert differing.mean() < 1e-5

    def typical(found: np.ndarray) -> float:
        """Median over the rows: of a whole matrix the outliers alone would be measured."""
        return float(np.median(np.linalg.norm(found - weight, axis=1) / np.linalg.norm(weight, axis=1)))

    assert typical(dequantize(nf4)) <= 1.0005 * typical(
        functional.dequantize_4bit(packed_tensor(packed), state).numpy()
    )


def packed_tensor(packed: np.ndarray):
    import torch

    return torch.tensor(packed.reshape(-1, 1))


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
def test_every_size_takes_its_bytes(size):
    model = jax.eval_shape(lambda key: init_random(published_shape(size), key, jnp.bfloat16), jax.random.key(0))

    def gigabytes(kind: str) -> float:
        leaves = jax.tree.leaves(jax.eval_shape(lambda model: model.quantized(kind), model))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / 1e9

    stacks = model.layer_weights()
    projections = sum(stack.size for name, stack in stacks.items() if name.endswith("_proj")) / 1e9
    others = sum(leaf.size for leaf in jax.tree.leaves(model)) / 1e9 - projections
    # Half a byte a weight, a byte a block of 64, eight bytes a group of 256 blocks: no size needs filling up.
    assert gigabytes("nf4") == pytest.approx(projections * (1 / 2 + 1 / 64 + 8 / 64 / 256) + 2 * others, rel=1e-6)
    channels = sum(stack.size // stack.shape[-1] for name, stack in stacks.items() if name.endswith("_proj")) / 1e9
    assert gigabytes("int8") == pytest.approx(projections + 4 * channels + 2 * others, rel=1e-6)
    if size == "7B":
        assert gigabytes("int8") <= 8.8
        assert gigabytes("nf4") <= 5.6


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_a_stack_is_cut_into_layers_as_an_array_is(kind):
    stack = normal(3, 24, 130)
    stacked = jax.lax.map(lambda weight: quantize(weight, kind), stack)
    assert stacked.shape == stack.shape
    assert stacked.dtype == np.float32
    for layer in range(3):
        cut = jax.tree.map(lambda array, layer=layer: array[layer], stacked)
        assert cut.shape == (24, 130)
        np.testing.assert_allclose(dequantize(cut), dequantize(quantize(stack[layer], kind)), rtol=2e-6)


@pytest.mark.parametrize("on_cpu", [True, False], ids=["CPU", "GPU"])
@pytest.mark.parametrize("kind", QUANTIZATIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(24, 72), (768, 448)], ids=["whole", "in pieces"])
def test_products_are_those_with_the_dequantised_matrix(kind, dtype, shape, on_cpu, monkeypatch):
    # How a GPU goes about it is other arithmetic with the same result, which any backend can do.
    monkeypatch.setattr(quantized_product, "_on_cpu", lambda: on_cpu)
    weight = quantize(jnp.asarray(normal(*shape)), kind, jnp.dtype(dtype))
    matrix = np.asarray(dequantize(weight), np.float64)
    activations = jnp.float32 if dtype == "float16" else dtype
    for rows in (2, 130):
        inputs = jnp.asarray(normal(1, rows, shape[1], seed=1), activations)
        gradient = jnp.asarray(normal(1, rows, shape[0], seed=2), activations)
        found, pull = jax.vjp(lambda inputs: matmul(inputs, weight), inputs)
        assert found.dtype == activations
        tolerance = {"float32": 1e-6, "bfloat16": 6e-3, "float16": 1e-3}[dtype]
        assert relative_error(found, np.float64(inputs) @ matrix.T) < tolerance
        assert relative_error(pull(gradient)[0], np.float64(gradient) @ matrix) < tolerance


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_the_backward_pass_is_kept_codes_only(kind):
    weight = quantize(jnp.asarray(normal(256, 192)), kind)
    inputs = jnp.asarray(normal(4, 192))
    for remat in (lambda product: product, jax.checkpoint):
        _, pull = jax.vjp(remat(lambda inputs: matmul(inputs, weight)), inputs)
        kept = [leaf for leaf in jax.tree.leaves(pull) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert sum(leaf.nbytes for leaf in kept) < weight.codes.nbytes / 4
    # The check itself sees a matrix that is kept.
    _, pull = jax.vjp(lambda inputs: inputs @ dequantize(weight).T, inputs)
    assert max(leaf.nbytes for leaf in jax.tree.leaves(pull)) == 256 * 192 * 4
