"""Running a program, and grading a solution by its tests."""

import asyncio
import json
import math
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from aflow_jax.sandbox.guest.source import STDOUT_LIMIT
from aflow_jax.sandbox.guest.wire import TEXT_LIMIT, WireError, decode, load_message
from aflow_jax.sandbox.pool import SLOTS, Pool, shared_pool
from aflow_jax.sandbox.process import ClosedError, DeadlineError, Job
from aflow_jax.sandbox.results import ProgramResult, SandboxUnavailable, TestResult

Result = TypeVar("Result")

# After the solution's time is over its referee still has the rest of the asserts to count, which takes milliseconds.
_GRACE_SECONDS = 2.0
_ERROR_LIMIT = 4_000
_LONGEST_INTEGER_BITS = 13_287  # 4,000 digits; Python prints 4,300


def run_program(source: str, timeout: float = 30, memory_mb: int = 512) -> ProgramResult:
    """Runs a program in a sandbox and, where it defines `solve()`, calls that.

    Args:
        source: Python source, untrusted.
        timeout: seconds of wall time, also of CPU time.
        memory_mb: address space that it may take beyond the interpreter's own, in MiB.

    Raises:
        SandboxUnavailable: the sandbox failed, not the program.
    """
    return _Run().program(source, timeout, memory_mb)


def run_tests(code: str, entry_point: str, test: str, timeout: float = 15, memory_mb: int = 512) -> TestResult:
    """Grades a solution: the code runs in one sandbox, its test in another that calls it.

    Args:
        code: Python source that defines the entry point, untrusted.
        entry_point: name of the function to test.
        test: a `check(candidate)` function, with or without its call, or bare asserts on the entry point.
        timeout: seconds of wall time for the whole, also of CPU time.
        memory_mb: address space that the solution may take beyond the interpreter's own, in MiB.

    Raises:
        SandboxUnavailable: the sandbox failed, not the solution.
    """
    return _Run().tests(code, entry_point, test, timeout, memory_mb)


async def run_program_async(source: str, timeout: float = 30, memory_mb: int = 512) -> ProgramResult:
    """`run_program` for an event loop: does not block it, and kills the program when cancelled."""
    run = _Run()
    return await _in_thread(run, lambda: run.program(source, timeout, memory_mb))


async def run_tests_async(
    code: str, entry_point: str, test: str, timeout: float = 15, memory_mb: int = 512
) -> TestResult:
    """`run_tests` for an event loop: does not block it, and kills the solution when cancelled."""
    run = _Run()
    return await _in_thread(run, lambda: run.tests(code, entry_point, test, timeout, memory_mb))


_threads = ThreadPoolExecutor(SLOTS, thread_name_prefix="sandbox")


async def _in_thread(run: "_Run", work: Callable[[], Result]) -> Result:
    future = asyncio.get_running_loop().run_in_executor(_threads, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        run.cancel()
        future.cancel()
        raise


class _Run:
    """One call's jobs, so that a cancellation can reach them from another thread."""

    def __init__(self):
        self._pool: Pool = shared_pool()
        self._lock = threading.Lock()
        self._jobs: list[Job] = []
        self._cancelled = False

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            for job in self._jobs:
                job.kill()

    def start(self, kind: str, source: str, slot: int, timeout: float, memory_mb: int) -> Job:
        order = {"kind": kind, "slot": slot, "memory": memory_mb << 20, "cpu": math.ceil(timeout) + 1}
        with self._lock:
            if self._cancelled:
                raise SandboxUnavailable("the run was cancelled")
            job = self._pool.start(order, source)
            self._jobs.append(job)
            return job

    def program(self, source: str, timeout: float, memory_mb: int) -> ProgramResult:
        with self._pool.slot() as slot:
            job = self.start("program", source, 2 * slot, timeout, memory_mb)
            message, fault = None, None
            try:
                job.await_walls()
                deadline = time.monotonic() + timeout
                job.send({"source": source}, deadline)
                message = job.receive(deadline)
            except (DeadlineError, ClosedError, WireError) as error:
                fault = error
            finally:
                status = job.end()
        if isinstance(fault, DeadlineError):
            return ProgramResult("timeout", None, "", f"no result after {timeout:g} seconds")
        if isinstance(fault, WireError):
            return ProgramResult("error", None, "", f"the program is {fault}")
        if message is None:
            return ProgramResult("error", None, "", _ended(status))
        return _program_result(message)

    def tests(self, code: str, entry_point: str, test: str, timeout: float, memory_mb: int) -> TestResult:
        with self._pool.slot() as slot:
            solution = self.start("solution", code, 2 * slot, timeout, memory_mb)
            try:
                referee = self.start("referee", test, 2 * slot + 1, timeout + _GRACE_SECONDS, memory_mb)
                try:
                    for job in (solution, referee):
                        job.await_walls()
                    relay = Relay(solution, referee, timeout)
                    verdict = relay.run(code, entry_point, test)
                finally:
                    referee.end()
            finally:
                solution.end()
        return relay.result(verdict)


class Relay:
    """Carries frames between a solution and its referee without decoding values, and keeps order and time."""

    def __init__(self, solution: Job, referee: Job, timeout: float):
        self._solution, self._referee = solution, referee
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._nonce = secrets.token_hex(16)
        self._gone: str | None = None
        self._timed_out = False

    def run(self, code: str, entry_point: str, test: str) -> dict[str, Any] | None:
        """Relays until the referee's verdict; None when it gave none that counts."""
        try:
            order = {"test": test, "entry_point": entry_point, "nonce": self._nonce}
            self._referee.send(order, self._deadline + _GRACE_SECONDS)
            self._load(code)
            while True:
                body = self._referee.receive_body(self._deadline + _GRACE_SECONDS)
                if not body.startswith(b'{"ask": '):
                    return self._verdict(body)
                self._referee.send_body(self._answer(body), self._deadline + _GRACE_SECONDS)
        except DeadlineError:
            self._timed_out = True
        except (ClosedError, WireError):
            return None
        return None

    def _load(self, code: str) -> None:
        try:
            self._solution.send({"source": code}, self._deadline)
            loaded = self._solution.receive(self._deadline)
            if loaded.get("loaded") is not True:
                self._gone = _text(loaded.get("error"), TEXT_LIMIT) or "its code did not load"
        except DeadlineError:
            self._out_of_time()
        except ClosedError:
            self._gone = "the solution's process ended while its code was loaded"
        except WireError as error:
            self._gone = f"the solution is {error}"

    def _answer(self, body: bytes) -> bytes:
        if self._gone is None and self._solution.has_spoken():
            self._gone = "the solution answered before it was asked"
        if self._gone is None:
            try:
                self._solution.send_body(body[len(b'{"ask": ') : -1], self._deadline)
                return self._solution.receive_body(self._deadline)
            except DeadlineError:
                self._out_of_time()
            except ClosedError as error:
                self._gone = f"the solution's process ended in a call {error}".strip()
        return _body({"gone": self._gone})

    def _out_of_time(self) -> None:
        self._timed_out = True
        self._gone = f"no answer after {self._timeout:g} seconds in all"
        self._solution.kill()

    def _verdict(self, body: bytes) -> dict[str, Any] | None:
        message = load_message(body)
        verdict = message.get("verdict")
        if message.get("nonce") != self._nonce or type(verdict) is not dict:
            return None
        counts = verdict.get("passed"), verdict.get("total")
        valid = all(type(count) is int for count in counts) and 0 <= counts[0] <= counts[1]
        return verdict if valid and type(verdict.get("error")) in (str, type(None)) else None

    def result(self, verdict: dict[str, Any] | None) -> TestResult:
        """The verdict as a result."""
        if verdict is None:
            why = f"no verdict after {self._timeout:g} seconds" if self._timed_out else "the test's process ended"
            return TestResult("timeout" if self._timed_out else "error", 0, 0, why)
        # A test's own `except` may hide from its referee that the solution ended: that is no pass.
        passed, total, error = verdict["passed"], verdict["total"], verdict["error"] or self._gone
        error = _text(error, _ERROR_LIMIT)
        if error is None and not self._timed_out and passed == total > 0:
            return TestResult("ok", passed, total, None)
        # What ended the solution is a thing that failed, whatever the test made of it.
        total += passed == total > 0
        return TestResult("timeout" if self._timed_out else "error", passed, total, error)


def _body(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


def _program_result(message: dict[str, Any]) -> ProgramResult:
    stdout, error = _text(message.get("stdout"), STDOUT_LIMIT) or "", message.get("error")
    if error is not None:
        return ProgramResult("error", None, stdout, _text(error, _ERROR_LIMIT) or "the program gave no readable error")
    try:
        value = decode(message.get("value"), _no_reference)
        _check_printable(value)
    except WireError as fault:
        return ProgramResult("error", None, stdout, f"solve() returned {fault}")
    return ProgramResult("ok", value, stdout, None)


def _text(told: Any, limit: int) -> str | None:
    """A text from a sandbox, cut to size and fit to be written anywhere; None for anything else, never looked at."""
    if type(told) is not str:
        return None
    return told[:limit].encode("utf-8", errors="replace").decode("utf-8")


def _check_printable(value: Any) -> None:
    # Python refuses to print longer integers: a value that raises in the hands of whoever formats it is no result.
    if type(value) is int and value.bit_length() > _LONGEST_INTEGER_BITS:
        raise WireError("an integer of more than 4,000 digits")
    if type(value) is str and not value.isascii() and _text(value, len(value)) != value:
        raise WireError("a text with half of a surrogate pair, which cannot be written")
    if type(value) in (list, tuple, set, frozenset):
        for item in value:
            _check_printable(item)
    elif type(value) is dict:
        for pair in value.items():
            _check_printable(pair)


def _no_reference(payload: Any) -> Any:
    raise WireError("a reference where plain data belongs")


def _ended(status: int) -> str:
    if status < 0:
        return f"the program was killed by signal {-status}"
    return f"the program ended its process with status {status} before it gave a result"
