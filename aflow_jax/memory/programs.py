"""The programs of a run, laid out at the shapes that its settings lead to: sampling, the update, the warm start."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from aflow_jax.grpo.gradients import add_policy_gradient, empty_gradient
from aflow_jax.grpo.learner import LearnerState, apply_gradient
from aflow_jax.grpo.microbatches import MicrobatchShape
from aflow_jax.grpo.settings import LearnerSettings
from aflow_jax.memory.devices import Device
from aflow_jax.memory.liveness import Layout, layout, tree_bytes
from aflow_jax.qwen2 import (
    Adapter,
    DecodeWeights,
    Qwen2,
    Qwen2Config,
    ShardingRules,
    Sharing,
    data_parts,
    empty_cache,
    init_adapter,
    init_random,
    traced_for,
)
from aflow_jax.qwen2.weights import choose_dtype
from aflow_jax.sampling.decode import DrawSettings, decode
from aflow_jax.sampling.prefill import prefill
from aflow_jax.sampling.slot_state import SlotState, StateShape, empty_slots
from aflow_jax.sampling.types import MAX_STOP_TOKENS, EngineOptions

Shape = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyShape:
    """What decides the arrays of base and adapter, on a device.

    Attributes:
      config: Shape of the base.
      device: Where it is to be; says what dtype "auto" is, and which attention there is.
      dtype, quantization: As in the settings.
      rank, targets, dropout: Of the adapter.
      rules: Where arrays lie on several such devices; None on one.
    """

    config: Qwen2Config
    device: Device
    dtype: str = "auto"
    quantization: str | None = None
    rank: int
    targets: str
    dropout: float
    rules: ShardingRules | None = None

    @functools.cached_property
    def part(self) -> "PolicyShape":
        """What one device computes: a narrower model, its share of heads, inner width and vocabulary."""
        if self.rules is None:
            return self

        def divided(size: int) -> int:
            return size // self.rules.model if size % self.rules.model == 0 else size

        config, names = self.config, ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
        narrow = dataclasses.replace(config, **{name: divided(getattr(config, name)) for name in names})
        return dataclasses.replace(self, config=narrow, rules=None)

    def rows(self, count: int) -> int:
        """Of so many rows of a batch, or slots, those that a device has."""
        return -(-count // data_parts(self.rules))

    def model_bytes(self) -> int:
        """The base's bytes on a device."""
        return tree_bytes(self.model) if self.rules is None else self.rules.model_bytes(self.model)

    def adapter_bytes(self, state: Any) -> int:
        """A device's bytes of a pytree of adapter matrices."""
        return tree_bytes(state) if self.rules is None else self.rules.adapter_bytes(state)

    def slot_bytes(self, shape: StateShape) -> int:
        """The slots' bytes on a device, given how many it has of everything."""
        state = slot_state(self.part, shape)
        if self.rules is None:
            return tree_bytes(state)
        caches = [(shape.slots, shape.room), (shape.pages, shape.page_length)]
        held = sum(self._cache_bytes(rows * self.rules.data, length) for rows, length in caches)
        prompts = dataclasses.replace(state.prompts, cache=None)
        return held + tree_bytes(dataclasses.replace(state, cache=None, prompts=prompts))

    def _cache_bytes(self, rows: int, length: int) -> int:
        whole = jax.eval_shape(lambda: empty_cache(self.config, rows, length, self.model.dtype))
        keys = sum(self.rules.shard_bytes(at, self.rules.cache(at.shape, 2)) for at in whole.keys)
        values = sum(self.rules.shard_bytes(at, self.rules.cache(at.shape, 3)) for at in whole.values)
        return keys + values

    def gathered_bytes(self) -> int:
        """With `fsdp`, what a device gathers of the base while it runs: this layer's matrices and the next one's."""
        if self.rules is None or not self.rules.fsdp:
            return 0
        layers = tree_bytes(list(self.part.model.layers.values()))
        return 2 * layers // self.config.num_hidden_layers + tree_bytes(self.part.model.embedding)

    @functools.cached_property
    def model(self) -> Qwen2:
        """The base's arrays, as shapes."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        with traced_for(self.device.as_absent()):
            dtype = choose_dtype(self.dtype)
        make = functools.partial(init_random, self.config, dtype=dtype, quantization=self.quantization)
        return jax.eval_shape(make, key)

    @functools.cached_property
    def adapter(self) -> Adapter:
        """The adapter's arrays, as shapes."""

        def make(key: jax.Array) -> Adapter:
            return init_adapter(self.config, self.rank, self.rank, self.targets, key, self.dropout)

        return jax.eval_shape(make, jax.eval_shape(lambda: jax.random.key(0)))

    def laid_out(self, function: Any, *arguments: Any, donated: Any = None, **static: Any) -> Layout:
        """Return `layout` of a program on this policy's device."""
        with traced_for(self.device.as_absent()):
            return layout(function, *arguments, donated=donated, platform=self.device.platform, **static)


@functools.lru_cache(maxsize=256)
def prefill_layout(policy: PolicyShape, rows: int, length: int, room: int) -> Layout:
    """Lay out the run of prompts, `length` with their padding; the outputs are keys and values, with so much room."""
    tokens, lengths = Shape((rows, length), jnp.int32), Shape((rows,), jnp.int32)
    return policy.laid_out(prefill, cut_model(policy), policy.adapter, tokens, lengths, room=room)


@functools.lru_cache(maxsize=256)
def decode_layout(policy: PolicyShape, shape: StateShape, readers: int, bound: int) -> Layout:
    """Lay out the loop that draws tokens in all slots."""
    weights, state = unstacked_weights(policy), slot_state(policy, shape)
    settings, chunk_length = draw_settings(shape, readers), EngineOptions.chunk_length
    return policy.laid_out(decode, weights, state, settings, donated=state, chunk_length=chunk_length, bound=bound)


def draw_settings(shape: StateShape, readers: int) -> DrawSettings:
    """Return how slots draw, and which pages so many slots read, as shapes."""
    slots, pages = shape.slots, shape.pages
    floats, integers = Shape((slots,), jnp.float32), Shape((slots,), jnp.int32)
    return DrawSettings(
        occupied=Shape((slots,), bool),
        temperature=floats,
        top_k=integers,
        top_p=floats,
        min_p=floats,
        limits=integers,
        stop_tokens=Shape((slots, MAX_STOP_TOKENS), jnp.int32),
        patience=_scalar(jnp.int32),
        sharing=Sharing(
            lengths=Shape((pages,), jnp.int32),
            readers=Shape((pages, readers), jnp.int32),
            pages=Shape((slots, shape.prompt_pages), jnp.int32),
            prompt_lengths=integers,
            reader=integers,
        ),
    )


@functools.lru_cache(maxsize=256)
def unstacked_weights(policy: PolicyShape) -> DecodeWeights:
    """Return the weights as decoding reads them, as shapes."""
    with traced_for(policy.device.as_absent()):
        return jax.eval_shape(lambda model, adapter: model.unstacked(adapter), cut_model(policy), policy.adapter)


def adapter_piece_bytes(policy: PolicyShape) -> int:
    """Return the bytes of the adapter's slices, one for each layer, which decoding reads."""
    return tree_bytes(unstacked_weights(policy).adapters)


@functools.lru_cache(maxsize=256)
def cut_model(policy: PolicyShape) -> Qwen2:
    """Return the base's arrays with its layers held cut, as shapes."""

    def cut(model: Qwen2) -> Qwen2:
        model.cut()
        return model

    return jax.eval_shape(cut, policy.model)


def largest_stack_bytes(policy: PolicyShape) -> int:
    """Return what moving the layers' weights, one name at a time, needs beside the model (`Qwen2.cut`, `stack`)."""
    return max(tree_bytes(weight) for weight in policy.model.layers.values())


@functools.lru_cache(maxsize=256)
def slot_state(policy: PolicyShape, shape: StateShape) -> SlotState:
    """Return the slots' state, as shapes."""
    return jax.eval_shape(lambda model: empty_slots(model, shape), policy.model)


@functools.lru_cache(maxsize=256)
def gradient_layout(policy: PolicyShape, settings: LearnerSettings, shape: MicrobatchShape) -> Layout:
    """Lay out one microbatch's gradient."""
    arguments, static = gradient_arguments(policy, settings, shape)
    return policy.laid_out(add_policy_gradient, *arguments, donated=arguments[2], **static)


def gradient_arguments(
    policy: PolicyShape, settings: LearnerSettings, shape: MicrobatchShape
) -> tuple[tuple, dict[str, Any]]:
    """Return what a microbatch's gradient is called with, as shapes, and its static arguments."""
    gradient = jax.eval_shape(empty_gradient, policy.adapter.weights)
    key = jax.eval_shape(lambda: jax.random.key(0)) if policy.dropout else None
    arguments = (policy.model, policy.adapter, gradient, shape.empty(), _scalar(jnp.float32), key)
    return arguments, {"settings": settings.gradient_settings(), "against_sampler": settings.ppo_epochs > 1}


@functools.lru_cache(maxsize=256)
def optimizer_layout(policy: PolicyShape, settings: LearnerSettings) -> Layout:
    """Lay out the optimizer's step."""
    state, gradient = learner_state(policy, settings), jax.eval_shape(empty_gradient, policy.adapter.weights)
    return policy.laid_out(apply_gradient, state, gradient, donated=state, settings=settings)


def learner_state(policy: PolicyShape, settings: LearnerSettings) -> LearnerState:
    """Return the learner's state, as shapes."""
    weights = policy.adapter.weights
    return LearnerState(weights, jax.eval_shape(settings.optimizer().init, weights), _scalar(jnp.int32))


def _scalar(dtype: Any) -> Shape:
    return Shape((), dtype)
