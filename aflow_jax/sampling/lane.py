"""A lane: what decodes together, under one adapter. Requests wait, slots decode, completions leave when they end.

requests ──► waiting ──prefill, once for each prompt──► slots ──decode, a chunk at a time──► completions
                ▲                                         │
                └──────── a slot that ended is free ◄─────┘
"""

import dataclasses
from collections import deque

import jax
import numpy as np
from jaxtyping import UInt32

from aflow_jax.qwen2 import Adapter, Qwen2, Tokenizer
from aflow_jax.sampling.decode import (
    Chunk,
    DrawSettings,
    decode,
    decode_allowed,
    decode_weights,
    empty_slots,
    resize,
)
from aflow_jax.sampling.filters import top_k_bound
from aflow_jax.sampling.lookup import decode_with_lookup
from aflow_jax.sampling.prefill import Admission, Prefix, insert, prefill
from aflow_jax.sampling.sizes import bucket, slot_count
from aflow_jax.sampling.text import TextStream
from aflow_jax.sampling.types import (
    MAX_SEEDS,
    MAX_STOP_TOKENS,
    Completion,
    EngineOptions,
    Progress,
    Request,
    SamplingParams,
    TokenMatcher,
)

# Room for new tokens in a fresh cache: most completions end within it, and the others lengthen the cache.
FIRST_ROOM = 256


@dataclasses.dataclass(kw_only=True)
class Job:
    """A request on its way; its prefix stays until the last of its completions has a slot.

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
    prefix: Prefix | None = None

    @property
    def unstarted(self) -> int:
        return len(self.request.seeds) - self.started


@dataclasses.dataclass(kw_only=True)
class _Running:
    """A completion in a slot; `reported` tokens of it have been handed on."""

    job: Job
    sample: int
    stream: TextStream
    matcher: TokenMatcher | None
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    reported: int = 0
    ended: bool = False


class Lane:
    """The slots of one adapter, their state on the device, and the requests that wait for them.

    Attributes:
      tokens: New tokens so far.
      passes: How often a slot with a completion went through the model for them.
    """

    def __init__(
        self,
        model: Qwen2,
        tokenizer: Tokenizer,
        adapter: Adapter | None,
        options: EngineOptions,
        *,
        constrained: bool,
    ) -> None:
        """Make a lane for requests with a constraint, or without; nothing is allocated yet.

        Prompt lookup drafts no tokens where a constraint has the host look at every token.
        """
        self.adapter = adapter
        self._model = model
        self._tokenizer = tokenizer
        # Each device of the mesh's `data` axis has equally many.
        self._parts = 1 if model.rules is None else model.rules.data
        self._most_slots = self._divided(options.slots)
        self._chunk_length = options.chunk_length
        self._constrained = constrained
        self._drafted = 0 if constrained else options.drafted
        self.tokens = self.passes = 0
        self._waiting: deque[Job] = deque()
        self._slots: list[_Running | None] = []
        self._cache_length = 0
        self._state = None
        self._weights = None
        self._in_flight: Chunk | None = None

    @property
    def idle(self) -> bool:
        return not self._waiting and not any(self._slots)

    @property
    def cache_tokens(self) -> tuple[int, int]:
        """Tokens that the cache has room for, and those that the running completions need, a prompt once for all."""
        running = [running for running in self._slots if running]
        prompts = {at.job.id: len(at.job.request.prompt_tokens) for at in running}
        return len(self._slots) * self._cache_length, sum(prompts.values()) + sum(len(at.tokens) for at in running)

    def add(self, job: Job) -> None:
        """Queue a request."""
        self._waiting.append(job)

    def cancel(self, request_id: int) -> None:
        """Drop a request and free its slots."""
        self._waiting = deque(job for job in self._waiting if job.id != request_id)
        # What the chunk in flight brings for these slots falls on nobody.
        self._slots = [None if running and running.job.id == request_id else running for running in self._slots]

    def step(self) -> list[Progress]:
        """Take in the chunk in flight, start the next one, and return what the first one brought.

        The device works on the next chunk while the caller handles what this one brought. A constrained lane's chunks
        have one token, so it takes in as many of them as make a turn, or fewer where a completion ends.
        """
        advanced: dict[int, _Running] = {}
        for _ in range(self._chunk_length if self._constrained else 1):
            advanced |= {id(running): running for running in self._collect()}
            self._admit()
            if any(self._slots):
                self._in_flight = self._decode()
            if any(running.ended for running in advanced.values()) or self.idle:
                break
        return [self._progress(running) for running in advanced.values()]

    def _collect(self) -> list[_Running]:
        """Wait for the chunk in flight, give each slot its tokens, and empty the slots that ended."""
        if self._in_flight is None:
            return []
        chunk, self._in_flight = self._in_flight, None
        tokens, logprobs, active, passes = jax.device_get((chunk.tokens, chunk.logprobs, chunk.active, chunk.passes))
        self.passes += int(passes)
        self.tokens += int((tokens >= 0).sum())
        advanced = []
        for row, running in enumerate(self._slots):
            if running is None:
                continue
            count = int((tokens[:, row] >= 0).sum())
            count = running.stream.push(tokens[:count, row].tolist())
            running.tokens.extend(tokens[:count, row].tolist())
            running.logprobs.extend(logprobs[:count, row].tolist())
            for token in tokens[:count, row].tolist() if running.matcher else ():
                running.matcher.accept(token)
            advanced.append(running)
            if running.stream.stopped or not active[row]:
                running.ended = True
                self._slots[row] = None
        return advanced

    def _admit(self) -> None:
        """Give free slots to waiting completions, first come first served."""
        if not self._waiting:
            return
        self._make_slots()
        free = [row for row, running in enumerate(self._slots) if running is None]
        while free and self._waiting:
            job = self._waiting[0]
            rows, free = free[: job.unstarted], free[job.unstarted :]
            self._start(job, rows)
            if not job.unstarted:
                self._waiting.popleft()

    def _start(self, job: Job, rows: list[int]) -> None:
        """Continue a job's prompt in these slots."""
        prompt = job.request.prompt_tokens
        if job.prefix is None:
            tokens = np.zeros(bucket(len(prompt)), np.int32)
            tokens[: len(prompt)] = prompt
            job.prefix = prefill(self._model, self.adapter, tokens, np.int32(len(prompt)))
        samples = range(job.started, job.started + len(rows))
        seeds = [job.request.seeds[sample] for sample in samples]
        admission = _admission(rows, seeds, len(self._slots))
        self._state = insert(self._state, job.prefix, admission, self._model.rules)
        for row, sample in zip(rows, samples, strict=True):
            self._slots[row] = _Running(
                job=job,
                sample=sample,
                stream=TextStream(self._tokenizer, job.params.stop),
                matcher=job.params.constraint.matcher(job.params.max_new_tokens) if job.params.constraint else None,
            )
        job.started = samples.stop
        if not job.unstarted:
            job.prefix = None

    def _make_slots(self) -> None:
        """Have as many slots as there are completions, up to the most, and room for every waiting prompt."""
        wanted = sum(map(bool, self._slots)) + sum(job.unstarted for job in self._waiting)
        slots = len(self._slots)
        if wanted > slots:
            # A lane that grows may grow again: by doubling it meets few shapes, each of which is a program.
            wanted = 1 << (wanted - 1).bit_length() if slots else slot_count(wanted)
            slots = min(self._most_slots, self._divided(wanted))
        length = max(
            bucket(len(job.request.prompt_tokens) + min(job.params.max_new_tokens, FIRST_ROOM)) for job in self._waiting
        )
        self._resize(slots, length)

    def _divided(self, slots: int) -> int:
        """The least number of slots, `slots` or more, that the mesh divides."""
        return -(-slots // self._parts) * self._parts

    def _resize(self, slots: int, cache_length: int) -> None:
        cache_length = max(cache_length, self._cache_length)
        if self._state is None:
            # The weights first: what moving them needs for a moment is then not beside the cache.
            self._weights = decode_weights(self._model, self.adapter)
            self._state = empty_slots(self._model, slots, cache_length, with_history=self._drafted > 0)
        elif (slots, cache_length) != (len(self._slots), self._cache_length):
            self._state = resize(self._state, slots, cache_length)
        self._slots += [None] * (slots - len(self._slots))
        self._cache_length = cache_length

    def _decode(self) -> Chunk:
        """Start the next chunk on the device."""
        running = [running for running in self._slots if running]
        # No slot may pass the cache's end within the chunk.
        self._resize(len(self._slots), bucket(max(self._reach(at) for at in running)))
        bound = top_k_bound(max(at.job.params.top_k for at in running), self._model.config.vocab_size)
        arguments = self._weights, self._state, self._draw_settings()
        if self._constrained:
            self._state, chunk = decode_allowed(*arguments, self._allowed(), bound=bound)
        elif self._drafted:
            self._state, chunk = decode_with_lookup(
                *arguments, chunk_length=self._chunk_length, bound=bound, drafted=self._drafted
            )
        else:
            self._state, chunk = decode(*arguments, chunk_length=self._chunk_length, bound=bound)
        return chunk

    def _allowed(self) -> UInt32[np.ndarray, "B M"]:
        """Return the tokens that each slot may draw; any in a slot without a completion."""
        words = -(-self._model.config.vocab_size // 32)
        everything = np.full(words, 0xFFFFFFFF, np.uint32)
        return np.stack([running.matcher.mask() if running else everything for running in self._slots])

    def _reach(self, running: _Running) -> int:
        """Tokens in the slot's cache after the next chunk, at most."""
        new = min(len(running.tokens) + self._chunk_length, running.job.params.max_new_tokens)
        return len(running.job.request.prompt_tokens) + new

    def _draw_settings(self) -> DrawSettings:
        slots = len(self._slots)
        settings = DrawSettings(
            occupied=np.zeros(slots, bool),
            temperature=np.zeros(slots, np.float32),
            top_k=np.zeros(slots, np.int32),
            top_p=np.ones(slots, np.float32),
            min_p=np.zeros(slots, np.float32),
            limits=np.zeros(slots, np.int32),
            stop_tokens=np.full((slots, MAX_STOP_TOKENS), -1, np.int32),
            # Coming back costs about as much as an eighth of the slots idling for a few steps.
            patience=np.int32(max(1, slots // 8) if self._waiting else slots),
        )
        for row, running in enumerate(self._slots):
            if running is None:
                continue
            params, stop_tokens = running.job.params, running.job.stop_tokens
            settings.occupied[row] = True
            settings.temperature[row] = params.temperature
            settings.top_k[row] = min(params.top_k, self._model.config.vocab_size)
            settings.top_p[row] = params.top_p
            settings.min_p[row] = params.min_p
            settings.limits[row] = params.max_new_tokens
            settings.stop_tokens[row, : len(stop_tokens)] = stop_tokens
        return settings

    def _progress(self, running: _Running) -> Progress:
        text = running.stream.take(ended=running.ended)
        new = slice(running.reported, len(running.tokens))
        running.reported = len(running.tokens)
        return Progress(
            request=running.job.id,
            sample=running.sample,
            tokens=tuple(running.tokens[new]),
            logprobs=np.asarray(running.logprobs[new], np.float32),
            text=text,
            completion=_completion(running) if running.ended else None,
        )


def _completion(running: _Running) -> Completion:
    stopped = running.stream.stopped or running.tokens[-1] in running.job.stop_tokens
    return Completion(
        prompt_tokens=running.job.request.prompt_tokens,
        tokens=tuple(running.tokens),
        logprobs=np.asarray(running.logprobs, np.float32),
        finish_reason="stop" if stopped else "length",
        text=running.stream.text,
        request=running.job.id,
        sample=running.sample,
    )


def _admission(rows: list[int], seeds: list[tuple[int, ...]], slots: int) -> Admission:
    padded = np.full(slots, slots, np.int32)
    padded[: len(rows)] = rows
    entries = np.zeros((slots, MAX_SEEDS), np.uint32)
    counts = np.zeros(slots, np.int32)
    for at, entry in enumerate(seeds):
        entries[at, : len(entry)] = entry
        counts[at] = len(entry)
    return Admission(rows=padded, count=np.int32(len(rows)), seeds=entries, seed_counts=counts)
