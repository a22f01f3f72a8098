"""Products with a quantised matrix, which is dequantised on the way and never kept.

NF4's even and odd blocks lie in the low and the high bits of the same bytes. For few rows, or in pieces, each half is
multiplied with its own columns of the rows: nothing is interleaved, and a GPU's compiler can dequantise inside the
product.

int8's channel scales belong to the outputs, and are left to the caller: `scale_channels`, of the outputs of a product
and of the gradient before it is pulled back.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aflow_jax.qwen2.device import default_platform
from aflow_jax.qwen2.precision import exact_einsum
from aflow_jax.qwen2.quantize import BLOCK, QuantizedWeight, dequantize, dequantize_halves

# On CPU a matrix is dequantised in pieces that stay in its cache: a whole one would be written to fresh memory and read
# back, which takes longer than the product.
_CPU_PIECE_BYTES = 2**20

# With more rows than this a GPU's product is bound by arithmetic, and dequantising to memory first is cheap beside it.
_FEW_ROWS = 128


def quantized_product(rows: Float[Array, "... I"], weight: QuantizedWeight, dtype: jnp.dtype) -> Float[Array, "... O"]:
    """Return rows · weightᵀ in `dtype`, but for int8's channel scales."""
    rows, weight = _hold(rows, weight)
    if _is_whole(rows, weight):
        return exact_einsum("...i,oi->...o", rows, dequantize(weight), dtype)
    columns = _split_columns(rows, weight)

    def product(piece: tuple[Array, ...]) -> Float[Array, "... o"]:
        matrices = _matrices(piece, weight.dtype)
        if len(matrices) == 1:
            return exact_einsum("...i,oi->...o", columns[0], matrices[0], dtype)
        halves = (exact_einsum("...j,oj->...o", *pair, jnp.float32) for pair in zip(columns, matrices, strict=True))
        return sum(halves).astype(dtype)

    pieces, count = _pieces(weight)
    if count == 1:
        return product(pieces)
    outputs = jax.lax.map(product, jax.tree.map(lambda array: _cut_rows(array, count), pieces))
    return jnp.moveaxis(outputs, 0, -2).reshape(*rows.shape[:-1], -1)


def quantized_pullback(
    gradient: Float[Array, "... O"], weight: QuantizedWeight, dtype: jnp.dtype
) -> Float[Array, "... I"]:
    """Return gradient · weight in `dtype`, but for int8's channel scales."""
    gradient, weight = _hold(gradient, weight)
    if _is_whole(gradient, weight):
        return exact_einsum("...o,oi->...i", gradient, dequantize(weight), dtype)

    def pull(gradient: Float[Array, "... o"], piece: tuple[Array, ...], dtype: jnp.dtype) -> tuple[Array, ...]:
        return tuple(
            exact_einsum("...o,oi->...i", gradient, matrix, dtype) for matrix in _matrices(piece, weight.dtype)
        )

    pieces, count = _pieces(weight)
    if count == 1:
        return _join_columns(pull(gradient, pieces, dtype), weight)
    gradients = jnp.moveaxis(gradient.reshape(*gradient.shape[:-1], count, -1), -2, 0)
    pieces = jax.tree.map(lambda array: _cut_rows(array, count), pieces)
    shapes = jax.eval_shape(lambda: pull(gradients[0], jax.tree.map(lambda array: array[0], pieces), jnp.float32))

    def add(total: tuple[Array, ...], at: tuple) -> tuple[tuple[Array, ...], None]:
        return jax.tree.map(jnp.add, total, pull(*at, jnp.float32)), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, shapes), (gradients, pieces))
    return _join_columns(total, weight).astype(dtype)


def scale_channels(outputs: Float[Array, "... O"], weight: QuantizedWeight) -> Float[Array, "... O"]:
    """Multiply by int8's channel scales, in float32; NF4 has none."""
    return outputs if weight.kind == "nf4" else (outputs.astype(jnp.float32) * weight.scales).astype(outputs.dtype)


def _hold(rows: Array, weight: QuantizedWeight) -> tuple[Array, QuantizedWeight]:
    # The same weights are multiplied at each step of a decode loop. Without a tie to what changes, the compiler would
    # dequantise them before the loop and hold them all.
    return jax.lax.optimization_barrier((rows, weight))


def _is_whole(rows: Array, weight: QuantizedWeight) -> bool:
    many = math.prod(rows.shape[:-1]) > _FEW_ROWS
    return weight.kind == "nf4" and many and not _on_cpu()


def _on_cpu() -> bool:
    return default_platform() == "cpu"


def _pieces(weight: QuantizedWeight) -> tuple[tuple[Array, ...], int]:
    """Return what makes the matrix, each array with a row an output, and in how many pieces to multiply it."""
    arrays = (weight.codes,) if weight.kind == "int8" else (weight.codes, weight.scales.expand())
    outputs, inputs = weight.shape
    if not _on_cpu():
        return arrays, 1
    most = max(1, _CPU_PIECE_BYTES // (inputs * weight.dtype.itemsize))
    rows = next(rows for rows in range(min(most, outputs), 0, -1) if outputs % rows == 0)
    return arrays, outputs // rows


def _cut_rows(array: Array, count: int) -> Array:
    return array.reshape(count, -1, *array.shape[1:])


def _matrices(piece: tuple[Array, ...], dtype: jnp.dtype) -> tuple[Array, ...]:
    """Return int8's codes, or the halves of NF4, in the dtype of the product."""
    return (piece[0].astype(dtype),) if len(piece) == 1 else dequantize_halves(*piece, dtype)


def _split_columns(rows: Float[Array, "... I"], weight: QuantizedWeight) -> tuple[Array, ...]:
    """Return the columns that meet each of `_matrices`."""
    if weight.kind == "int8":
        return (rows,)
    room = 2 * weight.codes.shape[-1] - weight.inputs
    padded = jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, room)])
    pairs = padded.reshape(*rows.shape[:-1], -1, 2, BLOCK)
    return tuple(pairs[..., half, :].reshape(*rows.shape[:-1], -1) for half in (0, 1))


def _join_columns(parts: tuple[Array, ...], weight: QuantizedWeight) -> Float[Array, "... I"]:
    """Undo `_split_columns`."""
    if len(parts) == 1:
        return parts[0]
    lead = parts[0].shape[:-1]
    pairs = jnp.stack([part.reshape(*lead, -1, BLOCK) for part in parts], axis=-2)
    return pairs.reshape(*lead, -1)[..., : weight.inputs]
