"""A lane: what decodes together, under one adapter. Requests wait, slots decode, completions leave when they end.

requests ──► waiting ──prefill, once for each prompt──► slots ──decode, a chunk at a time──► completions
                ▲                                         │
                └──────── a slot that ended is free ◄─────┘

A prompt's keys and values lie in pages that all its slots read (`prompts`), and a slot holds its new tokens only.
"""

import dataclasses
from collections import deque

import jax
import numpy as np
from jaxtyping import UInt32

from aflow_jax.qwen2 import Adapter, Qwen2, Tokenizer, data_parts
from aflow_jax.sampling.decode import Chunk, DrawSettings
from aflow_jax.sampling.device_slots import DeviceSlots
from aflow_jax.sampling.filters import top_k_bound
from aflow_jax.sampling.prompts import Place, PromptTable
from aflow_jax.sampling.running import Job, Running
from aflow_jax.sampling.sizes import bucket, grown, page_count, page_length
from aflow_jax.sampling.slot_state import StateShape
from aflow_jax.sampling.text import TextStream
from aflow_jax.sampling.types import MAX_STOP_TOKENS, EngineOptions, Progress

# Room for new tokens in a fresh cache: most completions end within it, and the others lengthen the cache.
FIRST_ROOM = 256

PageCounts = dict[StateShape, int]
"""The pages that lanes came to have, for each shape without them and without room for new tokens. A lane begins with as
many, so that the programs of a shape are soon compiled: how many pages it needs depends on its very prompts."""


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
        page_counts: PageCounts,
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
        self._parts = data_parts(model.rules)
        self._most_slots = self._divided(options.slots)
        self._chunk_length = options.chunk_length
        self._constrained = constrained
        self.tokens = self.passes = 0
        self._waiting: deque[Job] = deque()
        self._slots: list[Running | None] = []
        self._prompt_readers = options.prompt_readers
        self._prompt_max_length = options.prompt_max_length
        self._prompts: PromptTable | None = None
        self._page_counts = page_counts
        self._device = DeviceSlots(model, adapter, options.chunk_length, 0 if constrained else options.drafted)
        self._in_flight: Chunk | None = None

    @property
    def idle(self) -> bool:
        return not self._waiting and not any(self._slots)

    @property
    def cache_tokens(self) -> tuple[int, int]:
        """Tokens that the cache has room for, and those that the running completions need, a prompt once for all.

        Those of the chunk in flight are counted as if it went on to its end.
        """
        running = [running for running in self._slots if running]
        prompts = {at.job.id: len(at.job.request.prompt_tokens) for at in running}
        new = sum(at.reach(self._chunk_length) for at in running)
        return self._device.shape.cache_tokens, sum(prompts.values()) + new

    def add(self, job: Job) -> None:
        """Queue a request."""
        self._waiting.append(job)

    def cancel(self, request_id: int) -> None:
        """Drop a request and free its slots."""
        self._waiting = deque(job for job in self._waiting if job.id != request_id)
        for row, running in enumerate(self._slots):
            if running and running.job.id == request_id:
                # What the chunk in flight brings for the slot falls on nobody.
                self._empty(row, running)

    def step(self) -> list[Progress]:
        """Take in the chunk in flight, start the next one, and return what the first one brought.

        The device works on the next chunk while the caller handles what this one brought. A constrained lane's chunks
        have one token, so it takes in as many of them as make a turn, or fewer where a completion ends.
        """
        advanced: dict[int, Running] = {}
        for _ in range(self._chunk_length if self._constrained else 1):
            advanced |= {id(running): running for running in self._collect()}
            self._admit()
            if any(self._slots):
                self._in_flight = self._decode()
            if any(running.ended for running in advanced.values()) or self.idle:
                break
        return [running.report() for running in advanced.values()]

    def _collect(self) -> list[Running]:
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
            running.take(tokens[:count, row].tolist(), logprobs[:count, row].tolist(), goes_on=bool(active[row]))
            advanced.append(running)
            if running.ended:
                self._empty(row, running)
        return advanced

    def _empty(self, row: int, running: Running) -> None:
        running.place.readers -= 1
        self._slots[row] = None

    def _admit(self) -> None:
        """Give free slots to waiting completions, first come first served."""
        if not self._waiting:
            return
        slots = self._wanted_slots()
        if self._prompts is None:
            self._prompts = self._prompt_table(slots)
        self._slots = self._spread(slots)
        free = deque(row for row, running in enumerate(self._slots) if running is None)
        jobs, started, fresh, copies, further = list(self._waiting), [], {}, [], []
        while free and self._waiting:
            job, row = self._waiting[0], free.popleft()
            place, new = self._prompts.seat(row * self._parts // slots, job.id, len(job.request.prompt_tokens))
            if new:
                other = self._prompts.other(place)
                if other is None:
                    fresh[place] = job.request.prompt_tokens
                else:
                    (further if other in fresh else copies).append((other, place))
            self._slots[row] = self._running(job, place)
            started.append(row)
            if not job.unstarted:
                self._waiting.popleft()
        if started:
            self._device.make_room(self._room(jobs))
            # Before new prompts come, since a page that no slot reads may be both: copied from, and taken.
            self._device.copy_prompts(copies)
            self._device.run_prompts([(prompt, place) for place, prompt in fresh.items()])
            self._device.copy_prompts(further)
            self._device.start([self._slots[row].start(row) for row in started])

    def _prompt_table(self, slots: int) -> PromptTable:
        """Return the table for prompts like those that wait now."""
        samples = max(job.unstarted for job in self._waiting)
        readers = max(1, min(self._prompt_readers, samples, slots // self._parts))
        longest = max(len(job.request.prompt_tokens) for job in self._waiting)
        queries = readers * self._model.config.group_size
        return PromptTable(self._parts, page_length(longest, queries, self._prompt_max_length), readers)

    def _running(self, job: Job, place: Place) -> Running:
        """Return the next of a job's completions."""
        job.started += 1
        return Running(
            job=job,
            sample=job.started - 1,
            place=place,
            stream=TextStream(self._tokenizer, job.params.stop),
            matcher=job.params.constraint.matcher(job.params.max_new_tokens) if job.params.constraint else None,
        )

    def _wanted_slots(self) -> int:
        """As many slots as there are completions, up to the most, and not fewer than before."""
        wanted = sum(map(bool, self._slots)) + sum(job.unstarted for job in self._waiting)
        if wanted <= len(self._slots):
            return len(self._slots)
        return min(self._most_slots, self._divided(grown(wanted, len(self._slots))))

    def _divided(self, slots: int) -> int:
        """The least number of slots, `slots` or more, that the mesh divides."""
        return -(-slots // self._parts) * self._parts

    def _spread(self, slots: int) -> list[Running | None]:
        """The slots and further free ones, behind those of each part of the mesh."""
        before, after = len(self._slots) // self._parts, slots // self._parts
        parts = [self._slots[part * before : (part + 1) * before] for part in range(self._parts)]
        return [running for part in parts for running in part + [None] * (after - before)]

    def _room(self, jobs: list[Job]) -> StateShape:
        """The room that the prompts of these jobs need, and the first of their new tokens."""
        before = self._device.shape
        wanted = StateShape(
            slots=len(self._slots),
            room=bucket(max(min(job.params.max_new_tokens, FIRST_ROOM) for job in jobs)),
            pages=0,
            page_length=self._prompts.page_length,
            prompt_room=max(before.prompt_room, bucket(max(len(job.request.prompt_tokens) for job in jobs))),
        )
        kind = dataclasses.replace(wanted, room=0)
        had, size = before.pages // self._parts, self._prompts.size
        pages = max(had, self._page_counts.get(kind, 0) // self._parts)
        if size > pages:
            # With the longest prompt's pages to each slot there are enough: those that no slot reads are free.
            enough = len(self._slots) // self._parts * wanted.prompt_pages
            pages = max(size, min(enough, grown(size, had) if had else page_count(size)))
        self._page_counts[kind] = pages * self._parts
        return dataclasses.replace(wanted, pages=pages * self._parts)

    def _decode(self) -> Chunk:
        """Start the next chunk on the device."""
        running = [running for running in self._slots if running]
        # No slot may pass the cache's end within the chunk.
        room = bucket(max(at.reach(self._chunk_length) for at in running))
        self._device.make_room(dataclasses.replace(self._device.shape, room=room))
        bound = top_k_bound(max(at.job.params.top_k for at in running), self._model.config.vocab_size)
        return self._device.decode(self._draw_settings(), self._allowed() if self._constrained else None, bound)

    def _allowed(self) -> UInt32[np.ndarray, "B M"]:
        """Return the tokens that each slot may draw; any in a slot without a completion."""
        words = -(-self._model.config.vocab_size // 32)
        everything = np.full(words, 0xFFFFFFFF, np.uint32)
        return np.stack([running.matcher.mask() if running else everything for running in self._slots])

    def _draw_settings(self) -> DrawSettings:
        slots, shape = len(self._slots), self._device.shape
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
            sharing=self._prompts.sharing(
                [running and running.place for running in self._slots], shape.pages // self._parts, shape.prompt_pages
            ),
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
