"""Prompts → slots: a prompt is run once and held once, for all the slots that continue it."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

from aflow_jax.qwen2 import Adapter, Qwen2, ShardingRules, hold, hold_cache
from aflow_jax.sampling.decode import LOOP_OPTIONS
from aflow_jax.sampling.slot_state import Prefix, SlotState, hold_slots


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Admission:
    """Completions that start, padded to the number of slots so that one program serves every count.

    Attributes:
      rows: Their slots; out of range where there are no more.
      places: The places of their prompts.
      lengths: Tokens of their prompts.
      seeds: Integers of each one's noise, padded.
      seed_counts: How many of them are real.
      history: Their prompts' tokens, padded, where the slots have a history.
    """

    rows: Int[Array, "B"]
    places: Int[Array, "B"]
    lengths: Int[Array, "B"]
    seeds: UInt32[Array, "B M"]
    seed_counts: Int[Array, "B"]
    history: Int[Array, "B S"] | None = None


@jax.jit
def prefill(model: Qwen2, adapter: Adapter | None, tokens: Int[Array, "N T"], lengths: Int[Array, "N"]) -> Prefix:
    """Run prompts, right-padded to a bucket."""
    hidden, cache = model.prefill(tokens, lengths, adapter, cache_length=tokens.shape[1])
    hidden = hold(model.rules, hidden, lambda _: model.rules.everywhere())
    return Prefix(hidden=hidden, cache=hold_cache(model.rules, cache))


@partial(jax.jit, static_argnames="rules", donate_argnames="state", compiler_options=LOOP_OPTIONS)
def store(state: SlotState, prefix: Prefix, places: Int[Array, "N"], rules: ShardingRules | None = None) -> SlotState:
    """Put prompts in their places; `state` is donated.

                 prompts                     prompts
    prefix        0  a a a ·                  0  a a a ·
     0  p p ·     1  · · · ·  → places 3 1 →  1  q q q ·
     1  q q q     2  c c · ·                  2  c c · ·
                  3  · · · ·                  3  p p · ·
    """
    return _put(state, prefix, jnp.arange(len(places)), places, jnp.int32(len(places)), rules)


@partial(jax.jit, static_argnames="rules", donate_argnames="state", compiler_options=LOOP_OPTIONS)
def copy(
    state: SlotState,
    sources: Int[Array, "B"],
    places: Int[Array, "B"],
    count: Int[Array, ""],
    rules: ShardingRules | None = None,
) -> SlotState:
    """Copy the first `count` prompts of `sources` to further places; `state` is donated."""
    return _put(state, None, sources, places, count, rules)


def _put(
    state: SlotState,
    prompts: Prefix | None,
    sources: Int[Array, "M"],
    places: Int[Array, "M"],
    count: Int[Array, ""],
    rules: ShardingRules | None,
) -> SlotState:
    """Put prompts, or the slots' own ones, in places."""

    # A loop of in-place copies: a scatter would touch every place. One for all layers: before each turn of a loop a GPU
    # waits for the host.
    def put(index: Int[Array, ""], held: Prefix) -> Prefix:
        def put_in(old: Array, new: Array) -> Array:
            row = jax.lax.dynamic_index_in_dim(new, sources[index])
            return jax.lax.dynamic_update_slice(old, row, (places[index], *[0] * (old.ndim - 1)))

        return jax.tree.map(put_in, held, held if prompts is None else prompts)

    return hold_slots(rules, dataclasses.replace(state, prompts=jax.lax.fori_loop(0, count, put, state.prompts)))


@partial(jax.jit, static_argnames="rules", donate_argnames="state")
def start(state: SlotState, admission: Admission, rules: ShardingRules | None = None) -> SlotState:
    """Start completions of prompts that have their places; `state` is donated."""

    def assign(values: Array, new: Array | int | bool) -> Array:
        return values.at[admission.rows].set(new, mode="drop")

    state = dataclasses.replace(
        state,
        hidden=assign(state.hidden, state.prompts.hidden[admission.places]),
        positions=assign(state.positions, admission.lengths),
        produced=assign(state.produced, 0),
        active=assign(state.active, True),
        keys=assign(state.keys, noise_keys(admission.seeds, admission.seed_counts)),
        history=None if state.history is None else assign(state.history, admission.history),
    )
    return hold_slots(rules, state)


def noise_keys(seeds: UInt32[Array, "B M"], counts: Int[Array, "B"]) -> Array:
    """Fold the first `counts[b]` integers of each row into a key, in order."""

    def fold(numbers: UInt32[Array, "M"], count: Int[Array, ""]) -> Array:
        key = jax.random.key(0, impl="threefry2x32")
        for at in range(numbers.shape[0]):
            key = jnp.where(at < count, jax.random.fold_in(key, numbers[at]), key)
        return key

    return jax.vmap(fold)(seeds, counts)
