"""Values of the standard library and NumPy that count as plain data between a solution and its test.

Each crosses as its own numbers and is rebuilt by its own constructor, so that `==` on it runs the library's code and
none of the solution's. Subclasses do not count, nor do arrays of objects; an empty array stays opaque, because
comparisons with it are vacuously true.
"""

import math
import sys
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from .wire import NODE_LIMIT, WireError

_DECIMAL_LIMIT = 10_000
_ARRAY_KINDS = "biufcU"
_ARRAY_BYTES = 8 << 20


def pack(value: Any, encode: Callable[[Any], Any]) -> list[Any] | None:
    """The value as `[name, plain data]`; None where it is none of these."""
    match value:
        case Fraction() if type(value) is Fraction:
            return ["Fraction", encode((value.numerator, value.denominator))]
        case Decimal() if type(value) is Decimal:
            return ["Decimal", encode(str(value))]
        case datetime() if type(value) is datetime and value.tzinfo is None:
            return ["datetime", encode(value.isoformat())]
        case date() if type(value) is date:
            return ["date", encode(value.isoformat())]
        case time() if type(value) is time and value.tzinfo is None:
            return ["time", encode(value.isoformat())]
        case timedelta() if type(value) is timedelta:
            return ["timedelta", encode((value.days, value.seconds, value.microseconds))]
        case deque() if type(value) is deque:
            return ["deque", encode(list(value))]
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(value) is numpy.ndarray and value.dtype.kind in _ARRAY_KINDS and value.size > 0:
        if value.size > NODE_LIMIT:
            raise WireError(f"an array of more than {NODE_LIMIT} items")
        return ["ndarray", encode((value.dtype.str, value.shape, value.ravel().tolist()))]
    return None


def unpack(name: Any, data: Any) -> Any:
    """The value of a name and its decoded data. Raises WireError for anything that `pack` does not make."""
    try:
        return _READERS[name](data)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise WireError("a value that is not plain data") from error


def _decimal(text: str) -> Decimal:
    if type(text) is not str or len(text) > _DECIMAL_LIMIT:
        raise WireError("a decimal of too many digits")
    return Decimal(text)


def _array(data: tuple[str, tuple[int, ...], list[Any]]) -> Any:
    import numpy

    code, shape, items = data
    kind = numpy.dtype(code)
    if kind.kind not in _ARRAY_KINDS or not items or math.prod(shape) != len(items):
        raise WireError("an array that is not plain data")
    if kind.itemsize * len(items) > _ARRAY_BYTES:
        raise WireError(f"an array of more than {_ARRAY_BYTES} bytes")
    return numpy.array(items, dtype=kind).reshape(shape)


_READERS: dict[str, Callable[[Any], Any]] = {
    "Fraction": lambda data: Fraction(*data),
    "Decimal": _decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda data: timedelta(*data),
    "deque": deque,
    "ndarray": _array,
}
