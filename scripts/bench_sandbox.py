"""How many programs and gradings a second the sandbox does, and what one costs.

    python scripts/bench_sandbox.py [--backend auto] [--callers 4] [--count 300] [--memory-jobs 10000]

Beside it the naive way: a fresh interpreter for each program, with no isolation. Then the resident memory and the open
descriptors of this process and of its zygotes before and after many jobs, a tenth of which fail, flood or time out.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from aflow_jax.sandbox import configure_sandbox, run_program, run_tests

TRIVIAL = "def solve():\n    return 1"
SYMPY = "import sympy\ndef solve():\n    return sympy.Rational(1, 3)"
SOLUTION = "def add(a, b):\n    return a + b"
TEST = "assert add(1, 2) == 3\nassert add(0, 0) == 0\nassert add(-1, 1) == 0"


def main() -> None:
    """Prints one row a kind of job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--memory-jobs", type=int, default=10_000)
    arguments = parser.parse_args()
    console = Console()
    console.print(f"backend: {configure_sandbox(arguments.backend)}")
    table = Table("job", "per second", "median ms", "p95 ms", "CPU ms a job")
    kinds: dict[str, Callable[[], object]] = {
        "trivial program": lambda: run_program(TRIVIAL),
        "program with SymPy": lambda: run_program(SYMPY),
        "grading, 3 asserts": lambda: run_tests(SOLUTION, "add", TEST),
        "fresh interpreter, no isolation": lambda: subprocess.run([sys.executable, "-I", "-c", TRIVIAL], check=True),
    }
    for name, job in kinds.items():
        job()
        processor = _processor_seconds()
        started = time.perf_counter()
        with ThreadPoolExecutor(arguments.callers) as callers:
            seconds = list(callers.map(lambda _, job=job: _timed(job), range(arguments.count)))
        rate = arguments.count / (time.perf_counter() - started)
        p95 = statistics.quantiles(seconds, n=20)[-1]
        cost = 1e3 * (_processor_seconds() - processor) / arguments.count
        table.add_row(name, f"{rate:.0f}", f"{1e3 * statistics.median(seconds):.1f}", f"{1e3 * p95:.1f}", f"{cost:.1f}")
    console.print(table)
    if arguments.memory_jobs:
        _memory(arguments.memory_jobs, arguments.callers, console)


def _memory(jobs: int, callers: int, console: Console) -> None:
    """Prints what this process and its zygotes hold as jobs go by."""
    kinds: list[Callable[[], object]] = [lambda: run_program(TRIVIAL)] * 6 + [
        lambda: run_tests(SOLUTION, "add", TEST)
    ] * 3
    odd: list[Callable[[], object]] = [
        lambda: run_program("raise ValueError('x' * 100_000)"),
        lambda: run_program("def solve():\n    print('x' * 10**6)\n    return list(range(20_000))"),
        lambda: run_program("while True: pass", timeout=0.05),
        lambda: run_tests("import os\ndef add(a, b):\n    os._exit(0)", "add", TEST),
    ]
    table = Table("jobs", "trainer RSS MiB", "zygotes RSS MiB", "trainer descriptors")
    done = 0
    with ThreadPoolExecutor(callers) as threads:
        for part in (200, jobs // 2, jobs - jobs // 2):
            works = [odd[n // 10 % len(odd)] if n % 10 == 9 else kinds[n % 10] for n in range(part)]
            list(threads.map(lambda work: work() and None, works))  # results are not kept
            done += part
            zygotes = sum(_rss_mib(str(pid)) for pid in _children())
            descriptors = len(os.listdir("/proc/self/fd"))
            table.add_row(f"{done:,}", f"{_rss_mib('self'):.1f}", f"{zygotes:.1f}", str(descriptors))
    console.print(table)


def _timed(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def _processor_seconds() -> float:
    """What this process, its zygotes and their ended jobs took of the processors, whoever else is busy on them."""
    ticks = 0
    for process in (os.getpid(), *_children()):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _rss_mib(process: str) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _children() -> list[int]:
    """The zygotes, with those that wait for them behind a wall of namespaces."""
    found, pending = [], [os.getpid()]
    while pending:
        parent = pending.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            pending += [int(child) for child in task.read_text().split()]
        found.append(parent)
    return found[1:]


if __name__ == "__main__":
    main()
