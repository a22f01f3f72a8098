"""Matrices in tiles of outputs, the order in which XLA's CPU backend multiplies a few rows with them fastest.

Decoding reads every weight once for a handful of rows. From a matrix `[out, in]` XLA packs panels before it multiplies
them, and from `[in, out]` it walks over rows that lie far apart. In tiles `[in, 64]` it reads what lies side by side:
on two cores of an AMD EPYC (33 GB/s at most) ten rows came to 25 GB/s, in the other two orders to 13 and 17.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aflow_jax.qwen2.device import default_platform

TILE = 64
"""Outputs of a tile; 32 and 128 were slower."""

GROUP_BYTES = 2e6
"""Tiles that are multiplied by one call: the rows are copied once for each of them, so they should be few."""

MOST_ROWS = 32
"""With more rows arithmetic costs more than reading, and the usual order is as fast."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TiledWeight:
    """A matrix [O, I] as tiles [I, TILE] in groups, the last tile filled up with zeros.

    Attributes:
      groups: The tiles in order; output o is column o % TILE of tile o // TILE.
      outputs: O.
    """

    groups: tuple[Float[Array, "G I W"], ...]
    outputs: int = dataclasses.field(metadata={"static": True})


def suits_tiles(dtype: jnp.dtype, rows: int) -> bool:
    """Return whether products of so many rows with matrices of this dtype are faster in tiles."""
    return default_platform() == "cpu" and dtype == jnp.float32 and rows <= MOST_ROWS


def tile(weight: Float[Array, "O I"]) -> TiledWeight:
    """Return the matrix in tiles."""
    outputs, inputs = weight.shape
    padded = jnp.pad(weight, ((0, -outputs % TILE), (0, 0)))
    tiles = padded.reshape(-1, TILE, inputs).transpose(0, 2, 1)
    size = max(1, int(GROUP_BYTES / (TILE * inputs * weight.dtype.itemsize)))
    groups = tuple(tiles[start : start + size] for start in range(0, tiles.shape[0], size))
    return TiledWeight(groups=groups, outputs=outputs)


def tiled_matmul(inputs: Float[Array, "... I"], weight: TiledWeight) -> Float[Array, "... O"]:
    """Return inputs · weightᵀ in float32."""
    rows = inputs.reshape(-1, inputs.shape[-1])
    outputs = [
        jnp.matmul(jnp.broadcast_to(rows, (len(group), *rows.shape)), group, precision="highest")
        for group in weight.groups
    ]
    flat = jnp.concatenate(outputs).transpose(1, 0, 2).reshape(rows.shape[0], -1)
    return flat[:, : weight.outputs].reshape(*inputs.shape[:-1], weight.outputs)
