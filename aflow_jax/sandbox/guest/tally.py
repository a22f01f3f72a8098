"""Counts which asserts of a test held."""

from typing import Any

from .proxies import TOLD, Line
from .source import describe
from .wire import TEXT_LIMIT

FILENAME = "<test>"
# `assert False` behind a call that should have raised: not to be reached is how it holds.
_NEVER = ("False", "0", "None")


class Tally:
    """Counts what held and what did not.

    An assert in a loop counts once for each call of the solution's: `for x in f(9): assert x > 0` counts once, however
    many items the solution chose to return.
    """

    def __init__(self, texts: list[str], line: Line):
        self.texts = texts
        self.line = line
        self.passed = 0
        self.failed = 0
        self.last: dict[int, tuple[int, bool]] = {}  # by assert: the calls made when it was last counted, how it went
        self.first_failure: str | None = None

    def check(self, number: int) -> "_Watch":
        """Around one assert."""
        return _Watch(self, number)

    def count(self, number: int, held: bool) -> None:
        """Notes how an assert went."""
        calls, before = self.last.get(number, (-1, False))
        self.last[number] = self.line.calls, held
        if calls != self.line.calls:
            self.passed += held
            self.failed += not held
        elif before and not held:
            self.passed -= 1
            self.failed += 1
        else:
            self.last[number] = calls, before

    def step(self) -> "_Watch":
        """Around a statement that is no assert: only its failure counts."""
        return _Watch(self, None)

    def fail(self, what: str) -> None:
        """Notes a failure's text; the first is told."""
        if self.first_failure is None:
            self.first_failure = what[:TEXT_LIMIT]

    def verdict(self) -> dict[str, Any]:
        """Asserts never reached count as failed when something failed: they may be behind what failed."""
        if not self.line.calls:
            self.passed = 0
            self.fail("the test never calls the solution")
        elif not self.last and any(text not in _NEVER for text in self.texts):
            self.fail("no assert was reached")
        unreached = len(self.texts) - len(self.last)
        if self.first_failure is not None:
            # What failed without being an assert, in a test that has no other failure, is still one thing that failed.
            missing = max(self.failed + unreached, 1)
            return {"passed": self.passed, "total": self.passed + missing, "error": self.first_failure}
        # A test without asserts, such as one that only uses numpy.testing, counts as a single one.
        count = self.passed or 1
        return {"passed": count, "total": count, "error": None}


class _Watch:
    def __init__(self, tally: Tally, number: int | None):
        self.tally, self.number = tally, number

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> bool:
        if self.number is not None:
            self.tally.count(self.number, error is None)
        elif error is not None:
            self.tally.failed += 1
        if error is not None:
            self.tally.fail(self._told(error))
        return not isinstance(error, GeneratorExit)

    def _told(self, error: BaseException) -> str:
        told = getattr(error, TOLD, None)
        if self.number is None:
            return told or describe(error, FILENAME)
        text = self.tally.texts[self.number]
        if told is None and type(error) is AssertionError:
            return f"assert {text}"
        return f"{told or describe(error)} in assert {text}"
