"""Machines to examine: a driver, a JAX and servers that answer as the tests want."""

import asyncio
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aflow_jax.doctor import Check, Finding, Subject, examine

Answer = Callable[[str], tuple[int, dict | bytes]]


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Finding]]:
    """Examine with one check, as the command does."""
    return lambda check, subject=None: list(examine(subject or Subject(), [check]))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put an nvidia-smi on the path that reports one GPU."""

    def install(line: str) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\necho '{line}'\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)

    return install


@pytest.fixture
def served() -> Iterator[Callable[[Answer], str]]:
    """Serve answers to paths over HTTP; gives the address."""
    servers = []

    def serve(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, body = answer(self.path)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                """Keep the test's output clean."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def check_that_breaks(_: Subject) -> list[Finding]:
    """A check with a fault of its own."""
    raise asyncio.InvalidStateError("no such thing")


@pytest.fixture
def broken() -> Check:
    """A check with a fault of its own."""
    return check_that_breaks
