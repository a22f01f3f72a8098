"""Symbolic equality in processes that can be killed.

math-verify and sympy may think for ever about a hostile or merely unlucky expression, and their own time limits are
signals, which work in no thread. So each comparison runs in a worker: a clean interpreter, started (never forked from a
process that holds JAX), with an empty environment and a bound on memory. A worker that exceeds the limit is killed and
replaced while others serve.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 2.0
START_SECONDS = 120.0
MAX_CHARACTERS = 1_000

_GUEST = Path(__file__).with_name("symbolic_guest.py")


class SymbolicUnavailable(Exception):
    """No symbolic worker can be started: the machine's fault, not the answer's."""


@dataclass(frozen=True)
class Comparison:
    """What a worker found.

    Attributes:
        equal: whether the two are the same.
        parsed: whether the answer could be read at all; True where time ran out.
        timed_out: whether the limit ended it; it is then not equal.
    """

    equal: bool
    parsed: bool
    timed_out: bool = False


class SymbolicPool:
    """A few workers shared by all threads; each comparison takes one of them for at most `limit` seconds.

    Workers start in the background when the pool is made, and again when one was killed; a comparison prefers one that
    is ready and waits for a start only where there is none. `close` ends them.
    """

    def __init__(self, size: int, *, limit: float = LIMIT_SECONDS) -> None:
        self.limit = limit
        self._closed = False
        self._freed = threading.Condition()
        self._idle = [_Worker(limit) for _ in range(size)]

    def compare(self, gold: str, answer: str, *, limit: float | None = None) -> Comparison:
        """Compare two normalised LaTeX expressions; thread-safe, blocking.

        Raises:
            SymbolicUnavailable: a worker cannot be started.
        """
        if max(len(gold), len(answer)) > MAX_CHARACTERS:
            return Comparison(equal=False, parsed=False)
        worker = self._take()
        try:
            if not worker.alive():
                worker.kill()
                worker = _Worker(self.limit)
            reply = worker.ask({"gold": gold, "answer": answer}, min(limit or self.limit, self.limit))
            if reply is None:
                timed_out = worker.alive()
                worker.kill()
                worker = _Worker(self.limit)
                return Comparison(equal=False, parsed=timed_out, timed_out=timed_out)
            return Comparison(equal=reply["equal"], parsed=reply["parsed"])
        finally:
            self._give(worker)

    def warm_up(self) -> None:
        """Wait until every idle worker has started; raise SymbolicUnavailable where one does not."""
        with self._freed:
            for worker in self._idle:
                worker.start()

    def close(self) -> None:
        """Kill the workers that are idle, and those that are busy as soon as they are done."""
        with self._freed:
            self._closed = True
            while self._idle:
                self._idle.pop().kill()

    def _take(self) -> _Worker:
        with self._freed:
            while not self._idle:
                self._freed.wait()
            place = next((at for at, worker in enumerate(self._idle) if worker.ready()), 0)
            return self._idle.pop(place)

    def _give(self, worker: _Worker) -> None:
        with self._freed:
            if self._closed:
                worker.kill()
            else:
                self._idle.append(worker)
                self._freed.notify()


@functools.cache
def shared_pool() -> SymbolicPool:
    """Return the process's own pool, started at the first call and ended with the process."""
    pool = SymbolicPool(1 + min(4, os.cpu_count() or 1))
    atexit.register(pool.close)
    return pool


class _Worker:
    """One guest process and the unread part of its output."""

    def __init__(self, limit: float) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_GUEST), str(max(1, round(limit)))],
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

    def alive(self) -> bool:
        return self._process.poll() is None

    def start(self) -> None:
        """Wait until it has started."""
        if not self._ready and self._line(START_SECONDS) is None:
            self.kill()
            raise SymbolicUnavailable("the symbolic checker does not start: is math-verify installed?")
        self._ready = True

    def ready(self) -> bool:
        """Whether it has started, without waiting."""
        self._ready = self._ready or (self.alive() and self._line(0.0) is not None)
        return self._ready

    def ask(self, request: dict[str, str], limit: float) -> dict[str, Any] | None:
        """Return the reply, or None where the limit passed or the worker died."""
        self.start()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._line(limit)
        return None if line is None else json.loads(line)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _line(self, limit: float) -> bytes | None:
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                piece = os.read(self._process.stdout.fileno(), 65536)
                if not piece:
                    return None
                self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line
