"""One layer of Qwen2.5: norms, projections with their adapters, attention, the gated MLP.

Weights keep Hugging Face's orientation, `[out, in]`, so that tensors go from file to matmul without a transpose.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from aflow_jax.qwen2.adapter import TARGETS, Adapter, low_rank_delta
from aflow_jax.qwen2.config import Qwen2Config
from aflow_jax.qwen2.dropout import Dropout
from aflow_jax.qwen2.matmul import matmul
from aflow_jax.qwen2.precision import activation_dtype
from aflow_jax.qwen2.quantize import QuantizedWeight
from aflow_jax.qwen2.remat import PRODUCT

LayerWeights = Mapping[str, Array | QuantizedWeight]
"""Weights of one layer by name (`layer_shapes`), without the leading layer axis."""

Attend = Callable[[Array, Array, Array], tuple[Array, Any]]
"""(query, key, value) of the new positions, before rotation -> (attended heads, what the caller wants kept)."""

Layer = Callable[[Array, tuple], tuple[Array, Any]]
"""(residual stream, what the layer reads) -> (residual stream, what the caller wants kept)."""


def layer_shapes(config: Qwen2Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of one layer, by our name."""
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "input_layernorm": (hidden,),
        "q_proj": (queries, hidden),
        "q_proj_bias": (queries,),
        "k_proj": (keys, hidden),
        "k_proj_bias": (keys,),
        "v_proj": (keys, hidden),
        "v_proj_bias": (keys,),
        "o_proj": (hidden, queries),
        "post_attention_layernorm": (hidden,),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }


def layer_forward(
    config: Qwen2Config,
    weights: LayerWeights,
    residual: Float[Array, "B T D"],
    attend: Attend,
    *,
    adapter: Adapter | None = None,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "B T D"], Any]:
    """Run one layer on the float32 residual stream; return it with what `attend` kept.

    Args:
      config: Shape of the model.
      weights: The layer's own weights.
      residual: Residual stream of the new positions, float32.
      attend: Rotates, attends, and keeps what it needs (a key/value cache).
      adapter: This layer's slice of the adapter.
      dropout: Of this layer; None drops nothing.
    """

    def project(name: str, inputs: Float[Array, "B T I"]) -> Float[Array, "B T O"]:
        outputs = checkpoint_name(matmul(inputs, weights[name]), PRODUCT)
        if (bias := weights.get(f"{name}_bias")) is not None:
            outputs = outputs + bias
        # What follows is not fused into the sum: a zero update would otherwise change how its last bits are rounded.
        outputs = jax.lax.optimization_barrier(outputs)
        if adapter is None:
            return outputs
        own = None if dropout is None else dropout.fold_in(TARGETS.index(name))
        delta = low_rank_delta(inputs, adapter.weights.get(name), adapter.scale, adapter.dropout, own)
        return outputs if delta is None else (outputs.astype(jnp.float32) + delta).astype(outputs.dtype)

    def heads(flat: Float[Array, "B T O"]) -> Float[Array, "B T N h"]:
        return flat.reshape(*flat.shape[:-1], -1, config.head_dim)

    inputs = rms_norm(residual, weights["input_layernorm"], config.rms_norm_eps)
    query, key, value = (heads(project(name, inputs)) for name in ("q_proj", "k_proj", "v_proj"))
    attended, kept = attend(query, key, value)
    residual = residual + project("o_proj", attended.reshape(*attended.shape[:-2], -1)).astype(jnp.float32)

    inputs = rms_norm(residual, weights["post_attention_layernorm"], config.rms_norm_eps)
    gated = jax.nn.silu(project("gate_proj", inputs)) * project("up_proj", inputs)
    return residual + project("down_proj", gated).astype(jnp.float32), kept


def traced_once(layer: Layer, residual: Array) -> Layer:
    """Return a layer's function that is traced once for all layers of the program which `residual` is traced for.

    Each call then puts in the same operations: a program of many unrolled layers is the same, and made in a fraction
    of the time. Where arrays are computed at once, that is outside a program, the function is left as it is.
    """
    return jax.jit(layer, inline=True) if isinstance(residual, jax.core.Tracer) else layer


def rms_norm(residual: Float[Array, "... D"], weight: Float[Array, "D"], epsilon: float) -> Float[Array, "... D"]:
    """Normalise in float32 (Zhang and Sennrich, 2019, arXiv:1910.07467, eq. 4); return `activation_dtype`."""
    residual = residual.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(residual), axis=-1, keepdims=True) + epsilon)
    return (residual * inverse * weight.astype(jnp.float32)).astype(activation_dtype(weight.dtype))
