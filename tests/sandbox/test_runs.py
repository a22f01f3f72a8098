"""What a run's result says, what happens when time, the caller or the sandbox itself gives up, and the async forms."""

import asyncio
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aflow_jax.errors import UserError
from aflow_jax.sandbox import (
    SandboxUnavailable,
    configure_sandbox,
    run_program,
    run_program_async,
    run_tests,
    run_tests_async,
    sandbox_report,
)
from aflow_jax.sandbox.pool import SLOTS, shared_pool

LOOP = "def solve():\n    while True:\n        pass"


def test_a_failing_program_says_what_failed_and_where():
    result = run_program("def solve():\n    x = 1\n    return x / 0")
    assert (result.outcome, result.value, result.error) == (
        "error",
        None,
        "ZeroDivisionError: division by zero (line 3)",
    )


def test_a_failing_program_keeps_what_it_printed():
    result = run_program("print('before')\nraise ValueError('no')")
    assert (result.outcome, result.stdout) == ("error", "before\n")


def test_a_program_that_loops_is_a_timeout():
    result = run_program(LOOP, timeout=0.5)
    assert (result.outcome, result.value) == ("timeout", None)


def test_a_program_over_its_memory_fails():
    assert run_program("x = bytearray(100 << 20)", memory_mb=64).error == "MemoryError (line 1)"
    assert run_program("x = bytearray(100 << 20)", memory_mb=256).outcome == "ok"


def test_asserts_are_counted_one_by_one():
    test = "def check(candidate):\n" + "".join(f"    assert candidate({n}) == {n}\n" for n in range(5))
    result = run_tests("def f(n):\n    if n == 1:\n        raise KeyError(n)\n    return 0 if n == 3 else n", "f", test)
    assert (result.outcome, result.passed, result.total) == ("error", 3, 5)
    assert result.error == "KeyError: 1 (line 3) in assert candidate(1) == 1"


def test_constant_asserts_do_not_count():
    result = run_tests("def f(n):\n    return 0", "f", "assert True, 'prints'\nassert f(1) == 1\nassert True")
    assert (result.passed, result.total) == (0, 1)


def test_a_call_that_never_ends_fails_its_assert_and_the_ones_behind_it():
    test = "assert f(0) == 0\nassert f(1) == 1\nassert f(2) == 2"
    result = run_tests("def f(n):\n    while n == 1:\n        pass\n    return n", "f", test, timeout=0.7)
    assert (result.outcome, result.passed, result.total) == ("timeout", 1, 3)


def test_a_solution_that_dies_fails_its_assert_and_the_ones_behind_it():
    code = "import os\ndef f(n):\n    return n if n < 1 else os._exit(0)"
    result = run_tests(code, "f", "assert f(0) == 0\nassert f(1) == 1\nassert f(2) == 2")
    assert (result.outcome, result.passed, result.total) == ("error", 1, 3)


def test_an_exit_that_the_test_swallows_is_no_pass():
    test = "try:\n    f(1)\nexcept:\n    pass\nassert True\nassert 1 == 1"
    result = run_tests("import os\ndef f(n):\n    os._exit(0)", "f", test)
    assert (result.outcome, result.passed < result.total) == ("error", True)


def test_items_of_the_solutions_choosing_count_once():
    test = "assert f(1) == 2\nassert f(2) == 3\nfor item in f(9):\n    assert item == 0"
    result = run_tests("def f(n):\n    return [0] * 1000", "f", test)
    assert (result.outcome, result.passed, result.total) == ("error", 1, 3)


@pytest.mark.parametrize(
    ("test", "total"),
    [
        ("assert 1 + 1 == 2", 1),
        ("pass", 1),
        ("import sys\nsys.exit(0)", 1),
        ("import os\nos._exit(0)", 0),
        ("while True:\n    pass", 0),
        ("def check(candidate) assert", 0),
        ("f = lambda x: x\nassert f(1) == 1", 1),
        ("raise SystemExit", 1),
        ("assert f(", 0),
    ],
)
def test_a_test_that_exits_loops_or_never_calls_passes_nobody(test, total):
    result = run_tests("def f(x):\n    return x", "f", test, timeout=0.5)
    assert (result.outcome != "ok", result.passed) == (True, 0)
    assert result.total in (total, total + 1)


def test_a_hostile_entry_point_is_only_a_name():
    result = run_tests("def f(x):\n    return x", "f; import os", "assert candidate(1) == 1")
    assert (result.outcome, result.passed, result.total) == ("error", 0, 1)


def test_a_program_too_long_to_send_is_its_own_fault():
    assert run_program("#" * (5 << 20)).outcome == "error"
    assert run_tests("#" * (5 << 20), "f", "assert f(1) == 1").outcome == "error"


def test_more_callers_than_slots_all_get_their_answer():
    with ThreadPoolExecutor(3 * SLOTS) as threads:
        results = threads.map(lambda n: run_program(f"def solve():\n    return {n}").value, range(40))
    assert list(results) == list(range(40))


def test_the_event_loop_goes_on_while_programs_run():
    async def scenario():
        ticks = 0
        running = asyncio.gather(
            run_program_async("import time\ndef solve():\n    time.sleep(.5)\n    return 1"),
            run_tests_async("def f(x):\n    return x", "f", "assert f(1) == 1"),
        )
        while not running.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks, await running

    ticks, (program, tests) = asyncio.run(scenario())
    assert ticks > 5
    assert (program.value, tests.outcome) == (1, "ok")


def test_cancelling_kills_the_program_and_frees_its_slot():
    async def scenario():
        tasks = [asyncio.create_task(run_program_async(LOOP, timeout=60)) for _ in range(2 * SLOTS)]
        await asyncio.sleep(0.5)
        for task in tasks:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    started = time.monotonic()
    assert all(isinstance(result, asyncio.CancelledError) for result in asyncio.run(scenario()))
    assert run_program("def solve():\n    return 1").value == 1
    assert time.monotonic() - started < 30


def test_a_sandbox_that_dies_loses_its_job_and_is_replaced():
    with ThreadPoolExecutor(1) as threads:
        lost = threads.submit(run_program, LOOP, 60)
        time.sleep(0.5)
        os.kill(shared_pool().zygote().process_id, signal.SIGKILL)
        with pytest.raises(SandboxUnavailable):
            lost.result(timeout=30)
    assert run_program("def solve():\n    return 1").value == 1


def test_a_job_dies_with_its_zygote():
    with ThreadPoolExecutor(1) as threads:
        lost = threads.submit(run_program, LOOP, 60)
        time.sleep(0.5)
        zygote = shared_pool().zygote()
        os.kill(zygote.process_id, signal.SIGKILL)
        with pytest.raises(SandboxUnavailable):
            lost.result(timeout=30)
    time.sleep(0.3)
    users = [path.stat().st_uid for path in Path("/proc").glob("[0-9]*") if path.exists()]
    assert not [uid for uid in users if 0 <= uid - zygote.first_uid < 2 * SLOTS]


def test_the_report_names_the_walls_and_an_unknown_backend_is_an_error():
    assert sandbox_report().backend in ("namespaces", "bubblewrap", "landlock")
    with pytest.raises(UserError, match="'docker' is no backend"):
        configure_sandbox("docker")


def test_a_backend_that_the_machine_does_not_offer_is_an_error_and_changes_nothing(monkeypatch):
    before = sandbox_report().backend
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match="bubblewrap: this machine does not offer it"):
        configure_sandbox("bubblewrap")
    assert sandbox_report().backend == before
    assert run_program("def solve():\n    return 1").value == 1


def test_host_descriptors_do_not_grow():
    run_tests("def f(x):\n    return x", "f", "assert f(1) == 1")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        run_tests("def f(x):\n    return x", "f", "assert f(1) == 1")
    assert len(os.listdir("/proc/self/fd")) == before


PROBLEMS = Path(__file__).parents[3] / "shared" / "data" / "problems"


@pytest.mark.skipif(not PROBLEMS.is_dir(), reason="the published problems are not beside the project")
@pytest.mark.parametrize("table", ["mbpp_validation", "humaneval_aflow_validate"])
def test_every_reference_answer_passes_its_own_tests_and_a_wrong_one_does_not(table):
    rows = [json.loads(line) for line in (PROBLEMS / f"{table}.jsonl").read_text().splitlines()][:40]
    wrong = "def {}(*arguments, **keywords):\n    return object()"
    with ThreadPoolExecutor(4) as threads:
        good = threads.map(lambda row: run_tests(row["answer"], row["entry_point"], row["test"]), rows)
        bad = threads.map(
            lambda row: run_tests(wrong.format(row["entry_point"]), row["entry_point"], row["test"]), rows
        )
        for row, right, failed in zip(rows, good, bad, strict=True):
            assert (row["id"], right.outcome, right.error) == (row["id"], "ok", None)
            assert (row["id"], failed.outcome, failed.passed) == (row["id"], "error", 0)
