"""python -m aflow_jax.llm cache FILE [--list N] [--show DIGEST]: say what a response cache holds."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table

from aflow_jax.commands import exit_code
from aflow_jax.errors import UserError
from aflow_jax.llm.cache import read_only


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0, or 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.llm",
        description=__doc__,
        epilog="example: python -m aflow_jax.llm cache runs/training/replies.sqlite --list 10",
    )
    commands = parser.add_subparsers(required=True)
    cache = commands.add_parser("cache", help="say what a response cache holds")
    cache.add_argument("file", type=Path, help="as in response_cache.path, by default replies.sqlite in a run's folder")
    cache.add_argument("--list", type=int, metavar="N", help="the N replies last used, one a line")
    cache.add_argument("--show", metavar="DIGEST", help="one reply and its request whole; a digest's beginning will do")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _look_into(options))


def _look_into(options: argparse.Namespace) -> None:
    with closing(read_only(options.file)) as connection:
        if options.show:
            _show(connection, options.file, options.show)
        elif options.list:
            _list(connection, options.list)
        else:
            _summarise(connection, options.file)


def _summarise(connection: sqlite3.Connection, path: Path) -> None:
    rows = connection.execute(
        """
        SELECT json_extract(request, '$.model'), json_extract(request, '$.base_url'), count(*), sum(cut), sum(bytes),
               min(made), max(used)
        FROM replies GROUP BY 1, 2 ORDER BY 1, 2
        """
    ).fetchall()
    count, size = sum(row[2] for row in rows), path.stat().st_size
    print(f"{path}: {count} replies, {size / 1e6:.1f} MB on disk")
    table = Table(show_edge=False)
    for name in ("model", "endpoint", "replies", "cut", "MB of text", "first made", "last used"):
        table.add_column(name)
    for model, address, replies, cut, text, made, used in rows:
        table.add_row(model, address, str(replies), str(cut), f"{text / 1e6:.1f}", _moment(made), _moment(used))
    if rows:
        Console(highlight=False).print(table)


def _list(connection: sqlite3.Connection, count: int) -> None:
    query = "SELECT digest, used, request, text FROM replies ORDER BY used DESC LIMIT ?"
    for digest, used, request, text in connection.execute(query, (count,)):
        question = json.loads(request)["messages"][-1]["content"]
        print(f"{digest[:12]} {_moment(used)} {_line(question)} -> {_line(text)}")


def _show(connection: sqlite3.Connection, path: Path, digest: str) -> None:
    query = "SELECT digest, request, text, usage, cut FROM replies WHERE substr(digest, 1, ?) = ? LIMIT 1"
    row = connection.execute(query, (len(digest), digest)).fetchone()
    if row is None:
        raise UserError(f"{path}: holds no reply {digest}; --list 20 shows some")
    usage = json.loads(row[3]) if row[3] else None
    shown = {"digest": row[0], "request": json.loads(row[1]), "text": row[2], "usage": usage, "cut": bool(row[4])}
    print(json.dumps(shown, indent=2, ensure_ascii=False))


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}…"


if __name__ == "__main__":
    sys.exit(main())
