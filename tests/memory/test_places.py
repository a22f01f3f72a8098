"""Buffers get places as XLA gives them: the largest first, each in the tightest gap that fits."""

import random

import pytest

from aflow_jax.memory.places import Buffer, pack, peak


def buffer(size, start, end):
    return Buffer(size, start, end, (size,))


def test_buffers_that_are_never_alive_together_share_a_place():
    assert pack([buffer(10, 0, 1), buffer(7, 2, 3), buffer(4, 4, 9)]) == 10


def test_buffers_that_are_alive_together_do_not():
    assert pack([buffer(10, 0, 2), buffer(7, 2, 3)]) == 17


def test_a_buffer_takes_the_tightest_gap_that_is_free_while_it_lives():
    wide_gap, tight_gap = buffer(30, 5, 5), buffer(20, 5, 5)
    walls = [buffer(100, 0, 9), buffer(90, 0, 9), buffer(80, 0, 9)]
    # Placed: 100, 90, 80, and on top of them 30, where another 20 leaves no gap open at time 1.
    assert pack([*walls, wide_gap, tight_gap]) == 320
    # At time 1 both places are free: each of the small ones finds its own.
    assert pack([*walls, wide_gap, tight_gap, buffer(20, 1, 1), buffer(30, 1, 1)]) == 320


def test_what_is_placed_first_may_leave_gaps_that_nothing_fits():
    # 6 lies at 0 and 5 on it; 4 lives with 5 alone, and takes 0; 3 lives with both, and goes on top: 14 where 12 live.
    buffers = [buffer(6, 0, 0), buffer(5, 0, 3), buffer(4, 2, 3), buffer(3, 3, 3)]
    assert pack(buffers) == 14
    assert sum(size for _, size in peak(buffers)) == 12


def packed_plainly(buffers):
    placed = []
    for new in sorted(buffers, key=lambda buffer: -buffer.size):
        beside = [(place, old.size) for place, old in placed if old.start <= new.end and new.start <= old.end]
        free = [(end, min((place for place, _ in beside if place >= end), default=None)) for end in ends(beside)]
        gaps = [(top - floor, floor) for floor, top in free if top is not None and top - floor >= new.size]
        placed.append((min(gaps)[1] if gaps else max(ends(beside)), new))
    return max(place + buffer.size for place, buffer in placed)


def ends(beside):
    """The ground, and each top of what is there that nothing lies on or across."""
    tops = {0} | {place + size for place, size in beside}
    return {top for top in tops if not any(place <= top < place + size for place, size in beside) or top == 0}


@pytest.mark.parametrize("seed", range(20))
def test_buffers_of_long_and_short_lives_are_placed_as_a_search_through_all_of_them_does(seed):
    draw = random.Random(seed)
    buffers = []
    for _ in range(150):
        start = draw.randrange(400)
        buffers.append(buffer(draw.randint(1, 40), start, start + draw.choice([0, 1, 3, 31, 32, 33, 200])))
    assert pack(buffers) == packed_plainly(buffers)


def test_the_peak_names_what_is_alive_then_the_largest_first():
    assert peak([buffer(1, 0, 9), buffer(5, 2, 3), buffer(4, 3, 4), buffer(8, 5, 5)]) == (
        ((5,), 5),
        ((4,), 4),
        ((1,), 1),
    )
    assert peak([]) == ()
