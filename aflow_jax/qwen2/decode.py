"""New tokens for each row: weights cut into layers once, outside the decode loop."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from aflow_jax.qwen2.adapter import Adapter
from aflow_jax.qwen2.attention import cached_attention, rotary_angles, rotate
from aflow_jax.qwen2.cache import KVCache, Sharing, hold_cache
from aflow_jax.qwen2.config import Qwen2Config
from aflow_jax.qwen2.layers import LayerWeights, layer_forward, rms_norm, traced_once
from aflow_jax.qwen2.layout import layer_of
from aflow_jax.qwen2.matmul import output_matmul
from aflow_jax.qwen2.sharding import ShardingRules, data_parts, hold_rows


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


@partial(jax.jit, static_argnums=(1, 2))
def cut_adapter(adapter: Adapter | None, layers: int, rules: ShardingRules | None = None) -> tuple[Adapter | None, ...]:
    """Return each layer's slice of an adapter."""
    pieces = tuple(layer_of(adapter, layer) for layer in range(layers))
    if adapter is None or rules is None:
        return pieces
    constrain = jax.lax.with_sharding_constraint
    return tuple(at.replace_weights(constrain(at.weights, rules.adapter_piece(at.weights))) for at in pieces)


def decode_step(
    weights: DecodeWeights,
    tokens: Int[Array, "B"],
    positions: Int[Array, "B"],
    cache: KVCache,
    prompts: tuple[KVCache, Sharing] | None = None,
) -> tuple[Float[Array, "B D"], KVCache]:
    """Run one new token of each row: `decode_tokens` for a single one."""
    hidden, cache = decode_tokens(weights, tokens[:, None], positions, cache, prompts)
    return hidden[:, 0], cache


def decode_tokens(
    weights: DecodeWeights,
    tokens: Int[Array, "B N"],
    positions: Int[Array, "B"],
    cache: KVCache,
    prompts: tuple[KVCache, Sharing] | None = None,
) -> tuple[Float[Array, "B N D"], KVCache]:
    """Run N new tokens of each row, each of which sees those before it.

    Args:
      weights: `Qwen2.unstacked(adapter)`.
      tokens: The new tokens of each row.
      positions: The place of the first of them in its row's text, at least 0; earlier places are filled. What comes to
        lie past the end of the cache is dropped, and the states at and after it mean nothing.
      cache: Keys and values so far.
      prompts: Pages of the prompts that rows continue, which the cache then does not hold: it begins with the token
        after them.

    Returns:
      The hidden states of the new tokens after the final norm, and the cache with their keys and values.
    """
    config, blocks = weights.config, data_parts(weights.rules)
    texts = positions[:, None] + jnp.arange(tokens.shape[1])
    places = texts if prompts is None else texts - prompts[1].prompt_lengths[:, None]
    cosines, sines = rotary_angles(texts, config.head_dim, config.rope_theta)
    residual = hold_rows(weights.rules, weights.embedding[tokens].astype(jnp.float32))
    rows = jnp.arange(tokens.shape[0])[:, None]
    keys, values = [], []

    def layer(residual: Array, at: tuple) -> tuple[Array, tuple[Array, Array]]:
        layer_weights, adapter, before_keys, before_values, of_prompts = at

        def attend(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, Array]]:
            row_keys = _write(before_keys.at[rows, :, :, places], rotate(key, cosines, sines).astype(before_keys.dtype))
            row_values = _write(before_values.at[rows, :, places], value.astype(before_values.dtype))
            shared = None if prompts is None else (*of_prompts, prompts[1], blocks)
            attended = cached_attention(rotate(query, cosines, sines), row_keys, row_values, places, shared)
            return attended, (row_keys, row_values)

        residual, kept = layer_forward(config, layer_weights, residual, attend, adapter=adapter)
        return hold_rows(weights.rules, residual), kept

    layer = traced_once(layer, residual)
    of_prompts = (
        [None] * len(weights.layers) if prompts is None else zip(prompts[0].keys, prompts[0].values, strict=True)
    )
    for at in zip(weights.layers, weights.adapters, cache.keys, cache.values, of_prompts, strict=True):
        residual, (layer_keys, layer_values) = layer(residual, at)
        keys.append(layer_keys)
        values.append(layer_values)
    hidden = rms_norm(residual, weights.final_norm, config.rms_norm_eps)
    cache = hold_cache(weights.rules, KVCache(tuple(keys), tuple(values)))
    return hidden.astype(weights.embedding.dtype), cache


def _write(places: Any, new: Float[Array, "B N K h"]) -> Array:
    """Set N places of each row of an array of the cache: `places` is `array.at[…]`."""
    return places.set(new, mode="drop", unique_indices=True)
