"""Causal attention in blocks, for where no kernel does it: exact, and nothing of size [T, T] is ever held.

A block of queries meets one block of keys after the other, up to its own, so that half of the square is never computed,
and what is lies in the processor's cache. The backward pass makes each block's weights again from the logarithms of
their sums (Dao et al., 2022, arXiv:2205.14135, algorithms 1 and 4).

Loops, and not one long program: XLA would run all blocks side by side, and so hold the whole square after all.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from aflow_jax.qwen2.device import default_platform
from aflow_jax.qwen2.precision import matmul_precision
from aflow_jax.qwen2.remat import ATTENTION

_BLOCK = 128
# Of few rows and heads a block is larger, as long as its scores, float32, stay in the processor's cache.
_LARGE_BLOCK = 256
_CACHED_BYTES = 4 * 2**20
# Of long rows the blocks are longer: more of them would be many small steps, which is what GPUs do slowly.
_MOST_BLOCKS = 16


@jax.custom_vjp
def block_attention(
    query: Float[Array, "B T H h"],
    key: Float[Array, "B S K h"],
    value: Float[Array, "B S K h"],
    starts: Int[Array, "B"] | None = None,
) -> Float[Array, "B T H h"]:
    """Attend from each position to itself and those before it; softmax of query · key / sqrt(h) in float32.

    Args:
      query: Of some positions of each row.
      key, value: Of all positions.
      starts: The first position that has a query, S − T at most; None where all have.
    """
    return _forward(query, key, value, starts)[0]


def _forward(query: Array, key: Array, value: Array, starts: Array | None) -> tuple[Array, tuple[Array | None, ...]]:
    cut = _Cut(query.shape, key.shape, starts)
    queries = cut.queries(query)
    keys, values = map(cut.keys, (key, value))

    def one_block(at: tuple[Array, Array]) -> tuple[Array, Array]:
        place, rows = at

        def meet(other: Int[Array, ""], state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            largest, total, attended = state
            scores = cut.scores(rows, keys[other], place, other)
            raised = jnp.maximum(largest, scores.max(axis=-1, keepdims=True))
            weights, shrink = jnp.exp(scores - raised), jnp.exp(largest - raised)
            total = total * shrink + weights.sum(axis=-1, keepdims=True)
            return raised, total, attended * shrink + _product("bkts,bksh->bkth", weights, values[other])

        nothing = jnp.zeros((*rows.shape[:-1], 1), jnp.float32)
        state = (nothing - jnp.inf, nothing, jnp.zeros(rows.shape, jnp.float32))
        largest, total, attended = jax.lax.fori_loop(0, cut.met(place), meet, state)
        return attended / total, largest + jnp.log(total)

    attended, logarithms = jax.lax.map(one_block, (jnp.arange(len(queries)), queries))
    out = _from_blocks(attended, query.shape).astype(query.dtype)
    # Named, so that a rematerialisation policy can keep them.
    out, logarithms = checkpoint_name(out, ATTENTION), checkpoint_name(logarithms, ATTENTION)
    return out, (query, key, value, starts, out, logarithms)


def _backward(saved: tuple[Array | None, ...], gradient: Array) -> tuple[Array | None, ...]:
    query, key, value, starts, out, logarithms = saved
    cut = _Cut(query.shape, key.shape, starts)
    queries, gradients = map(cut.queries, (query, gradient))
    keys, values = map(cut.keys, (key, value))
    # Σ_s weight · d(weight), which the softmax takes from every slope, is also what the output says of it.
    means = cut.queries(jnp.sum(gradient.astype(jnp.float32) * out, axis=-1, keepdims=True))

    def one_block(sums: tuple[Array, Array], at: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        place, rows, slopes, logarithm, mean = at
        columns, slope_columns = rows.swapaxes(2, 3), slopes.swapaxes(2, 3)

        def meet(other: Int[Array, ""], state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            to_rows, to_keys, to_values = state
            weights = jnp.exp(cut.scores(rows, keys[other], place, other) - logarithm)
            to_scores = weights * (_product("bkth,bksh->bkts", slopes, values[other]) - mean)
            to_rows += _product("bkts,bksh->bkth", to_scores, keys[other])
            # As [h, s]: a product that sums over its left matrix's rows takes three times as long on CPUs.
            to_keys = to_keys.at[other].add(_product("bkht,bkts->bkhs", columns, to_scores))
            to_values = to_values.at[other].add(_product("bkht,bkts->bkhs", slope_columns, weights))
            return to_rows, to_keys, to_values

        nothing = jnp.zeros(rows.shape, jnp.float32)
        to_rows, *sums = jax.lax.fori_loop(0, cut.met(place), meet, (nothing, *sums))
        return tuple(sums), to_rows

    nothing = jnp.zeros(keys.swapaxes(3, 4).shape, jnp.float32)
    sums, to_queries = jax.lax.scan(
        one_block, (nothing, nothing), (jnp.arange(len(queries)), queries, gradients, logarithms, means)
    )
    to_keys, to_values = (_from_blocks(total.swapaxes(3, 4), key.shape) for total in sums)
    scale = query.shape[-1] ** -0.5
    return (
        (_from_blocks(to_queries, query.shape) * scale).astype(query.dtype),
        (to_keys * scale).astype(key.dtype),
        to_values.astype(value.dtype),
        None,
    )


block_attention.defvjp(_forward, _backward)


class _Cut:
    """How queries and keys are cut into blocks, and which of them meet."""

    def __init__(
        self, query: tuple[int, int, int, int], key: tuple[int, int, int, int], starts: Int[Array, "B"] | None
    ) -> None:
        """Decide it from the shapes, and from where the rows' queries start."""
        batch, length, heads, _ = query
        size = _LARGE_BLOCK if 4 * batch * heads * _LARGE_BLOCK**2 <= _CACHED_BYTES else _BLOCK
        self._groups = key[2]
        self._key_count = min(_MOST_BLOCKS, -(-key[1] // size))
        self._key_size = -(-key[1] // self._key_count)
        self._query_count = min(_MOST_BLOCKS, -(-length // size))
        self._query_size = -(-length // self._query_count)
        self._latest = key[1] - length
        self._starts = starts

    def queries(self, heads: Float[Array, "B T H h"]) -> Float[Array, "n B K Gt h"]:
        """Cut what the positions with a query have."""
        return _to_blocks(heads, self._query_count, self._groups)

    def keys(self, heads: Float[Array, "B S K h"]) -> Float[Array, "n B K s h"]:
        """Cut what all positions have."""
        return _to_blocks(heads, self._key_count, self._groups)

    def met(self, place: Int[Array, ""]) -> Int[Array, ""]:
        """How many blocks of keys a block of queries meets: up to its own last position."""
        end = self._latest + (place + 1) * self._query_size
        return jnp.minimum((end + self._key_size - 1) // self._key_size, self._key_count)

    def scores(
        self,
        rows: Float[Array, "B K Gt h"],
        keys: Float[Array, "B K s h"],
        place: Int[Array, ""],
        other: Int[Array, ""],
    ) -> Float[Array, "B K Gt s"]:
        """Return the scores of a block of queries against a block of keys, -inf at keys after the query."""
        scores = _product("bkth,bksh->bkts", rows, keys) * keys.shape[-1] ** -0.5
        # A block's rows are its positions once for each head of the group.
        position = place * self._query_size + jnp.arange(rows.shape[2])[:, None] % self._query_size
        if self._starts is not None:
            position = position + self._starts[:, None, None, None]
        return jnp.where(other * self._key_size + jnp.arange(self._key_size) <= position, scores, -jnp.inf)


def _product(dims: str, left: Array, right: Array) -> Array:
    """Multiply in the dtype of the operand that is an activation, and sum in float32."""
    dtype = min(left.dtype, right.dtype, key=lambda dtype: dtype.itemsize)
    # On CPUs XLA does not run every product of 16-bit matrices with a sum in float32.
    dtype = jnp.float32 if default_platform() == "cpu" else dtype
    return jnp.einsum(
        dims,
        left.astype(dtype),
        right.astype(dtype),
        precision=matmul_precision(dtype),
        preferred_element_type=jnp.float32,
    )


def _to_blocks(heads: Float[Array, "B T N h"], count: int, groups: int) -> Float[Array, "n B K Gt h"]:
    """Cut rows, filled up with zeros, into `count` blocks, and heads into groups."""
    batch, length, _, width = heads.shape
    size = -(-length // count)
    heads = jnp.pad(heads, ((0, 0), (0, count * size - length), (0, 0), (0, 0)))
    blocks = heads.reshape(batch, count, size, groups, -1, width).transpose(1, 0, 3, 4, 2, 5)
    return blocks.reshape(count, batch, groups, -1, width)


def _from_blocks(blocks: Float[Array, "n B K Gt h"], shape: tuple[int, int, int, int]) -> Float[Array, "B T N h"]:
    """Undo `_to_blocks`."""
    count, batch, groups, _, width = blocks.shape
    size = -(-shape[1] // count)
    blocks = blocks.reshape(count, batch, groups, -1, size, width).transpose(1, 0, 4, 2, 3, 5)
    return blocks.reshape(batch, count * size, *shape[2:])[:, : shape[1]]
