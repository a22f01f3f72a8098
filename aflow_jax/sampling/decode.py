"""Slots → tokens: a fixed number of sequences advances together, some tokens at a time, without asking the host."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from aflow_jax.qwen2 import (
    Adapter,
    DecodeWeights,
    Qwen2,
    ShardingRules,
    Sharing,
    decode_step,
    hold,
    hold_rows,
)
from aflow_jax.sampling.filters import sample_tokens
from aflow_jax.sampling.slot_state import SlotState, hold_slots

LOOP_OPTIONS = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
}
"""XLA's options for programs with loops and branches: those too are put in CUDA's graphs, so that a GPU need not ask
the host at each turn. Without effect on other devices."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """How each slot draws and when it ends, all traced, and when to come back.

    Attributes:
      occupied: Whether the slot has a completion that goes on; one that was cancelled ends here.
      temperature, top_k, top_p, min_p: As in SamplingParams.
      limits: New tokens at most.
      stop_tokens: Tokens that end the completion, padded with -1.
      patience: The chunk ends early once this many completions ended in it; the number of slots or more: never.
      sharing: Which slots continue which prompts.
    """

    occupied: Bool[Array, "B"]
    temperature: Float[Array, "B"]
    top_k: Int[Array, "B"]
    top_p: Float[Array, "B"]
    min_p: Float[Array, "B"]
    limits: Int[Array, "B"]
    stop_tokens: Int[Array, "B E"]
    patience: Int[Array, ""]
    sharing: Sharing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
    """The tokens of one call, by step; -1 where a slot had none.

    Attributes:
      tokens: Sampled tokens.
      logprobs: Their log-probabilities before the filters.
      active: Whether each slot's completion goes on after the chunk.
      passes: How often a slot with a completion went through the model.
    """

    tokens: Int[Array, "C B"]
    logprobs: Float[Array, "C B"]
    active: Bool[Array, "B"]
    passes: Int[Array, ""]


def hold_chunk(rules: ShardingRules | None, chunk: Chunk) -> Chunk:
    """Inside a program: have what the host reads on every device, and so in every process."""
    return hold(rules, chunk, lambda _: rules.everywhere())


def decode_weights(model: Qwen2, adapter: Adapter | None) -> DecodeWeights:
    """Return the weights for a decode loop, once for many chunks: the model's own, which it then holds cut."""
    model.cut()
    return model.unstacked(adapter)


@partial(jax.jit, static_argnames=("chunk_length", "bound"), donate_argnames="state", compiler_options=LOOP_OPTIONS)
def decode(
    weights: DecodeWeights, state: SlotState, settings: DrawSettings, *, chunk_length: int, bound: int
) -> tuple[SlotState, Chunk]:
    """Draw up to `chunk_length` tokens in every active slot; `state` is donated.

    A step draws a token from each slot's last hidden state and then runs it, so that the first token of a new slot,
    which comes of its prefix, is drawn like any other. Slots without a completion compute along, and are not read.

    Args:
      weights: The model and its adapter.
      state: The slots, with room for `chunk_length` more tokens in each active one, or up to its limit.
      settings: How to draw.
      chunk_length: Tokens at most.
      bound: `filters.top_k_bound` of the largest top_k.
    """
    state = dataclasses.replace(state, active=state.active & settings.occupied)
    active_before = state.active.sum()

    def unfinished(carry: tuple[Array, SlotState, Chunk]) -> Bool[Array, ""]:
        step, state, _ = carry
        active = state.active.sum()
        return (step < chunk_length) & (active > 0) & (active_before - active < settings.patience)

    def advance(carry: tuple[Array, SlotState, Chunk]) -> tuple[Array, SlotState, Chunk]:
        step, state, chunk = carry
        tokens, logprobs = draw(weights, state.hidden, state.keys, state.produced, settings, bound)
        chunk = dataclasses.replace(
            chunk,
            tokens=chunk.tokens.at[step].set(jnp.where(state.active, tokens, -1)),
            logprobs=chunk.logprobs.at[step].set(logprobs),
            passes=chunk.passes + state.active.sum(),
        )
        return step + 1, _run(weights, state, settings, tokens), chunk

    start = (jnp.int32(0), state, blank_chunk(state, chunk_length))
    _, state, chunk = jax.lax.while_loop(unfinished, advance, start)
    chunk = dataclasses.replace(chunk, active=state.active)
    return hold_slots(weights.rules, state), hold_chunk(weights.rules, chunk)


def blank_chunk(state: SlotState, chunk_length: int) -> Chunk:
    """A chunk without a token."""
    slots = state.active.shape[0]
    return Chunk(
        tokens=jnp.full((chunk_length, slots), -1, jnp.int32),
        logprobs=jnp.zeros((chunk_length, slots), jnp.float32),
        active=state.active,
        passes=jnp.int32(0),
    )


def decode_allowed(
    weights: DecodeWeights, state: SlotState, settings: DrawSettings, allowed: UInt32[Array, "B M"], *, bound: int
) -> tuple[SlotState, Chunk]:
    """Draw one of the allowed tokens in every active slot; `state` is donated.

    Drawing and running are two programs: the host has the tokens, and finds out what is allowed after them, while the
    device still runs them.

    Args:
      weights, state, settings, bound: As in `decode`; `patience` is not read.
      allowed: As in `filters.sample_tokens`.
    """
    chunk = _draw_allowed(weights, state, settings, allowed, bound=bound)
    return _run_chunk(weights, state, settings, chunk), chunk


@partial(jax.jit, static_argnames="bound", compiler_options=LOOP_OPTIONS)
def _draw_allowed(
    weights: DecodeWeights, state: SlotState, settings: DrawSettings, allowed: UInt32[Array, "B M"], *, bound: int
) -> Chunk:
    active = state.active & settings.occupied
    tokens, logprobs = draw(weights, state.hidden, state.keys, state.produced, settings, bound, allowed)
    chunk = Chunk(
        tokens=jnp.where(active, tokens, -1)[None],
        logprobs=logprobs[None],
        active=_goes_on(dataclasses.replace(state, active=active), settings, tokens),
        passes=active.sum(),
    )
    return hold_chunk(weights.rules, chunk)


@partial(jax.jit, donate_argnames="state")
def _run_chunk(weights: DecodeWeights, state: SlotState, settings: DrawSettings, chunk: Chunk) -> SlotState:
    state = dataclasses.replace(state, active=state.active & settings.occupied)
    # A slot that has no completion runs any token, which nobody reads.
    return hold_slots(weights.rules, _run(weights, state, settings, jnp.maximum(chunk.tokens[0], 0)))


def _run(weights: DecodeWeights, state: SlotState, settings: DrawSettings, tokens: Int[Array, "B"]) -> SlotState:
    """Take the drawn tokens in."""
    hidden, cache = decode_step(weights, tokens, state.positions, state.cache, (state.prompts.cache, settings.sharing))
    active = _goes_on(state, settings, tokens)
    return dataclasses.replace(
        state,
        cache=cache,
        hidden=hidden,
        # A slot that ended stays where it is: it writes over its own last place, which nobody reads.
        positions=state.positions + active,
        produced=state.produced + state.active,
        active=active,
    )


def _goes_on(state: SlotState, settings: DrawSettings, tokens: Int[Array, "B"]) -> Bool[Array, "B"]:
    """Whether each slot's completion goes on after these tokens."""
    stopped = (tokens[:, None] == settings.stop_tokens).any(axis=-1)
    return state.active & ~stopped & (state.produced + state.active < settings.limits)


def draw(
    weights: DecodeWeights,
    hidden: Float[Array, "B D"],
    keys: Key[Array, "B"],
    numbers: Int[Array, "B"],
    settings: DrawSettings,
    bound: int,
    allowed: UInt32[Array, "B M"] | None = None,
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """Draw the token after each state, with the noise of its completion's `numbers`-th token, from 0."""
    logits = hold_rows(weights.rules, weights.unembed(hidden))
    noise = jax.vmap(jax.random.fold_in)(keys, numbers)
    return sample_tokens(
        logits,
        noise,
        settings.temperature,
        settings.top_k,
        settings.top_p,
        settings.min_p,
        bound=bound,
        allowed=allowed,
    )
