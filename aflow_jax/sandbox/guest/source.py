"""Running a program's text inside a module of its own, with its output caught and its failure told in one line."""

import builtins
import io
import linecache
import sys
import traceback
import types
from typing import Any

from .wire import TEXT_LIMIT, WireError

STDOUT_LIMIT = 64_000


class CappedOutput(io.RawIOBase):
    """Keeps the first STDOUT_LIMIT bytes written and lets the rest go, so that a flood costs no memory."""

    def __init__(self):
        self.kept = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        count = len(data)
        room = STDOUT_LIMIT - len(self.kept)
        if room > 0:
            self.kept += memoryview(data)[:room]
        return count


def catch_output() -> CappedOutput:
    """Puts a capped text stream in place of stdout and stderr, and an empty one in place of stdin."""
    output = CappedOutput()
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(output, encoding="utf-8", errors="replace", write_through=True)
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(CappedOutput(), encoding="utf-8", errors="replace")
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    return output


def run_source(source: str, module_name: str, filename: str) -> dict:
    """Executes the text as a module and returns its namespace. Whatever it raises passes through."""
    source = source.removeprefix("\ufeff")
    module = types.ModuleType(module_name)
    sys.modules[module_name] = module
    # inspect.getsource and tracebacks find the text here; there is no file.
    linecache.cache[filename] = (len(source), None, [line + "\n" for line in source.splitlines()], filename)
    exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def describe(error: BaseException, filename: str | None = None) -> str:
    """`TypeName: text (line N)`, cut to size, where N is the last line of the named text on the way to the error.

    The error may be hostile: an exception class of the program's own whose `__str__` raises or never ends its text.
    """
    name = type.__dict__["__name__"].__get__(type(error))
    try:
        text = str.__str__(str(error))[:TEXT_LIMIT]
    except BaseException as nested:  # noqa: BLE001 - the program's own __str__ may raise anything, exits included
        text = f"(its text raised {type.__dict__['__name__'].__get__(type(nested))})"
    return f"{name}: {text}{_last_line(error, filename)}" if text else f"{name}{_last_line(error, filename)}"


def _last_line(error: BaseException, filename: str | None) -> str:
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return ""  # its own text says the line
    place = BaseException.__traceback__.__get__(error)
    lines = [number for frame, number in traceback.walk_tb(place) if frame.f_code.co_filename == filename]
    return f" (line {lines[-1]})" if lines else ""


# Their constructors want more than a text.
_UNBUILDABLE = ("UnicodeDecodeError", "UnicodeEncodeError", "UnicodeTranslateError", "ExceptionGroup")
# Raised inside a loop of the other side's these would end it quietly, as if all its rounds had been good.
_ENDS_OF_LOOPS = ("StopIteration", "StopAsyncIteration", "GeneratorExit")
_EXITS = ("SystemExit", "KeyboardInterrupt")


def names_of(fault: BaseException) -> list[str]:
    """The names of an exception's classes, the nearest first, whatever it says of itself."""
    return [base.__name__ for base in type.__dict__["__mro__"].__get__(type(fault))]


def rebuilt(names: Any, text: str, otherwise: type[BaseException]) -> BaseException:
    """The nearest builtin exception of those names, so that the other side's `except ValueError` works.

    `otherwise` stands for an exception that has no such class, and for one that would end loops quietly.
    """
    for name in names if type(names) is list else []:
        kind = getattr(builtins, name, None) if type(name) is str else None
        if name in _ENDS_OF_LOOPS or not isinstance(kind, type) or name in _UNBUILDABLE:
            continue
        if name in _EXITS or (issubclass(kind, Exception) and kind is not Exception):
            return kind(text)
    return otherwise(text)


def text_of(value: object) -> str:
    """An object's own text, cut to size. Raises WireError when it has none."""
    try:
        return str.__str__(str(value))[:TEXT_LIMIT]
    except BaseException as error:  # the object's own __str__ may raise anything
        raise WireError(f"an object whose text raised {type(error).__name__}") from error
