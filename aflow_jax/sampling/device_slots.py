"""What a lane has on the device: the weights cut for decoding, the slots' state, and the programs that change it."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt32

from aflow_jax.qwen2 import Adapter, Qwen2, data_parts
from aflow_jax.sampling.decode import Chunk, DrawSettings, decode, decode_allowed, decode_weights
from aflow_jax.sampling.lookup import decode_with_lookup
from aflow_jax.sampling.prefill import Admission, Moves, copy, prefill, start, store
from aflow_jax.sampling.prompts import Place
from aflow_jax.sampling.sizes import bucket, prefill_rows, prefix_room
from aflow_jax.sampling.slot_state import StateShape, empty_slots, resize
from aflow_jax.sampling.types import MAX_SEEDS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """A completion that starts: its slot, where its prompt lies, its noise's integers, and the prompt."""

    row: int
    place: Place
    seeds: tuple[int, ...]
    prompt: tuple[int, ...]


class DeviceSlots:
    """The slots of a lane on the device; nothing is allocated before there is room to make.

    Attributes:
      shape: How much there is room for.
    """

    def __init__(self, model: Qwen2, adapter: Adapter | None, chunk_length: int, drafted: int) -> None:
        """Make them for one adapter.

        Args:
          chunk_length: Tokens of a chunk.
          drafted: Tokens that prompt lookup drafts for each pass.
        """
        self.shape = StateShape(slots=0, room=0, pages=0, page_length=0, prompt_room=0)
        self._model = model
        self._adapter = adapter
        self._chunk_length = chunk_length
        self._drafted = drafted
        self._blocks = data_parts(model.rules)
        self._weights = None
        self._state = None

    def make_room(self, wanted: StateShape) -> None:
        """Have as much of everything as there was and as is wanted."""
        before, fields = self.shape, [field.name for field in dataclasses.fields(wanted)]
        self.shape = StateShape(**{name: max(getattr(before, name), getattr(wanted, name)) for name in fields})
        if self._state is None:
            # The weights first: what moving them needs for a moment is then not beside the cache.
            self._weights = decode_weights(self._model, self._adapter)
            self._state = empty_slots(self._model, self.shape, with_history=self._drafted > 0)
        elif self.shape != before:
            self._state = resize(self._state, before, self.shape, self._blocks)

    def run_prompts(self, prompts: Sequence[tuple[tuple[int, ...], Place]]) -> None:
        """Run prompts, those of one padded length together, and cut them into their pages."""
        by_length = defaultdict(list)
        for prompt, place in prompts:
            by_length[bucket(len(prompt))].append((prompt, place))
        page_length = self.shape.page_length
        for length, rest in by_length.items():
            room, pages = prefix_room(length, page_length), -(-length // page_length)
            while rest:
                count = prefill_rows(length, len(rest))
                together, rest = rest[:count], rest[count:]
                tokens = np.zeros((count, length), np.int32)
                for row, (prompt, _) in enumerate(together):
                    tokens[row, : len(prompt)] = prompt
                lengths = np.asarray([len(prompt) for prompt, _ in together], np.int32)
                prefix = prefill(self._model, self._adapter, tokens, lengths, room=room)
                moves = [
                    (row, at * page_length, page)
                    for row, (_, place) in enumerate(together)
                    for at, page in enumerate(self._numbers(place))
                ]
                self._state = store(self._state, prefix, _moves(moves, count * pages), rules=self._model.rules)

    def copy_prompts(self, pairs: Sequence[tuple[Place, Place]]) -> None:
        """Copy prompts from their pages to further ones, in this order."""
        if not pairs:
            return
        moves = [
            (source, 0, page)
            for one, other in pairs
            for source, page in zip(self._numbers(one), self._numbers(other), strict=True)
        ]
        self._state = copy(self._state, _moves(moves, self.shape.pages), rules=self._model.rules)

    def start(self, starts: Sequence[Start]) -> None:
        """Start completions of prompts that have their pages."""
        slots, width = self.shape.slots, self.shape.prompt_room + self.shape.room
        admission = Admission(
            rows=np.full(slots, slots, np.int32),
            pages=np.zeros(slots, np.int32),
            lengths=np.zeros(slots, np.int32),
            seeds=np.zeros((slots, MAX_SEEDS), np.uint32),
            seed_counts=np.zeros(slots, np.int32),
            history=np.zeros((slots, width), np.int32) if self._drafted else None,
        )
        for at, new in enumerate(starts):
            admission.rows[at] = new.row
            admission.pages[at] = self._numbers(new.place)[0]
            admission.lengths[at] = new.place.length
            admission.seeds[at, : len(new.seeds)] = new.seeds
            admission.seed_counts[at] = len(new.seeds)
            if admission.history is not None:
                admission.history[at, : len(new.prompt)] = new.prompt
        self._state = start(self._state, admission, rules=self._model.rules)

    def decode(self, settings: DrawSettings, allowed: UInt32[np.ndarray, "B M"] | None, bound: int) -> Chunk:
        """Start the next chunk, of a single token where `allowed` says which ones may be drawn."""
        arguments = self._weights, self._state, settings
        if allowed is not None:
            self._state, chunk = decode_allowed(*arguments, allowed, bound=bound)
        elif self._drafted:
            self._state, chunk = decode_with_lookup(
                *arguments, chunk_length=self._chunk_length, bound=bound, drafted=self._drafted
            )
        else:
            self._state, chunk = decode(*arguments, chunk_length=self._chunk_length, bound=bound)
        return chunk

    def _numbers(self, place: Place) -> list[int]:
        """The pages of a place among those of all blocks."""
        return [place.block * (self.shape.pages // self._blocks) + page for page in place.pages]


def _moves(moves: Sequence[tuple[int, int, int]], most: int) -> Moves:
    """Return so many moves, each given by its source, where to begin in it, and the page to fill."""
    padded = np.zeros((3, most), np.int32)
    padded[:, : len(moves)] = np.transpose(moves)
    return Moves(count=np.int32(len(moves)), sources=padded[0], starts=padded[1], pages=padded[2])
