"""The zygotes that a process keeps, replaced when they die, and the slots that bound the jobs on them.

There are two: a small one, and one that has imported NumPy and SymPy. Forking copies the page tables, so that a job
that needs neither is cheaper on the small one; the other starts when a program first mentions them.
"""

import atexit
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

from aflow_jax.errors import UserError
from aflow_jax.sandbox.backends import Backend, SandboxReport, choose
from aflow_jax.sandbox.process import Job, ZygoteProcess

# Twice as many jobs, and a zygote has 256 users to give them.
SLOTS = min(max(4, os.cpu_count() or 1), 128)

_HEAVY = ("numpy", "sympy")
_MENTIONS_HEAVY = re.compile(r"\b(numpy|sympy|mpmath)\b").search


class Pool:
    """Hands out slots and starts jobs in them. A slot has room for a solution and its referee."""

    def __init__(self, backend: Backend):
        self._backend = backend
        self._report: SandboxReport | None = None
        self._lock = threading.Lock()
        self._free = list(range(SLOTS))
        self._available = threading.Semaphore(SLOTS)
        self._zygotes: dict[tuple[str, ...], ZygoteProcess] = {}

    @contextmanager
    def slot(self) -> Iterator[int]:
        """Waits for a free slot, and keeps it."""
        with self._available:
            slot = self._free.pop()
            try:
                yield slot
            finally:
                self._free.append(slot)

    def start(self, order: dict[str, Any], source: str) -> Job:
        """Starts a job on a zygote that has imported what the source mentions. Raises SandboxUnavailable."""
        return self.zygote(_HEAVY if _MENTIONS_HEAVY(source) else ()).start(order)

    def zygote(self, packages: tuple[str, ...] = ()) -> ZygoteProcess:
        """The living zygote with these packages; a new one where there is none or it has died."""
        with self._lock:
            zygote = self._zygotes.get(packages)
            if zygote is not None and not zygote.is_alive():
                self._zygotes.pop(packages).close()
                zygote = None
            if zygote is None:
                # Once chosen, a backend is kept: a replacement must not be weaker than what was reported.
                wanted = self._report.backend if self._report else self._backend
                zygote, report = choose(wanted, packages)
                self._zygotes[packages] = zygote
                self._report = self._report or report
            return zygote

    def report(self) -> SandboxReport:
        """What isolates the jobs; starts a zygote where there has been none."""
        if self._report is None:
            self.zygote()
        assert self._report is not None
        return self._report

    def zygotes(self) -> list[ZygoteProcess]:
        """Those that are started."""
        with self._lock:
            return list(self._zygotes.values())

    def close(self) -> None:
        """Ends the zygotes and whatever runs on them. The next job starts a new one."""
        with self._lock:
            while self._zygotes:
                self._zygotes.popitem()[1].close()


_pool: Pool | None = None
_pool_owner = 0
_pool_lock = threading.Lock()
_backend: Backend = "auto"


def configure_sandbox(backend: Backend = "auto") -> SandboxReport:
    """Chooses the backend for this process, starts it and says what it is made of.

    Args:
        backend: "auto" takes the best that the machine offers; "unsafe" isolates nothing and is never taken by itself.

    Raises:
        UserError: no such backend, or this machine does not offer it; what was configured before stays.
        SandboxUnavailable: it did not start for another reason.
    """
    global _pool, _pool_owner, _backend
    if backend not in get_args(Backend):
        raise UserError(f"sandbox: '{backend}' is no backend; choose one of {', '.join(get_args(Backend))}")
    wanted = Pool(backend)
    report = wanted.report()
    with _pool_lock:
        if _pool is not None and _pool_owner == os.getpid():
            _pool.close()
        _pool, _pool_owner, _backend = wanted, os.getpid(), backend
        atexit.register(wanted.close)
    return report


def sandbox_report() -> SandboxReport:
    """What isolates programs in this process, as found by starting it. Raises as `configure_sandbox`."""
    return shared_pool().report()


def shared_pool() -> Pool:
    """This process's pool. A forked child does not share its parent's."""
    global _pool, _pool_owner
    with _pool_lock:
        if _pool is None or _pool_owner != os.getpid():
            _pool, _pool_owner = Pool(_backend), os.getpid()
            atexit.register(_pool.close)
        return _pool
