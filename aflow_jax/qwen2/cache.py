"""Keys and values of the tokens so far: each row's own, and those of prompts that several rows continue."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from aflow_jax.qwen2.config import Qwen2Config
from aflow_jax.qwen2.sharding import ShardingRules, hold


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Rotated keys [B, K, h, S], and values [B, K, S, h], of every position so far: one array of each for each layer.

    The orders are those in which `cached_attention` reads them. A row's places from its position on hold anything
    finite; they are written before they are read.
    """

    keys: tuple[Float[Array, "B K h S"], ...]
    values: tuple[Float[Array, "B K S h"], ...]

    @property
    def length(self) -> int:
        return self.keys[0].shape[-1]

    @classmethod
    def from_sequence(
        cls,
        keys: Sequence[Float[Array, "B T K h"]],
        values: Sequence[Float[Array, "B T K h"]],
        cache_length: int,
        dtype: jnp.dtype,
    ) -> "KVCache":
        """Return the cache of positions 0..T-1 of each layer, with room up to `cache_length`."""
        room = cache_length - keys[0].shape[1]

        def laid(at: Array, order: tuple[int, ...], axis: int) -> Array:
            padding = [(0, room if place == axis else 0) for place in range(4)]
            return jnp.pad(at.astype(dtype).transpose(order), padding)

        return cls(
            keys=tuple(laid(at, (0, 2, 3, 1), 3) for at in keys),
            values=tuple(laid(at, (0, 2, 1, 3), 2) for at in values),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharing:
    """Which rows continue which prompts: each prompt is held once, in pages, and read once a step for all of its rows.

        pages   0: a a a a      rows   0: x x · ·   after pages 0 1, as their reader 0      readers   0: 0 2
                1: a a · ·             1: y · · ·   after page 2,    as its reader 0                  1: 0 2
                2: b b b ·             2: z z z ·   after pages 0 1, as their reader 1                2: 1 ·

    On a mesh each part of `data` has a block of the rows and a block of the pages. Rows continue prompts of their own
    block and all numbers count from the block's start, so that no device asks another one.

    Attributes:
      lengths: Tokens in each page; 0 where it is free.
      readers: Rows that continue each page's prompt; any row where fewer do.
      pages: The pages of the prompt that each row continues, in order; any page where it has fewer.
      prompt_lengths: Tokens of that prompt.
      reader: Each row's place among its prompt's readers.
    """

    lengths: Int[Array, "G"]
    readers: Int[Array, "G R"]
    pages: Int[Array, "B N"]
    prompt_lengths: Int[Array, "B"]
    reader: Int[Array, "B"]

    def to_pages(self, rows: Shaped[Array, "B ..."], blocks: int) -> Shaped[Array, "G R ..."]:
        """Bring values of rows to the pages that they read."""
        return _take(rows, self.readers, blocks)

    def to_rows(self, values: Shaped[Array, "G R ..."], blocks: int) -> Shaped[Array, "B N ..."]:
        """Bring values of pages' readers back to the rows."""
        flat = values.reshape(-1, *values.shape[2:])
        return _take(flat, self.pages * values.shape[1] + self.reader[:, None], blocks)


def _take(values: Shaped[Array, "V ..."], places: Int[Array, "N ..."], blocks: int) -> Shaped[Array, "N ..."]:
    """Return the values at these places, which count from the start of each of `blocks` equal blocks."""

    def cut(array: Array) -> Array:
        return array.reshape(blocks, -1, *array.shape[1:])

    taken = jax.vmap(lambda block, at: block.at[at].get(mode="promise_in_bounds"))(cut(values), cut(places))
    return taken.reshape(*places.shape, *values.shape[1:])


def hold_cache(rules: ShardingRules | None, cache: KVCache) -> KVCache:
    """Inside a program: keep the cache where the rules say."""
    return KVCache(
        keys=hold(rules, cache.keys, lambda keys: rules.cache(keys.shape, 2)),
        values=hold(rules, cache.values, lambda values: rules.cache(values.shape, 3)),
    )


def empty_cache(config: Qwen2Config, batch: int, length: int, dtype: jnp.dtype) -> KVCache:
    """Return a cache of zeros for `batch` rows of `length` places."""
    heads, width = config.num_key_value_heads, config.head_dim
    layers = range(config.num_hidden_layers)
    return KVCache(
        keys=tuple(jnp.zeros((batch, heads, width, length), dtype) for _ in layers),
        values=tuple(jnp.zeros((batch, heads, length, width), dtype) for _ in layers),
    )
