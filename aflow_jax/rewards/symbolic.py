"""Symbolic equality in processes that can be killed.

math-verify and sympy may think for ever about a hostile or merely unlucky expression, and their own time limits are
signals, which work in no thread. So comparisons run in workers: clean interpreters, started (never forked from a
process that holds JAX), with an empty environment, each of which forks a child for every comparison and kills it at its
limit.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Of the two seconds that a check may take, the rest is for the fork, its end and the pipes.
LIMIT_SECONDS = 1.8
MAX_CHARACTERS = 1_000

_START_SECONDS = 120.0
# A worker that does not say so itself by then has hung, and is replaced.
_GRACE_SECONDS = 5.0
_GUEST = Path(__file__).with_name("symbolic_guest.py")


class SymbolicUnavailable(Exception):
    """No symbolic worker can be had: the machine's fault, not the answer's."""


@dataclass(frozen=True)
class Comparison:
    """What a worker found.

    Attributes:
        equal: whether the two are the same.
        parsed: whether the answer could be read at all; True where time or memory ran out.
        timed_out: whether the limit ended it; it is then not equal.
    """

    equal: bool
    parsed: bool
    timed_out: bool = False


class SymbolicPool:
    """A few workers shared by all threads; each comparison takes one of them for at most `limit` seconds.

    They start in the background when the pool is made; the first comparisons wait for that, outside of their limit.
    `close` ends them.
    """

    def __init__(self, size: int, *, limit: float = LIMIT_SECONDS) -> None:
        self.limit = limit
        self._closed = False
        self._lock = threading.Lock()
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for _ in range(size):
            self._idle.put(_Worker())

    def compare(self, gold: str, answer: str, *, limit: float | None = None) -> Comparison:
        """Compare two normalised LaTeX expressions; thread-safe, blocking.

        Raises:
            SymbolicUnavailable: a worker cannot be started, or died.
        """
        if max(len(gold), len(answer)) > MAX_CHARACTERS:
            return Comparison(equal=False, parsed=False)
        seconds = min(limit or self.limit, self.limit)
        worker = self._idle.get()
        try:
            return Comparison(**worker.ask({"gold": gold, "answer": answer, "seconds": seconds}, seconds))
        except SymbolicUnavailable:
            worker.kill()
            worker = _Worker()
            raise
        finally:
            with self._lock:
                if self._closed:
                    worker.kill()
                else:
                    self._idle.put(worker)

    def close(self) -> None:
        """Kill the workers that are idle, and those that are busy as soon as they are done."""
        with self._lock:
            self._closed = True
            while not self._idle.empty():
                self._idle.get().kill()


@functools.cache
def shared_pool() -> SymbolicPool:
    """Return the process's own pool, started at the first call and ended with the process."""
    pool = SymbolicPool(max(1, min(4, os.cpu_count() or 1)))
    atexit.register(pool.close)
    return pool


class _Worker:
    """One guest process and the unread part of its output."""

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_GUEST)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"LANG": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise SymbolicUnavailable(f"the symbolic checker does not start: {error.strerror}") from error
        self._ready = False
        self._unread = b""

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the reply to a request that takes so many seconds at most, once the process has started."""
        if not self._ready:
            self._line(_START_SECONDS)
            self._ready = True
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise SymbolicUnavailable("the symbolic checker died") from error
        return json.loads(self._line(seconds + _GRACE_SECONDS))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            # A request that its worker did not live to read goes nowhere.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _line(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise SymbolicUnavailable("the symbolic checker does not answer")
                piece = os.read(self._process.stdout.fileno(), 65536)
                if not piece:
                    raise SymbolicUnavailable("the symbolic checker died: is math-verify installed?")
                self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line
