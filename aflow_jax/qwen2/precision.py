"""The precision of what enters and leaves a matrix product."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def activation_dtype(weight_dtype: jnp.dtype) -> jnp.dtype:
    """Return the dtype of what passes between products: the weights', but float32 where they are float16."""
    return jnp.dtype(jnp.float32 if weight_dtype == jnp.float16 else weight_dtype)


def matmul_precision(dtype: jnp.dtype) -> jax.lax.Precision:
    """Return the precision of products of this dtype; GPUs would multiply float32 in tf32, ten bits of mantissa."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT


def exact_einsum(subscripts: str, rows: Array, matrix: Array, dtype: jnp.dtype) -> Array:
    """Return the product in `dtype`, accumulated in float32 at least."""
    precision = matmul_precision(rows.dtype)
    return jnp.einsum(subscripts, rows, matrix, precision=precision, preferred_element_type=dtype)


def into_float16_range(rows: Float[Array, "... I"]) -> tuple[Float[Array, "... I"], Float[Array, "... 1"]]:
    """Return rows in float16 with their largest entry in [1, 2), and the powers of two that they were divided by."""
    rows = rows.astype(jnp.float32)
    largest = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    # Of the smallest normal number at least: a row of zeros has no exponent.
    _, exponent = jnp.frexp(jnp.maximum(largest, jnp.finfo(jnp.float32).tiny))
    scale = jnp.ldexp(jnp.float32(1), exponent - 1)
    return (rows / scale).astype(jnp.float16), scale
