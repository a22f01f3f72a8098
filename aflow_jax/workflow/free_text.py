"""The two places of an answer where text is free, as automata over bytes: the reasoning, and an instruction.

Both hold UTF-8. Neither may hold `<workflow>` or `</workflow>`, but for the one tag that ends the reasoning. In an
instruction a backslash starts a JSON escape, and an escape for half of a surrogate pair must be followed by the other
half, as the parser demands.

A state is a number. From each of them every continuation is written in a table, so that a whole vocabulary can be tried
in a few array operations.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int16

from aflow_jax.workflow.language import CLOSING, OPENING

# What a byte leads to where it leads to no state: nowhere, or out of the free text.
DEAD, LEFT = -1, -2

_QUOTE, _BACKSLASH, _LESS = b'"\\<'
_HEX = b"0123456789abcdefABCDEF"
_CONTINUATION = bytes(range(0x80, 0xC0))
_SHORT_ESCAPES = b'"\\/bfnrt'
_LOW_SURROGATE = (b"\\", b"u", b"dD", b"cdefCDEF", _HEX, _HEX)

# Where a text stands between characters: the part of a tag that its end could be the start of ("" where it is none).
# Inside a character: the bytes that may come next, one entry for each, or one of the two states after a backslash
# where the rest depends on what comes.
_Place = str | tuple[bytes, ...]
_ESCAPE, _UNICODE, _UNICODE_D = "escape", "unicode", "unicode d"


@dataclass(frozen=True)
class FreeText:
    """An automaton over bytes. State 0 is the start.

    Attributes:
        following: the state after each byte, or DEAD, or LEFT.
        begins: whether the byte begins a character; an escape, or a pair of them, is one.
        finish: for each state the shortest bytes after which the text is left.
    """

    following: Int16[np.ndarray, "S 256"]
    begins: Bool[np.ndarray, "S 256"]
    finish: tuple[bytes, ...]


def instruction_text() -> FreeText:
    """Return the automaton of a JSON string after its opening quote; the closing quote leaves it."""

    def after(place: str, byte: int) -> _Place | int:
        if byte == _QUOTE:
            return LEFT
        if byte == _BACKSLASH:
            return _ESCAPE
        if byte < 0x20 or place + chr(byte) in (OPENING, CLOSING):
            return DEAD
        return _plain(place, byte)

    return _tabulated(after, lambda tag: b'"')


def reasoning_text() -> FreeText:
    """Return the automaton of what stands before the element; its opening tag leaves it."""

    def after(place: str, byte: int) -> _Place | int:
        longer = place + chr(byte)
        if longer == OPENING:
            return LEFT
        return DEAD if longer == CLOSING else _plain(place, byte)

    def finish(tag: str) -> bytes:
        return (OPENING.removeprefix(tag) if OPENING.startswith(tag) else OPENING).encode()

    return _tabulated(after, finish)


def _tabulated(after: Callable[[str, int], _Place | int], finish: Callable[[str], bytes]) -> FreeText:
    """Number the places that can be reached, and write down where each byte leads from them.

    Args:
        after: the place after a byte that stands between two characters.
        finish: the shortest bytes that leave the text from such a place.
    """
    places: list[_Place] = [""]
    rows: list[list[int]] = []
    begins: list[bool] = []
    endings: list[bytes] = []
    for place in places:
        between = isinstance(place, str) and place not in (_ESCAPE, _UNICODE, _UNICODE_D)
        row = []
        for byte in range(256):
            following = after(place, byte) if between else _inside(place, byte)
            if not isinstance(following, int) and following not in places:
                places.append(following)
            row.append(following if isinstance(following, int) else places.index(following))
        rows.append(row)
        begins.append(between)
        endings.append(finish(place) if between else _shortest_rest(place) + finish(""))
    following = np.array(rows, np.int16)
    return FreeText(following, np.array(begins)[:, None] & (following != LEFT), tuple(endings))


def _plain(place: str, byte: int) -> _Place | int:
    """Where a byte leads that begins a character and is nothing special."""
    if byte < 0x80:
        longer = place + chr(byte)
        if OPENING.startswith(longer) or CLOSING.startswith(longer):
            return longer
        return "<" if byte == _LESS else ""
    return _rest_of_character(byte)


def _rest_of_character(lead: int) -> _Place | int:
    """Which bytes must follow the first one of a character of several (Unicode 16, table 3-7)."""
    any_one = _CONTINUATION
    match lead:
        case 0xE0:
            return (bytes(range(0xA0, 0xC0)), any_one)
        case 0xED:  # 0xA0 and above would make a surrogate
            return (bytes(range(0x80, 0xA0)), any_one)
        case 0xF0:
            return (bytes(range(0x90, 0xC0)), any_one, any_one)
        case 0xF4:
            return (bytes(range(0x80, 0x90)), any_one, any_one)
    if 0xC2 <= lead <= 0xDF:
        return (any_one,)
    if 0xE1 <= lead <= 0xEF:
        return (any_one,) * 2
    return (any_one,) * 3 if 0xF1 <= lead <= 0xF3 else DEAD


def _inside(place: _Place, byte: int) -> _Place | int:
    """Where a byte leads inside a character or an escape."""
    if isinstance(place, tuple):
        return (place[1:] or "") if byte in place[0] else DEAD
    if place == _ESCAPE:
        return _UNICODE if byte == ord("u") else "" if byte in _SHORT_ESCAPES else DEAD
    if byte not in _HEX:
        return DEAD
    if place == _UNICODE:
        return _UNICODE_D if byte in b"dD" else (_HEX,) * 3
    # \ud800 to \udbff is the first half of a pair, \udc00 to \udfff a second half with no first one before it.
    if byte in b"01234567":
        return (_HEX,) * 2
    return (_HEX, _HEX, *_LOW_SURROGATE) if byte in b"89abAB" else DEAD


def _shortest_rest(place: _Place) -> bytes:
    if isinstance(place, tuple):
        return bytes(allowed[0] for allowed in place)
    return {_ESCAPE: b"n", _UNICODE: b"0000", _UNICODE_D: b"000"}[place]
