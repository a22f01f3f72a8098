"""No hostile program passes, takes more than its share, learns a secret or gets out, behind every wall."""

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hostile_programs
import hostile_solutions
import pytest

from aflow_jax.sandbox import run_program, run_tests
from aflow_jax.sandbox.pool import SLOTS, shared_pool

SECRET = "sk-secret-7f3a9c51"
OPAQUE = "class Lie:\n    {body}\ndef successor(n):\n    return Lie()\n"


@pytest.fixture(scope="module")
def world(backend, tmp_path_factory):
    """What a program must not reach: a secret in the environment and in a file, a listening socket."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "secret.txt").write_text(SECRET)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    os.environ["OPENAI_API_KEY"] = SECRET
    yield {"secret_file": str(folder / "secret.txt"), "port": listener.getsockname()[1], "listener": listener}
    del os.environ["OPENAI_API_KEY"]
    listener.close()


@pytest.fixture(scope="module")
def outcomes(world):
    """Every hostile program, four at a time, so that siblings suffer from one another if they can."""
    project = str(Path(__file__).parents[2])
    with ThreadPoolExecutor(4) as threads:
        futures = {}
        for group in (hostile_programs.RESOURCES, hostile_programs.SECRETS, hostile_programs.ESCAPES):
            for name, source in group.items():
                for key in ("secret_file", "port"):
                    source = source.replace(f"{{{key}!r}}", repr(world[key])).replace(f"{{{key}}}", str(world[key]))
                source = source.replace("{project!r}", repr(project))
                limits = (hostile_programs.SECONDS, hostile_programs.MEMORY_MB)
                futures[name] = threads.submit(run_program, source, *limits)
        for name, code in hostile_solutions.FORGED.items():
            futures[f"forged {name}"] = threads.submit(run_tests, code, "successor", hostile_solutions.TEST, 2)
        for name, (test, body) in hostile_solutions.METHOD_TESTS.items():
            code = OPAQUE.format(body=body)
            futures[f"method {name}"] = threads.submit(run_tests, code, "successor", test, 2)
        return {name: future.result() for name, future in futures.items()}


@pytest.mark.parametrize("name", hostile_solutions.FORGED)
def test_a_forged_answer_passes_nothing(outcomes, name):
    result = outcomes[f"forged {name}"]
    assert result.outcome != "ok"
    assert (result.passed, result.total) == (0, 4)
    assert len(result.error) < 5_000


@pytest.mark.parametrize("name", hostile_solutions.METHOD_TESTS)
def test_an_object_of_the_solutions_making_is_not_asked_about_itself(outcomes, name):
    result = outcomes[f"method {name}"]
    assert (result.outcome, result.passed, result.total) == ("error", 0, 1)


@pytest.mark.parametrize("name", [*hostile_programs.RESOURCES, *hostile_programs.SECRETS, *hostile_programs.ESCAPES])
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
    for path in ("/evil", "/var/tmp/aflow-evil", "/home/aflow-evil", "/dev/shm/aflow-test"):
        assert not os.path.exists(path)


def test_the_next_job_finds_a_clean_place(outcomes):
    source = "import os, math\ndef solve():\n    return [os.listdir('.'), math.sqrt(4.0)]"
    assert run_program(source).value == [[], 2.0]


def _belongs_to_a_job(path: Path) -> bool:
    first = shared_pool().zygote().first_uid
    try:
        return first <= path.stat().st_uid < first + 2 * SLOTS
    except FileNotFoundError:
        return False
