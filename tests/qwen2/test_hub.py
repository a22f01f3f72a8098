"""Model names: local folders, a mirror of the hub, and what is said where neither can be had."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from aflow_jax.errors import UserError
from aflow_jax.qwen2 import resolve_model

FILES = {"config.json": b'{"model_type": "qwen2"}', "model.safetensors": b"weights", "model.bin": b"never asked for"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Mirror(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as a download takes."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/Qwen/Tiny/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in FILES.items()
            ]
            self.reply(json.dumps(entries).encode(), "application/json")
        elif path.startswith("/api/models/Qwen/Tiny"):
            info = {"id": "Qwen/Tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            self.reply(json.dumps(info).encode(), "application/json")
        elif path.rsplit("/", 1)[1] in FILES and "/resolve/" in path:
            self.reply(FILES[path.rsplit("/", 1)[1]], "application/octet-stream")
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def reply(self, body: bytes, kind: str) -> None:
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if first else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) - first))
        self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.send(body, first)

    def send(self, body: bytes, first: int) -> None:
        self.wfile.write(body[first:])

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


class DroppingMirror(Mirror):
    """Drops the connection in the middle of the weights the first time that they are asked for."""

    weights = bytes(range(256)) * (24 * 1024 * 4)  # 24 MiB: huggingface_hub writes in steps of 10 MiB
    starts: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        if self.path.split("?")[0].endswith("/model.safetensors"):
            self.reply(self.weights, "application/octet-stream")
        else:
            super().do_GET()

    do_HEAD = do_GET

    def send(self, body: bytes, first: int) -> None:
        if body is self.weights:
            self.starts.append(first)
            body = body[: 12 << 20] if len(self.starts) == 1 else body
        super().send(body, first)


def resolve(names: list[str], **environment: str) -> tuple[list[str], str]:
    """Resolve in a process of its own: huggingface_hub reads its environment once, at import.

    Return a line for each name, its folder or the error, and what was shown meanwhile.
    """
    program = (
        "import sys\n"
        "from aflow_jax.errors import UserError\n"
        "from aflow_jax.qwen2.hub import resolve_model\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(resolve_model(name))\n"
        "    except UserError as error: print(error)\n"
    )
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program, *names],
        env={**inherited, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines(), done.stderr


def test_a_mirror_serves_the_model_and_only_the_files_that_are_needed(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (found, missing), _ = resolve(
            ["Qwen/Tiny", "Qwen/Nothing"],
            HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
            HF_HOME=str(tmp_path),
            HF_HUB_DISABLE_XET="1",
        )
        server.shutdown()
    assert Path(found).is_relative_to(tmp_path)
    assert {path.name: path.read_bytes() for path in Path(found).iterdir()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors")
    }
    assert "base_model Qwen/Nothing: does not exist, or is private on http://127.0.0.1" in missing


def test_a_dropped_download_goes_on_where_it_stopped_and_shows_how_far_it_is(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), DroppingMirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (line,), shown = resolve(
            ["Qwen/Tiny"],
            HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
            HF_HOME=str(tmp_path),
            HF_HUB_DISABLE_XET="1",
        )
        server.shutdown()
    assert (Path(line) / "model.safetensors").read_bytes() == DroppingMirror.weights
    assert DroppingMirror.starts[0] == 0
    assert 10 << 20 <= DroppingMirror.starts[1] <= 12 << 20
    assert "100%" in shown
    # What is there needs no connection any more.
    assert resolve(["Qwen/Tiny"], HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))[0] == [line]


def test_offline_says_what_to_put_where(tmp_path):
    (line,), _ = resolve(["Qwen/Tiny"], HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert line.startswith("base_model Qwen/Tiny: cannot download from https://huggingface.co (")
    assert "put its config.json, tokenizer files and *.safetensors into a folder and give its path" in line


def test_a_folder_is_itself(tmp_path):
    assert resolve_model(tmp_path) == tmp_path


@pytest.mark.parametrize("name", ["./missing", "a/b/c", "missing", "~/missing/model"])
def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(name):
    with pytest.raises(UserError, match=r"no such folder: give a model folder, or an id like Qwen/"):
        resolve_model(name)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is a file, not a model folder"):
        resolve_model(tmp_path / "model.safetensors")
