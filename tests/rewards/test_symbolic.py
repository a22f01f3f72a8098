import os
import signal
import threading

import pytest

from aflow_jax.rewards.symbolic import Comparison, SymbolicPool, SymbolicUnavailable

ENDLESS = r"\sum_{i=1}^{100000000} i^{i}"


@pytest.fixture(scope="module")
def pool():
    one = SymbolicPool(1)
    yield one
    one.close()


def workers() -> set[int]:
    """The symbolic workers of this process, by process id."""
    children = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stat, open(f"/proc/{name}/cmdline") as command:
                if int(stat.read().rpartition(")")[2].split()[1]) == os.getpid() and "symbolic_guest" in command.read():
                    children.add(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return children


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("x^2-1", "(x-1)(x+1)", True),
        ("x^2-1", "(x-1)(x+2)", False),
        (r"\frac{1}{2^{98}}", r"\frac{3}{2^{98}}", False),
        (r"\frac{1}{2^{98}}", r"2^{-98}", True),
        (r"\sqrt{3}", "1.732051", True),
        (r"\sqrt{3}", "1.7321", False),
        (r"\sin(x)^2", r"1-\cos(x)^2", True),
    ],
)
def test_equality(pool: SymbolicPool, gold: str, answer: str, equal: bool) -> None:
    assert pool.compare(gold, answer).equal is equal


def test_what_cannot_be_parsed_is_reported(pool: SymbolicPool) -> None:
    assert not pool.compare("x", r"\foo{{").parsed
    assert not pool.compare("x", "x" * 10_000).parsed


@pytest.mark.parametrize("answer", [ENDLESS, "9^{9^{9^{9^9}}}"])
def test_a_comparison_past_its_limit_is_killed_and_not_equal(pool: SymbolicPool, answer: str) -> None:
    assert pool.compare("x", "x").equal
    before = workers()
    assert pool.compare("x+1", answer, limit=0.5) == Comparison(equal=False, parsed=True, timed_out=True)
    assert pool.compare("x+1", "1+x").equal
    # The workers live on; only the comparison's own process is gone.
    assert workers() == before


def test_one_that_eats_all_memory_is_not_equal_and_harms_nobody(pool: SymbolicPool) -> None:
    assert not pool.compare("x+1", "2^{100000000000}").equal
    assert pool.compare("x+1", "1+x").equal


def test_one_endless_comparison_does_not_hold_up_the_others() -> None:
    pool = SymbolicPool(2)
    order: list[str] = []

    def endless() -> None:
        pool.compare("x+1", ENDLESS)
        order.append("endless")

    # Both have started once each has answered.
    for _ in range(2):
        pool.compare("x", "x")
    thread = threading.Thread(target=endless)
    thread.start()
    assert pool.compare("x+1", "1+x").equal
    order.append("honest")
    thread.join()
    pool.close()
    assert order == ["honest", "endless"]


def test_a_worker_that_dies_is_replaced() -> None:
    before = workers()
    pool = SymbolicPool(1)
    assert pool.compare("x", "x").equal
    (worker,) = workers() - before
    os.kill(worker, signal.SIGKILL)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    with pytest.raises(SymbolicUnavailable):
        pool.compare("x", "x")
    assert pool.compare("x", "x").equal
    pool.close()


def test_a_worker_sees_no_environment_and_dies_with_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    before = workers()
    pool = SymbolicPool(1)
    assert pool.compare("x", "x").equal
    (worker,) = workers() - before
    with open(f"/proc/{worker}/environ") as environment:
        assert "secret" not in environment.read()
    pool.close()
    assert worker not in workers()
