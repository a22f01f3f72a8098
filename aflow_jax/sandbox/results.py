"""What comes back from a sandbox, and the one fault that is not the program's doing."""

from dataclasses import dataclass
from typing import Any, Literal

RunOutcome = Literal["ok", "error", "timeout"]


class SandboxUnavailable(Exception):
    """The sandbox itself failed (it died, or could not start): an infrastructure fault, never the program's."""


@dataclass(frozen=True)
class ProgramResult:
    """What a program did.

    Attributes:
        outcome: "ok" when the source ran and `solve()`, where defined, returned; "error" when it raised, exited,
            was killed for memory or gave back more than may be carried; "timeout" when its time ran out.
        value: what `solve()` returned, as plain data of the builtin types; any other object as its text, cut to size.
            None when the source defines no `solve`.
        stdout: what it printed, cut to size.
        error: the exception's type, text and line, or why there is no result; None when the outcome is "ok".
    """

    outcome: RunOutcome
    value: Any
    stdout: str
    error: str | None


@dataclass(frozen=True)
class TestResult:
    """How a solution did in its tests.

    Attributes:
        outcome: "ok" only when every assert passed and the solution was called at least once; "timeout" when the
            solution or its tests ran out of time; else "error".
        passed: how many asserts passed, counted one by one; a failing one does not stop the count.
        total: how many asserts there are; constant ones (`assert True`) do not count. 0 when the test cannot be run.
        error: the first failure, with the failing assert's text; None when the outcome is "ok".
    """

    __test__ = False  # not a test class, whatever its name says to pytest

    outcome: RunOutcome
    passed: int
    total: int
    error: str | None
