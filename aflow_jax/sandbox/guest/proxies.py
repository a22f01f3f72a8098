"""The solution as its test sees it: stand-ins that ask the other sandbox, call by call.

What arrives from there is plain data rebuilt as exact builtin types, so that `==` here never runs the solution's code;
anything else arrives as a `Held` reference, which equals nothing.
"""

import socket
import types
from collections.abc import Callable, Iterator
from typing import Any

from .library_values import pack, unpack
from .source import describe, names_of, rebuilt
from .wire import TEXT_LIMIT, WireError, decode, encode, read_frame, write_frame

TOLD = "told_by_solution"
# What a test may lend to the solution besides functions of its own: none of them reaches anything.
_LENT = (abs, all, any, ascii, bin, chr, divmod, hash, hex, len, max, min, oct, ord, pow, repr, round, sorted, sum)


class SolutionError(Exception):
    """The solution raised an exception that is no builtin one."""


class SolutionGone(BaseException):
    """The solution's process has ended. No `except Exception` of a test may take that for an error it expects."""


class Line:
    """The way to the solution, through the parent. Counts the calls to the entry point that were answered."""

    def __init__(self, channel: socket.socket, entry_point: str):
        self.entry_is_class = entry_point[:1].isupper()
        self.calls = 0
        self._channel = channel
        self._gone: str | None = None
        self._lent: list[Callable] = []

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its answer, with the calls back to the test's own functions that come in between.

        Raises what the solution raised, SolutionError or SolutionGone.
        """
        answer = self._exchange(request)
        while "callback" in answer:
            answer = self._exchange(self._called_back(answer))
        if "raised" in answer:
            raise _raised(answer)
        if "value" not in answer:
            raise SolutionError("an answer without a value")
        return answer

    def call(self, target: str | int, arguments: tuple, keywords: dict, **how: bool | str) -> dict[str, Any]:
        """Calls a name or held object of the solution with plain or held arguments."""
        return self.ask(
            do="call",
            target=target,
            arguments=self.encode(list(arguments)),
            keywords=self.encode(keywords),
            **{"by_reference": False, "in_place": "never"} | how,
        )

    def encode(self, value: Any) -> Any:
        """What goes to the solution: plain data, its own objects, and functions of the test's for it to call."""
        return encode(value, self._outgoing)

    def value(self, answer: Any) -> Any:
        """What came from the solution, rebuilt."""
        return decode(answer, self._incoming)

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._gone is None:
            write_frame(self._channel, {"ask": request})
            answer = read_frame(self._channel)
            self._gone = answer.get("gone")
        if self._gone is not None:
            raise SolutionGone(self._gone)
        return answer

    def _called_back(self, call: dict[str, Any]) -> dict[str, Any]:
        arguments, keywords = self.value(call["arguments"]), self.value(call["keywords"])
        try:
            return {"do": "return", "value": self.encode(self._lent[call["callback"]](*arguments, **keywords))}
        except Exception as error:  # noqa: BLE001 - whatever the test's function raises is raised in the solution
            return {"do": "raise", "raised": names_of(error), "text": describe(error)}

    def _outgoing(self, value: Any) -> Any:
        if isinstance(value, Sealed | Helper):
            return {"ref": value._reference}
        if _is_lendable(value):
            self._lent.append(value)
            return {"ref": {"callback": len(self._lent) - 1}}
        packed = pack(value, self.encode)
        if packed is None:
            raise WireError(f"an argument of type {type(value).__name__}, which cannot be sent to the solution")
        return {"ref": packed}

    def _incoming(self, reference: Any) -> Any:
        if type(reference) is list and len(reference) == 2:
            return unpack(reference[0], self.value(reference[1]))
        return Held(self, _checked({"ref": reference}))


class Candidate:
    """The entry point as the test sees it."""

    def __init__(self, line: Line, name: str):
        self._line, self._name = line, name
        self.__name__ = name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self._line.calls += 1
        return self._line.value(self._line.call(self._name, arguments, keywords)["value"])

    def in_place__(self, how: str, *arguments: Any, **keywords: Any) -> Any:
        """A call for its effect: the containers given are left as the solution left its copies.

        Args:
            how: "always"; or "if_none", where a result may be wanted instead: a function that has one and empties what
                it is given must not be compared with what the test computes from the emptied.
        """
        self._line.calls += 1
        answer = self._line.call(self._name, arguments, keywords, in_place=how)
        value = self._line.value(answer["value"])
        if how == "always" or value is None:
            changed = answer.get("arguments")
            if type(changed) is not list or len(changed) != len(arguments):
                raise SolutionError("an answer without its arguments")
            for argument, change in zip(arguments, changed, strict=True):
                _refill(argument, self._line.value(change))
        return value


class Helper:
    """Another name of the solution's. What it gives may only be handed back as an argument.

    A test that asserts on a helper's result would let the solution answer for itself.
    """

    def __init__(self, line: Line, name: str):
        self._line, self._reference = line, name

    def __call__(self, *arguments: Any, **keywords: Any) -> "Sealed":
        answer = self._line.call(self._reference, arguments, keywords, by_reference=True)
        return Sealed(self._line, _checked(answer["value"]))


class Sealed:
    """An object of the solution's, good as an argument only; its attributes are the same, and can be set.

    `root = Node(1); root.left = Node(2); assert height(root) == 2` works, `assert root.data == 1` does not.
    """

    __hash__ = None

    def __init__(self, line: Line, reference: int):
        self.__dict__.update(_line=line, _reference=reference)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        answer = self._line.ask(do="attribute", target=self._reference, name=name, by_reference=True)
        return Sealed(self._line, _checked(answer["value"]))

    def __setattr__(self, name: str, value: Any) -> None:
        self._line.ask(do="set", target=self._reference, name=name, to=self._line.encode(value))

    def __eq__(self, other: object) -> bool:
        return False

    def __bool__(self) -> bool:
        raise TypeError("an object of the solution's own type is neither true nor false")


class Held(Sealed):
    """An object that the entry point returned and that is no plain data: it equals nothing, itself included.

    Its items are asked for (a generator's, say). Its attributes and calls only where the entry point is a class:
    a test that says `f(x).startswith("a")` expects a text, and must not ask an object of the solution's making.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not self._line.entry_is_class:
            raise AttributeError(f"an object of the solution's own type has no attribute '{name}' here")
        answer = self._line.ask(do="attribute", target=self._reference, name=name, by_reference=False)
        return self._line.value(answer["value"])

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self._require_class("called")
        self._line.calls += 1
        return self._line.value(self._line.call(self._reference, arguments, keywords)["value"])

    def __len__(self) -> int:
        return self._special("len")

    def __getitem__(self, key: Any) -> Any:
        return self._special("getitem", key)

    def __contains__(self, item: Any) -> bool:
        if not self._line.entry_is_class:
            return any(item == other for other in self)
        return self._special("contains", item) is True

    def __str__(self) -> str:
        return self._special("str") if self._line.entry_is_class else object.__repr__(self)

    def _special(self, name: str, *arguments: Any) -> Any:
        self._require_class("asked for its items")
        answer = self._line.ask(do=name, target=self._reference, arguments=self._line.encode(list(arguments)))
        return self._line.value(answer["value"])

    def _require_class(self, what: str) -> None:
        if not self._line.entry_is_class:
            raise TypeError(f"an object of the solution's own type is not {what} here")

    def __iter__(self) -> Iterator[Any]:
        source, more = self._reference, True
        while more:
            answer = self._line.ask(do="items", target=source)
            yield from self._line.value(answer["value"])
            source, more = _checked(answer["iterator"]), answer["more"] is True

    def __next__(self) -> Any:
        answer = self._line.ask(do="next", target=self._reference)
        for item in self._line.value(answer["value"]):
            return item
        raise StopIteration


def _is_lendable(value: Any) -> bool:
    """Whether it is a function that the test itself defines, or a builtin one that only computes."""
    if type(value) is types.FunctionType:
        return "__tally__" in value.__globals__
    return any(value is lent for lent in _LENT)


def _raised(answer: dict[str, Any]) -> BaseException:
    text = answer.get("text")
    text = text[:TEXT_LIMIT] if type(text) is str else "an exception without a text"
    error = rebuilt(answer["raised"], text, SolutionError)
    setattr(error, TOLD, text)  # names the solution's line; the test's own would only confuse
    return error


def _checked(answer: Any) -> int:
    reference = answer.get("ref") if type(answer) is dict else None
    if type(reference) is not int or reference < 0:
        raise WireError("an answer that is no reference")
    return reference


def _refill(argument: Any, change: Any) -> None:
    if type(argument) is not type(change):
        return
    if type(argument) in (list, bytearray):
        argument[:] = change
    elif type(argument) in (dict, set):
        argument.clear()
        argument.update(change)
