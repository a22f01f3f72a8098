"""python -m aflow_jax.problems generate FILE … | check FILE …: make a file of problems, or check one."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter

from aflow_jax.commands import exit_code
from aflow_jax.errors import UserError
from aflow_jax.problems.dataset import load_problems, save_problems
from aflow_jax.problems.grading import describe_grading
from aflow_jax.problems.overlap import content_hash
from aflow_jax.problems.problem import Problem
from aflow_jax.problems.sources import DOMAINS, default_sources
from aflow_jax.problems.synthetic import generate_problems


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0, or 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.problems",
        description=__doc__,
        epilog="example: python -m aflow_jax.problems check data/synthetic_test.jsonl",
    )
    commands = parser.add_subparsers(required=True)
    generate = commands.add_parser("generate", help="write problems that the project makes itself")
    generate.add_argument("file", help="the JSONL file to write")
    generate.add_argument("--domain", choices=DOMAINS, help="default: all three in turn")
    generate.add_argument("--count", type=int, default=300)
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--split", choices=("train", "test"), default="train")
    generate.set_defaults(run=_generate)
    check = commands.add_parser("check", help="read a file as strictly as training does, and say what is in it")
    check.add_argument("file")
    check.add_argument("--lines", action="store_true", help="say for each line what its answers are graded by")
    check.add_argument("--references", action="store_true", help="run each code problem's own answer through its tests")
    check.set_defaults(run=_check)
    return parser


def _generate(options: argparse.Namespace) -> None:
    problems = generate_problems(options.domain, options.count, options.seed, options.split)
    save_problems(options.file, problems)
    print(f"{options.file}: {len(problems)} problems")


def _check(options: argparse.Namespace) -> None:
    problems = load_problems(options.file)
    print(f"{options.file}: {len(problems)} problems, every line well formed")
    if options.lines:
        for line, problem in enumerate(problems, start=1):
            print(
                f"{options.file}:{line}: {problem.id}: {problem.domain}, {problem.source}: {describe_grading(problem)}"
            )
    table = default_sources()
    for (domain, source, grading), count in sorted(Counter(map(_graded_as, problems)).items()):
        print(f"  {domain:5} {source:16} {count:6}  {table[source].metric:10}  {grading}")
    repeated = len(problems) - len({content_hash(problem) for problem in problems})
    if repeated:
        print(f"  {repeated} repeat another problem's content")
    if options.references:
        _check_references(options.file, problems)


def _check_references(file: str, problems: list[Problem]) -> None:
    # Only here does this room's command reach for others: what a file holds runs in the sandbox.
    from aflow_jax.references import unsound_problems

    unsound = asyncio.run(unsound_problems(problems))
    lines = {id(problem): line for line, problem in enumerate(problems, start=1)}
    for one in unsound:
        print(f"{file}:{lines[id(one.problem)]}: {one.problem.id}: {one.reason}")
    if unsound:
        raise UserError(f"{file}: {len(unsound)} problems whose own answers fail their tests: mend or remove them")
    print("  every code problem's own answer passes its tests")


def _graded_as(problem: Problem) -> tuple[str, str, str]:
    return problem.domain, problem.source, describe_grading(problem)


if __name__ == "__main__":
    sys.exit(main())
