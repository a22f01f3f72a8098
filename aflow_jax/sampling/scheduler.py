"""Continuous batching: requests come and go at any time, each with its own parameters and adapter.

submit ──► lane of its adapter ──step, lanes in turn──► progress of each completion, a chunk of tokens at a time
"""

import dataclasses

from aflow_jax.errors import UserError
from aflow_jax.qwen2 import Adapter, Qwen2, Tokenizer
from aflow_jax.sampling.lane import Lane, PageCounts
from aflow_jax.sampling.running import Job
from aflow_jax.sampling.types import EngineOptions, Progress, Request, SamplingParams


class Scheduler:
    """Samples from one model for many requests at once; to be called from one thread at a time.

    A completion is a function of weights, prompt, parameters and its seeds alone: neither other requests nor the slot
    that it gets have a part in it (up to rounding, where a matrix product rounds differently in another shape).

    Requests of one adapter share a lane: slots that decode together, taken first come first served. Lanes share the
    model's weights and take turns, a chunk each, so that none starves. Requests with a constraint have lanes of their
    own, so that no others decode a token at a time. What a lane holds is freed when it is idle.

    Attributes:
      truncated_prompts: Prompts cut to prompt_max_length so far.
      tokens: New tokens so far.
      passes: How often completions went through the model for them: fewer times where drafts were right.
    """

    def __init__(self, model: Qwen2, tokenizer: Tokenizer, options: EngineOptions, page_counts: PageCounts) -> None:
        """Make a scheduler, which keeps the engine's page counts; nothing is allocated before the first step."""
        self.truncated_prompts = 0
        self._model = model
        self._tokenizer = tokenizer
        self._options = options
        self._page_counts = page_counts
        self.tokens = self.passes = 0
        self._next_id = 0
        # By identity of the adapter, which the lane keeps alive, and whether there is a constraint; in the order of
        # their turns.
        self._lanes: dict[tuple[int, bool], Lane] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to do."""
        return not self._lanes

    @property
    def cache_tokens(self) -> tuple[int, int]:
        """Tokens that the caches have room for, and those that running completions need, prompts counted once."""
        counts = [lane.cache_tokens for lane in self._lanes.values()]
        return sum(allocated for allocated, _ in counts), sum(needed for _, needed in counts)

    def submit(
        self,
        request: Request,
        params: SamplingParams,
        adapter: Adapter | None = None,
        *,
        prompt_max_length: int | None = None,
    ) -> int:
        """Queue a request behind those of its adapter.

        Args:
          request: A prompt and the seeds of its completions.
          params: How tokens are drawn, and when its completions end.
          adapter: The same object for requests that are to share a lane; None samples from the base model.
          prompt_max_length: Longest prompt, where this request has a bound of its own.

        Returns:
          The request's id: 0, 1, 2 …

        Raises:
          UserError: a prompt above prompt_max_length where that is an error, or prompt and completion together above
            the positions that the model knows, or a constraint that so few new tokens cannot meet.
        """
        request = self._fit(request, prompt_max_length or self._options.prompt_max_length)
        self._check_positions(request, params)
        if params.constraint:
            params.constraint.matcher(params.max_new_tokens)  # refused now rather than in a slot
        request_id, self._next_id = self._next_id, self._next_id + 1
        if request.seeds:
            stop = self._tokenizer.eos_token_ids if params.stop_token_ids is None else params.stop_token_ids
            job = Job(id=request_id, request=request, params=params, stop_tokens=tuple(stop))
            self._lane(adapter, constrained=params.constraint is not None).add(job)
        return request_id

    def cancel(self, request_id: int) -> None:
        """Drop a request: its slots are free for others, and no step reports on it. An ended one is left as it is."""
        for lane in self._lanes.values():
            lane.cancel(request_id)
        self._drop_idle()

    def step(self) -> list[Progress]:
        """Advance the lane whose turn it is; return what its completions gained since its last turn.

        The first turn of a lane starts its first chunk, so it reports nothing.
        """
        if self.idle:
            return []
        key = next(iter(self._lanes))
        lane = self._lanes.pop(key)
        self._lanes[key] = lane
        tokens, passes = lane.tokens, lane.passes
        progress = lane.step()
        self.tokens += lane.tokens - tokens
        self.passes += lane.passes - passes
        self._drop_idle()
        return progress

    def _lane(self, adapter: Adapter | None, *, constrained: bool) -> Lane:
        key = id(adapter), constrained
        if key not in self._lanes:
            self._lanes[key] = Lane(
                self._model,
                self._tokenizer,
                adapter,
                self._options,
                self._page_counts,
                constrained=constrained,
            )
        return self._lanes[key]

    def _drop_idle(self) -> None:
        self._lanes = {key: lane for key, lane in self._lanes.items() if not lane.idle}

    def _fit(self, request: Request, prompt_max_length: int) -> Request:
        length = len(request.prompt_tokens)
        if length <= prompt_max_length:
            return request
        if self._options.long_prompts == "error":
            raise UserError(
                f"the prompt of request {self._next_id} has {length} tokens, prompt_max_length is "
                f"{prompt_max_length}: raise prompt_max_length, or let long prompts be truncated"
            )
        self.truncated_prompts += 1
        # The end is kept: a chat prompt ends with what asks the model to answer.
        return dataclasses.replace(request, prompt_tokens=request.prompt_tokens[-prompt_max_length:])

    def _check_positions(self, request: Request, params: SamplingParams) -> None:
        length = len(request.prompt_tokens)
        known = self._model.config.max_position_embeddings
        if length + params.max_new_tokens > known:
            raise UserError(
                f"a prompt of {length} tokens and max_new_tokens {params.max_new_tokens} exceed the model's "
                f"max_position_embeddings {known}: lower max_new_tokens or prompt_max_length"
            )
