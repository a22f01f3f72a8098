"""Rotary positions and attention, over one interface for every backend."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from aflow_jax.qwen2.block_attention import block_attention
from aflow_jax.qwen2.cache import Sharing
from aflow_jax.qwen2.device import absent_device, gpu_compute_capability
from aflow_jax.qwen2.packing import Packing
from aflow_jax.qwen2.precision import matmul_precision


def rotary_angles(
    positions: Int[Array, "..."], head_dim: int, theta: float
) -> tuple[Float[Array, "... h"], Float[Array, "... h"]]:
    """Return what turns a head's numbers at each position (Su et al., 2021, arXiv:2104.09864, eq. 34), float32.

    Returns:
      The cosine of each number's angle, and the sine, which is negative in the head's first half.
    """
    frequencies = 1.0 / theta ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    cosines, sines = jnp.cos(angles), jnp.sin(angles)
    # Put together, and so kept: what is made number by number XLA:CPU makes again in every layer.
    return jnp.concatenate([cosines, cosines], axis=-1), jnp.concatenate([-sines, sines], axis=-1)


def rotate(
    heads: Float[Array, "B T N h"], cosines: Float[Array, "#B T h"], sines: Float[Array, "#B T h"]
) -> Float[Array, "B T N h"]:
    """Rotate each head by `rotary_angles`; the pairs are (i, i + h/2), as in the published weights."""
    wide = heads.astype(jnp.float32)
    first, second = jnp.split(wide, 2, axis=-1)
    swapped = jnp.concatenate([second, first], axis=-1)
    return (wide * cosines[:, :, None] + swapped * sines[:, :, None]).astype(heads.dtype)


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


def packed_attention(
    query: Float[Array, "G T H h"], key: Float[Array, "G T K h"], value: Float[Array, "G T K h"], packing: Packing
) -> Float[Array, "G T H h"]:
    """Attend from each position of packed rows to itself and those before it in its sequence."""
    keys, values = packing.spread(key), packing.spread(value)
    if _implementation(query.dtype, query.shape[-1]) != "blocks":
        # The kernel knows no queries that start behind the first key: prompts attend in each sequence.
        attended = causal_attention(packing.spread(query), keys, values, packing.sequence_lengths())
        return packing.gather(attended)
    prompts = block_attention(*(heads[:, : packing.prompt_width] for heads in (query, key, value)))
    starts = jnp.repeat(packing.prompt_lengths, packing.lengths.shape[1])
    completions = block_attention(packing.completions(query), keys, values, starts)
    return jnp.concatenate([prompts, completions.reshape(len(query), -1, *query.shape[2:])], axis=1)


def _implementation(dtype: jnp.dtype, head_dim: int) -> str:
    """Return "cudnn" where its flash attention takes the arrays, else "blocks"."""
    fits = dtype in (jnp.bfloat16, jnp.float16) and head_dim <= 128 and head_dim % 8 == 0
    return "cudnn" if fits and gpu_compute_capability() >= (8, 0) else "blocks"


class _Attended(NamedTuple):
    """Attention over some of the places: values summed by the exponentials of their scores less the largest score."""

    values: Float[Array, "B K M h"]
    total: Float[Array, "B K M"]
    largest: Float[Array, "B K M"]


def cached_attention(
    query: Float[Array, "B N H h"],
    keys: Float[Array, "B K h S"],
    values: Float[Array, "B K S h"],
    places: Int[Array, "B N"],
    prompts: tuple[Float[Array, "G K h T"], Float[Array, "G K T h"], Sharing, int] | None = None,
) -> Float[Array, "B N H h"]:
    """Attend from N new tokens of each row to the places of its cache up to each one's own, and to the row's prompt.

    The products read the cache in the order in which it lies: a cache `[B, S, K, h]` would be transposed whole, at
    every step (on CPU that made a decode step of a small model ten times slower).

    A prompt is read once for all rows that continue it. Their attention to each of its pages and to their own places is
    put together by the largest scores and the totals of each (Juravsky et al., 2024, arXiv:2402.05099, section 3.1).

    Args:
      query: Rotated.
      keys, values: Each row's own.
      places: Of each new token in its row's own cache.
      prompts: Keys and values of shared prompts in pages of T, who continues them, and in how many blocks (`Sharing`).
    """
    batch, count, _, width = query.shape
    # Heads of a group and new tokens alike are rows of one product with the group's keys.
    grouped = query.astype(keys.dtype).reshape(batch, count, keys.shape[1], -1, width).transpose(0, 2, 3, 1, 4)
    rows = grouped.reshape(batch, keys.shape[1], -1, width)
    seen = jnp.arange(keys.shape[-1]) <= jnp.tile(places, rows.shape[2] // count)[:, None, :, None]
    attended = _attend(rows, keys, values, seen)
    if prompts is not None:
        attended = _together(attended, *_attend_prompts(rows, *prompts))
    output = (attended.values / attended.total[..., None]).astype(query.dtype)
    return output.reshape(grouped.shape).transpose(0, 3, 1, 2, 4).reshape(query.shape)


def _attend(
    rows: Float[Array, "B K M h"],
    keys: Float[Array, "B K h S"],
    values: Float[Array, "B K S h"],
    seen: Bool[Array, "B #K #M S"],
) -> _Attended:
    precision = matmul_precision(keys.dtype)
    scores = jnp.einsum("bkmh,bkhs->bkms", rows, keys, precision=precision, preferred_element_type=jnp.float32)
    # A finite least score: where no place is seen, as in a free slot, nothing becomes NaN.
    scores = jnp.where(seen, scores * rows.shape[-1] ** -0.5, jnp.finfo(jnp.float32).min)
    largest = scores.max(axis=-1)
    weights = jnp.exp(scores - largest[..., None])
    total = weights.sum(axis=-1)
    # Sums in float32: in float16 those of a long prompt would overflow.
    summed = jnp.einsum(
        "bkms,bksh->bkmh", weights.astype(values.dtype), values, precision=precision, preferred_element_type=jnp.float32
    )
    return _Attended(summed, total, largest)


def _attend_prompts(
    rows: Float[Array, "B K M h"],
    keys: Float[Array, "G K h T"],
    values: Float[Array, "G K T h"],
    sharing: Sharing,
    blocks: int,
) -> tuple[_Attended, Bool[Array, "B N"]]:
    """Attend from each row to the pages of its prompt, all readers of a page in one product with it.

    Returns:
      What each row has of each of N pages, and which of them are its prompt's.
    """
    pages, readers = sharing.readers.shape
    _, heads, count, width = rows.shape
    together = sharing.to_pages(rows, blocks).transpose(0, 2, 1, 3, 4).reshape(pages, heads, -1, width)
    seen = jnp.arange(keys.shape[-1]) < sharing.lengths[:, None, None, None]

    def back(values: Float[Array, "G K RM ..."]) -> Float[Array, "B N K M ..."]:
        apart = values.reshape(pages, heads, readers, count, *values.shape[3:])
        return sharing.to_rows(jnp.moveaxis(apart, 2, 1), blocks)

    starts = jnp.arange(sharing.pages.shape[1]) * keys.shape[-1]
    return _Attended(*map(back, _attend(together, keys, values, seen))), starts < sharing.prompt_lengths[:, None]


def _together(own: _Attended, pages: _Attended, has: Bool[Array, "B N"]) -> _Attended:
    """Put a row's attention to its own places and to each of its prompt's pages (a second axis) together."""
    scores = jnp.where(has[..., None, None], pages.largest, jnp.finfo(jnp.float32).min)
    largest = jnp.maximum(own.largest, scores.max(axis=1))
    mine, theirs = jnp.exp(own.largest - largest), jnp.exp(scores - largest[:, None])
    return _Attended(
        mine[..., None] * own.values + (theirs[..., None] * pages.values).sum(axis=1),
        mine * own.total + (theirs * pages.total).sum(axis=1),
        largest,
    )
