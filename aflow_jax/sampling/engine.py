"""The engine: requests wait, slots decode, completions leave the moment they end.

    requests ──► waiting ──prefill, once for each prompt──► slots ──decode, a chunk at a time──► completions
                    ▲                                         │
                    └──────── a slot that ended is free ◄─────┘

The device is given the next chunk before the caller is given the completions of the last one, so the caller's work
and the device's go on side by side.
"""

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import numpy as np

from aflow_jax.errors import UserError
from aflow_jax.qwen2 import Adapter, Qwen2, Tokenizer
from aflow_jax.sampling.decode import Chunk, DrawSettings, cut_layers, decode, empty_slots, lengthen
from aflow_jax.sampling.filters import top_k_bound
from aflow_jax.sampling.prefill import Admission, Prefix, insert, prefill
from aflow_jax.sampling.types import MAX_SEEDS, MAX_STOP_TOKENS, Completion, Request, SamplingParams

SMALLEST_BUCKET = 64
# Room for new tokens in a fresh cache: most completions end within it, and the others lengthen the cache.
FIRST_ROOM = 256


class Engine:
    """Samples completions from one model, with the adapter given at each call.

    A completion is a function of weights, prompt, parameters and its seeds alone: neither other requests nor the slot
    that it gets have a part in it (up to rounding, where a matrix product rounds differently in another shape).

    Attributes:
      truncated_prompts: Prompts cut to prompt_max_length so far.
    """

    def __init__(
        self,
        model: Qwen2,
        tokenizer: Tokenizer,
        *,
        slots: int,
        prompt_max_length: int,
        long_prompts: Literal["error", "truncate"] = "error",
        chunk_length: int = 16,
    ) -> None:
        """Make an engine; nothing is compiled or allocated before the first call.

        Args:
          model: The frozen base.
          tokenizer: Decodes completions, and names the end tokens.
          slots: Sequences that decode together, at most.
          prompt_max_length: Longest prompt, in tokens.
          long_prompts: What becomes of a longer one: "error", or "truncate", which keeps its last tokens and counts it.
          chunk_length: Tokens between two looks at which completions ended.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.slots = slots
        self.prompt_max_length = prompt_max_length
        self.long_prompts = long_prompts
        self.chunk_length = chunk_length
        self.truncated_prompts = 0

    def generate(
        self, requests: Sequence[Request], params: SamplingParams, adapter: Adapter | None = None
    ) -> Iterator[Completion]:
        """Yield each completion when it ends; closing the iterator frees all that the call holds.

        Args:
          requests: Started in this order.
          params: How tokens are drawn, for all of them.
          adapter: The policy's adapter; None samples from the base model.

        Raises:
          UserError: a prompt above prompt_max_length where that is an error, or prompt and completion together above
            the positions that the model knows.
        """
        requests = [self._fit(request, place) for place, request in enumerate(requests)]
        self._check_positions(requests, params)
        return _Call(self, requests, params, adapter).completions()

    def _fit(self, request: Request, place: int) -> Request:
        length = len(request.prompt_tokens)
        if length <= self.prompt_max_length:
            return request
        if self.long_prompts == "error":
            raise UserError(
                f"the prompt of request {place} has {length} tokens, prompt_max_length is {self.prompt_max_length}: "
                "raise prompt_max_length, or let long prompts be truncated"
            )
        self.truncated_prompts += 1
        # The end is kept: a chat prompt ends with what asks the model to answer.
        return dataclasses.replace(request, prompt_tokens=request.prompt_tokens[-self.prompt_max_length :])

    def _check_positions(self, requests: Sequence[Request], params: SamplingParams) -> None:
        longest = max((len(request.prompt_tokens) for request in requests), default=0)
        known = self.model.config.max_position_embeddings
        if longest + params.max_new_tokens > known:
            raise UserError(
                f"a prompt of {longest} tokens and max_new_tokens {params.max_new_tokens} exceed the model's "
                f"max_position_embeddings {known}: lower max_new_tokens or prompt_max_length"
            )


def bucket(length: int) -> int:
    """The smallest of 64, 128, 192, 256, 384, 512, 768, 1024, 1536 … that is at least `length`."""
    size = SMALLEST_BUCKET
    while size < length:
        if size & (size - 1) == 0 and size > SMALLEST_BUCKET:
            size += size // 2
        else:
            size = 1 << size.bit_length()
    return size


@dataclasses.dataclass(kw_only=True)
class _Waiting:
    """A request with completions that have no slot yet; its prefix stays until the last one has."""

    place: int
    request: Request
    started: int = 0
    prefix: Prefix | None = None


@dataclasses.dataclass(kw_only=True)
class _Running:
    """A completion in a slot."""

    place: int
    sample: int
    request: Request
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)


class _Call:
    """One call of `generate`: its waiting requests, its slots and their state on the device."""

    def __init__(
        self, engine: Engine, requests: Sequence[Request], params: SamplingParams, adapter: Adapter | None
    ) -> None:
        self.engine = engine
        self.params = params
        self.adapter = adapter
        stop = engine.tokenizer.eos_token_ids if params.stop_token_ids is None else params.stop_token_ids
        self.stop_tokens = tuple(stop)
        self.bound = top_k_bound(params.top_k, engine.model.config.vocab_size)
        self.waiting = deque(
            _Waiting(place=place, request=request) for place, request in enumerate(requests) if request.seeds
        )
        wanted = sum(len(request.seeds) for request in requests)
        # A call for few completions decodes in few slots: powers of two, so that there are few programs.
        self.slots: list[_Running | None] = [None] * min(engine.slots, 1 << max(wanted - 1, 0).bit_length())

    def completions(self) -> Iterator[Completion]:
        if not self.waiting:
            return
        engine = self.engine
        longest = max(len(waiting.request.prompt_tokens) for waiting in self.waiting)
        self.cache_length = bucket(longest + min(self.params.max_new_tokens, FIRST_ROOM))
        self.state = empty_slots(engine.model, len(self.slots), self.cache_length)
        self.weights = cut_layers(engine.model, self.adapter)
        ended: list[Completion] = []
        while True:
            self._admit()
            if not any(self.slots):
                break
            chunk = self._decode()
            yield from ended
            ended = self._collect(chunk)
        yield from ended

    def _admit(self) -> None:
        """Give free slots to waiting completions."""
        free = [row for row, running in enumerate(self.slots) if running is None]
        while free and self.waiting:
            waiting = self.waiting[0]
            if waiting.prefix is None:
                waiting.prefix = self._prefill(waiting.request.prompt_tokens)
            samples = range(waiting.started, min(waiting.started + len(free), len(waiting.request.seeds)))
            rows, free = free[: len(samples)], free[len(samples) :]
            self.state = insert(self.state, waiting.prefix, self._admission(waiting.request, samples, rows))
            for row, sample in zip(rows, samples, strict=True):
                self.slots[row] = _Running(place=waiting.place, sample=sample, request=waiting.request)
            waiting.started = samples.stop
            if waiting.started == len(waiting.request.seeds):
                self.waiting.popleft()

    def _prefill(self, prompt: tuple[int, ...]) -> Prefix:
        tokens = np.zeros(bucket(len(prompt)), np.int32)
        tokens[: len(prompt)] = prompt
        return prefill(self.engine.model, self.adapter, tokens, np.int32(len(prompt)))

    def _admission(self, request: Request, samples: range, rows: list[int]) -> Admission:
        slots = len(self.slots)
        padded = np.full(slots, slots, np.int32)
        padded[: len(rows)] = rows
        seeds = np.zeros((slots, MAX_SEEDS), np.uint32)
        counts = np.zeros(slots, np.int32)
        for at, sample in enumerate(samples):
            entry = request.seeds[sample]
            seeds[at, : len(entry)] = entry
            counts[at] = len(entry)
        return Admission(
            rows=padded,
            count=np.int32(len(rows)),
            seeds=seeds,
            seed_counts=counts,
            limit=np.int32(self.params.max_new_tokens),
        )

    def _decode(self) -> Chunk:
        """Start the next chunk on the device."""
        self._make_room()
        params = self.params
        stop_tokens = np.full(MAX_STOP_TOKENS, -1, np.int32)
        stop_tokens[: len(self.stop_tokens)] = self.stop_tokens
        slots = len(self.slots)
        settings = DrawSettings(
            temperature=np.float32(params.temperature),
            top_k=np.int32(params.top_k),
            top_p=np.float32(params.top_p),
            min_p=np.float32(params.min_p),
            stop_tokens=stop_tokens,
            # Coming back costs about as much as an eighth of the slots idling for a few steps.
            patience=np.int32(max(1, slots // 8) if self.waiting else slots),
        )
        self.state, chunk = decode(
            self.weights, self.state, settings, chunk_length=self.engine.chunk_length, bound=self.bound
        )
        return chunk

    def _make_room(self) -> None:
        """Lengthen the cache if a slot could pass its end within the next chunk."""
        longest = max(
            len(running.request.prompt_tokens)
            + min(len(running.tokens) + self.engine.chunk_length, self.params.max_new_tokens)
            for running in self.slots
            if running
        )
        if longest <= self.cache_length:
            return
        self.cache_length = bucket(longest)
        self.state = lengthen(self.state, self.cache_length)

    def _collect(self, chunk: Chunk) -> list[Completion]:
        """Wait for a chunk, give each slot its tokens, and empty the slots that ended."""
        tokens, logprobs, active = jax.device_get((chunk.tokens, chunk.logprobs, chunk.active))
        ended = []
        for row, running in enumerate(self.slots):
            if running is None:
                continue
            count = int((tokens[:, row] >= 0).sum())
            running.tokens.extend(tokens[:count, row].tolist())
            running.logprobs.extend(logprobs[:count, row].tolist())
            if not active[row]:
                ended.append(self._completion(running))
                self.slots[row] = None
        return ended

    def _completion(self, running: _Running) -> Completion:
        return Completion(
            prompt_tokens=running.request.prompt_tokens,
            tokens=tuple(running.tokens),
            logprobs=np.asarray(running.logprobs, np.float32),
            finish_reason="stop" if running.tokens[-1] in self.stop_tokens else "length",
            text=self.engine.tokenizer.decode(running.tokens),
            request=running.place,
            sample=running.sample,
        )
