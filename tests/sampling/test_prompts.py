"""Which prompts lie where, and who reads them."""

import random
from collections import Counter

import numpy as np
import pytest

from aflow_jax.sampling.prompts import PromptTable


@pytest.mark.parametrize(("blocks", "most_readers"), [(1, 1), (1, 4), (2, 3)])
def test_however_slots_come_and_go_each_reads_its_own_prompt_and_no_place_serves_too_many(blocks, most_readers):
    chance, slots = random.Random(0), 6 * blocks
    table, seats, waiting = PromptTable(blocks, most_readers), [None] * slots, [(0, 3)]
    for _ in range(400):
        for row, place in enumerate(seats):
            if place and chance.random() < 0.3:
                place.readers -= 1
                seats[row] = None
        for row in range(slots):
            if seats[row] is None and chance.random() < 0.8:
                request, samples = waiting[0]
                seats[row], _ = table.seat(row // 6, request, 10 + request)
                assert seats[row].block == row // 6
                waiting = [(request, samples - 1)] if samples > 1 else [(request + 1, chance.randrange(1, 9))]
        # A place to each slot is enough, as `Lane` has it.
        assert table.size <= 6
        sharing = table.sharing(seats, table.size)
        found = Counter()
        for row, place in enumerate(seats):
            if place:
                number = place.block * table.size + sharing.prompt[row]
                assert sharing.readers[number, sharing.reader[row]] == row % 6
                assert sharing.lengths[number] == 10 + place.request
                found[number, sharing.reader[row]] += 1
        assert not found or max(found.values()) == 1, "two slots are one reader"


def test_a_prompt_stays_while_its_request_waits_and_no_slot_reads_it():
    table = PromptTable(1, 2)
    place, new = table.seat(0, 7, 5)
    place.readers -= 1
    assert (new, table.seat(0, 7, 5)) == (True, (place, False))
    place.readers -= 1
    other, new = table.seat(0, 8, 5)
    assert (other.number, new) == (place.number, True)


def test_free_places_have_length_0():
    table = PromptTable(1, 2)
    place, _ = table.seat(0, 7, 5)
    sharing = table.sharing([None, place, None], 4)
    np.testing.assert_array_equal(sharing.lengths, [5, 0, 0, 0])
