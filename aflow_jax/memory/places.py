"""Buffers that are not alive together share memory: who gets which place."""

import bisect
import dataclasses
import itertools
import math
from collections import Counter


@dataclasses.dataclass(eq=False)
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
    placed: list[tuple[int, Buffer]] = []
    highest = 0
    for buffer in sorted(buffers, key=lambda buffer: -buffer.size):
        taken = sorted(
            (offset, offset + other.size)
            for offset, other in placed
            if other.start <= buffer.end and buffer.start <= other.end
        )
        place, gap, floor = None, math.inf, 0
        for start, end in taken:
            if buffer.size <= start - floor < gap:
                place, gap = floor, start - floor
            floor = max(floor, end)
        place = floor if place is None else place
        bisect.insort(placed, (place, buffer), key=lambda item: item[0])
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
