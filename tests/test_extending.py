"""docs/extending.md: each example is applied to a copy of the package, as it stands on the page, and run there."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PAGE = (REPOSITORY / "docs/extending.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
LINES = 40


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(REPOSITORY / "aflow_jax", folder / "aflow_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    return folder


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs_as_the_page_has_it(name: str, package: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", EXAMPLES[name].replace("8765", str(port)), re.MULTILINE | re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    servers, ran = [], 0
    for kind, text in blocks:
        head, _, body = text.partition("\n")
        assert text.count("\n") <= LINES
        if kind == "json" and "description" in text:
            library = package / "configs/operator.json"
            library.write_text(json.dumps(json.loads(library.read_text()) | json.loads(text)))
        elif head.startswith("# file: "):
            (package / head.removeprefix("# file: ")).write_text(body, encoding="utf-8")
            if "__main__" in body:
                program = [sys.executable, head.removeprefix("# file: ")]
                servers.append(subprocess.Popen(program, cwd=package, env=environment))
        elif head.startswith("# append: "):
            with (package / head.removeprefix("# append: ")).open("a", encoding="utf-8") as file:
                file.write(body)
        elif head == "# run":
            for _ in servers:
                wait_for(port)
            done = subprocess.run(
                [sys.executable, "-c", body], cwd=package, env=environment, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, done.stderr
            ran += 1
    for server in servers:
        server.terminate()
        server.wait(30)
    assert ran == 1


def wait_for(port: int) -> None:
    """Wait until something listens."""
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")
