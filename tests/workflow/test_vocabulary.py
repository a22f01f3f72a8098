"""Tokens asked all at once answer as each of them does alone."""

import random

import numpy as np
import pytest

from aflow_jax.workflow.free_text import DEAD, LEFT, instruction_text, reasoning_text
from aflow_jax.workflow.vocabulary import NEVER, Vocabulary, characters

TEXTS = [
    b"a", b"ab", b"abc", b"b", b"bc", b'"', b'")', b'a")', b'\\"', b"\\", b"\\ud8", b"\\u00e9", b"<work", b"flow>",
    b"<workflow>", b"x<workflow>C", b"</workflow>", "é".encode(), b"\xc3", b"\xa9", b"\xff", b"\xff\xff", b"\n",
    b" " * 9,
]  # fmt: skip


@pytest.fixture
def vocabulary():
    return Vocabulary([None, *TEXTS, b"end", b"beyond"], len(TEXTS) + 2, [len(TEXTS) + 1])


def test_end_tokens_and_tokens_beyond_the_logits_spell_nothing(vocabulary):
    assert sorted(vocabulary.tokens) == list(range(1, len(TEXTS) + 1))
    assert vocabulary.text_of == dict(enumerate(TEXTS, start=1))


def test_a_walk_finds_the_tokens_that_can_be_read_to_their_end(vocabulary):
    source = random.Random(0)
    for _ in range(200):
        readable = frozenset([*source.sample(range(256), 128), *b"ab"])
        longest = source.randint(1, 4)

        def read(place: bytes, byte: int, readable=readable, longest=longest) -> bytes | None:
            return place + bytes([byte]) if byte in readable and len(place) < longest else None

        expected = {
            (token, text)
            for token, text in vocabulary.text_of.items()
            if len(text) <= longest and set(text) <= readable
        }
        found = list(vocabulary.walk(b"", read))
        assert set(found) == expected
        assert len(found) == len(expected)


@pytest.mark.parametrize("text", [instruction_text(), reasoning_text()], ids=["instruction", "reasoning"])
def test_crossing_a_free_text_is_reading_byte_by_byte(vocabulary, text):
    for start in range(len(text.finish)):
        crossing = vocabulary.cross(text, start)
        for index, spelled in enumerate(vocabulary.spellings):
            state, begun, left = start, 0, 0
            for place, byte in enumerate(spelled, start=1):
                begun += text.begins[state, byte]
                state = text.following[state, byte]
                if state < 0:
                    left = place if state == LEFT else 0
                    break
            assert (crossing.ends[index], crossing.left[index]) == (state, left)
            if state != DEAD:
                assert crossing.begun[index] == begun


def test_the_fewest_tokens_are_those_of_the_best_way_to_cut_a_text(vocabulary):
    def best(text: bytes) -> int:
        ways = [best(text[len(piece) :]) for piece in TEXTS if text.startswith(piece)]
        return 1 + min(ways, default=NEVER) if text else 0

    for text in (b"", b"abc", b"abcbcab", b"ab<workflow>", b'a")")', b"abd", "aé".encode()):
        assert vocabulary.fewest(text) == min(best(text), NEVER)


def test_a_mask_has_a_bit_for_each_token():
    vocabulary = Vocabulary([b"x"] * 70, 70, [])
    packed = vocabulary.packed(np.array([0, 33, 69]))
    assert packed.dtype == np.uint32
    assert packed.tolist() == [1, 1 << 1, 1 << 5]


def test_characters_are_counted_where_they_begin():
    assert characters("aé€😀".encode()) == 4
    assert characters(b"\xa9x") == 1
