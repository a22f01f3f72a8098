"""Plain data crosses the wall unchanged, and nothing else crosses it."""

import functools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aflow_jax.sandbox.guest.wire import FRAME_LIMIT, WireError, decode, encode, frame_length, load_message

HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
PLAIN = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=12,
)


def _no_opaque(value):
    raise AssertionError(value)


def _typed(value):
    """The value with the exact type of each part beside it, so that 1, 1.0 and True differ."""
    if isinstance(value, dict):
        return dict, [(_typed(key), _typed(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [_typed(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(repr(_typed(item)) for item in value)
    return type(value), repr(value)


@given(PLAIN)
def test_plain_data_comes_back_with_its_exact_types(value):
    sent = json.loads(json.dumps(encode(value, _no_opaque)))
    assert _typed(decode(sent, _no_opaque)) == _typed(value)


def test_subclasses_lose_what_they_added():
    class Liar(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    class Listing(list):
        def __iter__(self):
            raise RuntimeError

    rebuilt = decode(encode([Liar(3), Listing([1, 2])], _no_opaque), _no_opaque)
    assert _typed(rebuilt) == _typed([3, [1, 2]])


def test_anything_else_is_opaque_whatever_it_says_of_itself():
    class Masked:
        __class__ = property(lambda self: int)

    assert encode([Masked()], lambda value: "opaque") == ["opaque"]


@pytest.mark.parametrize("steps", [40, 200])
def test_a_value_that_doubles_or_nests_without_end_is_refused_at_once(steps):
    doubled, nested = [], []
    for _ in range(steps):
        doubled, nested = [doubled, doubled], [nested]
    with pytest.raises(WireError):
        encode(doubled, _no_opaque)
    if steps > 150:
        with pytest.raises(WireError):
            encode(nested, _no_opaque)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"pickle": "gASVIQ=="},
        {"tuple": 3},
        {"set": [[1]]},
        {"dict": [[1]]},
        {"int": "0xzz"},
        {"type": "object"},
        {"range": [0, "x"]},
        {"complex": ["1j", 2]},
        {"list": [], "tuple": []},
        {"set": [{"int": hex(k * (2**61 - 1))} for k in range(100)]},
        {"dict": [[{"tuple": [{"float": "1e9"}]}, 0]] * 100},
        functools.reduce(lambda inner, _: [inner], range(200), 0),
    ],
)
def test_malformed_values_are_refused(data):
    with pytest.raises(WireError):
        decode(data, _no_opaque)


@pytest.mark.parametrize("body", [b"", b"true", b"[1]", b"\xff", b"[" * 100_000])
def test_frames_that_are_no_objects_are_refused(body):
    with pytest.raises(WireError):
        load_message(body)


def test_a_frame_may_not_announce_more_than_the_limit():
    assert frame_length(FRAME_LIMIT.to_bytes(4, "big")) == FRAME_LIMIT
    with pytest.raises(WireError):
        frame_length((FRAME_LIMIT + 1).to_bytes(4, "big"))
