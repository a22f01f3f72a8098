"""What a model's tokens spell, arranged for asking which of them may come next."""

import functools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Int, Int16, Int32, UInt32

from aflow_jax.workflow.free_text import DEAD, LEFT, FreeText

_Place = TypeVar("_Place")


@dataclass(frozen=True)
class Crossing:
    """Where the tokens lead from one state of a free text; tokens as in `Vocabulary.tokens`.

    Attributes:
        ends: the state after each token, DEAD or LEFT.
        left: how many bytes of a token led out of the text; 0 for one that stays.
        begun: how many characters the token began in the text.
    """

    ends: Int16[np.ndarray, "N"]
    left: Int16[np.ndarray, "N"]
    begun: Int16[np.ndarray, "N"]


class Vocabulary:
    """The tokens that spell something.

    Attributes:
        size: rows of the model's logits.
        ends: tokens that end a completion.
        text_of: what each of the others spells, by id.
        tokens: ids of the tokens that spell something, the longest first.
        spellings: what they spell.
        characters: how many characters each begins.
    """

    def __init__(self, spellings: Sequence[bytes | None], size: int, ends: Sequence[int]) -> None:
        """Arrange a vocabulary.

        Args:
            spellings: for each token id the bytes that it stands for; None for one that is no text.
            size: rows of the model's logits; tokens beyond them are left out.
            ends: tokens that end a completion, whatever they spell.
        """
        self.size = size
        self.ends = tuple(ends)
        self.text_of = {token: text for token, text in enumerate(spellings[:size]) if text and token not in self.ends}
        spelled = [(text, token) for token, text in self.text_of.items()]
        self._sorted = sorted(spelled)
        self._texts = [text for text, _ in self._sorted]
        self._known = set(self._texts)
        spelled.sort(key=lambda pair: -len(pair[0]))
        self.spellings = [text for text, _ in spelled]
        self.tokens: Int32[np.ndarray, N] = np.array([token for _, token in spelled], np.int32)
        self.characters: Int16[np.ndarray, N] = np.array([characters(text) for text in self.spellings], np.int16)
        longest = len(self.spellings[0])
        counts = np.searchsorted([-len(text) for text in self.spellings], -np.arange(longest), side="left")
        # Column i holds byte i of all tokens that have one.
        self._columns = [
            np.array([text[at] for text in self.spellings[:count]], np.uint8) for at, count in enumerate(counts)
        ]
        self.fewest = functools.lru_cache(maxsize=4096)(self._fewest)

    def _fewest(self, text: bytes) -> int:
        """Return the least number of tokens that spell a text; more than any budget where none do."""
        best = [0]
        for start in reversed(range(len(text))):
            stops = range(start + 1, min(len(text), start + len(self._columns)) + 1)
            best.append(
                1 + min((best[len(text) - stop] for stop in stops if text[start:stop] in self._known), default=NEVER)
            )
        return min(best[-1], NEVER)

    def walk(self, start: _Place, read: Callable[[_Place, int], _Place | None]) -> Iterator[tuple[int, _Place]]:
        """Yield every token all of whose bytes can be read from a place, with the place after it."""
        path = [start]
        read_so_far = b""
        at = 0
        while at < len(self._texts):
            text, token = self._sorted[at]
            depth = _common(read_so_far, text)
            del path[depth + 1 :]
            while depth < len(text) and (place := read(path[-1], text[depth])) is not None:
                path.append(place)
                depth += 1
            read_so_far = text[:depth]
            if depth == len(text):
                yield token, path[-1]
                at += 1
            else:
                at = self._after_all_with(text[: depth + 1], at)

    def cross(self, text: FreeText, state: int) -> Crossing:
        """Return where every token leads from a state of a free text."""
        # A token that died or left stays so: DEAD and LEFT, as indices, are the last two rows.
        following = np.concatenate(
            [text.following, np.full((1, 256), LEFT, np.int16), np.full((1, 256), DEAD, np.int16)]
        )
        begins = np.concatenate([text.begins, np.zeros((2, 256), bool)])
        ends = np.full(len(self.tokens), state, np.int16)
        left, begun = np.zeros_like(ends), np.zeros_like(ends)
        for at, column in enumerate(self._columns):
            before = ends[: len(column)]
            after = following[before, column]
            begun[: len(column)] += begins[before, column]
            left[: len(column)][(after == LEFT) & (before != LEFT)] = at + 1
            ends[: len(column)] = after
        return Crossing(ends, left, begun)

    def packed(self, tokens: Int[np.ndarray, "M"]) -> UInt32[np.ndarray, "W"]:
        """Return a set of tokens as a mask: bit `t % 32` of word `t // 32` stands for token `t`."""
        bits = np.zeros(-(-self.size // 32) * 32, bool)
        bits[tokens] = True
        return np.packbits(bits, bitorder="little").view("<u4")

    def _after_all_with(self, prefix: bytes, at: int) -> int:
        """Return the place in the sorted texts behind all that begin with a prefix."""
        stem = prefix.rstrip(b"\xff")
        if not stem:
            return len(self._texts)
        return bisect_left(self._texts, stem[:-1] + bytes([stem[-1] + 1]), lo=at)


# More tokens than any completion has; two of them still fit in 32 bits.
NEVER = 1 << 30


def characters(text: bytes) -> int:
    """Return how many UTF-8 characters begin in some bytes."""
    return sum(byte & 0xC0 != 0x80 for byte in text)


def _common(first: bytes, second: bytes) -> int:
    """Return the length of the longest common prefix."""
    length = min(len(first), len(second))
    return next((at for at in range(length) if first[at] != second[at]), length)
