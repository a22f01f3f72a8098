"""Prompts → slots: a prompt is run once and held once, for all the slots that continue it."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

from aflow_jax.qwen2 import Adapter, KVCache, Qwen2, ShardingRules, hold, hold_cache
from aflow_jax.sampling.decode import LOOP_OPTIONS
from aflow_jax.sampling.slot_state import Prefix, SlotState, hold_slots


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Admission:
    """Completions that start, padded to the number of slots so that one program serves every count.

    Attributes:
      rows: Their slots; out of range where there are no more.
      pages: A page of each one's prompt.
      lengths: Tokens of their prompts.
      seeds: Integers of each one's noise, padded.
      seed_counts: How many of them are real.
      history: Their prompts' tokens, padded, where the slots have a history.
    """

    rows: Int[Array, "B"]
    pages: Int[Array, "B"]
    lengths: Int[Array, "B"]
    seeds: UInt32[Array, "B M"]
    seed_counts: Int[Array, "B"]
    history: Int[Array, "B S"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Moves:
    """Pages to fill, padded so that one program serves many counts.

    Attributes:
      count: How many of them are real.
      sources: The prompt, or page, that each is filled from.
      starts: Where in it to begin.
      pages: The pages to fill.
    """

    count: Int[Array, ""]
    sources: Int[Array, "M"]
    starts: Int[Array, "M"]
    pages: Int[Array, "M"]


@partial(jax.jit, static_argnames="room")
def prefill(
    model: Qwen2, adapter: Adapter | None, tokens: Int[Array, "N T"], lengths: Int[Array, "N"], room: int
) -> Prefix:
    """Run prompts, right-padded to a bucket; their cache has room for so many tokens."""
    hidden, cache = model.prefill(tokens, lengths, adapter, cache_length=room)
    hidden = hold(model.rules, hidden, lambda _: model.rules.everywhere())
    return Prefix(hidden=hidden, cache=hold_cache(model.rules, cache))


@partial(jax.jit, static_argnames="rules", donate_argnames="state", compiler_options=LOOP_OPTIONS)
def store(state: SlotState, prefix: Prefix, moves: Moves, rules: ShardingRules | None = None) -> SlotState:
    """Cut prompts into pages; `state` is donated.

                      pages                                      pages
    prefix             0  a a                                     0  a a
     0  p p p ·        1  · ·  → sources 0 0 1, starts 0 2 0, →   1  p ·
     1  q q · ·        2  · ·    pages 3 1 4                      2  · ·
                       3  c c                                     3  p p
                       4  · ·                                     4  q q
    """
    return _put(state, prefix, moves, rules)


@partial(jax.jit, static_argnames="rules", donate_argnames="state", compiler_options=LOOP_OPTIONS)
def copy(state: SlotState, moves: Moves, rules: ShardingRules | None = None) -> SlotState:
    """Copy pages to further ones; `state` is donated."""
    return _put(state, None, moves, rules)


def _put(state: SlotState, prompts: Prefix | None, moves: Moves, rules: ShardingRules | None) -> SlotState:
    """Fill pages from prompts, or from the slots' own pages."""

    # A loop of in-place copies: a scatter would touch every page. One for all layers: before each turn of a loop a GPU
    # waits for the host.
    def put(index: Int[Array, ""], held: Prefix) -> Prefix:
        source, start, page = moves.sources[index], moves.starts[index], moves.pages[index]

        def put_in(old: Array, new: Array, axis: int | None = None) -> Array:
            begin = [start if at == axis else 0 for at in range(1, old.ndim)]
            size = tuple(map(min, old.shape[1:], new.shape[1:]))
            piece = jax.lax.dynamic_slice(new, (source, *begin), (1, *size))
            return jax.lax.dynamic_update_slice(old, piece, (page, *[0] * (old.ndim - 1)))

        given = held if prompts is None else prompts
        return Prefix(
            hidden=put_in(held.hidden, given.hidden),
            cache=KVCache(
                keys=tuple(put_in(*pair, 3) for pair in zip(held.cache.keys, given.cache.keys, strict=True)),
                values=tuple(put_in(*pair, 2) for pair in zip(held.cache.values, given.cache.values, strict=True)),
            ),
        )

    filled = jax.lax.fori_loop(0, moves.count, put, state.prompts)
    return hold_slots(rules, dataclasses.replace(state, prompts=filled))


@partial(jax.jit, static_argnames="rules", donate_argnames="state")
def start(state: SlotState, admission: Admission, rules: ShardingRules | None = None) -> SlotState:
    """Start completions of prompts that have their pages; `state` is donated."""

    def assign(values: Array, new: Array | int | bool) -> Array:
        return values.at[admission.rows].set(new, mode="drop")

    state = dataclasses.replace(
        state,
        hidden=assign(state.hidden, state.prompts.hidden[admission.pages]),
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
