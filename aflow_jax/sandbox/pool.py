"""The one zygote that a process keeps, replaced when it dies, and the slots that bound the jobs on it."""

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aflow_jax.sandbox.process import Job, ZygoteProcess

SLOTS = max(4, os.cpu_count() or 1)


class Pool:
    """Hands out slots and starts jobs in them. A slot has room for a solution and its referee."""

    def __init__(self, settings: dict[str, Any]):
        self._settings = settings
        self._lock = threading.Lock()
        self._free = list(range(SLOTS))
        self._available = threading.Semaphore(SLOTS)
        self._zygote: ZygoteProcess | None = None

    @contextmanager
    def slot(self) -> Iterator[int]:
        """Waits for a free slot, and keeps it."""
        with self._available:
            slot = self._free.pop()
            try:
                yield slot
            finally:
                self._free.append(slot)

    def start(self, order: dict[str, Any]) -> Job:
        """Starts a job on a living zygote. Raises SandboxUnavailable."""
        return self.zygote().start(order)

    def zygote(self) -> ZygoteProcess:
        """The living zygote; a new one where there is none or it has died."""
        with self._lock:
            if self._zygote is not None and not self._zygote.is_alive():
                self._zygote.close()
                self._zygote = None
            if self._zygote is None:
                self._zygote = ZygoteProcess(self._settings)
            return self._zygote

    def close(self) -> None:
        """Ends the zygote and whatever runs on it. The next job starts a new one."""
        with self._lock:
            if self._zygote is not None:
                self._zygote.close()
                self._zygote = None


_pool: Pool | None = None
_pool_owner = 0
_pool_lock = threading.Lock()


def shared_pool() -> Pool:
    """This process's pool. A forked child does not share its parent's."""
    global _pool, _pool_owner
    with _pool_lock:
        if _pool is None or _pool_owner != os.getpid():
            _pool, _pool_owner = Pool({}), os.getpid()
            atexit.register(_pool.close)
        return _pool
