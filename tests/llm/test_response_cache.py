import asyncio
import json
import sqlite3
import subprocess
import sys

import pytest

from aflow_jax.errors import UserError
from aflow_jax.llm import ResponseCache
from aflow_jax.llm.__main__ import main
from aflow_jax.llm.reply import Completion


def run(coroutine):
    return asyncio.run(coroutine)


def test_kept_replies_come_back_after_reopening(tmp_path):
    path = tmp_path / "replies.sqlite"
    with ResponseCache(path) as cache:
        run(cache.put("a", {"model": "m"}, Completion("4 is it ✓", (10, 3, 2))))
        run(cache.put("b", {"model": "m"}, Completion("no usage", None)))
    with ResponseCache(path) as cache:
        assert run(cache.get("a")) == Completion("4 is it ✓", (10, 3, 2))
        assert run(cache.get("b")) == Completion("no usage", None)
        assert run(cache.get("c")) is None


def test_file_can_be_read_with_sqlite_alone(tmp_path):
    path = tmp_path / "replies.sqlite"
    with ResponseCache(path) as cache:
        run(cache.put("a", {"model": "m", "seed": 3}, Completion("text", (1, 1, 0))))
    rows = sqlite3.connect(path).execute("SELECT request, text FROM replies").fetchall()
    assert rows == [('{"model": "m", "seed": 3}', "text")]


def test_size_is_bounded_and_what_was_unused_for_longest_goes_first(tmp_path):
    async def fill(cache):
        for number in range(600):
            await cache.put(f"{number:04}", {"n": number}, Completion("x" * 1000, None))
            await cache.get("0000")

    path = tmp_path / "replies.sqlite"
    with ResponseCache(path, max_bytes=100_000) as cache:
        run(fill(cache))
        assert run(cache.get("0000")) is not None
        assert run(cache.get("0001")) is None
        assert run(cache.get("0599")) is not None
    rows = sqlite3.connect(path).execute("SELECT count(*) FROM replies").fetchone()[0]
    assert rows * 1000 < 100_000 + 256 * 1010


WRITER = """
import asyncio, sys
from aflow_jax.llm import ResponseCache
from aflow_jax.llm.reply import Completion

async def main(path, name):
    cache = ResponseCache(path)
    for number in range(100):
        await cache.put(f"{name}/{number}", {"n": number}, Completion(f"{name} {number}", (1, 1, 0)))
        await cache.put("shared", {}, Completion("same", None))
    cache.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_the_first_reply_to_a_request_is_kept(tmp_path):
    with ResponseCache(tmp_path / "replies.sqlite") as one, ResponseCache(tmp_path / "replies.sqlite") as other:
        assert run(one.put("a", {}, Completion("first", None))).text == "first"
        assert run(other.put("a", {}, Completion("second", None))).text == "first"
        assert run(one.get("a")).text == "first"


def test_the_file_on_disk_stays_within_its_bound_and_shrinks_to_a_lower_one(tmp_path):
    async def fill(cache):
        for number in range(1500):
            await cache.put(f"{number:04}", {"n": number}, Completion("x" * 2000, None))

    path = tmp_path / "replies.sqlite"
    with ResponseCache(path, max_bytes=1_000_000) as cache:
        run(fill(cache))
    assert path.stat().st_size < 1_200_000
    with ResponseCache(path, max_bytes=100_000) as cache:
        pass
    rows = sqlite3.connect(path).execute("SELECT count(*) FROM replies").fetchone()[0]
    assert 0 < rows * 2000 <= 100_000


def test_the_command_shows_what_a_cache_holds(tmp_path, capsys):
    path = tmp_path / "replies.sqlite"
    request = {"base_url": "http://h/v1", "model": "m", "messages": [{"role": "user", "content": "What is 6 times 7?"}]}
    with ResponseCache(path) as cache:
        run(cache.put("abcdef0123456789", request, Completion("It is 42", (5, 3, 0))))
        assert main(["cache", str(path)]) == 0
        assert main(["cache", str(path), "--list", "5"]) == 0
        assert main(["cache", str(path), "--show", "abcdef"]) == 0
    summary, shown = capsys.readouterr().out.split("abcdef012345 ", 1)
    assert "1 replies" in summary and "http://h/v1" in summary
    assert "What is 6 times 7? -> It is 42" in shown
    assert json.loads(shown[shown.index("{") :])["usage"] == [5, 3, 0]


def test_the_command_names_what_is_no_cache(tmp_path, capsys):
    other = tmp_path / "notes.txt"
    other.write_text("not a database " * 100)
    for arguments in ([str(tmp_path / "none.sqlite")], [str(other)]):
        assert main(["cache", *arguments]) == 2
        said = capsys.readouterr().err
        assert arguments[0] in said and said.count("\n") == 1


def test_several_processes_share_one_file(tmp_path):
    path = str(tmp_path / "replies.sqlite")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    with ResponseCache(path) as cache:
        for name in "abc":
            for number in (0, 50, 99):
                assert run(cache.get(f"{name}/{number}")).text == f"{name} {number}"


def test_other_files_are_refused_untouched(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(UserError, match=path.name):
            ResponseCache(path)
        assert path.read_bytes() == before
