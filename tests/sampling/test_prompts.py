"""Which prompts lie where, and who reads them."""

import random
from collections import Counter

import numpy as np
import pytest

from aflow_jax.sampling.prompts import PromptTable


@pytest.mark.parametrize(("blocks", "most_readers"), [(1, 1), (1, 4), (2, 3)])
def test_however_slots_come_and_go_each_reads_its_own_prompt_and_no_page_serves_too_many(blocks, most_readers):
    chance, slots, page = random.Random(0), 6 * blocks, 8
    table, seats, waiting = PromptTable(blocks, page, most_readers), [None] * slots, [(0, 3)]
    for _ in range(400):
        for row, place in enumerate(seats):
            if place and chance.random() < 0.3:
                place.readers -= 1
                seats[row] = None
        for row in range(slots):
            if seats[row] is None and chance.random() < 0.8:
                request, samples = waiting[0]
                seats[row], _ = table.seat(row // 6, request, 1 + request % 24)
                assert seats[row].block == row // 6
                waiting = [(request, samples - 1)] if samples > 1 else [(request + 1, chance.randrange(1, 9))]
        # The pages of the longest prompt for each slot are enough, as `Lane` has it.
        assert table.size <= 6 * 3
        sharing = table.sharing(seats, table.size, 3)
        found, owners = Counter(), {}
        for row, place in enumerate(seats):
            if place is None:
                continue
            length = 1 + place.request % 24
            assert sharing.prompt_lengths[row] == length
            pages = place.block * table.size + sharing.pages[row, : -(-length // page)]
            assert sharing.lengths[pages].sum() == length
            assert (sharing.lengths[pages[:-1]] == page).all(), "a page but the last one is not full"
            for number in pages:
                assert sharing.readers[number, sharing.reader[row]] == row % 6
                assert owners.setdefault(number, place) is place, "two prompts lie in one page"
                found[number, sharing.reader[row]] += 1
        assert not found or max(found.values()) == 1, "two slots are one reader"


def test_a_prompt_stays_while_its_request_waits_and_no_slot_reads_it():
    table = PromptTable(1, 4, 2)
    place, new = table.seat(0, 7, 5)
    place.readers -= 1
    assert (new, table.seat(0, 7, 5)) == (True, (place, False))
    place.readers -= 1
    other, new = table.seat(0, 8, 5)
    assert (set(other.pages), new) == (set(place.pages), True)


def test_the_pages_of_several_short_prompts_serve_a_long_one():
    table = PromptTable(1, 4, 1)
    short = [table.seat(0, request, 3)[0] for request in range(3)]
    for place in short:
        place.readers -= 1
    long, _ = table.seat(0, 3, 12)
    assert sorted(long.pages) == [0, 1, 2]
    assert table.size == 3


def test_free_pages_have_length_0():
    table = PromptTable(1, 4, 2)
    place, _ = table.seat(0, 7, 5)
    sharing = table.sharing([None, place, None], 4, 3)
    np.testing.assert_array_equal(sharing.lengths, [4, 1, 0, 0])
