"""Prompts → slots: a prompt is run once, and its keys and values are copied to every slot that continues it."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from aflow_jax.qwen2 import Adapter, KVCache, Qwen2, ShardingRules, hold, hold_cache
from aflow_jax.sampling.decode import LOOP_OPTIONS, SlotState, hold_slots


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Prefix:
    """A prompt that has been run.

    Attributes:
      hidden: State of its last token, which makes the logits of the first new one.
      cache: Its keys and values, padded to a bucket.
      length: Its number of tokens.
      tokens: The tokens, padded to the bucket.
    """

    hidden: Float[Array, "D"]
    cache: KVCache
    length: Int[Array, ""]
    tokens: Int[Array, "T"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Admission:
    """Which slots continue a prefix, padded to the number of slots so that one program serves every count.

    Attributes:
      rows: The slots; entries from `count` on are out of range.
      count: How many there are.
      seeds: Integers of each one's noise, padded.
      seed_counts: How many of them are real.
    """

    rows: Int[Array, "B"]
    count: Int[Array, ""]
    seeds: UInt32[Array, "B M"]
    seed_counts: Int[Array, "B"]


@jax.jit
def prefill(model: Qwen2, adapter: Adapter | None, tokens: Int[Array, "T"], length: Int[Array, ""]) -> Prefix:
    """Run one prompt, right-padded to a bucket."""
    hidden, cache = model.prefill(tokens[None], length[None], adapter, cache_length=tokens.shape[0])
    hidden = hold(model.rules, hidden[0], lambda _: model.rules.everywhere())
    return Prefix(hidden=hidden, cache=hold_cache(model.rules, cache), length=length, tokens=tokens)


def insert(state: SlotState, prefix: Prefix, admission: Admission, rules: ShardingRules | None = None) -> SlotState:
    """Start `admission.count` completions of a prefix in the slots named; `state` is donated.

    slot   cache (· free)                 slot   cache
     0     a a a b b ·                     0     a a a b b ·
     1     · · · · · ·      insert p       1     p p p p · ·
     2     c c d d d d   →  at 1 and 3     2     c c d d d d
     3     · · · · · ·                     3     p p p p · ·
    """
    return _insert(state, prefix, admission, rules)


def _copy_rows(slots: KVCache, prefix: KVCache, admission: Admission) -> KVCache:
    # A loop of in-place copies: a scatter over all slots would touch those that are not admitted, too. One for all
    # layers: before each turn of a loop a GPU waits for the host.
    def copy(index: Int[Array, ""], slots: KVCache) -> KVCache:
        place = (admission.rows[index], 0, 0, 0)
        return jax.tree.map(lambda old, new: jax.lax.dynamic_update_slice(old, new, place), slots, prefix)

    return jax.lax.fori_loop(0, admission.count, copy, slots)


def _insert_traced(state: SlotState, prefix: Prefix, admission: Admission, rules: ShardingRules | None) -> SlotState:
    def assign(values: Array, new: Array) -> Array:
        return values.at[admission.rows].set(new, mode="drop")

    history = state.history
    if history is not None:
        padded = jnp.pad(prefix.tokens, (0, history.shape[1] - prefix.tokens.shape[0]))
        history = assign(history, padded)
    state = SlotState(
        cache=_copy_rows(state.cache, prefix.cache, admission),
        hidden=assign(state.hidden, prefix.hidden),
        positions=assign(state.positions, prefix.length),
        produced=assign(state.produced, 0),
        active=assign(state.active, True),
        keys=assign(state.keys, noise_keys(admission.seeds, admission.seed_counts)),
        history=history,
    )
    return hold_slots(rules, state)


_insert = jax.jit(_insert_traced, static_argnums=3, donate_argnums=0, compiler_options=LOOP_OPTIONS)


def noise_keys(seeds: UInt32[Array, "B M"], counts: Int[Array, "B"]) -> Array:
    """Fold the first `counts[b]` integers of each row into a key, in order."""

    def fold(numbers: UInt32[Array, "M"], count: Int[Array, ""]) -> Array:
        key = jax.random.key(0, impl="threefry2x32")
        for at in range(numbers.shape[0]):
            key = jnp.where(at < count, jax.random.fold_in(key, numbers[at]), key)
        return key

    return jax.vmap(fold)(seeds, counts)
