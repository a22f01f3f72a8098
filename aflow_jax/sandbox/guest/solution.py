"""The solution's side of a grading: it holds the code, answers one call at a time, and never sees a test.

Nothing here is trusted by anybody. The code it runs may rewrite all of it; what it can reach by that is to choose its
own answers, which it can anyway.
"""

import operator
import socket
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

from .library_values import pack, unpack
from .source import catch_output, describe, names_of, rebuilt, run_source
from .wire import WireError, decode, encode, read_frame, write_frame

FILENAME = "<solution>"
ITEMS_AT_ONCE = 256
_SPECIAL = {"len": len, "getitem": operator.getitem, "contains": operator.contains, "str": str}


def serve_solution(channel: socket.socket, job: dict[str, Any]) -> None:
    """Loads the code, says so, then answers requests until the channel ends."""
    catch_output()
    try:
        namespace = run_source(job["source"], "solution", FILENAME)
    except BaseException as fault:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are the program's failure too
        write_frame(channel, {"loaded": False, "error": describe(fault, FILENAME)})
        return
    write_frame(channel, {"loaded": True})
    objects = Objects(namespace, channel)
    while True:
        objects.serve(read_frame(channel))


def raised(fault: BaseException) -> dict[str, Any]:
    """An exception as the names of its classes and its text."""
    return {"raised": names_of(fault), "text": describe(fault, FILENAME)}


class CallbackError(Exception):
    """A function of the test's, called by the solution, raised an exception that is no builtin one."""


class Objects:
    """The solution's names, and the objects it gave out by number because they are no plain data."""

    def __init__(self, namespace: dict[str, Any], channel: socket.socket):
        self.namespace = namespace
        self.channel = channel
        self.held: list[Any] = []
        self.calling_back = threading.RLock()

    def serve(self, request: dict[str, Any]) -> None:
        """Does one request and answers it."""
        try:
            answer = self.answer(request)
        except BaseException as fault:  # noqa: BLE001 - told to the referee, which raises it in the test
            answer = raised(fault)
        try:
            write_frame(self.channel, answer)
        except WireError as fault:
            write_frame(self.channel, raised(fault))

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Does one request: call, attribute, set, items, next, or a special method."""
        target = self.find(request["target"])
        match request["do"]:
            case "call":
                return self.call(target, request)
            case "attribute":
                value = getattr(target, request["name"])
                return {"value": self.give_out(value) if request["by_reference"] else self.encode(value)}
            case "set":
                setattr(target, request["name"], self.decode(request["to"]))
                return {"value": None}
            case "items":
                return self.items(target)
            case "next":
                return {"value": [self.encode(item) for item in islice(target, 1)]}
        if request["do"] in _SPECIAL:
            return {"value": self.encode(_SPECIAL[request["do"]](target, *self.decode(request["arguments"])))}
        raise WireError(f"unknown request {request['do']}")

    def find(self, target: str | int) -> Any:
        if type(target) is int:
            return self.held[target]
        if target not in self.namespace:
            raise NameError(f"name '{target}' is not defined by the solution")
        return self.namespace[target]

    def call(self, target: Any, request: dict[str, Any]) -> dict[str, Any]:
        arguments, keywords = self.decode(request["arguments"]), self.decode(request["keywords"])
        value = target(*arguments, **keywords)
        answer = {"value": self.give_out(value) if request["by_reference"] else self.encode(value)}
        if request["in_place"] == "always" or (request["in_place"] == "if_none" and value is None):
            answer["arguments"] = [self.encode(argument) for argument in arguments]
        return answer

    def call_back(self, number: int, arguments: tuple, keywords: dict[str, Any]) -> Any:
        """Calls a function of the test's, over there, and serves what is asked meanwhile: it may call back too."""
        with self.calling_back:
            call = {"callback": number, "arguments": self.encode(list(arguments)), "keywords": self.encode(keywords)}
            write_frame(self.channel, call)
            while True:
                request = read_frame(self.channel)
                match request["do"]:
                    case "return":
                        return self.decode(request["value"])
                    case "raise":
                        raise rebuilt(request["raised"], request["text"], CallbackError)
                self.serve(request)

    def items(self, target: Any) -> dict[str, Any]:
        iterator = target if isinstance(target, Iterator) else iter(target)
        items = [self.encode(item) for item in islice(iterator, ITEMS_AT_ONCE)]
        return {"value": items, "iterator": self.give_out(iterator), "more": len(items) == ITEMS_AT_ONCE}

    def encode(self, value: Any) -> Any:
        return encode(value, self.opaque)

    def decode(self, data: Any) -> Any:
        return decode(data, self.received)

    def opaque(self, value: Any) -> Any:
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            return encode(value.item(), self.give_out)  # a NumPy scalar counts as the number it holds
        packed = pack(value, self.encode)
        return self.give_out(value) if packed is None else {"ref": packed}

    def received(self, reference: Any) -> Any:
        match reference:
            case {"callback": number}:
                return lambda *arguments, **keywords: self.call_back(number, arguments, keywords)
            case [name, data]:
                return unpack(name, self.decode(data))
        return self.find(reference)

    def give_out(self, value: Any) -> dict[str, int]:
        self.held.append(value)
        return {"ref": len(self.held) - 1}
