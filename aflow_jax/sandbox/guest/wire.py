"""Frames and plain data: all that ever crosses a sandbox's wall.

A frame is a big-endian uint32 length and that many bytes of JSON. Values are JSON where JSON has the type (None, bool,
str, list, float, small int) and `[tag, payload]` inside an object where it has not. Decoding builds exact builtin types
and runs nobody's code; there is no pickle here, on purpose.
"""

import json
import math
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

FRAME_LIMIT = 4 << 20
DEPTH_LIMIT = 150
NODE_LIMIT = 200_000
TEXT_LIMIT = 2_000
SAME_HASH_LIMIT = 64

_LENGTH = struct.Struct(">I")
_PLAIN_INT = 1 << 53


class WireError(Exception):
    """A frame or value that breaks the rules: too long, too deep, or not of a known type."""


def write_frame(channel: socket.socket, message: dict[str, Any]) -> None:
    """Sends one message. Raises WireError when it is over FRAME_LIMIT, OSError when the other side is gone."""
    send_bytes(channel, json.dumps(message).encode())


def send_bytes(channel: socket.socket, body: bytes) -> None:
    """Sends one frame whose JSON text is already made."""
    if len(body) > FRAME_LIMIT:
        raise WireError(f"a message of {len(body)} bytes; at most {FRAME_LIMIT} are carried")
    channel.sendall(_LENGTH.pack(len(body)) + body)


def read_frame(channel: socket.socket) -> dict[str, Any]:
    """Receives one message from a blocking channel. Raises EOFError at its end."""
    return load_message(_receive(channel, frame_length(_receive(channel, _LENGTH.size))))


def frame_length(header: bytes) -> int:
    """Length announced by a frame's first four bytes. Raises WireError when it is over FRAME_LIMIT."""
    (length,) = _LENGTH.unpack(header)
    if length > FRAME_LIMIT:
        raise WireError(f"a frame of {length} bytes; at most {FRAME_LIMIT} are carried")
    return length


def load_message(body: bytes) -> dict[str, Any]:
    """A frame's JSON object. Raises WireError for anything else."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireError("a frame that is not JSON") from error
    if type(message) is not dict:
        raise WireError("a frame that is not an object")
    return message


def _receive(channel: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = channel.recv(min(count - len(parts), 1 << 16))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def encode(value: Any, opaque: Callable[[Any], Any]) -> Any:
    """Plain data → JSON-able data. Subclasses of builtin types lose what they added.

    Args:
        value: anything.
        opaque: makes the JSON-able stand-in of an object that is no plain data.

    Raises:
        WireError: deeper than DEPTH_LIMIT or larger than a frame may be. The size is counted while walking, so
            forty doublings of `x = [x, x]` end here quickly instead of being written out.
    """
    return _Encoder(opaque).encode(value, 0)


class _Encoder:
    def __init__(self, opaque: Callable[[Any], Any]):
        self.opaque = opaque
        self.nodes = NODE_LIMIT
        self.characters = FRAME_LIMIT

    def encode(self, value: Any, depth: int) -> Any:
        self.spend(0)
        if depth > DEPTH_LIMIT:
            raise WireError(f"a value nested more than {DEPTH_LIMIT} deep")
        # type(value).__mro__, never isinstance or the object's own methods: `__class__` and `__eq__` may lie.
        for base in type.__dict__["__mro__"].__get__(type(value)):
            writer = _WRITERS.get(base)
            if writer is not None:
                return writer(self, value, depth)
        return self.opaque(value)

    def spend(self, characters: int) -> None:
        self.nodes -= 1
        self.characters -= characters
        if self.nodes < 0 or self.characters < 0:
            raise WireError(f"a value of more than {FRAME_LIMIT} bytes or {NODE_LIMIT} items")

    def items(self, values: Any, depth: int) -> list[Any]:
        return [self.encode(value, depth + 1) for value in values]

    def integer(self, value: int, depth: int) -> Any:
        exact = int.__index__(value)
        if -_PLAIN_INT < exact < _PLAIN_INT:
            return exact
        self.spend(int.bit_length(exact) // 4)
        return {"int": hex(exact)}  # hex is linear in its length and under no digit limit

    def real(self, value: float, depth: int) -> Any:
        exact = float.__float__(value)
        return exact if math.isfinite(exact) else {"float": float.__repr__(exact)}

    def text(self, value: str, depth: int) -> Any:
        self.spend(str.__len__(value))
        return str.__str__(value)

    def kind(self, value: type, depth: int) -> Any:
        return {"type": _TYPE_NAMES[value]} if value in _TYPE_NAMES else self.opaque(value)

    def dictionary(self, value: dict, depth: int) -> Any:
        return {"dict": [self.items(pair, depth) for pair in dict.items(value)]}


def _tagged(tag: str, iterate: Callable[[Any], Any]) -> Callable[[_Encoder, Any, int], Any]:
    return lambda encoder, value, depth: {tag: encoder.items(iterate(value), depth)}


def _binary(tag: str) -> Callable[[_Encoder, Any, int], Any]:
    def write(encoder: _Encoder, value: Any, depth: int) -> Any:
        raw = memoryview(value).tobytes()
        encoder.spend(2 * len(raw))
        return {tag: raw.hex()}

    return write


# Types that may be named in an argument, as in `remove_type(values, int)`.
_TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)}
_TYPE_NAMES = {kind: name for name, kind in _TYPES.items()}

_WRITERS: dict[type, Callable[[_Encoder, Any, int], Any]] = {
    type(None): lambda encoder, value, depth: None,
    bool: lambda encoder, value, depth: value is True,
    int: _Encoder.integer,
    float: _Encoder.real,
    str: _Encoder.text,
    complex: lambda encoder, value, depth: {
        "complex": [encoder.real(complex.real.__get__(value), depth), encoder.real(complex.imag.__get__(value), depth)]
    },
    list: lambda encoder, value, depth: encoder.items(list.__iter__(value), depth),
    tuple: _tagged("tuple", tuple.__iter__),
    set: _tagged("set", set.__iter__),
    frozenset: _tagged("frozenset", frozenset.__iter__),
    dict: _Encoder.dictionary,
    range: lambda encoder, value, depth: {"range": encoder.items((value.start, value.stop, value.step), depth)},
    bytes: _binary("bytes"),
    bytearray: _binary("bytearray"),
    type: _Encoder.kind,
}


def decode(data: Any, opaque: Callable[[Any], Any]) -> Any:
    """JSON-able data → plain data of exact builtin types.

    Args:
        data: what `encode` made, or what a hostile program says it made.
        opaque: builds what stands for `{"ref": …}`.

    Raises:
        WireError: an unknown tag, a malformed value, one nested deeper than DEPTH_LIMIT, or a set or dictionary whose
            members were chosen to share a hash, so that building it would take for ever.
    """
    try:
        return _Decoder(opaque).decode(data)
    except (TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise WireError("a value that is not plain data") from error


class _Decoder:
    def __init__(self, opaque: Callable[[Any], Any]):
        self.opaque = opaque
        self.depth = 0

    def decode(self, data: Any) -> Any:
        if data is None or type(data) in (bool, int, float, str):
            return data
        self.depth += 1
        if self.depth > DEPTH_LIMIT + 1:
            raise WireError(f"a value nested more than {DEPTH_LIMIT} deep")
        value = self.items(data) if type(data) is list else self.tagged(data)
        self.depth -= 1
        return value

    def items(self, payload: Iterable[Any]) -> list[Any]:
        return [self.decode(item) for item in payload]

    def tagged(self, data: Any) -> Any:
        ((tag, payload),) = data.items()
        return self.opaque(payload) if tag == "ref" else _READERS[tag](self, payload)

    def dictionary(self, payload: Any) -> dict:
        keys = self.items(key for key, _ in payload)
        return dict(zip(_spread(keys), self.items(value for _, value in payload), strict=True))


def _spread(members: list[Any]) -> list[Any]:
    if len(members) > SAME_HASH_LIMIT and max(Counter(map(hash, members)).values()) > SAME_HASH_LIMIT:
        raise WireError(f"more than {SAME_HASH_LIMIT} members with one hash")
    return members


_READERS: dict[str, Callable[[_Decoder, Any], Any]] = {
    "int": lambda decoder, payload: int(payload, 16),
    "float": lambda decoder, payload: float(payload),
    "complex": lambda decoder, payload: complex(*decoder.items(payload)),
    "tuple": lambda decoder, payload: tuple(decoder.items(payload)),
    "set": lambda decoder, payload: set(_spread(decoder.items(payload))),
    "frozenset": lambda decoder, payload: frozenset(_spread(decoder.items(payload))),
    "dict": _Decoder.dictionary,
    "range": lambda decoder, payload: range(*decoder.items(payload)),
    "bytes": lambda decoder, payload: bytes.fromhex(payload),
    "bytearray": lambda decoder, payload: bytearray.fromhex(payload),
    "type": lambda decoder, payload: _TYPES[payload],
}
