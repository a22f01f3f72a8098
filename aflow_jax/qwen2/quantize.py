"""Weight-only quantisation of the frozen base: int8 by output channel, and NF4 with double-quantised scales.

NF4 is the data type of QLoRA (Dettmers et al., 2023, arXiv:2305.14314, section 3): blocks of 64 weights, each weight
divided by its block's largest and rounded to the nearest of 16 quantiles of the normal distribution. The scale of a
block is kept in 8 bits. QLoRA rounds its distance from the mean of all scales; here its logarithm is rounded, between
the least and the largest of a group of 256 blocks, so that a block of outliers does not coarsen its neighbours' scales.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8, UInt8

Quantization = Literal["int8", "nf4"]
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)

BLOCK = 64
"""Weights that share a scale in NF4: neighbours on the input axis."""

SCALE_GROUP = 256
"""Blocks whose scales share the two float32 numbers that their 8-bit codes are read by."""

# Scales are raised to this many octaves below the largest of their group: a step of a code is 1/16 octave at most.
_SCALE_OCTAVES = 16

# fmt: off
NF4_LEVELS = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0],
    np.float32,
)
# fmt: on
"""What the 16 codes stand for (arXiv:2305.14314, appendix E)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockScales:
    """Positive scales of blocks [..., O, N]: log2(scale) = low + code · step, low and step those of the group.

    Attributes:
      codes: uint8[..., O, N].
      low: float32[..., G], of G groups of SCALE_GROUP neighbours in the flattened O · N.
      step: float32[..., G].
    """

    codes: UInt8[Array, "... O N"]
    low: Float[Array, "... G"]
    step: Float[Array, "... G"]

    def expand(self) -> Float[Array, "O N"]:
        """Return the scales of one matrix in float32."""
        groups = _in_groups(self.codes).astype(jnp.float32)
        scales = jnp.exp2(self.low[:, None] + groups * self.step[:, None])
        return scales.reshape(-1)[: self.codes.size].reshape(self.codes.shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizedWeight:
    """A frozen matrix [..., O, I] in few bits, which stands where an array would: `matmul` takes either.

    A leading layer axis is cut from it by `jax.tree.map` or `jax.lax.scan`, as from an array.

    Attributes:
      codes: int8[..., O, I], or for NF4 uint8[..., O, P · 64]: a byte holds the same place of two neighbouring blocks,
        the first in its low four bits. Inputs are filled up with zeros to P pairs of blocks.
      scales: float32[..., O], the scale of each output channel, or those of NF4's blocks.
      inputs: I.
      dtype: What it dequantises to, and what products with it are computed in.
    """

    codes: Int8[Array, "... O I"] | UInt8[Array, "... O J"]
    scales: Float[Array, "... O"] | BlockScales
    inputs: int = dataclasses.field(metadata={"static": True})
    dtype: jnp.dtype = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix that it stands for."""
        return (*self.codes.shape[:-1], self.inputs)

    @property
    def kind(self) -> Quantization:
        return "nf4" if isinstance(self.scales, BlockScales) else "int8"


def quantize(weight: Float[Array, "O I"], kind: Quantization, dtype: jnp.dtype | None = None) -> QuantizedWeight:
    """Quantise one matrix, computed in float32.

    Args:
      weight: The matrix, in any float dtype.
      kind: "int8", symmetric by output channel as LLM.int8 does (Dettmers et al., 2022, arXiv:2208.07339), or "nf4".
      dtype: What it dequantises to; None is the weight's own.
    """
    dtype = jnp.dtype(weight.dtype if dtype is None else dtype)
    weight = weight.astype(jnp.float32)
    return (_quantize_int8 if kind == "int8" else _quantize_nf4)(weight, dtype)


def quantize_layers(layers: Mapping[str, Array], kind: Quantization) -> dict[str, Array | QuantizedWeight]:
    """Quantise the projections [L, O, I] among stacked weights; norms and biases stay as they are."""
    return {
        # A matrix at a time: the float32 copies that quantising makes are then of one only.
        name: jax.lax.map(lambda weight: quantize(weight, kind), stack) if is_quantizable(name) else stack
        for name, stack in layers.items()
    }


def is_quantizable(name: str) -> bool:
    """Return whether a weight of a layer, by our name, is a projection: norms and biases are too small to matter."""
    return name.endswith("_proj")


def dequantize(weight: QuantizedWeight) -> Float[Array, "O I"]:
    """Return the matrix in its dtype."""
    if weight.kind == "int8":
        return (weight.codes.astype(jnp.float32) * weight.scales[:, None]).astype(weight.dtype)
    halves = dequantize_halves(weight.codes, weight.scales.expand(), weight.dtype)
    pairs = jnp.stack([half.reshape(half.shape[0], -1, BLOCK) for half in halves], axis=2)
    return pairs.reshape(pairs.shape[0], -1)[:, : weight.inputs]


def dequantize_halves(
    codes: UInt8[Array, "O J"], scales: Float[Array, "O N"], dtype: jnp.dtype
) -> tuple[Float[Array, "O J"], Float[Array, "O J"]]:
    """Return the even and the odd blocks of an NF4 matrix: the low and the high bits of its bytes, as they lie."""
    codes = codes.reshape(codes.shape[0], -1, BLOCK)

    def half(codes: UInt8[Array, "O P 64"], scales: Float[Array, "O P"]) -> Float[Array, "O J"]:
        return (_levels(codes) * scales[:, :, None]).astype(dtype).reshape(codes.shape[0], -1)

    return half(codes & 15, scales[:, 0::2]), half(codes >> 4, scales[:, 1::2])


def _levels(codes: UInt8[Array, "..."]) -> Float[Array, "..."]:
    return jnp.take(jnp.asarray(NF4_LEVELS), codes.astype(jnp.int32), mode="clip")


def _quantize_int8(weight: Float[Array, "O I"], dtype: jnp.dtype) -> QuantizedWeight:
    largest = jnp.max(jnp.abs(weight), axis=-1)
    largest = jnp.where(largest > 0, largest, 1)
    codes = jnp.round(weight * (127 / largest)[:, None]).astype(jnp.int8)
    return QuantizedWeight(codes=codes, scales=largest / 127, inputs=weight.shape[-1], dtype=dtype)


def _quantize_nf4(weight: Float[Array, "O I"], dtype: jnp.dtype) -> QuantizedWeight:
    outputs, inputs = weight.shape
    blocks = jnp.pad(weight, ((0, 0), (0, -inputs % (2 * BLOCK)))).reshape(outputs, -1, BLOCK)
    largest, scales = _quantize_scales(jnp.max(jnp.abs(blocks), axis=-1))
    # Against the scale before it is rounded, so that the largest of a block is exactly ±1 and takes an end code.
    normal = blocks / largest[:, :, None]
    middles = (NF4_LEVELS[1:] + NF4_LEVELS[:-1]) / 2
    codes = sum((normal > middle).astype(jnp.uint8) for middle in middles)
    pairs = codes.reshape(outputs, -1, 2, BLOCK)
    packed = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(outputs, -1)
    return QuantizedWeight(codes=packed, scales=scales, inputs=inputs, dtype=dtype)


def _quantize_scales(largest: Float[Array, "O N"]) -> tuple[Float[Array, "O N"], BlockScales]:
    """Return the blocks' scales in range, and their codes."""
    groups = _in_groups(largest)
    top = jnp.maximum(jnp.max(groups, axis=1, keepdims=True), jnp.finfo(jnp.float32).tiny * 2**_SCALE_OCTAVES)
    # A block of zeros is one at any scale.
    groups = jnp.maximum(jnp.where(groups > 0, groups, top), top * 2.0**-_SCALE_OCTAVES)
    logs = jnp.log2(groups)
    low = jnp.min(logs, axis=1, keepdims=True)
    step = (jnp.max(logs, axis=1, keepdims=True) - low) / 255
    codes = jnp.round((logs - low) / jnp.where(step > 0, step, 1)).astype(jnp.uint8)

    def ungroup(groups: Array) -> Array:
        return groups.reshape(-1)[: largest.size].reshape(largest.shape)

    return ungroup(groups), BlockScales(codes=ungroup(codes), low=low[:, 0], step=step[:, 0])


def _in_groups(blocks: Float[Array, "O N"] | Int[Array, "O N"]) -> Array:
    """Return [G, SCALE_GROUP]; the last block is repeated where groups are not full."""
    return jnp.pad(blocks.reshape(-1), (0, -blocks.size % SCALE_GROUP), mode="edge").reshape(-1, SCALE_GROUP)
