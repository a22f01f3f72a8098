"""Qwen2.5 (arXiv:2412.15115) in Flax NNX: the frozen base, with a LoRA adapter as an optional argument.

A `Qwen2` is a pytree: pass it through `jax.jit` as an argument, never as a closure, which would make its weights
constants of the program.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from aflow_jax.qwen2.adapter import Adapter
from aflow_jax.qwen2.attention import causal_attention, packed_attention, rotary_angles, rotate
from aflow_jax.qwen2.cache import KVCache
from aflow_jax.qwen2.config import Qwen2Config
from aflow_jax.qwen2.decode import DecodeWeights, cut_adapter, decode_step
from aflow_jax.qwen2.dropout import Dropout
from aflow_jax.qwen2.layers import layer_forward, layer_shapes, rms_norm, traced_once
from aflow_jax.qwen2.layout import cut_weight, layer_of, stack_weight
from aflow_jax.qwen2.matmul import output_matmul
from aflow_jax.qwen2.packing import Packing
from aflow_jax.qwen2.quantize import Quantization, QuantizedWeight, quantize, quantize_layers
from aflow_jax.qwen2.remat import REMAT_POLICIES
from aflow_jax.qwen2.sharding import ShardingRules, hold_residual


class Qwen2(nnx.Module):
    """A Qwen2.5 language model.

    Attributes:
      config: Shape of the model.
      embedding: [V, D].
      layers: Weights by name (`layer_shapes`), stacked: [L, ...], or cut into a tuple of L arrays (`cut`, `stack`);
        projections may be quantised.
      final_norm: [D].
      lm_head: [V, D], or None where the embedding is tied.
      rules: Where arrays lie on a mesh; None on a single device.
    """

    def __init__(
        self,
        config: Qwen2Config,
        *,
        embedding: Array,
        layers: Mapping[str, Array | QuantizedWeight],
        final_norm: Array,
        lm_head: Array | None,
        rules: ShardingRules | None = None,
    ) -> None:
        self.config = config
        self.rules = rules
        self.embedding = nnx.Param(embedding)
        self.layers = nnx.Dict({name: nnx.Param(weight) for name, weight in layers.items()})
        self.final_norm = nnx.Param(final_norm)
        self.lm_head = nnx.data(None if lm_head is None else nnx.Param(lm_head))

    @property
    def dtype(self) -> jnp.dtype:
        """Dtype of weights, where quantised once dequantised, of the key/value cache, and of the states given back."""
        return self.embedding.get_value().dtype

    def logits(
        self,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"] | None = None,
        adapter: Adapter | None = None,
    ) -> Float[Array, "B T V"]:
        """Return float32 logits of the token after each position; rows are right-padded to their lengths (>= 1).

        Logits at and past a row's length are finite and mean nothing.
        """
        return self.unembed(self.hidden(tokens, lengths, adapter))

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"] | None = None,
        adapter: Adapter | None = None,
        *,
        packing: Packing | None = None,
        dropout_keys: PRNGKeyArray | None = None,
        remat: str = "none",
    ) -> Float[Array, "B T D"]:
        """Return the states after the final norm, in `activation_dtype` of the weights.

        Args:
          tokens: Right-padded rows, or packed ones.
          lengths: Valid tokens of each row, at least 1; None where all are valid, or rows are packed.
          adapter: The adapter; None is the base model.
          packing: What packed rows hold.
          dropout_keys: The keys of the adapter's dropout, see `Dropout`; None drops nothing.
          remat: What layers keep for the backward pass, a key of REMAT_POLICIES.
        """
        dropout = None if dropout_keys is None else Dropout(keys=dropout_keys, packing=packing)
        residual, _ = self._run(tokens, lengths, adapter, packing, dropout, remat)
        return rms_norm(residual, self.final_norm.get_value(), self.config.rms_norm_eps)

    def unembed(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Return float32 logits of states after the final norm."""
        return output_matmul(hidden, self.output_weight())

    def prefill(
        self,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"],
        adapter: Adapter | None = None,
        *,
        cache_length: int,
    ) -> tuple[Float[Array, "B D"], KVCache]:
        """Run right-padded prompts; return the hidden state of each one's last token, and a cache of `cache_length`.

        Raises:
          ValueError: the prompts are longer than the cache.
        """
        width = tokens.shape[1]
        if width > cache_length:
            raise ValueError(f"cache_length {cache_length} is below the prompts' width {width}")
        residual, (keys, values) = self._run(tokens, lengths, adapter, keep_cache=True)
        last = jnp.take_along_axis(residual, (lengths - 1)[:, None, None], axis=1)[:, 0]
        hidden = rms_norm(last, self.final_norm.get_value(), self.config.rms_norm_eps)
        cache = KVCache.from_sequence(keys, values, cache_length, self.dtype)
        return hidden.astype(self.dtype), cache

    def decode_step(
        self,
        tokens: Int[Array, "B"],
        positions: Int[Array, "B"],
        cache: KVCache,
        adapter: Adapter | None = None,
    ) -> tuple[Float[Array, "B D"], KVCache]:
        """Run one new token of each row; in a loop call `decode_step(model.unstacked(adapter), …)` instead."""
        return decode_step(self.unstacked(adapter), tokens, positions, cache)

    def unstacked(self, adapter: Adapter | None) -> DecodeWeights:
        """Return the weights cut into layers, for a decode loop: call it once, outside the loop."""
        return DecodeWeights(
            embedding=self.embedding.get_value(),
            layers=self.cut_weights(),
            adapters=cut_adapter(adapter, self.config.num_hidden_layers, self.rules),
            final_norm=self.final_norm.get_value(),
            output=self.output_weight(),
            config=self.config,
            rules=self.rules,
        )

    def quantized(self, kind: Quantization) -> "Qwen2":
        """Return the model with its projections quantised; the rest is shared."""
        return Qwen2(
            self.config,
            embedding=self.embedding.get_value(),
            layers=quantize_layers(self.layer_weights(), kind),
            final_norm=self.final_norm.get_value(),
            lm_head=None if self.lm_head is None else self.lm_head.get_value(),
            rules=self.rules,
        )

    @property
    def is_cut(self) -> bool:
        """Whether the layers' weights are held cut rather than stacked."""
        return isinstance(next(iter(self.layers.values())).get_value(), tuple)

    def cut(self) -> None:
        """Hold the layers' weights cut, for prefill and decoding: every function takes them either way."""
        if not self.is_cut:
            for name, weight in self.layers.items():
                weight.set_value(cut_weight(weight.get_value(), name, self.rules))

    def stack(self) -> None:
        """Hold the layers' weights stacked, for training: a scan compiles one layer only."""
        if self.is_cut:
            for name, weight in self.layers.items():
                weight.set_value(stack_weight(weight.get_value(), name, self.rules))

    def layer_weights(self) -> dict[str, Array | QuantizedWeight]:
        """Return the stacked weights of the layers by name, without their wrappers; copies where they are held cut."""
        weights = {name: weight.get_value() for name, weight in self.layers.items()}
        if not self.is_cut:
            return weights
        return {name: stack_weight(weight, name, self.rules) for name, weight in weights.items()}

    def cut_weights(self) -> tuple[dict[str, Array | QuantizedWeight], ...]:
        """Return each layer's weights by name; copies where they are held stacked."""
        weights = {name: weight.get_value() for name, weight in self.layers.items()}
        layers = range(self.config.num_hidden_layers)
        if self.is_cut:
            return tuple({name: pieces[layer] for name, pieces in weights.items()} for layer in layers)
        return tuple(layer_of(weights, layer) for layer in layers)

    def output_weight(self) -> Float[Array, "V D"]:
        """Return the matrix that makes logits: the embedding itself where it is tied."""
        return (self.embedding if self.lm_head is None else self.lm_head).get_value()

    def _run(
        self,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"] | None,
        adapter: Adapter | None,
        packing: Packing | None = None,
        dropout: Dropout | None = None,
        remat: str = "none",
        *,
        keep_cache: bool = False,
    ) -> tuple[Float[Array, "B T D"], tuple[Sequence[Array], Sequence[Array]] | None]:
        """Run all layers; return the residual stream and, if wanted, keys and values [B, T, K, h] of each layer."""
        config, width = self.config, tokens.shape[1]
        positions = jnp.arange(width)[None, :] if packing is None else packing.positions(width)
        angles = rotary_angles(positions, config.head_dim, config.rope_theta)

        def attend(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, Array] | None]:
            query, key = rotate(query, *angles), rotate(key, *angles)
            if packing is None:
                attended = causal_attention(query, key, value, lengths)
            else:
                attended = packed_attention(query, key, value, packing)
            return attended, (key, value) if keep_cache else None

        def layer(residual: Array, at: tuple) -> tuple[Array, tuple[Array, Array] | None]:
            weights, layer_adapter, index = at
            own = None if dropout is None else dropout.fold_in(index)
            residual, kept = layer_forward(config, weights, residual, attend, adapter=layer_adapter, dropout=own)
            return hold_residual(self.rules, residual), kept

        if REMAT_POLICIES[remat] is not None:
            layer = jax.checkpoint(layer, policy=REMAT_POLICIES[remat], prevent_cse=False)
        residual = hold_residual(self.rules, self.embedding.get_value()[tokens].astype(jnp.float32))
        if not self.is_cut:
            return jax.lax.scan(layer, residual, (self.layer_weights(), adapter, jnp.arange(config.num_hidden_layers)))
        kept = []
        layer = traced_once(layer, residual)
        for index, weights in enumerate(self.cut_weights()):
            residual, of_layer = layer(residual, (weights, layer_of(adapter, index), index))
            kept.append(of_layer)
        return residual, tuple(zip(*kept, strict=True)) if keep_cache else None


@functools.partial(jax.jit, static_argnames=("config", "dtype", "quantization"))
def init_random(
    config: Qwen2Config,
    key: PRNGKeyArray,
    dtype: jnp.dtype = jnp.float32,
    quantization: Quantization | None = None,
) -> Qwen2:
    """Make a model with random weights, as transformers does: normal of deviation 0.02, norms 1, biases 0.

    `jax.eval_shape` of it gives the shapes of any size without memory.
    """
    shapes = layer_shapes(config)
    layers, table = config.num_hidden_layers, (config.vocab_size, config.hidden_size)
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}

    def normal(key: PRNGKeyArray, size: int) -> Float[Array, "size"]:
        return (0.02 * jax.random.normal(key, (size,), jnp.float32)).astype(dtype)

    def layer(key: PRNGKeyArray) -> dict[str, Array | QuantizedWeight]:
        # One draw, cut into the matrices: each random draw of another shape costs XLA a second of compilation.
        sizes = [math.prod(shape) for shape in matrices.values()]
        parts = jnp.split(normal(key, sum(sizes)), np.cumsum(sizes)[:-1])
        made = {name: part.reshape(shape) for (name, shape), part in zip(matrices.items(), parts, strict=True)}
        return made if quantization is None else {name: quantize(made[name], quantization) for name in made}

    layer_key, table_key = jax.random.split(key)
    weights = {
        name: jnp.full((layers, *shape), 1 if name.endswith("layernorm") else 0, dtype)
        for name, shape in shapes.items()
    }
    weights |= jax.lax.map(layer, jax.random.split(layer_key, layers))
    tables = jax.lax.map(
        lambda key: normal(key, math.prod(table)).reshape(table),
        jax.random.split(table_key, 1 if config.tie_word_embeddings else 2),
    )
    return Qwen2(
        config,
        embedding=tables[0],
        layers=weights,
        final_norm=jnp.ones((config.hidden_size,), dtype),
        lm_head=None if config.tie_word_embeddings else tables[1],
    )
