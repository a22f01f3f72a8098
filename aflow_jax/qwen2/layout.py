"""Two ways to hold the layers' weights: stacked [L, …] for a scan, or cut into an array a layer for unrolled loops.

A slice of a stacked array inside a decode loop is copied at each step, and a second copy of all weights, cut, would be
as large as the model. So the weights themselves are moved, a name at a time: the old array of a name goes once its
pieces are there, so that what a move needs beside the model is its largest stack.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from aflow_jax.qwen2.quantize import QuantizedWeight
from aflow_jax.qwen2.sharding import ShardingRules, hold

StackedWeight = Shaped[Array, "L ..."] | QuantizedWeight
CutWeight = tuple[Array | QuantizedWeight, ...]


def cut_weight(weight: StackedWeight, name: str, rules: ShardingRules | None = None) -> CutWeight:
    """Return the pieces of the stacked weight of that name, when they are there."""
    layers = jax.tree.leaves(weight)[0].shape[0]
    return jax.block_until_ready(_cut(weight, layers, name, rules))


def stack_weight(pieces: CutWeight, name: str, rules: ShardingRules | None = None) -> StackedWeight:
    """Return the stacked weight of pieces, when it is there."""
    return jax.block_until_ready(_stack(pieces, name, rules))


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
