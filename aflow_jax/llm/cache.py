"""Replies kept on disk, so that a repeated or resumed step costs nothing."""

import asyncio
import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aflow_jax.errors import UserError
from aflow_jax.llm.reply import Completion

_VERSION = 1
_APPLICATION_ID = 0x61666C77  # "aflw": tells this file from any other SQLite database
_BUSY_SECONDS = 60.0
_EVICT_EVERY = 256

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    digest TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    text TEXT NOT NULL,
    usage TEXT,
    bytes INTEGER NOT NULL,
    used REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS replies_by_use ON replies (used);
"""


class ResponseCache:
    """An SQLite file of requests and their replies, safe to share between processes.

    Rows hold the request as JSON (endpoint, model, messages, temperature, top_p, bound, seed) and the reply's text and
    usage: `sqlite3 FILE 'SELECT request, text FROM replies'` shows them. Keys are never part of a request's body.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = 1 << 30) -> None:
        """Open or make the file; `max_bytes` bounds its text, and what was unused for longest goes first.

        Raises:
            UserError: the file cannot be opened, or is something else.
        """
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._puts = 0
        # One thread owns the connection, so that waiting for another process's lock never stalls the event loop.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="response-cache")
        try:
            self._connection = self._thread.submit(self._open).result()
        except (OSError, sqlite3.Error) as error:
            self._thread.shutdown()
            raise UserError(f"{path}: not usable as a response cache ({error}); name another file") from None

    async def get(self, digest: str) -> Completion | None:
        """Return the reply kept under `digest`, or None."""
        return await self._submit(self._get, digest)

    async def put(self, digest: str, request: dict[str, Any], completion: Completion) -> None:
        """Keep a reply."""
        await self._submit(self._put, digest, json.dumps(request, ensure_ascii=False, sort_keys=True), completion)

    def close(self) -> None:
        """Close the file."""
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _submit(self, function: Any, *arguments: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        except sqlite3.Error as error:
            problem = f"{self._path}: the response cache fails ({error}); free disk space, or delete the file"
        raise UserError(problem)

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        stamp = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if tables and stamp != [_APPLICATION_ID, _VERSION]:
            connection.close()
            raise sqlite3.DatabaseError("another program's database, or another version's cache")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last replies, never the file
        # One transaction, so that a process that opens the file meanwhile sees an empty one or a finished one.
        connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_VERSION};"
            f"{_SCHEMA} COMMIT;"
        )
        return connection

    def _get(self, digest: str) -> Completion | None:
        row = self._connection.execute("SELECT text, usage FROM replies WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            return None
        self._connection.execute("UPDATE replies SET used = ? WHERE digest = ?", (time.time(), digest))
        return Completion(row[0], tuple(json.loads(row[1])) if row[1] else None)

    def _put(self, digest: str, request: str, completion: Completion) -> None:
        usage = json.dumps(completion.usage) if completion.usage else None
        size = len(request.encode()) + len(completion.text.encode())
        self._connection.execute(
            "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?)",
            (digest, request, completion.text, usage, size, time.time()),
        )
        self._puts += 1
        if self._puts % _EVICT_EVERY == 0:
            self._evict()

    def _evict(self) -> None:
        """Delete what was unused for longest, down to nine tenths of the bound; SQLite uses the freed pages again."""
        total = self._connection.execute("SELECT coalesce(sum(bytes), 0) FROM replies").fetchone()[0]
        if total <= self._max_bytes:
            return
        self._connection.execute(
            """
            DELETE FROM replies WHERE digest IN (
                SELECT digest FROM (
                    SELECT digest, sum(bytes) OVER (ORDER BY used DESC, digest) AS kept FROM replies
                ) WHERE kept > ?
            )
            """,
            (self._max_bytes * 9 // 10,),
        )
