"""The rollouts of a step as arrays."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Bool, Float, Int


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
