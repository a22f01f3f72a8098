"""Products with the base's weights, in forms that lose nothing that matters.

float32: exact, also where a GPU would use tf32. bfloat16: in, out and gradient. float16 overflows above 65,504 and
vanishes below 6e-8: activations and gradients stay float32 outside the product, and enter it with each row scaled by
a power of two, so that activations of 1e6 and gradients of 1e-9 pass alike. Quantised weights are multiplied in their
dtype, which is one of these three.

Weights are frozen: no gradient is made with respect to them, and the backward pass is kept nothing but the weight as it
is stored.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aflow_jax.qwen2.precision import activation_dtype, exact_einsum, into_float16_range
from aflow_jax.qwen2.quantize import QuantizedWeight
from aflow_jax.qwen2.quantized_product import quantized_product, quantized_pullback, scale_channels

Weight = Float[Array, "O I"] | QuantizedWeight


def matmul(inputs: Float[Array, "... I"], weight: Weight) -> Float[Array, "... O"]:
    """Return inputs · weightᵀ in `activation_dtype` of the weight."""
    return _product(inputs, weight, activation_dtype(weight.dtype))


def output_matmul(inputs: Float[Array, "... I"], weight: Weight) -> Float[Array, "... O"]:
    """Return inputs · weightᵀ accumulated and kept in float32, for logits."""
    return _product(inputs, weight, jnp.dtype(jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(inputs: Float[Array, "... I"], weight: Weight, dtype: jnp.dtype) -> Float[Array, "... O"]:
    rows, scale = into_float16_range(inputs) if weight.dtype == jnp.float16 else (inputs, None)
    if isinstance(weight, QuantizedWeight):
        outputs = scale_channels(quantized_product(rows, weight, dtype), weight)
    else:
        outputs = exact_einsum("...i,oi->...o", rows, weight, dtype)
    return outputs if scale is None else outputs * scale


def _product_forward(inputs: Array, weight: Weight, dtype: jnp.dtype) -> tuple[Array, tuple[Weight, Array]]:
    # The empty array carries the dtype in which the gradient is due.
    return _product(inputs, weight, dtype), (weight, jnp.empty(0, inputs.dtype))


def _product_backward(dtype: jnp.dtype, saved: tuple[Weight, Array], gradient: Array) -> tuple[Array, None]:
    weight, like = saved
    if isinstance(weight, QuantizedWeight):
        gradient = scale_channels(gradient, weight)
    if weight.dtype == jnp.float16:
        rows, scale = into_float16_range(gradient)
        return (_pullback(rows, weight, jnp.float32) * scale).astype(like.dtype), None
    # A float32 gradient against 16-bit weights would make XLA hold a float32 copy of the largest matrix of the model.
    return _pullback(gradient.astype(like.dtype), weight, like.dtype), None


def _pullback(gradient: Float[Array, "... O"], weight: Weight, dtype: jnp.dtype) -> Float[Array, "... I"]:
    if isinstance(weight, QuantizedWeight):
        return quantized_pullback(gradient, weight, dtype)
    return exact_einsum("...o,oi->...i", gradient, weight, dtype)


_product.defvjp(_product_forward, _product_backward)
