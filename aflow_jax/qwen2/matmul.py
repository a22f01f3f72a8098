"""Matrix products in the base's precision, in forms that lose nothing that matters.

float32: exact, also where a GPU would use tf32. bfloat16: in, out and gradient. float16 overflows above 65,504 and
vanishes below 6e-8: activations and gradients stay float32 outside the product, and enter it with each row scaled by
a power of two, so that activations of 1e6 and gradients of 1e-9 pass alike.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def activation_dtype(weight_dtype: jnp.dtype) -> jnp.dtype:
    """Return the dtype of what passes between products: the weights', but float32 where they are float16."""
    return jnp.dtype(jnp.float32 if weight_dtype == jnp.float16 else weight_dtype)


def matmul(inputs: Float[Array, "... I"], weight: Float[Array, "O I"]) -> Float[Array, "... O"]:
    """Return inputs · weightᵀ in `activation_dtype` of the weight."""
    if weight.dtype == jnp.float16:
        return _scaled_matmul(inputs, weight)
    return jnp.einsum("...i,oi->...o", inputs, weight, precision=matmul_precision(inputs.dtype))


def output_matmul(inputs: Float[Array, "... I"], weight: Float[Array, "O I"]) -> Float[Array, "... O"]:
    """Return inputs · weightᵀ accumulated and kept in float32, for logits."""
    return _scaled_matmul(inputs, weight) if weight.dtype == jnp.float16 else _float32_matmul(inputs, weight)


def matmul_precision(dtype: jnp.dtype) -> jax.lax.Precision:
    """Return the precision of products of this dtype; GPUs would multiply float32 in tf32, ten bits of mantissa."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT


@jax.custom_vjp
def _float32_matmul(inputs: Float[Array, "... I"], weight: Float[Array, "O I"]) -> Float[Array, "... O"]:
    return jnp.einsum(
        "...i,oi->...o", inputs, weight, precision=matmul_precision(inputs.dtype), preferred_element_type=jnp.float32
    )


def _float32_forward(inputs: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return _float32_matmul(inputs, weight), (inputs, weight)


def _float32_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    # A float32 gradient against 16-bit weights would make XLA hold a float32 copy of the largest matrix of the model.
    inputs, weight = saved
    gradient, precision = gradient.astype(inputs.dtype), matmul_precision(inputs.dtype)
    to_inputs = jnp.einsum("...o,oi->...i", gradient, weight, precision=precision)
    to_weight = jnp.einsum("...o,...i->oi", gradient, inputs, precision=precision)
    return to_inputs, to_weight


_float32_matmul.defvjp(_float32_forward, _float32_backward)


@jax.custom_vjp
def _scaled_matmul(inputs: Float[Array, "... I"], weight: Float[Array, "O I"]) -> Float[Array, "... O"]:
    scaled, scale = _into_range(inputs)
    return jnp.einsum("...i,oi->...o", scaled, weight, preferred_element_type=jnp.float32) * scale


def _scaled_forward(inputs: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return _scaled_matmul(inputs, weight), (inputs, weight)


def _scaled_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    inputs, weight = saved
    scaled, scale = _into_range(gradient)
    to_inputs = jnp.einsum("...o,oi->...i", scaled, weight, preferred_element_type=jnp.float32) * scale
    to_weight = jnp.einsum("...o,...i->oi", gradient, inputs.astype(jnp.float32))
    return to_inputs.astype(inputs.dtype), to_weight.astype(weight.dtype)


_scaled_matmul.defvjp(_scaled_forward, _scaled_backward)


def _into_range(rows: Float[Array, "... I"]) -> tuple[Float[Array, "... I"], Float[Array, "... 1"]]:
    """Return rows in float16 with their largest entry in [1, 2), and the powers of two that they were divided by."""
    rows = rows.astype(jnp.float32)
    largest = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    # Of the smallest normal number at least: a row of zeros has no exponent.
    _, exponent = jnp.frexp(jnp.maximum(largest, jnp.finfo(jnp.float32).tiny))
    scale = jnp.ldexp(jnp.float32(1), exponent - 1)
    return (rows / scale).astype(jnp.float16), scale
