"""The division of a batch into microbatches: completions of one prompt share its run, and shapes are few."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from aflow_jax.grpo.batch import Batch
from aflow_jax.qwen2 import Packing
from aflow_jax.rounding import rounded_count

_SHORTEST = 32

MOST_PADDING = 0.5
"""Share of a microbatch's positions, and of its completions', that may be padding. Below 32 tokens none counts as such:
nothing would hold those with less."""

_MOST_SPREAD = 4
"""Positions of a microbatch's sequences, each with its own copy of the prompt, which attention reads, for each position
that the microbatch may have."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Microbatch:
    """Some rows of a batch: G prompts with S completions of each, in packed rows.

    Attributes:
      rows: Which of the batch's rows each is: one with the prompt, and the completions'. What is dropped in training
        follows from it, not from the company.
      tokens: The packed rows.
      packing: What they hold.
      mask, logprobs: The loss tokens of each completion, and the sampler's log-probabilities.
      advantages: Of each completion.
    """

    rows: Int[Array, "G 1+S"]
    tokens: Int[Array, "G T"]
    packing: Packing
    mask: Bool[Array, "GS C"]
    logprobs: Float[Array, "GS C"]
    advantages: Float[Array, "GS"]

    @property
    def longest(self) -> int:
        """Positions of a prompt and one completion."""
        return self.packing.prompt_width + self.mask.shape[1]

    @property
    def whole_sequences(self) -> int:
        """How many sequences of prompt and completion would have as many positions, rounded up."""
        return -(-self.tokens.size // self.longest)

    @property
    def packed_tokens(self) -> int:
        """The tokens that it has, each prompt once."""
        lengths = self.packing.lengths
        return int(lengths.sum() + self.packing.prompt_lengths[lengths.any(axis=1)].sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class MicrobatchShape:
    """Prompts, completions of each, and the positions that one prompt and one completion have."""

    prompts: int
    samples: int
    prompt_width: int
    width: int

    @property
    def sequences(self) -> int:
        """Positions of the sequences for attention, each with its own copy of the prompt."""
        return self.prompts * self.samples * (self.prompt_width + self.width)

    def empty(self) -> Microbatch:
        """The shapes of a microbatch's arrays."""
        array, count = jax.ShapeDtypeStruct, self.prompts * self.samples
        return Microbatch(
            rows=array((self.prompts, 1 + self.samples), jnp.int32),
            tokens=array((self.prompts, self.prompt_width + self.samples * self.width), jnp.int32),
            packing=Packing(
                prompt_lengths=array((self.prompts,), jnp.int32),
                lengths=array((self.prompts, self.samples), jnp.int32),
                prompt_width=self.prompt_width,
            ),
            mask=array((count, self.width), bool),
            logprobs=array((count, self.width), jnp.float32),
            advantages=array((count,), jnp.float32),
        )


def fullest_shapes(prompt: int, completion: int, samples: int, most: int) -> tuple[MicrobatchShape, ...]:
    """Return the microbatches of which one takes the most memory, given the longest prompt and completion.

    They are the one of the longest sequences that share no prompt, since others died; the one of the longest that do;
    the one that attention spreads the most; and the one with the most positions in the loss.

    Args:
      prompt, completion: Tokens, at most.
      samples: Completions of a prompt.
      most: How many sequences of prompt and completion a microbatch may amount to.
    """
    longest, width = bucket(prompt), bucket(completion)
    room = most * (longest + width)

    def shape(prompt: int, width: int, samples: int) -> MicrobatchShape:
        count = prompts_at_once(prompt, width, samples, room)
        return MicrobatchShape(prompts=count, samples=samples, prompt_width=prompt, width=width)

    def shared(prompt: int, width: int) -> MicrobatchShape:
        return shape(prompt, width, min(samples, completions_at_once(prompt, width, room)))

    widths = sorted({bucket(length) for length in range(1, completion + 1)})
    spread = max((shared(longest, some) for some in widths), key=lambda shape: shape.sequences)
    return tuple(dict.fromkeys([shape(longest, width, 1), shared(longest, width), spread, shared(_SHORTEST, width)]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bundle:
    """Completions of one prompt, those that run together or all.

    Attributes:
      prompt: Its tokens, as a number.
      rows: The batch's rows with the completions, the longest first.
      lengths: The completions', up to their last loss token.
      first: The first row with the prompt.
      samples: Completions that there is room for.
    """

    prompt: int
    rows: Int[np.ndarray, "n"]
    lengths: Int[np.ndarray, "n"]
    first: int
    samples: int

    @property
    def positions(self) -> int:
        """Those that are needed."""
        return max(self.prompt, _SHORTEST) + int(np.maximum(self.lengths, _SHORTEST).sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Limits:
    """What a batch leads to, and its microbatches keep to.

    Attributes:
      most: How many sequences a device's part of a microbatch may amount to.
      longest: Positions of one of them, if a prompt and a completion have not more.
      multiple: Devices.
      completions, prompts: Those that are live.
      samples: Completions of a prompt, at most.
      prompt_width: Positions of the longest prompt.
    """

    most: int
    longest: int
    multiple: int
    completions: int
    prompts: int
    samples: int
    prompt_width: int

    @property
    def share(self) -> int:
        """Completions that run with one prompt at most, so that every device has some."""
        return -(-self.completions // self.multiple)

    def room(self, prompt: int, completion: int) -> int:
        """Positions that a device's part of a microbatch may have, given the widths of a prompt and a completion."""
        return self.most * max(self.longest, prompt + completion)

    def prompt(self, length: int) -> int:
        """A prompt's width: that of the batch's longest one, so that shapes are few, unless it is not half as long."""
        return self.prompt_width if 2 * length >= self.prompt_width else bucket(length)


def split_into_microbatches(
    batch: Batch,
    rows: int,
    *,
    longest: int = 0,
    mask_truncated: bool = False,
    share_prompts: bool = True,
    multiple: int = 1,
) -> list[Microbatch]:
    """Divide a batch into microbatches of no more positions than `rows` sequences of their prompt and completion have.

    Where there was room for as many sequences of `longest` positions, which are more, they have no more than those.

    Rows without a loss token are dropped. Completions with the same tokens before the first one run with one prompt,
    as many as that leaves room for, unless `share_prompts` is False, which makes fewer shapes where few prompts come
    more than once. Completions of like length share a microbatch: where more than `MOST_PADDING` of
    its positions would be padding it has fewer of them; its prompts are a multiple of `multiple`. Widths are rounded
    up to a `bucket`, so that steps of many lengths share few compiled programs. Raises ValueError where a row's first
    token is a loss token: nothing predicts it.
    """
    mask = np.asarray(batch.loss_mask, bool)
    if mask[:, 0].any():
        raise ValueError(f"row {int(mask[:, 0].argmax())} has its first token in the loss, which nothing predicts")
    if mask_truncated and batch.truncated is not None:
        mask = mask & ~np.asarray(batch.truncated, bool)[:, None]
    batch = dataclasses.replace(batch, tokens=np.asarray(batch.tokens), logprobs=np.asarray(batch.logprobs))
    groups = list(_groups(batch, mask, share_prompts))
    limits = _Limits(
        most=microbatch_rows(len(mask), rows, multiple) // multiple,
        longest=longest,
        multiple=multiple,
        completions=sum(len(group.rows) for group in groups),
        samples=max((len(group.rows) for group in groups), default=0),
        prompts=len(groups),
        prompt_width=bucket(max((group.prompt for group in groups), default=1)),
    )
    bundles = [bundle for group in groups for bundle in _bundles(group, limits)]
    bundles.sort(key=lambda bundle: (bundle.samples, bundle.lengths[0], bundle.prompt), reverse=True)
    parts = []
    while bundles:
        taken = _taken(bundles, limits)
        parts.append(_packed(batch, mask, bundles[:taken], limits))
        bundles = bundles[taken:]
    return parts


def microbatch_rows(sequences: int, most: int, multiple: int = 1) -> int:
    """The sequences of a full microbatch: as few as make no more microbatches than `most` would."""
    rows = -(-sequences // -(-sequences // most))
    return -(-rows // multiple) * multiple


def completions_at_once(prompt: int, completion: int, room: int) -> int:
    """How many completions run with one prompt, given the widths of both, and positions for one sequence or more."""
    return min((room - prompt) // completion, _MOST_SPREAD * room // (prompt + completion))


def prompts_at_once(prompt: int, completion: int, samples: int, room: int) -> int:
    """How many prompts run with so many completions each, given the same."""
    whole = samples * (prompt + completion)
    return max(1, min(room // (prompt + samples * completion), _MOST_SPREAD * room // whole))


def bucket(length: int, smallest: int = _SHORTEST) -> int:
    """The least of 32, 48, 64, 96, 128 … 4096, 5120, 6144, 7168, 8192 … that is not below `length`."""
    size = smallest
    while size < length:
        power = 1 << (size.bit_length() - 1)
        size += max(1, power // (4 if size >= 4096 else 2))
    return size


def _groups(batch: Batch, mask: Bool[np.ndarray, "B T"], share_prompts: bool) -> Iterator[_Bundle]:
    """Yield the live rows of each prompt, or each by itself."""
    starts, ends = mask.argmax(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1)
    lengths = ends - starts
    rows_of = defaultdict(list)
    for row in np.flatnonzero(mask.any(axis=1)):
        rows_of[batch.tokens[row, : starts[row]].tobytes() if share_prompts else row].append(row)
    for rows in map(np.array, rows_of.values()):
        rows = rows[np.argsort(-lengths[rows], kind="stable")]
        yield _Bundle(
            prompt=int(starts[rows[0]]), rows=rows, lengths=lengths[rows], first=int(rows.min()), samples=len(rows)
        )


def _bundles(group: _Bundle, limits: _Limits) -> Iterator[_Bundle]:
    """Divide a prompt's completions into those that run together."""
    at, whole = 0, rounded_count(limits.samples)
    while at < len(group.rows):
        lengths = group.lengths[at:]
        width = bucket(int(lengths[0]))
        prompt = limits.prompt(group.prompt)
        most = min(limits.share, completions_at_once(prompt, width, limits.room(prompt, width)))
        enough = min(count for count in _counts(2 * len(lengths), whole) if count >= len(lengths))
        samples = next(
            count
            for count in _counts(min(most, enough), whole)
            if np.maximum(lengths[:count], _SHORTEST).sum() >= (1 - MOST_PADDING) * count * width
        )
        taken = slice(at, at + samples)
        yield dataclasses.replace(group, rows=group.rows[taken], lengths=group.lengths[taken], samples=samples)
        at += samples


def _taken(bundles: list[_Bundle], limits: _Limits) -> int:
    """How many of the bundles, sorted, to run together."""
    samples, completion = bundles[0].samples, bucket(int(bundles[0].lengths[0]))
    alike = [bundle for bundle in bundles if bundle.samples == samples]

    def is_enough(count: int) -> bool:
        some = alike[: count * limits.multiple]
        prompt = limits.prompt(max(bundle.prompt for bundle in some))
        positions = count * limits.multiple * (prompt + samples * completion)
        is_dense = sum(bundle.positions for bundle in some) >= (1 - MOST_PADDING) * positions
        return is_dense and count <= prompts_at_once(prompt, completion, samples, limits.room(prompt, completion))

    counts = _counts(-(-len(alike) // limits.multiple), -(-limits.prompts // limits.multiple))
    return min(len(alike), limits.multiple * next((count for count in counts if is_enough(count)), 1))


def _counts(most: int, whole: int) -> Iterator[int]:
    """Few numbers up to `most`, the largest first: `whole`, and powers of two."""
    powers = {1 << exponent for exponent in range(most.bit_length())}
    yield from sorted(powers | {whole} if whole <= most else powers, reverse=True)


def _packed(batch: Batch, mask: Bool[np.ndarray, "B T"], bundles: list[_Bundle], limits: _Limits) -> Microbatch:
    """Lay out bundles as rows, and empty ones up to a multiple of what the batch is divided over."""
    samples, completion = bundles[0].samples, bucket(max(int(bundle.lengths[0]) for bundle in bundles))
    prompt = limits.prompt(max(bundle.prompt for bundle in bundles))
    groups = -(-len(bundles) // limits.multiple) * limits.multiple
    rows = np.zeros((groups, 1 + samples), np.int32)
    prompts = np.zeros((groups, prompt), np.int32)
    prompt_lengths, lengths = np.ones(groups, np.int32), np.zeros((groups, samples), np.int32)
    tokens, kept, logprobs = (np.zeros((groups, samples, completion), dtype) for dtype in (np.int32, bool, np.float32))
    advantages = np.zeros((groups, samples), np.float32)
    for group, bundle in enumerate(bundles):
        rows[group, 0], prompt_lengths[group] = bundle.first, bundle.prompt
        prompts[group, : bundle.prompt] = batch.tokens[bundle.first, : bundle.prompt]
        for sample, (row, length) in enumerate(zip(bundle.rows, bundle.lengths, strict=True)):
            there, here = slice(bundle.prompt, bundle.prompt + length), (group, sample, slice(length))
            rows[group, 1 + sample], lengths[group, sample] = row, length
            tokens[here], kept[here], logprobs[here] = (
                batch.tokens[row, there],
                mask[row, there],
                batch.logprobs[row, there],
            )
            advantages[group, sample] = batch.advantages[row]
    return Microbatch(
        rows=rows,
        tokens=np.concatenate([prompts, tokens.reshape(groups, -1)], axis=1),
        packing=Packing(prompt_lengths=prompt_lengths, lengths=lengths, prompt_width=prompt),
        mask=kept.reshape(groups * samples, completion),
        logprobs=logprobs.reshape(groups * samples, completion),
        advantages=advantages.reshape(-1),
    )
