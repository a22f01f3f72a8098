"""Prompt lookup: several tokens a pass, where a completion repeats what it or its prompt said before.

Workflows repeat their operators' names. The tokens that followed the last two ones when they stood together before are
a draft of what follows now (Saxena, 2023, "Prompt Lookup Decoding"). One pass of the model runs the draft behind the
token that was drawn, and then each place is drawn as it would have been without a draft, with its own noise: a drafted
token stays if it is the one drawn, and what comes after the first that is not is forgotten.

        history  … Review ? Revise : done -> Review ?      a pass runs   ? Revise : done
        draft                                Revise : done  and keeps     ? Revise          if ":" is not drawn next

So the completion is the one that `decode.decode` gives, token for token (up to rounding, where a product of more rows
rounds differently): speed is all that a draft can change.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from aflow_jax.qwen2 import DecodeWeights, decode_tokens
from aflow_jax.sampling.decode import LOOP_OPTIONS, Chunk, DrawSettings, blank_chunk, draw, hold_chunk
from aflow_jax.sampling.slot_state import SlotState, hold_slots


@partial(
    jax.jit,
    static_argnames=("chunk_length", "bound", "drafted"),
    donate_argnames="state",
    compiler_options=LOOP_OPTIONS,
)
def decode_with_lookup(
    weights: DecodeWeights,
    state: SlotState,
    settings: DrawSettings,
    *,
    chunk_length: int,
    bound: int,
    drafted: int,
) -> tuple[SlotState, Chunk]:
    """`decode.decode` with drafts: a pass adds 1 to `drafted` + 1 tokens to every active slot; `state` is donated.

    Args:
      weights, settings, bound: As in `decode`.
      state: The slots, with their history.
      chunk_length: Tokens at most; a chunk ends when one more pass could exceed it in some slot, so at least
        `drafted` + 1.
      drafted: Tokens of a draft.
    """
    state = dataclasses.replace(state, active=state.active & settings.occupied)
    active_before = state.active.sum()
    slots = state.active.shape[0]

    def unfinished(carry: tuple[Array, SlotState, Chunk]) -> Bool[Array, ""]:
        gained, state, _ = carry
        active = state.active.sum()
        room = gained.max() + drafted + 1 <= chunk_length
        return room & (active > 0) & (active_before - active < settings.patience)

    def advance(carry: tuple[Array, SlotState, Chunk]) -> tuple[Array, SlotState, Chunk]:
        gained, state, chunk = carry
        tokens, logprobs, hidden, state = _run_draft(weights, state, settings, bound, drafted)
        kept, state = _take_in(state, settings, tokens, hidden)
        step = jnp.arange(drafted + 1)
        # What is not kept goes past the chunk's end, where it is dropped.
        places = jnp.where(step < kept[:, None], gained[:, None] + step, chunk_length)
        rows = jnp.arange(slots)[:, None]
        chunk = dataclasses.replace(
            chunk,
            tokens=chunk.tokens.at[places, rows].set(tokens, mode="drop"),
            logprobs=chunk.logprobs.at[places, rows].set(logprobs, mode="drop"),
            passes=chunk.passes + (kept > 0).sum(),
        )
        return gained + kept, state, chunk

    start = (jnp.zeros(slots, jnp.int32), state, blank_chunk(state, chunk_length))
    _, state, chunk = jax.lax.while_loop(unfinished, advance, start)
    chunk = dataclasses.replace(chunk, active=state.active)
    return hold_slots(weights.rules, state), hold_chunk(weights.rules, chunk)


def find_draft(history: Int[Array, "B S"], lengths: Int[Array, "B"], drafted: int) -> Int[Array, "B G"]:
    """What followed the last two tokens where they stood together before, the latest place first; -1 where nothing did.

    Args:
      history: Tokens of each row; those at and past its length are not looked at.
      lengths: At least 1.
      drafted: G.
    """
    place = jnp.arange(history.shape[1])
    rows = jnp.arange(history.shape[0])
    last, before = history[rows, lengths - 1], history[rows, lengths - 2]
    follows = jnp.roll(history, -1, axis=1) == last[:, None]
    # Both of the pair, and something after it.
    same = (history == before[:, None]) & follows & (place + 2 < lengths[:, None])
    latest = jnp.max(jnp.where(same, place, -1), axis=1)
    wanted = latest[:, None] + 2 + jnp.arange(drafted)
    known = (latest[:, None] >= 0) & (wanted < lengths[:, None])
    return jnp.where(known, jnp.take_along_axis(history, wanted, axis=1, mode="clip"), -1)


def _run_draft(
    weights: DecodeWeights, state: SlotState, settings: DrawSettings, bound: int, drafted: int
) -> tuple[Int[Array, "B N"], Float[Array, "B N"], Float[Array, "B N D"], SlotState]:
    """Draw each slot's next token, run it with a draft behind it, and draw what follows each of them.

    Returns:
      The tokens that were drawn for the next `drafted` + 1 places, the first -1 of each row being where the draft
      failed; their log-probabilities; the states of the tokens run; the slots with all of them in cache and history.
    """
    rows = jnp.arange(state.positions.shape[0])[:, None]
    places = state.positions[:, None] + jnp.arange(drafted + 1)
    first, logprob = draw(weights, state.hidden, state.keys, state.produced, settings, bound)
    history = state.history.at[rows[:, 0], state.positions].set(first, mode="drop")
    draft = find_draft(history, state.positions + 1, drafted)
    run = jnp.concatenate([first[:, None], jnp.maximum(draft, 0)], axis=1)
    hidden, cache = decode_tokens(weights, run, state.positions, state.cache, (state.prompts.cache, settings.sharing))

    def in_rows(values: Array) -> Array:
        return jnp.repeat(values, drafted, axis=0)

    numbers = (state.produced[:, None] + 1 + jnp.arange(drafted)).reshape(-1)
    each = dataclasses.replace(
        settings, **{name: in_rows(getattr(settings, name)) for name in ("temperature", "top_k", "top_p", "min_p")}
    )
    drawn, logprobs = draw(
        weights, hidden[:, :-1].reshape(numbers.shape[0], -1), in_rows(state.keys), numbers, each, bound
    )
    drawn = drawn.reshape(draft.shape)
    agreed = jnp.cumprod(drawn == draft, axis=1).astype(bool)
    tokens = jnp.concatenate([first[:, None], jnp.where(agreed, drawn, -1)], axis=1)
    logprobs = jnp.concatenate([logprob[:, None], logprobs.reshape(draft.shape)], axis=1)
    history = history.at[rows, places].set(run, mode="drop", unique_indices=True)
    return tokens, logprobs, hidden, dataclasses.replace(state, cache=cache, history=history)


def _take_in(
    state: SlotState, settings: DrawSettings, tokens: Int[Array, "B N"], hidden: Float[Array, "B N D"]
) -> tuple[Int[Array, "B"], SlotState]:
    """Return how many of the tokens each slot keeps, and the slots after them."""
    stops = (tokens[:, :, None] == settings.stop_tokens[:, None, :]).any(axis=-1) & (tokens >= 0)
    before_stop = jnp.cumsum(stops, axis=1) - stops == 0
    room = state.produced[:, None] + jnp.arange(tokens.shape[1]) < settings.limits[:, None]
    keeps = (tokens >= 0) & before_stop & room & state.active[:, None]
    kept = keeps.sum(axis=1).astype(jnp.int32)
    produced = state.produced + kept
    active = state.active & ~(stops & keeps).any(axis=1) & (produced < settings.limits)
    last = jnp.take_along_axis(hidden, jnp.maximum(kept - 1, 0)[:, None, None], axis=1)[:, 0]
    return kept, dataclasses.replace(
        state,
        hidden=last,
        # A slot that ended stays where it is, as in `decode`.
        positions=state.positions + jnp.where(active, kept, 0),
        produced=produced,
        active=active,
    )
