"""16-bit bases: float16 survives what overflows it, forward and backward; bfloat16 stays near float32."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import SHAPES, VOCABULARY, make_model

from aflow_jax.errors import UserError
from aflow_jax.grpo import token_logprobs
from aflow_jax.qwen2 import AbsentDevice, Adapter, Qwen2, choose_dtype, decode_step, init_adapter, traced_for
from aflow_jax.qwen2.attention import rotary_angles
from aflow_jax.qwen2.layers import rms_norm
from aflow_jax.qwen2.matmul import matmul, output_matmul
from aflow_jax.qwen2.quantize import QuantizedWeight

ROWS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 10)).astype(np.int32)
OUTLIERS = ROWS[:, 3]
ADAPTED = "q_proj,v_proj,gate_proj,down_proj"
# Compiled without optimisation, which takes XLA far longer than the run.
QUICK = {"xla_backend_optimization_level": 0}


def relative_error(found, exact) -> float:
    found, exact = (np.asarray(array, np.float64) for array in (found, exact))
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def plant_outliers(model: Qwen2) -> Qwen2:
    """Make the first layer's MLP write 1e6 for one token of each row, out of products above float16's 65,504.

    As in Qwen2.5 a few tokens have such activations, and others pass by them: channel 31 marks those tokens, and three
    neurons of the MLP read it.
    """
    embedding = np.array(model.embedding.get_value())
    embedding[:, 31] = 0
    embedding[OUTLIERS, 31] = 10
    weights = {name: np.array(weight) for name, weight in model.layer_weights().items()}
    weights["o_proj"][0, 31] = 0
    weights["post_attention_layernorm"][0, 31] = 1
    for name in ("gate_proj", "up_proj"):
        weights[name][0, :3] = 0
        weights[name][0, :3, 31] = 170
    weights["down_proj"][0, 5, :3] = 1.5
    return Qwen2(
        model.config,
        embedding=jnp.asarray(embedding),
        layers={name: jnp.asarray(weight) for name, weight in weights.items()},
        final_norm=model.final_norm.get_value(),
        lm_head=None,
    )


@pytest.fixture(scope="module")
def unplanted(tmp_path_factory) -> Qwen2:
    return make_model(SHAPES["heads 4 over 4, tied"].config(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def planted(unplanted) -> Qwen2:
    return plant_outliers(unplanted)


def with_dtype(model: Qwen2, dtype) -> Qwen2:
    """Return the model in another dtype; quantised weights keep their codes and scales, and dequantise to it."""

    def convert(weight):
        if isinstance(weight, QuantizedWeight):
            return dataclasses.replace(weight, dtype=jnp.dtype(dtype))
        return weight.astype(dtype)

    return jax.tree.map(convert, model, is_leaf=lambda leaf: isinstance(leaf, QuantizedWeight))


def rounded(model: Qwen2, quantization: str | None = None) -> tuple[Qwen2, Qwen2]:
    """Return the model in float16, perhaps quantised, and in float32 with the same, rounded, weights."""
    half = with_dtype(model, jnp.float16)
    half = half if quantization is None else half.quantized(quantization)
    return half, with_dtype(half, jnp.float32)


def noisy_adapter(model: Qwen2) -> Adapter:
    adapter = init_adapter(model.config, 2, 2, ADAPTED, jax.random.key(0))
    noise = np.random.default_rng(1)
    return adapter.replace_weights(
        jax.tree.map(lambda leaf: leaf + 0.02 * noise.standard_normal(leaf.shape, np.float32), adapter.weights)
    )


def test_the_planted_outliers_overflow_a_naive_float16_mlp(planted):
    half, exact = rounded(planted)
    residual, _ = exact._run(ROWS, None, None)
    assert (np.abs(residual).max(axis=(1, 2)) > 1e6).all(), "the planted outliers should reach the residual stream"

    weights = {name: weight[0] for name, weight in half.layer_weights().items()}
    inputs = rms_norm(exact.embedding.get_value()[ROWS], weights["post_attention_layernorm"], 1e-6).astype(jnp.float16)
    assert np.isfinite(inputs).all()
    gated = jax.nn.silu(inputs @ weights["gate_proj"].T) * (inputs @ weights["up_proj"].T)
    assert not np.isfinite(gated @ weights["down_proj"].T).all()


@pytest.mark.parametrize("quantization", [None, "int8", "nf4"])
def test_float16_with_outliers_of_1e6_stays_within_2_percent_forward_and_backward(planted, quantization):
    half, exact = rounded(planted, quantization)
    adapter = noisy_adapter(planted)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def evaluate(model: Qwen2) -> tuple[jax.Array, jax.Array, dict]:
        def loss(weights: dict) -> tuple[jax.Array, jax.Array]:
            logprobs = token_logprobs(model, adapter.replace_weights(weights), ROWS, None)
            # As small as one token's share of a large batch: gradients are below what float16 can hold.
            return 1e-5 * jnp.mean(logprobs), logprobs

        gradients, logprobs = jax.grad(loss, has_aux=True)(adapter.weights)
        return model.logits(ROWS, None, adapter), logprobs, gradients

    found, expected = evaluate(half), evaluate(exact)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    errors = jax.tree.map(relative_error, found, expected)
    assert max(jax.tree.leaves(errors)) < 2e-2, errors


@pytest.mark.parametrize("quantization", [None, "int8", "nf4"])
def test_float16_decodes_as_it_prefills(planted, quantization):
    half, exact = rounded(planted, quantization)
    positions = np.array([9, 9], np.int32)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def evaluate(model: Qwen2) -> tuple:
        before, cache = model.prefill(ROWS[:, :9], positions, cache_length=12)
        after, cache = decode_step(model.unstacked(None), ROWS[:, 9], positions, cache)
        return before, after, cache

    before, after, cache = evaluate(half)
    assert before.dtype == after.dtype == cache.keys[0].dtype == half.dtype == jnp.float16
    full = jax.jit(Qwen2.logits, compiler_options=QUICK)(exact, ROWS)
    assert relative_error(half.unembed(before), full[:, 8]) < 5e-3
    assert relative_error(half.unembed(after), full[:, 9]) < 1e-2


def equations(jaxpr) -> Iterator:
    """All equations of a program, those of its loops and inner functions too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def batch_axes(product) -> tuple[int, ...]:
    _, (left, _) = product.params["dimension_numbers"]
    return left


def test_around_a_bfloat16_base_what_is_delicate_is_float32(planted):
    model, adapter = with_dtype(planted, jnp.bfloat16), noisy_adapter(planted)
    program = jax.make_jaxpr(lambda model, weights: model.logits(ROWS, None, adapter.replace_weights(weights)))
    found = list(equations(program(model, adapter.weights).jaxpr))
    # Norms, the angles of positions, the softmax of attention.
    for primitive in ("rsqrt", "cos", "sin", "exp"):
        dtypes = {equation.invars[0].aval.dtype.name for equation in found if equation.primitive.name == primitive}
        assert dtypes == {"float32"}, primitive
    # The residual stream is what the loop over layers carries.
    (loop,) = (equation for equation in found if equation.primitive.name == "scan" and equation.params["length"] == 3)
    assert [variable.aval.dtype.name for variable in loop.outvars] == ["float32"]
    products = [equation for equation in found if equation.primitive.name == "dot_general"]
    between = {"float32", "bfloat16"}
    pairs = [tuple(variable.aval.dtype.name for variable in product.invars) for product in products]
    assert set(pairs) == {("bfloat16", "bfloat16"), ("float32", "float32")}, "a product of mixed dtypes widens a weight"
    assert {product.outvars[0].aval.dtype.name for product in products} == between
    # Attention's go over a batch of heads (on CPUs they are float32 too); of the others in float32 all are the
    # adapter's, two for each of its targets.
    with_matrices = [pair for product, pair in zip(products, pairs, strict=True) if not batch_axes(product)]
    assert with_matrices.count(("float32", "float32")) == 2 * len(adapter.weights)


def test_a_bfloat16_base_stays_near_float32(unplanted):
    half = with_dtype(unplanted, jnp.bfloat16)
    exact, adapter = with_dtype(half, jnp.float32), noisy_adapter(unplanted)
    logits = jax.jit(lambda model: model.logits(ROWS, None, adapter), compiler_options=QUICK)
    assert logits(half).dtype == jnp.float32
    assert relative_error(logits(half), logits(exact)) < 2e-2


def test_angles_of_far_positions_are_exact_to_float32():
    positions = np.array([[0, 1, 8191, 32767]])
    cosines, sines = rotary_angles(jnp.asarray(positions), 128, 1e6)
    angles = positions[..., None] * np.tile(1e6 ** -(np.arange(0, 128, 2) / 128), 2)
    signs = np.repeat([-1, 1], 64)
    # A float32 angle near 32,767 radians is 0.002 off at most; one in bfloat16 would be 128 off.
    np.testing.assert_allclose(cosines, np.cos(angles), atol=4e-3)
    np.testing.assert_allclose(sines, signs * np.sin(angles), atol=4e-3)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((8, 9), "bfloat16"), ((9, 0), "bfloat16")],
    ids=["V100", "T4", "A100", "L4", "H100"],
)
def test_auto_follows_the_compute_capability(capability, dtype):
    with traced_for(AbsentDevice("gpu", capability, lambda query, key, value: query)):
        assert choose_dtype("auto") == dtype
        assert choose_dtype("float32") == "float32"
    with pytest.raises(UserError, match="dtype must be auto, float32, bfloat16 or float16, found 'half'"):
        choose_dtype("half")


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
