"""No hostile program passes, takes more than its share, learns a secret or gets out, behind every wall.

A program's `solve()` returns "escaped" where the wall did not stop it; being killed or failing counts as held.
"""

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sandbox_cases import read_cases

from aflow_jax.sandbox import run_program, run_tests
from aflow_jax.sandbox.pool import SLOTS, shared_pool

SECONDS = 1.0
MEMORY_MB = 128
SECRET = "sk-secret-7f3a9c51"
FORGED = read_cases("forged") | {"null byte": ("def successor(n):\n    return n\n\0",)}
METHODS = read_cases("methods")
PROGRAMS = read_cases("resources") | read_cases("secrets") | read_cases("escapes")
SUCCESSOR_TEST = """
def check(candidate):
    assert candidate(1) == 2
    assert candidate(41) == 42
    assert candidate(-8) == -7
    assert candidate(2 ** 70) == 2 ** 70 + 1
"""


@pytest.fixture(scope="module")
def world(backend, tmp_path_factory):
    """What a program must not reach: a secret in the environment and in a file, a listening socket."""
    secret_file = tmp_path_factory.mktemp("world") / "secret.txt"
    secret_file.write_text(SECRET)
    status = secret_file.stat()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    os.environ["OPENAI_API_KEY"] = SECRET
    yield {"SECRET_FILE": str(secret_file), "PORT": listener.getsockname()[1], "listener": listener, "status": status}
    del os.environ["OPENAI_API_KEY"]
    listener.close()


@pytest.fixture(scope="module")
def outcomes(world):
    """Every hostile program, four at a time, so that siblings suffer from one another if they can."""
    known = {"SECRET_FILE": world["SECRET_FILE"], "PORT": world["PORT"], "PROJECT": str(Path(__file__).parents[2])}
    prelude = "".join(f"{name} = {value!r}\n" for name, value in known.items())
    with ThreadPoolExecutor(4) as threads:
        futures = {
            name: threads.submit(run_program, prelude + source, SECONDS, MEMORY_MB)
            for name, (source,) in PROGRAMS.items()
        }
        for name, (code,) in FORGED.items():
            futures[f"forged {name}"] = threads.submit(run_tests, code, "successor", SUCCESSOR_TEST, 1.5)
        for name, (code, test) in METHODS.items():
            futures[f"method {name}"] = threads.submit(run_tests, code, "successor", test, 1.5)
        return {name: future.result() for name, future in futures.items()}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_answer_passes_nothing(outcomes, name):
    result = outcomes[f"forged {name}"]
    assert result.outcome != "ok"
    assert (result.passed, result.total) == (0, 4)
    assert len(result.error) < 5_000


@pytest.mark.parametrize("name", METHODS)
def test_an_object_of_the_solutions_making_is_not_asked_about_itself(outcomes, name):
    result = outcomes[f"method {name}"]
    assert (result.outcome, result.passed, result.total) == ("error", 0, 1)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hostile_program_is_held(outcomes, name):
    result = outcomes[name]
    assert result.value != "escaped"
    assert SECRET not in repr(result)
    assert len(result.stdout) <= 64_000
    assert len(result.error or "") < 5_000


def test_nothing_is_left_running_written_or_connected(outcomes, world):
    time.sleep(0.2)
    if os.getuid() == 0:
        assert not [path for path in Path("/proc").glob("[0-9]*") if _belongs_to_a_job(path)]
    with pytest.raises(BlockingIOError):
        world["listener"].accept()
    now, before = os.stat(world["SECRET_FILE"]), world["status"]
    assert (now.st_mode, now.st_mtime_ns, now.st_size) == (before.st_mode, before.st_mtime_ns, before.st_size)
    for path in ("/evil", "/var/tmp/aflow-evil", "/home/aflow-evil", "/dev/shm/aflow-test"):
        assert not os.path.exists(path)


def test_the_next_job_finds_a_clean_place(outcomes):
    source = "import os, math\ndef solve():\n    return [os.listdir('.'), math.sqrt(4.0)]"
    assert run_program(source).value == [[], 2.0]


def _belongs_to_a_job(path: Path) -> bool:
    try:
        uid = path.stat().st_uid
    except FileNotFoundError:
        return False
    return any(0 <= uid - zygote.first_uid < 2 * SLOTS for zygote in shared_pool().zygotes())
