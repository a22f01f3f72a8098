"""Which prompt lies in which place of the slots' prompts, and which slots read it."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from aflow_jax.qwen2 import Sharing


@dataclasses.dataclass(kw_only=True, eq=False)
class Place:
    """A prompt's place.

    Attributes:
      request: Whose prompt it is.
      length: Its tokens.
      block: The block that the place is in (`Sharing`).
      number: Which of the block's places it is.
      readers: How many slots continue the prompt from here.
    """

    request: int
    length: int
    block: int
    number: int
    readers: int = 0


class PromptTable:
    """Who has which place, in as many blocks as the slots have; a place that no slot reads is free for others.

    The samples of a request are to be seated before those of the next one, which may take its places.

    Attributes:
      most_readers: Slots that continue a prompt from one place, at most; for more of them it has further places.
    """

    def __init__(self, blocks: int, most_readers: int) -> None:
        self.most_readers = most_readers
        self._blocks: list[list[Place]] = [[] for _ in range(blocks)]

    @property
    def size(self) -> int:
        """Places that each block must have."""
        return max(map(len, self._blocks))

    def seat(self, block: int, request: int, length: int) -> tuple[Place, bool]:
        """Have one more slot of a block continue a request's prompt; return its place, and whether that is new."""
        places = self._blocks[block]
        place = next((at for at in self._of(request) if at.block == block and at.readers < self.most_readers), None)
        new = place is None
        if place is None:
            number = next((at.number for at in places if not at.readers), len(places))
            place = Place(request=request, length=length, block=block, number=number)
            places[number : number + 1] = [place]
        place.readers += 1
        return place, new

    def other(self, place: Place) -> Place | None:
        """Return another place that has the same prompt, if there is one."""
        return next((at for at in self._of(place.request) if at is not place), None)

    def _of(self, request: int) -> Iterator[Place]:
        return (at for places in self._blocks for at in places if at.request == request)

    def sharing(self, slots: Sequence[Place | None], size: int) -> Sharing:
        """Return who continues what, given each slot's place, with `size` places in each block."""
        blocks = len(self._blocks)
        shared = Sharing(
            lengths=np.zeros(blocks * size, np.int32),
            readers=np.zeros((blocks * size, self.most_readers), np.int32),
            prompt=np.zeros(len(slots), np.int32),
            reader=np.zeros(len(slots), np.int32),
        )
        readers: Counter[int] = Counter()
        for row, place in enumerate(slots):
            if place is None:
                continue
            number = place.block * size + place.number
            shared.lengths[number] = place.length
            shared.readers[number, readers[number]] = row % (len(slots) // blocks)
            shared.prompt[row] = place.number
            shared.reader[row] = readers[number]
            readers[number] += 1
        return shared
