"""The tests' side of a grading: it holds the test, asks the solution call by call, and gives the verdict.

The solution is another process in another sandbox. What arrives from it is plain data rebuilt as exact builtin types,
so `==` here never runs the solution's code; anything else arrives as a `Held` reference, which equals nothing.
"""

import builtins
import importlib
import socket
import types
from collections.abc import Iterator
from typing import Any

from .checks import Checks, prepare
from .source import catch_output, describe
from .wire import TEXT_LIMIT, WireError, decode, encode, read_frame, write_frame

FILENAME = "<test>"


_TOLD = "told_by_solution"
# Their constructors want more than a text.
_UNBUILDABLE = ("UnicodeDecodeError", "UnicodeEncodeError", "UnicodeTranslateError", "ExceptionGroup")


class SolutionError(Exception):
    """The solution raised something that is no builtin exception, or is gone."""


class Line:
    """The way to the solution, through the parent. Counts the calls to the entry point that were answered."""

    def __init__(self, channel: socket.socket, entry_point: str):
        self.channel = channel
        self.entry_is_class = entry_point[:1].isupper()
        self.calls = 0
        self.gone: str | None = None

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its answer. Raises what the solution raised, or SolutionError."""
        if self.gone is None:
            write_frame(self.channel, {"ask": request})
            answer = read_frame(self.channel)
            self.gone = answer.get("gone")
        if self.gone is not None:
            raise SolutionError(self.gone)
        if "raised" in answer:
            raise _rebuilt(answer["raised"], answer.get("text"))
        if "value" not in answer:
            raise SolutionError("an answer without a value")
        return answer

    def call(self, target: str | int, arguments: tuple, keywords: dict, **how: bool) -> dict[str, Any]:
        """Calls a name or held object of the solution with plain or held arguments."""
        return self.ask(
            do="call",
            target=target,
            arguments=encode(list(arguments), _outgoing),
            keywords=encode(keywords, _outgoing),
            **{"by_reference": False, "in_place": False} | how,
        )

    def value(self, answer: Any) -> Any:
        return decode(answer, lambda reference: Held(self, _checked({"ref": reference})))


class Candidate:
    """The entry point as the test sees it."""

    def __init__(self, line: Line, name: str):
        self._line, self._name = line, name
        self.__name__ = name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self._line.calls += 1
        return self._line.value(self._line.call(self._name, arguments, keywords)["value"])

    def in_place__(self, *arguments: Any, **keywords: Any) -> None:
        """A call for its effect: the containers given are left as the solution left its copies."""
        self._line.calls += 1
        answer = self._line.call(self._name, arguments, keywords, in_place=True)
        changed = answer.get("arguments")
        if type(changed) is not list or len(changed) != len(arguments):
            raise SolutionError("an answer without its arguments")
        for argument, change in zip(arguments, changed, strict=True):
            _refill(argument, self._line.value(change))


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
        self._line.ask(do="set", target=self._reference, name=name, to=encode(value, _outgoing))

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
        if not self._line.entry_is_class:
            raise TypeError("an object of the solution's own type is not called here")
        return self._line.value(self._line.call(self._reference, arguments, keywords)["value"])

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


class Tally:
    """Counts what held and what did not."""

    def __init__(self, texts: list[str]):
        self.texts = texts
        self.passed = 0
        self.failed = 0
        self.reached: set[int] = set()
        self.first_failure: str | None = None

    def check(self, number: int) -> "_Watch":
        """Around one assert."""
        self.reached.add(number)
        return _Watch(self, self.texts[number])

    def step(self) -> "_Watch":
        """Around a statement that is no assert: only its failure counts."""
        return _Watch(self, None)

    def fail(self, what: str) -> None:
        self.failed += 1
        if self.first_failure is None:
            self.first_failure = what[:TEXT_LIMIT]

    def verdict(self, calls: int) -> dict[str, Any]:
        """Asserts never reached count as failed when something failed: they may be behind what failed."""
        if not calls:
            self.passed = 0
            self.fail("the test never calls the solution")
        unreached = len(self.texts) - len(self.reached)
        if self.failed:
            return {"passed": self.passed, "total": self.passed + self.failed + unreached, "error": self.first_failure}
        # A test without asserts, such as one that only uses numpy.testing, counts as a single one.
        count = self.passed or 1
        return {"passed": count, "total": count, "error": None}


class _Watch:
    def __init__(self, tally: Tally, text: str | None):
        self.tally, self.text = tally, text

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> bool:
        if error is None:
            self.tally.passed += self.text is not None
        else:
            self.tally.fail(self._told(error))
        return not isinstance(error, GeneratorExit)

    def _told(self, error: BaseException) -> str:
        told = getattr(error, _TOLD, None)
        if self.text is None:
            return told or describe(error, FILENAME)
        if told is None and type(error) is AssertionError:
            return f"assert {self.text}"
        return f"{told or describe(error)} in assert {self.text}"


def referee(channel: socket.socket, job: dict[str, Any]) -> None:
    """Runs the test against the solution behind the channel; the last frame is the verdict, with the parent's nonce."""
    catch_output()
    try:
        checks = prepare(job["test"], job["entry_point"])
        code = compile(checks.tree, FILENAME, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        verdict = {"passed": 0, "total": 0, "error": f"the test cannot be read: {describe(error, FILENAME)}"}
    else:
        verdict = _judge(channel, job["entry_point"], checks, code)
    write_frame(channel, {"verdict": verdict, "nonce": job["nonce"]})


def _judge(channel: socket.socket, entry_point: str, checks: Checks, code: types.CodeType) -> dict[str, Any]:
    line, tally = Line(channel, entry_point), Tally(checks.texts)
    candidate = Candidate(line, entry_point)
    names: dict[str, Any] = {name: Helper(line, name) for name in checks.helpers}
    names |= {name: importlib.import_module("numpy" if name == "np" else name) for name in checks.modules}
    names |= {"__name__": "test", "__tally__": tally, "candidate": candidate, entry_point: candidate}
    with tally.step():
        exec(code, names)
    return tally.verdict(line.calls)


def _outgoing(value: Any) -> Any:
    if isinstance(value, Sealed | Helper):
        return {"ref": value._reference}
    raise WireError(f"an argument of type {type(value).__name__}, which cannot be sent to the solution")


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


def _rebuilt(names: Any, text: Any) -> BaseException:
    """The nearest builtin exception of those names, so that a test's `except ValueError` works."""
    for name in names if type(names) is list else []:
        kind = getattr(builtins, name, None) if type(name) is str else None
        if isinstance(kind, type) and issubclass(kind, Exception) and name not in _UNBUILDABLE:
            break
    else:
        kind = SolutionError
    error = kind(str(text)[:TEXT_LIMIT])
    setattr(error, _TOLD, str(text)[:TEXT_LIMIT])  # names the solution's line; the test's own would only confuse
    return error
