"""Which prompt lies in which pages of the slots' prompts, and which slots read it."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from aflow_jax.qwen2 import Sharing


@dataclasses.dataclass(kw_only=True, eq=False)
class Place:
    """Where a prompt lies.

    Attributes:
      request: Whose prompt it is.
      length: Its tokens.
      block: The block that its pages are in (`Sharing`).
      pages: Which of the block's pages, in the order of the tokens.
      readers: How many slots continue the prompt from here.
    """

    request: int
    length: int
    block: int
    pages: tuple[int, ...]
    readers: int = 0


class PromptTable:
    """Who has which pages, in as many blocks as the slots have; those of a prompt that no slot reads are free.

    The samples of a request are to be seated before those of the next one, which may take its pages.

    Attributes:
      page_length: Tokens of a page.
      most_readers: Slots that continue a prompt from one place, at most; for more of them it has further places.
    """

    def __init__(self, blocks: int, page_length: int, most_readers: int) -> None:
        self.page_length = page_length
        self.most_readers = most_readers
        self._places: list[Place] = []
        self._free: list[list[int]] = [[] for _ in range(blocks)]
        self._sizes = [0] * blocks

    @property
    def size(self) -> int:
        """Pages that each block must have."""
        return max(self._sizes)

    def seat(self, block: int, request: int, length: int) -> tuple[Place, bool]:
        """Have one more slot of a block continue a request's prompt; return its place, and whether that is new."""
        place = next((at for at in self._of(request) if at.block == block and at.readers < self.most_readers), None)
        new = place is None
        if place is None:
            pages = self._take(block, -(-length // self.page_length))
            place = Place(request=request, length=length, block=block, pages=pages)
            self._places.append(place)
        place.readers += 1
        return place, new

    def other(self, place: Place) -> Place | None:
        """Return another place that has the same prompt, if there is one."""
        return next((at for at in self._of(place.request) if at is not place), None)

    def _of(self, request: int) -> Iterator[Place]:
        return (at for at in self._places if at.request == request)

    def _take(self, block: int, count: int) -> tuple[int, ...]:
        """Take pages: free ones, then those of prompts that no slot reads, the oldest first, then further ones."""
        free = self._free[block]
        for place in [at for at in self._places if at.block == block and not at.readers]:
            if len(free) >= count:
                break
            self._places.remove(place)
            free.extend(place.pages)
        more = max(0, count - len(free))
        free.extend(range(self._sizes[block], self._sizes[block] + more))
        self._sizes[block] += more
        taken = tuple(free[:count])
        del free[:count]
        return taken

    def sharing(self, slots: Sequence[Place | None], size: int, most_pages: int) -> Sharing:
        """Return who continues what, given each slot's place.

        Args:
          size: Pages in each block.
          most_pages: Pages of a prompt, at most.
        """
        blocks, rows = len(self._sizes), len(slots)
        shared = Sharing(
            lengths=np.zeros(blocks * size, np.int32),
            readers=np.zeros((blocks * size, self.most_readers), np.int32),
            pages=np.zeros((rows, most_pages), np.int32),
            prompt_lengths=np.zeros(rows, np.int32),
            reader=np.zeros(rows, np.int32),
        )
        readers: Counter[Place] = Counter()
        for row, place in enumerate(slots):
            if place is None:
                continue
            pages = np.asarray(place.pages)
            numbers = place.block * size + pages
            shared.lengths[numbers] = np.minimum(
                place.length - np.arange(len(pages)) * self.page_length, self.page_length
            )
            shared.readers[numbers, readers[place]] = row % (rows // blocks)
            shared.pages[row, : len(pages)] = pages
            shared.prompt_lengths[row] = place.length
            shared.reader[row] = readers[place]
            readers[place] += 1
        return shared
