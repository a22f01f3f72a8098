"""Two ways to hold the layers' weights: stacked [L, …] for a scan, or cut into an array a layer for unrolled loops.

A slice of a stacked array inside a decode loop is copied at each step, and a second copy of all weights, cut, would be
as large as the model. So the weights themselves are moved, a name at a time: the old array of a name goes once its
pieces are there, so that what a move needs beside the model is its largest stack. Pieces that multiply the same inputs
may then become one (`MERGED_PIECES`), a layer at a time: a few rows are multiplied faster with one large matrix than
with two or three.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from aflow_jax.qwen2.layers import MERGED
from aflow_jax.qwen2.quantize import QuantizedWeight
from aflow_jax.qwen2.sharding import ShardingRules, hold

StackedWeight = Shaped[Array, "L ..."] | QuantizedWeight
CutWeight = tuple[Array | QuantizedWeight, ...]

MERGED_PIECES = MERGED | {"qkv_proj_bias": tuple(f"{name}_bias" for name in MERGED["qkv_proj"])}
"""Name of the pieces that are one, and of those that they are made of."""


def cut_weight(weight: StackedWeight, name: str, rules: ShardingRules | None = None) -> CutWeight:
    """Return the pieces of the stacked weight of that name, when they are there."""
    layers = jax.tree.leaves(weight)[0].shape[0]
    return jax.block_until_ready(_cut(weight, layers, name, rules))


def stack_weight(pieces: CutWeight, name: str, rules: ShardingRules | None = None) -> StackedWeight:
    """Return the stacked weight of pieces, when it is there."""
    return jax.block_until_ready(_stack(pieces, name, rules))


def merge_pieces(parts: Sequence[list[Array]]) -> CutWeight:
    """Return one piece a layer, made of each part's, which are taken out of the lists so that their memory goes."""
    return tuple(jax.block_until_ready(_joined([part.pop(0) for part in parts])) for _ in range(len(parts[0])))


def split_pieces(pieces: list[Array], ends: Sequence[int]) -> tuple[CutWeight, ...]:
    """Return the pieces that merged ones were made of, and take those out of the list; `ends` is where each ends."""
    layers = [jax.block_until_ready(_divided(pieces.pop(0), tuple(ends))) for _ in range(len(pieces))]
    return tuple(zip(*layers, strict=True))


def layer_of(weights: object, layer: int) -> object:
    """Return one layer of a pytree of stacked arrays."""
    return jax.tree.map(lambda stack: stack[layer], weights)


@partial(jax.jit, static_argnums=(1, 2, 3))
def _cut(weight: StackedWeight, layers: int, name: str, rules: ShardingRules | None) -> CutWeight:
    pieces = tuple(layer_of(weight, layer) for layer in range(layers))
    return hold(rules, pieces, lambda piece: rules.piece(name, (layers, *piece.shape)))


@partial(jax.jit, static_argnums=(1, 2))
def _stack(pieces: CutWeight, name: str, rules: ShardingRules | None) -> StackedWeight:
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *pieces)
    return hold(rules, stacked, lambda stack: rules.weight(name, stack.shape))


@jax.jit
def _joined(parts: list[Array]) -> Array:
    return jnp.concatenate(parts)


@partial(jax.jit, static_argnums=1)
def _divided(piece: Array, ends: tuple[int, ...]) -> list[Array]:
    return jnp.split(piece, ends)
