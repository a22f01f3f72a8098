"""Buffers that are not alive together share memory: who gets which place."""

import dataclasses
import itertools
import math
from collections import Counter, defaultdict

_BLOCK = 32
"""Times are looked through in blocks of so many: most buffers live for a moment, beside few others."""


@dataclasses.dataclass(eq=False, slots=True)
class Buffer:
    """Memory of `size` bytes that is taken from `start` to `end`, both included."""

    size: int
    start: int
    end: int
    kind: str | tuple[int, ...]


def pack(buffers: list[Buffer]) -> int:
    """Give each buffer a place, the largest first and each in the tightest gap that fits; return the last one's end.

    That is XLA's `GlobalDecreasingSizeBestFitHeap` (xla/service/heap_simulator).
    """
    placed: defaultdict[int, list[tuple[int, Buffer]]] = defaultdict(list)  # by the blocks in which they live
    highest = 0
    for buffer in sorted(buffers, key=lambda buffer: -buffer.size):
        blocks = range(buffer.start // _BLOCK, buffer.end // _BLOCK + 1)
        taken = sorted(
            (offset, offset + other.size)
            for offset, other in {item for block in blocks for item in placed[block]}
            if other.start <= buffer.end and buffer.start <= other.end
        )
        place, gap, floor = None, math.inf, 0
        for start, end in taken:
            if buffer.size <= start - floor < gap:
                place, gap = floor, start - floor
            floor = max(floor, end)
        place = floor if place is None else place
        for block in blocks:
            placed[block].append((place, buffer))
        highest = max(highest, place + buffer.size)
    return highest


def peak(buffers: list[Buffer]) -> tuple[tuple[str | tuple[int, ...], int], ...]:
    """Return kind and size of the buffers that are alive when they are most."""
    changes = Counter()
    for buffer in buffers:
        changes[buffer.start] += buffer.size
        changes[buffer.end + 1] -= buffer.size
    times = sorted(changes)
    totals = list(itertools.accumulate(changes[time] for time in times))
    fullest = times[totals.index(max(totals))] if times else 0
    alive = [buffer for buffer in buffers if buffer.start <= fullest <= buffer.end]
    return tuple((buffer.kind, buffer.size) for buffer in sorted(alive, key=lambda buffer: -buffer.size))
