"""How many programs and gradings a second the sandbox does, and what one costs.

    python scripts/bench_sandbox.py [--backend auto] [--callers 4] [--count 300]

Beside it the naive way: a fresh interpreter for each program, with no isolation.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

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
    arguments = parser.parse_args()
    console = Console()
    console.print(f"backend: {configure_sandbox(arguments.backend)}")
    table = Table("job", "per second", "median ms", "p95 ms", "trainer MiB grown")
    kinds: dict[str, Callable[[], object]] = {
        "trivial program": lambda: run_program(TRIVIAL),
        "program with SymPy": lambda: run_program(SYMPY),
        "grading, 3 asserts": lambda: run_tests(SOLUTION, "add", TEST),
        "fresh interpreter, no isolation": lambda: subprocess.run([sys.executable, "-I", "-c", TRIVIAL], check=True),
    }
    for name, job in kinds.items():
        job()
        before = _peak_mib()
        started = time.perf_counter()
        with ThreadPoolExecutor(arguments.callers) as callers:
            seconds = list(callers.map(lambda _, job=job: _timed(job), range(arguments.count)))
        rate = arguments.count / (time.perf_counter() - started)
        p95 = statistics.quantiles(seconds, n=20)[-1]
        grown = _peak_mib() - before
        table.add_row(
            name, f"{rate:.0f}", f"{1e3 * statistics.median(seconds):.1f}", f"{1e3 * p95:.1f}", f"{grown:.1f}"
        )
    console.print(table)


def _timed(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
