"""A request on its way, and a completion of it in a slot."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from aflow_jax.sampling.device_slots import Start
from aflow_jax.sampling.prompts import Place
from aflow_jax.sampling.text import TextStream
from aflow_jax.sampling.types import Completion, Progress, Request, SamplingParams, TokenMatcher


@dataclasses.dataclass(kw_only=True)
class Job:
    """A request on its way.

    Attributes:
      id: The request's id.
      stop_tokens: Tokens that end its completions.
      started: Completions that got a slot so far.
    """

    id: int
    request: Request
    params: SamplingParams
    stop_tokens: tuple[int, ...]
    started: int = 0

    @property
    def unstarted(self) -> int:
        return len(self.request.seeds) - self.started


@dataclasses.dataclass(kw_only=True)
class Running:
    """A completion in a slot.

    Attributes:
      place: Where its prompt lies.
      matcher: What may come next, where there is a constraint.
      reported: How many of its tokens have been handed on.
      ended: Whether it is whole.
    """

    job: Job
    sample: int
    place: Place
    stream: TextStream
    matcher: TokenMatcher | None
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    reported: int = 0
    ended: bool = False

    def start(self, row: int) -> Start:
        """What a slot needs to know of it."""
        request = self.job.request
        return Start(row=row, place=self.place, seeds=request.seeds[self.sample], prompt=request.prompt_tokens)

    def take(self, tokens: Sequence[int], logprobs: Sequence[float], *, goes_on: bool) -> None:
        """Take in tokens of a chunk, those after a stop string left out; say whether the slot's completion goes on."""
        count = self.stream.push(tokens)
        self.tokens.extend(tokens[:count])
        self.logprobs.extend(logprobs[:count])
        for token in tokens[:count] if self.matcher else ():
            self.matcher.accept(token)
        self.ended = self.stream.stopped or not goes_on

    def reach(self, further: int) -> int:
        """New tokens after so many further ones, at most."""
        return min(len(self.tokens) + further, self.job.params.max_new_tokens)

    def report(self) -> Progress:
        """Hand on what has not been."""
        text = self.stream.take(ended=self.ended)
        new = slice(self.reported, len(self.tokens))
        self.reported = len(self.tokens)
        return Progress(
            request=self.job.id,
            sample=self.sample,
            tokens=tuple(self.tokens[new]),
            logprobs=np.asarray(self.logprobs[new], np.float32),
            text=text,
            completion=self._completion() if self.ended else None,
        )

    def _completion(self) -> Completion:
        stopped = self.stream.stopped or self.tokens[-1] in self.job.stop_tokens
        return Completion(
            prompt_tokens=self.job.request.prompt_tokens,
            tokens=tuple(self.tokens),
            logprobs=np.asarray(self.logprobs, np.float32),
            finish_reason="stop" if stopped else "length",
            text=self.stream.text,
            request=self.job.id,
            sample=self.sample,
        )
