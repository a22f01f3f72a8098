"""New tokens for each row: a key/value cache, and weights cut into layers once, outside the decode loop."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from aflow_jax.qwen2.adapter import Adapter
from aflow_jax.qwen2.attention import cached_attention, rotary_angles, rotate
from aflow_jax.qwen2.config import Qwen2Config
from aflow_jax.qwen2.layers import LayerWeights, layer_forward, rms_norm, traced_once
from aflow_jax.qwen2.layout import layer_of
from aflow_jax.qwen2.matmul import output_matmul
from aflow_jax.qwen2.sharding import ShardingRules, hold, hold_rows


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
class DecodeWeights:
    """The model, and perhaps an adapter, cut into layers.

    A slice of a stacked array inside a loop is copied at each step; these are cut before the loop.
    """

    embedding: Float[Array, "V D"]
    layers: tuple[LayerWeights, ...]
    adapters: tuple[Adapter | None, ...]
    final_norm: Float[Array, "D"]
    output: Float[Array, "V D"]
    config: Qwen2Config = dataclasses.field(metadata={"static": True})
    rules: ShardingRules | None = dataclasses.field(default=None, metadata={"static": True})

    def unembed(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Return float32 logits of hidden states after the final norm."""
        return output_matmul(hidden, self.output)


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


@partial(jax.jit, static_argnums=(1, 2))
def cut_adapter(adapter: Adapter | None, layers: int, rules: ShardingRules | None = None) -> tuple[Adapter | None, ...]:
    """Return each layer's slice of an adapter."""
    pieces = tuple(layer_of(adapter, layer) for layer in range(layers))
    if adapter is None or rules is None:
        return pieces
    constrain = jax.lax.with_sharding_constraint
    return tuple(at.replace_weights(constrain(at.weights, rules.adapter_piece(at.weights))) for at in pieces)


def decode_step(
    weights: DecodeWeights, tokens: Int[Array, "B"], positions: Int[Array, "B"], cache: KVCache
) -> tuple[Float[Array, "B D"], KVCache]:
    """Run one new token of each row: `decode_tokens` for a single one."""
    hidden, cache = decode_tokens(weights, tokens[:, None], positions, cache)
    return hidden[:, 0], cache


def decode_tokens(
    weights: DecodeWeights, tokens: Int[Array, "B N"], positions: Int[Array, "B"], cache: KVCache
) -> tuple[Float[Array, "B N D"], KVCache]:
    """Run N new tokens of each row, each of which sees those before it.

    Args:
      weights: `Qwen2.unstacked(adapter)`.
      tokens: The new tokens of each row.
      positions: The place of the first of them, at least 0; earlier places of the row are filled. What comes to lie
        past the end of the cache is dropped, and the states at and after it mean nothing.
      cache: Keys and values so far.

    Returns:
      The hidden states of the new tokens after the final norm, and the cache with their keys and values.
    """
    config = weights.config
    places = positions[:, None] + jnp.arange(tokens.shape[1])
    cosines, sines = rotary_angles(places, config.head_dim, config.rope_theta)
    residual = hold_rows(weights.rules, weights.embedding[tokens].astype(jnp.float32))
    rows = jnp.arange(tokens.shape[0])[:, None]
    keys, values = [], []

    def layer(residual: Array, at: tuple) -> tuple[Array, tuple[Array, Array]]:
        layer_weights, adapter, before_keys, before_values = at

        def attend(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, Array]]:
            row_keys = _write(before_keys.at[rows, :, :, places], rotate(key, cosines, sines).astype(before_keys.dtype))
            row_values = _write(before_values.at[rows, :, places], value.astype(before_values.dtype))
            attended = cached_attention(rotate(query, cosines, sines), row_keys, row_values, places)
            return attended, (row_keys, row_values)

        residual, kept = layer_forward(config, layer_weights, residual, attend, adapter=adapter)
        return hold_rows(weights.rules, residual), kept

    layer = traced_once(layer, residual)
    for at in zip(weights.layers, weights.adapters, cache.keys, cache.values, strict=True):
        residual, (layer_keys, layer_values) = layer(residual, at)
        keys.append(layer_keys)
        values.append(layer_values)
    hidden = rms_norm(residual, weights.final_norm, config.rms_norm_eps)
    cache = hold_cache(weights.rules, KVCache(tuple(keys), tuple(values)))
    return hidden.astype(weights.embedding.dtype), cache


def _write(places: Any, new: Float[Array, "B N K h"]) -> Array:
    """Set N places of each row of an array of the cache: `places` is `array.at[…]`."""
    return places.set(new, mode="drop", unique_indices=True)
