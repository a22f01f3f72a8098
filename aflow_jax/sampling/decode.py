"""Slots → tokens: a fixed number of sequences advances together, some tokens at a time, without asking the host."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from aflow_jax.qwen2 import Adapter, DecodeWeights, KVCache, Qwen2, decode_step, empty_cache
from aflow_jax.sampling.filters import sample_tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotState:
    """Where every slot stands.

    Attributes:
      cache: Keys and values of the tokens so far.
      hidden: State of each slot's last token: logits are made of it when the next token is drawn.
      positions: Tokens in the slot's cache, so the place of the next one.
      produced: New tokens so far.
      limits: New tokens at most.
      active: Whether the slot's completion goes on.
      keys: Noise of each completion; a token's is this key with its place in the completion folded in.
    """

    cache: KVCache
    hidden: Float[Array, "B D"]
    positions: Int[Array, "B"]
    produced: Int[Array, "B"]
    limits: Int[Array, "B"]
    active: Bool[Array, "B"]
    keys: Key[Array, "B"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """How to draw, all traced, and when to come back.

    Attributes:
      temperature, top_k, top_p, min_p: As in SamplingParams.
      stop_tokens: Tokens that end a completion, padded with -1.
      patience: The chunk ends early once this many completions ended in it; the number of slots or more: never.
    """

    temperature: Float[Array, ""]
    top_k: Int[Array, ""]
    top_p: Float[Array, ""]
    min_p: Float[Array, ""]
    stop_tokens: Int[Array, "E"]
    patience: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
    """The tokens of one call, by step; -1 where a slot had none.

    Attributes:
      tokens: Sampled tokens.
      logprobs: Their log-probabilities before the filters.
      active: Whether each slot's completion goes on after the chunk.
    """

    tokens: Int[Array, "C B"]
    logprobs: Float[Array, "C B"]
    active: Bool[Array, "B"]


@partial(jax.jit, static_argnums=(1, 2))
def empty_slots(model: Qwen2, slots: int, cache_length: int) -> SlotState:
    """All slots free."""
    integers = jnp.zeros(slots, jnp.int32)
    return SlotState(
        cache=empty_cache(model.config, slots, cache_length, model.dtype),
        hidden=jnp.zeros((slots, model.config.hidden_size), model.dtype),
        positions=integers,
        produced=integers,
        limits=integers,
        active=jnp.zeros(slots, bool),
        keys=jax.random.split(jax.random.key(0, impl="threefry2x32"), slots),
    )


def lengthen(state: SlotState, cache_length: int) -> SlotState:
    """The same slots with a longer cache; `state` is given up."""
    room = cache_length - state.cache.length

    def moved(cached: Array, axis: int) -> Array:
        longer = _pad(cached, axis=axis, room=room)
        # One array after the other: all the old ones beside all the new ones would be twice the memory.
        cached.delete()
        return longer

    cache = KVCache(
        keys=tuple(moved(keys, 3) for keys in state.cache.keys),
        values=tuple(moved(values, 2) for values in state.cache.values),
    )
    return dataclasses.replace(state, cache=cache)


@partial(jax.jit, static_argnames=("axis", "room"))
def _pad(cached: Float[Array, "B K X Y"], *, axis: int, room: int) -> Array:
    return jnp.pad(cached, [(0, room if at == axis else 0) for at in range(cached.ndim)])


@jax.jit
def cut_layers(model: Qwen2, adapter: Adapter | None) -> DecodeWeights:
    """The weights cut into layers, once for many chunks."""
    return model.unstacked(adapter)


@partial(jax.jit, static_argnames=("chunk_length", "bound"), donate_argnames="state")
def decode(
    weights: DecodeWeights, state: SlotState, settings: DrawSettings, *, chunk_length: int, bound: int
) -> tuple[SlotState, Chunk]:
    """Draw up to `chunk_length` tokens in every active slot; `state` is donated.

    A step draws a token from each slot's last hidden state and then runs it, so that the first token of a new slot,
    which comes of its prefix, is drawn like any other. Slots without a completion compute along, and are not read.

    Args:
      weights: The model and its adapter.
      state: The slots; the cache has room for `chunk_length` more tokens in each active one, or up to its limit.
      settings: How to draw.
      chunk_length: Tokens at most.
      bound: `filters.top_k_bound` of the settings.
    """
    slots = state.active.shape[0]
    active_before = state.active.sum()

    def unfinished(carry: tuple[Array, SlotState, Chunk]) -> Bool[Array, ""]:
        step, state, _ = carry
        active = state.active.sum()
        return (step < chunk_length) & (active > 0) & (active_before - active < settings.patience)

    def advance(carry: tuple[Array, SlotState, Chunk]) -> tuple[Array, SlotState, Chunk]:
        step, state, chunk = carry
        tokens, logprobs = _draw(weights, state, settings, bound)
        hidden, cache = decode_step(weights, tokens, state.positions, state.cache)
        produced = state.produced + state.active
        stopped = (tokens[:, None] == settings.stop_tokens).any(axis=-1)
        active = state.active & ~stopped & (produced < state.limits)
        chunk = dataclasses.replace(
            chunk,
            tokens=chunk.tokens.at[step].set(jnp.where(state.active, tokens, -1)),
            logprobs=chunk.logprobs.at[step].set(logprobs),
        )
        # A slot that ended stays where it is: it writes over its own last place, which nobody reads.
        positions = state.positions + active
        moved = dataclasses.replace(
            state, cache=cache, hidden=hidden, positions=positions, produced=produced, active=active
        )
        return step + 1, moved, chunk

    blank = Chunk(
        tokens=jnp.full((chunk_length, slots), -1, jnp.int32),
        logprobs=jnp.zeros((chunk_length, slots), jnp.float32),
        active=state.active,
    )
    _, state, chunk = jax.lax.while_loop(unfinished, advance, (jnp.int32(0), state, blank))
    return state, dataclasses.replace(chunk, active=state.active)


def _draw(
    weights: DecodeWeights, state: SlotState, settings: DrawSettings, bound: int
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    logits = weights.unembed(state.hidden)
    keys = jax.vmap(jax.random.fold_in)(state.keys, state.produced)
    rows = state.produced.shape

    def every(value: Array) -> Array:
        return jnp.broadcast_to(value, rows)

    return sample_tokens(
        logits,
        keys,
        every(settings.temperature),
        every(settings.top_k),
        every(settings.top_p),
        every(settings.min_p),
        bound=bound,
    )
