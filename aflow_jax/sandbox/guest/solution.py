"""The solution's side of a grading: it holds the code, answers one call at a time, and never sees a test.

Nothing here is trusted by anybody. The code it runs may rewrite all of it; what it can reach by that is to choose its
own answers, which it can anyway.
"""

import socket
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

from .source import catch_output, describe, run_source
from .wire import WireError, decode, encode, read_frame, write_frame

FILENAME = "<solution>"
ITEMS_AT_ONCE = 256


def serve_solution(channel: socket.socket, job: dict[str, Any]) -> None:
    """Loads the code, says so, then answers requests until the channel ends."""
    catch_output()
    try:
        namespace = run_source(job["source"], "solution", FILENAME)
    except BaseException as fault:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are the program's failure too
        write_frame(channel, {"loaded": False, "error": describe(fault, FILENAME)})
        return
    write_frame(channel, {"loaded": True})
    objects = Objects(namespace)
    while True:
        request = read_frame(channel)
        try:
            answer = objects.answer(request)
        except BaseException as fault:  # noqa: BLE001 - told to the referee, which raises it in the test
            answer = raised(fault)
        try:
            write_frame(channel, answer)
        except WireError as fault:
            write_frame(channel, raised(fault))


def raised(fault: BaseException) -> dict[str, Any]:
    """An exception as the names of its classes and its text."""
    names = [base.__name__ for base in type.__dict__["__mro__"].__get__(type(fault))]
    return {"raised": names, "text": describe(fault, FILENAME)}


class Objects:
    """The solution's names, and the objects it gave out by number because they are no plain data."""

    def __init__(self, namespace: dict[str, Any]):
        self.namespace = namespace
        self.held: list[Any] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Does one request: call, attribute, set, items or next."""
        target = self.find(request["target"])
        match request["do"]:
            case "call":
                return self.call(target, request)
            case "attribute":
                value = getattr(target, request["name"])
                return {"value": self.give_out(value) if request["by_reference"] else self.encode(value)}
            case "set":
                setattr(target, request["name"], decode(request["to"], self.find))
                return {"value": None}
            case "items":
                return self.items(target)
            case "next":
                return {"value": [self.encode(item) for item in islice(target, 1)]}
        raise WireError(f"unknown request {request['do']}")

    def find(self, target: str | int) -> Any:
        if type(target) is int:
            return self.held[target]
        if target not in self.namespace:
            raise NameError(f"name '{target}' is not defined by the solution")
        return self.namespace[target]

    def call(self, target: Any, request: dict[str, Any]) -> dict[str, Any]:
        arguments = decode(request["arguments"], self.find)
        keywords = decode(request["keywords"], self.find)
        value = target(*arguments, **keywords)
        answer = {"value": self.give_out(value) if request["by_reference"] else self.encode(value)}
        if request["in_place"]:
            answer["arguments"] = [self.encode(argument) for argument in arguments]
        return answer

    def items(self, target: Any) -> dict[str, Any]:
        iterator = target if isinstance(target, Iterator) else iter(target)
        items = [self.encode(item) for item in islice(iterator, ITEMS_AT_ONCE)]
        return {"value": items, "iterator": self.give_out(iterator), "more": len(items) == ITEMS_AT_ONCE}

    def encode(self, value: Any) -> Any:
        return encode(value, self.opaque)

    def opaque(self, value: Any) -> Any:
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            return encode(value.item(), self.give_out)  # a NumPy scalar counts as the number it holds
        return self.give_out(value)

    def give_out(self, value: Any) -> dict[str, int]:
        self.held.append(value)
        return {"ref": len(self.held) - 1}
