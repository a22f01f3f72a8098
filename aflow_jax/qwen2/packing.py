"""Rows that hold a prompt once and its completions behind it: what all of them share is run once, and not for each.

    a row      | prompt ·· | completion 0 · | completion 1 ··· | …   each part padded on its right
    attention  | prompt completion 0 ··· |                           each completion behind its prompt, without a gap,
               | prompt completion 1 ··· |                           as the rows of any causal attention

All but attention looks at one position at a time, and so runs on the packed rows. For attention keys and values are
spread: every completion gets its own copy of the prompt's (`packed_attention`). The result is that of whole sequences,
and so is the gradient, whose parts for a prompt are summed over its completions (Liu et al., 2025, arXiv:2506.05433, do
the same).
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Packing:
    """What packed rows hold.

    Attributes:
      prompt_lengths: Tokens of each row's prompt, at least 1.
      lengths: Tokens of each of its completions.
      prompt_width: Positions that a row has for its prompt; the others are divided equally among the completions.
    """

    prompt_lengths: Int[Array, "G"]
    lengths: Int[Array, "G S"]
    prompt_width: int = dataclasses.field(metadata={"static": True})

    def width(self, row: int) -> int:
        """Positions for each completion, given those of a row."""
        return (row - self.prompt_width) // self.lengths.shape[1]

    def positions(self, row: int) -> Int[Array, "G T"]:
        """Return each place's position in its sequence, given the positions of a row."""
        own = self.prompt_lengths[:, None] + jnp.arange(self.width(row))
        prompt = jnp.broadcast_to(jnp.arange(self.prompt_width), (len(own), self.prompt_width))
        return jnp.concatenate([prompt, jnp.tile(own, (1, self.lengths.shape[1]))], axis=1)

    def sequence_lengths(self) -> Int[Array, "GS"]:
        """Tokens of each sequence, prompt and completion together."""
        return (self.prompt_lengths[:, None] + self.lengths).reshape(-1)

    def spread(self, packed: Shaped[Array, "G T ..."]) -> Shaped[Array, "GS W ..."]:
        """Return each sequence's own row, right-padded; what is behind its completion's width means nothing."""
        rows = _spread(packed, self.prompt_lengths, self.prompt_width, self.lengths.shape[1])
        return rows.reshape(-1, *rows.shape[2:])

    def gather(self, rows: Shaped[Array, "GS W ..."]) -> Shaped[Array, "G T ..."]:
        """Undo `spread`; of the sequences with one prompt the first one's is taken."""
        rows = rows.reshape(*self.lengths.shape, *rows.shape[1:])
        return _gather(rows, self.prompt_lengths, self.prompt_width)

    def before(self, packed: Float[Array, "G T D"]) -> Float[Array, "GS C D"]:
        """Return what lies one position before each one of the completions: for the first, the prompt's last."""
        groups, samples = self.lengths.shape
        last = jnp.take_along_axis(packed[:, : self.prompt_width], self.prompt_lengths[:, None, None] - 1, axis=1)
        completions = self.completions(packed)
        last = jnp.broadcast_to(last[:, None], (groups, samples, 1, packed.shape[-1])).reshape(-1, 1, packed.shape[-1])
        return jnp.concatenate([last, completions[:, :-1]], axis=1)

    def completions(self, packed: Shaped[Array, "G T ..."]) -> Shaped[Array, "GS C ..."]:
        """Return the completions' own part of the rows."""
        width = self.width(packed.shape[1])
        return packed[:, self.prompt_width :].reshape(self.lengths.size, width, *packed.shape[2:])


# Both directions are gathers, and so are their gradients. A gather's own gradient is a scatter, which on a GPU adds up
# in any order, and so gives other last bits each time.
@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _spread(
    packed: Shaped[Array, "G T ..."], lengths: Int[Array, "G"], prompt: int, samples: int
) -> Shaped[Array, "G S W ..."]:
    width = (packed.shape[1] - prompt) // samples
    place = jnp.arange(prompt + width)
    own = jnp.minimum(place - lengths[:, None], width - 1)
    starts = prompt + width * jnp.arange(samples)[:, None]
    places = jnp.where(own[:, None] < 0, place, starts + own[:, None])
    return _take(packed, places.reshape(len(lengths), -1)).reshape(*places.shape, *packed.shape[2:])


def _spread_forward(packed: Array, lengths: Array, prompt: int, samples: int) -> tuple[Array, Array]:
    return _spread(packed, lengths, prompt, samples), lengths


def _spread_backward(prompt: int, samples: int, lengths: Array, gradient: Array) -> tuple[Array, None]:
    total = gradient[:, :, :prompt].astype(jnp.float32).sum(axis=1).astype(gradient.dtype)
    inside = jnp.arange(prompt) < lengths[:, None]
    total = jnp.where(_like(inside, total), total, 0)
    return jnp.concatenate([total, _completions(gradient, lengths, prompt)], axis=1), None


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gather(rows: Shaped[Array, "G S W ..."], lengths: Int[Array, "G"], prompt: int) -> Shaped[Array, "G T ..."]:
    return jnp.concatenate([rows[:, 0, :prompt], _completions(rows, lengths, prompt)], axis=1)


def _gather_forward(rows: Array, lengths: Array, prompt: int) -> tuple[Array, tuple[Array, Array]]:
    # The empty array carries how many completions there are.
    return _gather(rows, lengths, prompt), (lengths, jnp.empty((rows.shape[1], 0)))


def _gather_backward(prompt: int, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, None]:
    lengths, like = saved
    rows = _spread(gradient, lengths, prompt, len(like))
    own = jnp.arange(rows.shape[2]) - lengths[:, None, None]
    first = jnp.arange(len(like))[:, None] == 0
    taken = jnp.where(own < 0, first, own < rows.shape[2] - prompt)
    return jnp.where(_like(taken, rows), rows, 0), None


_spread.defvjp(_spread_forward, _spread_backward)
_gather.defvjp(_gather_forward, _gather_backward)


def _completions(rows: Shaped[Array, "G S W ..."], lengths: Int[Array, "G"], prompt: int) -> Shaped[Array, "G SC ..."]:
    samples, width = rows.shape[1:3]
    places = width * jnp.arange(samples)[:, None] + lengths[:, None, None] + jnp.arange(width - prompt)
    return _take(rows.reshape(len(rows), samples * width, *rows.shape[3:]), places.reshape(len(rows), -1))


def _take(rows: Shaped[Array, "G T ..."], places: Int[Array, "G W"]) -> Shaped[Array, "G W ..."]:
    return jax.vmap(lambda row, at: row.at[at].get(mode="promise_in_bounds"))(rows, places)


def _like(mask: Bool[Array, "..."], array: Array) -> Bool[Array, "..."]:
    return mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))
