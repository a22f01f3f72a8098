"""The slots' state on the device: made, kept in place on a mesh, and given more room."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from aflow_jax.qwen2 import KVCache, Qwen2, ShardingRules, empty_cache, hold_cache, hold_rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Prefix:
    """Prompts that have been run, whole or in pages.

    Attributes:
      hidden: State of each one's last token, which makes the logits of the first new one; each of its pages has it.
      cache: Their keys and values, padded.
    """

    hidden: Float[Array, "G D"]
    cache: KVCache


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotState:
    """Where every slot stands.

    Attributes:
      cache: Keys and values of each slot's new tokens.
      prompts: The prompts that slots continue, in G pages.
      hidden: State of each slot's last token: logits are made of it when the next token is drawn.
      positions: Tokens of prompt and completion so far, so the place of the next one.
      produced: New tokens so far.
      active: Whether the slot's completion goes on.
      keys: Noise of each completion; a token's is this key with its place in the completion folded in.
      history: Prompt and tokens so far, by position, for `lookup`; None where nothing is looked up.
    """

    cache: KVCache
    prompts: Prefix
    hidden: Float[Array, "B D"]
    positions: Int[Array, "B"]
    produced: Int[Array, "B"]
    active: Bool[Array, "B"]
    keys: Key[Array, "B"]
    history: Int[Array, "B S"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateShape:
    """How much a `SlotState` holds.

    Attributes:
      slots: B.
      room: New tokens of a slot.
      pages: G, of prompts.
      page_length: Tokens of a page.
      prompt_room: Tokens of a prompt.
    """

    slots: int
    room: int
    pages: int
    page_length: int
    prompt_room: int

    @property
    def prompt_pages(self) -> int:
        """Pages of a prompt, at most."""
        return -(-self.prompt_room // self.page_length)

    @property
    def cache_tokens(self) -> int:
        """Tokens that there is room for."""
        return self.slots * self.room + self.pages * self.page_length


@partial(jax.jit, static_argnames=("shape", "with_history"))
def empty_slots(model: Qwen2, shape: StateShape, *, with_history: bool = False) -> SlotState:
    """All slots free."""
    slots, width = shape.slots, model.config.hidden_size
    integers = jnp.zeros(slots, jnp.int32)
    state = SlotState(
        cache=empty_cache(model.config, slots, shape.room, model.dtype),
        prompts=Prefix(
            hidden=jnp.zeros((shape.pages, width), model.dtype),
            cache=empty_cache(model.config, shape.pages, shape.page_length, model.dtype),
        ),
        hidden=jnp.zeros((slots, width), model.dtype),
        positions=integers,
        produced=integers,
        active=jnp.zeros(slots, bool),
        keys=jax.random.split(jax.random.key(0, impl="threefry2x32"), slots),
        history=jnp.zeros((slots, shape.prompt_room + shape.room), jnp.int32) if with_history else None,
    )
    return hold_slots(model.rules, state)


def hold_slots(rules: ShardingRules | None, state: SlotState) -> SlotState:
    """Inside a program: keep the slots where the rules say, each on the devices of its part of `data`."""
    if rules is None:
        return state

    def held(part: Array | KVCache) -> Array | KVCache:
        return hold_cache(rules, part) if isinstance(part, KVCache) else hold_rows(rules, part)

    return jax.tree.map(held, state, is_leaf=lambda part: isinstance(part, KVCache))


def resize(state: SlotState, before: StateShape, after: StateShape, blocks: int = 1) -> SlotState:
    """The same slots and pages, the slots with more room, and further free ones behind those of each block (`Sharing`).

    `state` is given up.
    """
    slots, pages = after.slots - before.slots, after.pages - before.pages
    room, prompt_room = after.room - before.room, after.prompt_room - before.prompt_room

    def moved(values: Array, rows: int, axis: int | None = None, room: int = 0) -> Array:
        if rows == 0 and room == 0:
            return values
        sharding = values.sharding if isinstance(values.sharding, NamedSharding) else None
        larger = _pad(values, rows=rows, axis=axis, room=room, blocks=blocks, sharding=sharding)
        # One array after the other: all the old ones beside all the new ones would be twice the memory.
        values.delete()
        return larger

    def moved_cache(cache: KVCache, rows: int, room: int) -> KVCache:
        return KVCache(
            keys=tuple(moved(keys, rows, 3, room) for keys in cache.keys),
            values=tuple(moved(values, rows, 2, room) for values in cache.values),
        )

    return SlotState(
        cache=moved_cache(state.cache, slots, room),
        prompts=Prefix(hidden=moved(state.prompts.hidden, pages), cache=moved_cache(state.prompts.cache, pages, 0)),
        hidden=moved(state.hidden, slots),
        positions=moved(state.positions, slots),
        produced=moved(state.produced, slots),
        active=moved(state.active, slots),
        keys=moved(state.keys, slots),
        history=None if state.history is None else moved(state.history, slots, 1, room + prompt_room),
    )


@partial(jax.jit, static_argnames=("rows", "axis", "room", "blocks", "sharding"))
def _pad(
    values: Shaped[Array, "B ..."],
    *,
    rows: int,
    axis: int | None,
    room: int,
    blocks: int,
    sharding: NamedSharding | None,
) -> Array:
    cut = values.reshape(blocks, -1, *values.shape[1:])
    if jnp.issubdtype(values.dtype, jax.dtypes.prng_key):
        # Keys of free slots are set before they are used.
        larger = jnp.concatenate([cut, jnp.broadcast_to(cut[:, :1], (blocks, rows // blocks))], axis=1)
    else:
        more = {1: rows // blocks} if axis is None else {1: rows // blocks, 1 + axis: room}
        larger = jnp.pad(cut, [(0, more.get(at, 0)) for at in range(cut.ndim)])
    larger = larger.reshape(-1, *larger.shape[2:])
    return larger if sharding is None else jax.lax.with_sharding_constraint(larger, sharding)
