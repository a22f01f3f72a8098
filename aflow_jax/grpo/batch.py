"""The rollouts of a step as arrays, and their division into microbatches of few shapes."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

_SHORTEST = 32

MOST_PADDING = 0.5
"""Share of a microbatch's positions that may be padding, of sequences of 32 tokens and more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Right-padded sequences, prompt and completion together.

    Attributes:
      tokens: int32[B, T].
      lengths: int32[B], valid tokens of each row, at least 1.
      loss_mask: bool[B, T], true exactly at completion tokens, the stop token included. A row without any is left
        out of everything: that is how a void rollout leaves the loss.
      logprobs: float32[B, T], the sampler's, in nats; looked at only where loss_mask is true.
      advantages: float[B].
      truncated: bool[B], whether the length limit cut the completion; None where none was cut.
    """

    tokens: Int[Array, "B T"]
    lengths: Int[Array, "B"]
    loss_mask: Bool[Array, "B T"]
    logprobs: Float[Array, "B T"]
    advantages: Float[Array, "B"]
    truncated: Bool[Array, "B"] | None = None

    @classmethod
    def from_rollouts(
        cls,
        *,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        logprobs: Sequence[Sequence[float]],
        advantages: Sequence[float],
        truncated: Sequence[bool] | None = None,
        void: Sequence[bool] | None = None,
    ) -> "Batch":
        """Lay out prompts and completions as right-padded rows; void rollouts get no loss tokens."""
        count = len(prompts)
        lengths = np.array([len(p) + len(c) for p, c in zip(prompts, completions, strict=True)], np.int32)
        width = int(lengths.max(initial=1))
        tokens, mask = np.zeros((count, width), np.int32), np.zeros((count, width), bool)
        sampled = np.zeros((count, width), np.float32)
        for row, (prompt, completion, values) in enumerate(zip(prompts, completions, logprobs, strict=True)):
            start, end = len(prompt), lengths[row]
            tokens[row, :start], tokens[row, start:end] = prompt, completion
            sampled[row, start:end] = values
            mask[row, start:end] = void is None or not void[row]
        return cls(
            tokens=tokens,
            lengths=lengths,
            loss_mask=mask,
            logprobs=sampled,
            advantages=np.asarray(advantages, np.float32),
            truncated=None if truncated is None else np.asarray(truncated, bool),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Microbatch:
    """Some rows of a batch. What concerns completions is cut to a window of W positions from `starts` on.

    `rows` says which of the batch's they are: what a row drops in training follows from it, not from its company.
    """

    rows: Int[Array, "R"]
    tokens: Int[Array, "R T"]
    lengths: Int[Array, "R"]
    starts: Int[Array, "R"]
    mask: Bool[Array, "R W"]
    logprobs: Float[Array, "R W"]
    advantages: Float[Array, "R"]


def split_into_microbatches(
    batch: Batch, rows: int, *, mask_truncated: bool = False, multiple: int = 1
) -> list[Microbatch]:
    """Divide a batch into microbatches of at most `rows` rows, the longest sequences first.

    Rows without a loss token are dropped; rows of length 1 without one fill a microbatch. Sequences of like length
    share one: where more than `MOST_PADDING` of its positions would be padding it has fewer rows, as long as they are
    a multiple of `multiple`. T is the microbatch's own and the window W the batch's, both rounded up to a `bucket`, so
    that steps of many lengths share few compiled programs. Raises ValueError where a row's first token is a loss
    token: nothing predicts it.
    """
    mask = np.asarray(batch.loss_mask, bool)
    if mask[:, 0].any():
        raise ValueError(f"row {int(mask[:, 0].argmax())} has its first token in the loss, which nothing predicts")
    if mask_truncated and batch.truncated is not None:
        mask = mask & ~np.asarray(batch.truncated, bool)[:, None]
    live = np.flatnonzero(mask.any(axis=1))
    live = live[np.argsort(-np.asarray(batch.lengths)[live], kind="stable")]
    if not len(live):
        return []
    whole = _windowed(batch, mask, live)
    # Rows are counted before any is dropped: a void rollout must not bring a new shape, and a new compilation.
    counts = _row_counts(microbatch_rows(len(mask), rows, multiple), multiple)
    parts, at = [], 0
    while at < len(live):
        rows = next((count for count in counts if _is_dense(whole.lengths[at : at + count], count)), multiple)
        parts.append(_rows(whole, at, rows))
        at += rows
    return parts


def microbatch_rows(sequences: int, most: int, multiple: int = 1) -> int:
    """The rows of a full microbatch: as few as make no more microbatches than `most` rows would."""
    rows = -(-sequences // -(-sequences // most))
    return -(-rows // multiple) * multiple


def _row_counts(rows: int, multiple: int) -> list[int]:
    """How many rows a microbatch may have, the most first: `rows`, and 1, 2, 3, 4, 6, 8, 12 … multiples below."""
    powers = [1 << exponent for exponent in range(rows.bit_length())]
    fewer = {size * multiple for power in powers for size in (power, power * 3 // 2)}
    return [rows, *sorted((count for count in fewer if count < rows), reverse=True)]


def _is_dense(lengths: Int[np.ndarray, "n"], count: int) -> bool:
    """Whether enough of `count` rows with these sequences, the longest first, is not padding.

    A sequence below the shortest bucket counts as that long: no microbatch would hold it with less padding.
    """
    return np.maximum(lengths, _SHORTEST).sum() >= (1 - MOST_PADDING) * count * bucket(int(lengths[0]))


def bucket(length: int, smallest: int = _SHORTEST) -> int:
    """The least of 32, 48, 64, 96, 128, 192, … that is not below `length`."""
    size = smallest
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def _windowed(batch: Batch, mask: Bool[np.ndarray, "B T"], live: Int[np.ndarray, "n"]) -> Microbatch:
    """The live rows in their order as one microbatch, with T as it was."""
    mask = mask[live]
    starts = mask.argmax(axis=1)
    ends = mask.shape[1] - mask[:, ::-1].argmax(axis=1)
    positions = starts[:, None] + np.arange(bucket(int((ends - starts).max())))
    # Past a row's last loss token the window may leave the arrays: there it holds their last position, masked.
    inside, positions = positions < ends[:, None], np.minimum(positions, mask.shape[1] - 1)
    logprobs = np.take_along_axis(np.asarray(batch.logprobs, np.float32)[live], positions, axis=1)
    return Microbatch(
        rows=live.astype(np.int32),
        tokens=np.asarray(batch.tokens, np.int32)[live],
        lengths=np.asarray(batch.lengths, np.int32)[live],
        starts=starts.astype(np.int32),
        mask=np.take_along_axis(mask, positions, axis=1) & inside,
        logprobs=np.where(inside, logprobs, np.float32(0)),
        advantages=np.asarray(batch.advantages, np.float32)[live],
    )


def _rows(whole: Microbatch, at: int, rows: int) -> Microbatch:
    """Rows from `at` on, filled up to `rows`, with T rounded up from their longest sequence."""
    part = jax.tree.map(lambda array: array[at : at + rows], whole)
    width = bucket(int(part.lengths.max()))
    tokens = np.pad(part.tokens[:, :width], ((0, 0), (0, max(0, width - part.tokens.shape[1]))))

    def fill(values: np.ndarray, empty: int = 0) -> np.ndarray:
        room = np.full((rows - len(values), *values.shape[1:]), empty, values.dtype)
        return np.concatenate([values, room])

    return Microbatch(
        rows=fill(part.rows),
        tokens=fill(tokens),
        lengths=fill(part.lengths, 1),
        starts=fill(part.starts, 1),
        mask=fill(part.mask),
        logprobs=fill(part.logprobs),
        advantages=fill(part.advantages),
    )
