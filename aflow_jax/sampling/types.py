"""What goes into the sampling engine, and what comes out of it."""

import dataclasses
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float, UInt32

from aflow_jax.errors import UserError

FinishReason = Literal["stop", "length"]
MAX_SEEDS = 8
MAX_STOP_TOKENS = 8


class TokenMatcher(Protocol):
    """Follows one completion and says which tokens may come next."""

    def mask(self) -> UInt32[np.ndarray, "M"]:
        """Return the tokens that may come next, at least one: bit `t % 32` of word `t // 32` stands for token `t`."""

    def accept(self, token: int) -> None:
        """Go on with a token that the mask allows."""


class TokenConstraint(Protocol):
    """What completions may be, such as `aflow_jax.workflow.WorkflowConstraint`."""

    def matcher(self, max_new_tokens: int) -> TokenMatcher:
        """Return the matcher of one completion; raise UserError where so few tokens hold none that may be written."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine works, whatever it is asked for.

    Attributes:
      slots: Sequences that decode together, at most.
      prompt_max_length: Longest prompt, in tokens.
      long_prompts: What becomes of a longer one: "error", or "truncate", which keeps its last tokens and counts it.
      chunk_length: Tokens between two looks at which completions ended.
      drafted: Tokens that prompt lookup drafts for each pass (`lookup`), below `chunk_length`; 0 is off.
      prompt_readers: Completions of a prompt that read one copy of its keys and values: the number of samples of each
        prompt, where that is known. More of them than it is read further copies; fewer cost arithmetic.
    """

    slots: int
    prompt_max_length: int
    long_prompts: Literal["error", "truncate"] = "error"
    chunk_length: int = 16
    drafted: int = 0
    prompt_readers: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.drafted < self.chunk_length:
            raise ValueError(f"drafted must be from 0 to {self.chunk_length - 1}, found {self.drafted}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn; the filters act in the order temperature, constraint, top-k, top-p, min-p.

    A constraint is a filter like the others: tokens are drawn from what it leaves, renormalised, while their
    log-probabilities stay those before all filters, under `log_softmax(logits / temperature)`. The objective computes
    the same, so on the first update the ratio of new to old probabilities is 1 with or without one. What differs is
    the distribution that the samples come from: as under top-k, a token that was excluded is never drawn and never
    penalised, and a token that was forced is reinforced or weakened by its unfiltered probability like any other.

    Attributes:
      max_new_tokens: Longest completion, its stop token included; at least 1.
      temperature: Divides the logits; 0 takes the most probable token.
      top_p: Smallest set of the most probable tokens that holds this probability, in (0, 1]; 1 is off.
      top_k: Number of the most probable tokens to draw from; 0 is off.
      min_p: Least probability, as a share of the highest, in [0, 1); 0 is off.
      stop_token_ids: Tokens that end a completion; None takes the tokenizer's end tokens, () never stops early.
      stop: Strings that end a completion: it keeps the token that completes one, and its text ends before it.
      constraint: What completions may be; None leaves them free. Its masks are made on the host between two tokens, so
        constrained completions decode in lanes of their own, a token at a time.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop_token_ids: tuple[int, ...] | None = None
    stop: tuple[str, ...] = ()
    constraint: TokenConstraint | None = None

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        _require(0.0 <= self.temperature < float("inf"), "temperature", self.temperature, "at least 0 and finite")
        _require(0.0 < self.top_p <= 1.0, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.top_k >= 0, "top_k", self.top_k, "at least 0 (0: off)")
        _require(0.0 <= self.min_p < 1.0, "min_p", self.min_p, "at least 0 and below 1")
        count = len(self.stop_token_ids or ())
        _require(count <= MAX_STOP_TOKENS, "stop_token_ids", count, f"at most {MAX_STOP_TOKENS} tokens")
        _require(all(self.stop), "stop", self.stop, "strings of at least one character")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt, and one completion of it for each entry of `seeds`.

    Attributes:
      prompt_tokens: The prompt, at least one token.
      seeds: For each completion the integers that make its noise, each below 2**32, at most eight; for example
        (seed, step, problem, sample). Equal entries give equal completions.
    """

    prompt_tokens: tuple[int, ...]
    seeds: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.prompt_tokens:
            raise ValueError("prompt_tokens is empty: a completion needs at least one token before it")
        for entry in self.seeds:
            if len(entry) > MAX_SEEDS or not all(0 <= number < 2**32 for number in entry):
                raise ValueError(f"seeds: expected at most {MAX_SEEDS} integers from 0 to 2**32 - 1, found {entry}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completion:
    """What the model wrote after a prompt.

    Attributes:
      prompt_tokens: The prompt as the model read it, after truncation if there was one.
      tokens: The sampled tokens; the stop token, where there is one, is the last of them.
      logprobs: Of each token, in nats, under log_softmax(logits / temperature) before the filters; at temperature 0
        under temperature 1.
      finish_reason: "stop" at a stop token or stop string, "length" at max_new_tokens.
      text: The tokens decoded, special tokens left out; it ends before the stop string, where there is one.
      request: The request's id: its place among those of a call of `Engine.generate`.
      sample: Place of the completion's entry in the request's seeds.
    """

    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: Float[np.ndarray, "N"]
    finish_reason: FinishReason
    text: str
    request: int
    sample: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """What one step added to one completion.

    Attributes:
      request: Id of the request, from `Scheduler.submit`.
      sample: Place of the completion's entry in the request's seeds.
      tokens: The new tokens, at least one.
      logprobs: Their log-probabilities, as in Completion.
      text: The new text that is certain: half a character, and what may become a stop string, are held back. The texts
        of a completion's steps together are the completion's text.
      completion: The whole completion where it ended, None where it goes on.
    """

    request: int
    sample: int
    tokens: tuple[int, ...]
    logprobs: Float[np.ndarray, "N"]
    text: str
    completion: Completion | None


def seed_words(seed: int) -> tuple[int, int]:
    """Return a 64-bit seed, signed or not, as two entries of `Request.seeds`."""
    return seed & 0xFFFF_FFFF, seed >> 32 & 0xFFFF_FFFF


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise UserError(f"{name} must be {expected}, found {value}")
