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

_VERSION = 2
_APPLICATION_ID = 0x61666C77  # "aflw": tells this file from any other SQLite database
_BUSY_SECONDS = 60.0
_CHECKED_SHARE = 16  # the size is looked at again when so many-th of the bound was put

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    digest TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    text TEXT NOT NULL,
    usage TEXT,
    cut INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    made REAL NOT NULL,
    used REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS replies_by_use ON replies (used, bytes);
"""


class ResponseCache:
    """An SQLite file of requests and their replies, safe to share between processes.

    Rows hold the request as JSON (endpoint, model, messages, temperature, top_p, bound, seed), and the reply's text,
    usage and whether it was cut: `python -m aflow_jax.llm cache FILE` shows them. A key is no part of a request's body.
    The first reply to a request is kept and given to all who ask, so that a step repeated is the same step.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = 1 << 30) -> None:
        """Open or make the file; `max_bytes` bounds its pages, and what was unused for longest goes first.

        Raises:
            UserError: the file cannot be opened, or is something else.
        """
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._unchecked = 0
        # One thread owns the connection, so that waiting for another process's lock never stalls the event loop.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="response-cache")
        try:
            self._connection = self._thread.submit(self._open).result()
            self._thread.submit(self._evict).result()
        except (OSError, sqlite3.Error) as error:
            self._thread.shutdown()
            raise UserError(f"{path}: not usable as a response cache ({error}); name another file") from None

    async def get(self, digest: str) -> Completion | None:
        """Return the reply kept under `digest`, or None."""
        return await self._submit(self._get, digest)

    async def put(self, digest: str, request: dict[str, Any], completion: Completion) -> Completion:
        """Keep a reply unless there is one; return the one that is kept."""
        text = json.dumps(request, ensure_ascii=False, sort_keys=True)
        return await self._submit(self._put, digest, text, completion)

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
        if tables:
            _require_cache(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last replies, never the file
        # One transaction, so that a process that opens the file meanwhile sees an empty one or a finished one.
        connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_VERSION};"
            f"{_SCHEMA} COMMIT;"
        )
        return connection

    def _get(self, digest: str) -> Completion | None:
        row = self._connection.execute("SELECT text, usage, cut FROM replies WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            return None
        self._connection.execute("UPDATE replies SET used = ? WHERE digest = ?", (time.time(), digest))
        return Completion(row[0], tuple(json.loads(row[1])) if row[1] else None, bool(row[2]))

    def _put(self, digest: str, request: str, completion: Completion) -> Completion:
        usage = json.dumps(completion.usage) if completion.usage else None
        size = len(request.encode()) + len(completion.text.encode())
        now = time.time()
        new = self._connection.execute(
            "INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (digest, request, completion.text, usage, completion.cut, size, now, now),
        ).rowcount
        if not new:
            return self._get(digest) or completion
        self._unchecked += size
        if self._unchecked > self._max_bytes // _CHECKED_SHARE:
            self._evict()
        return completion

    def _evict(self) -> None:
        """Delete what was unused for longest, down to nine tenths of the bound; SQLite uses the freed pages again."""
        self._unchecked = 0
        names = ("page_count", "freelist_count", "page_size")
        pages, free, page_bytes = (self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        used = (pages - free) * page_bytes
        if used <= self._max_bytes:
            return
        text = self._connection.execute("SELECT coalesce(sum(bytes), 0) FROM replies").fetchone()[0]
        self._connection.execute(
            """
            DELETE FROM replies WHERE rowid IN (
                SELECT rowid FROM (
                    SELECT rowid, sum(bytes) OVER (ORDER BY used DESC, rowid) AS kept FROM replies
                ) WHERE kept > ?
            )
            """,
            (text * self._max_bytes * 9 // (10 * used),),
        )


def read_only(path: str | Path) -> sqlite3.Connection:
    """Open a cache to look into it, also while others use it.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such file; response_cache.path names it, or it is replies.sqlite in a run's folder"
        )
    try:
        connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
        _require_cache(connection)
    except sqlite3.Error as error:
        problem = f"{path}: not a response cache ({error})"
    else:
        return connection
    raise UserError(problem)


def _require_cache(connection: sqlite3.Connection) -> None:
    stamp = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    if stamp != [_APPLICATION_ID, _VERSION]:
        connection.close()
        raise sqlite3.DatabaseError("another program's database, or another version's cache")
