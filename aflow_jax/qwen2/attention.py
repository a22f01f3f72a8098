"""Rotary positions and attention, over one interface for every backend."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from aflow_jax.qwen2.block_attention import block_attention
from aflow_jax.qwen2.device import absent_device, gpu_compute_capability
from aflow_jax.qwen2.precision import matmul_precision


def rotary_angles(
    positions: Int[Array, "..."], head_dim: int, theta: float
) -> tuple[Float[Array, "... h"], Float[Array, "... h"]]:
    """Return cosines and sines, float32, of the angles of each position (Su et al., 2021, arXiv:2104.09864, eq. 15)."""
    frequencies = 1.0 / theta ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    heads: Float[Array, "B T N H"], cosines: Float[Array, "#B T h"], sines: Float[Array, "#B T h"]
) -> Float[Array, "B T N H"]:
    """Rotate each head by its position's angles; the pairs are (i, i + H/2), as in the published weights."""
    first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
    cosines, sines = cosines[:, :, None, :], sines[:, :, None, :]
    rotated = jnp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
    return rotated.astype(heads.dtype)


def causal_attention(
    query: Float[Array, "B T H h"],
    key: Float[Array, "B T K h"],
    value: Float[Array, "B T K h"],
    lengths: Int[Array, "B"] | None,
) -> Float[Array, "B T H h"]:
    """Attend from each position to itself and those before it, in right-padded rows.

        keys  0 1 2 · ·        length 3 of 5: rows past the length give finite values
     q 0      x                that mean nothing.
       1      x x
       2      x x x

    Valid positions never see padding, because padding comes after them; the lengths only let cuDNN skip work.
    """
    if _implementation(query.dtype, query.shape[-1]) == "blocks":
        return block_attention(query, key, value)
    if absent := absent_device():
        return absent.flash_attention(query, key, value)
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=True,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )


def cached_attention(
    query: Float[Array, "B N H h"],
    keys: Float[Array, "B K h S"],
    values: Float[Array, "B K S h"],
    positions: Int[Array, "B N"],
) -> Float[Array, "B N H h"]:
    """Attend from N new positions of each row to the places of its cache up to each one's own, that one included.

    Both products read the cache in the order in which it lies: a cache `[B, S, K, h]` would be transposed whole, at
    every step (on CPU that made a decode step of a small model ten times slower).
    """
    batch, count, _, width = query.shape
    # Heads of a group and new positions alike are rows of one product with the group's keys.
    grouped = query.astype(keys.dtype).reshape(batch, count, keys.shape[1], -1, width).transpose(0, 2, 3, 1, 4)
    rows = grouped.reshape(batch, keys.shape[1], -1, width)
    precision = matmul_precision(keys.dtype)
    scores = jnp.einsum("bkgh,bkhs->bkgs", rows, keys, precision=precision, preferred_element_type=jnp.float32)
    valid = jnp.arange(keys.shape[-1]) <= jnp.tile(positions, rows.shape[2] // count)[:, None, :, None]
    weights = jax.nn.softmax(jnp.where(valid, scores * width**-0.5, -jnp.inf), axis=-1)
    attended = jnp.einsum("bkgs,bksh->bkgh", weights.astype(values.dtype), values, precision=precision)
    return attended.reshape(grouped.shape).transpose(0, 3, 1, 2, 4).reshape(query.shape)


def _implementation(dtype: jnp.dtype, head_dim: int) -> str:
    """Return "cudnn" where its flash attention takes the arrays, else "blocks"."""
    fits = dtype in (jnp.bfloat16, jnp.float16) and head_dim <= 128 and head_dim % 8 == 0
    return "cudnn" if fits and gpu_compute_capability() >= (8, 0) else "blocks"
