"""python -m aflow_jax.problems generate FILE … | check FILE: make a file of problems, or check one."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from aflow_jax.errors import UserError
from aflow_jax.problems.dataset import load_problems, save_problems
from aflow_jax.problems.overlap import content_hash
from aflow_jax.problems.sources import DOMAINS
from aflow_jax.problems.synthetic import generate_problems


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0, or 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


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
    check.set_defaults(run=_check)
    return parser


def _generate(options: argparse.Namespace) -> None:
    problems = generate_problems(options.domain, options.count, options.seed, options.split)
    save_problems(options.file, problems)
    print(f"{options.file}: {len(problems)} problems")


def _check(options: argparse.Namespace) -> None:
    problems = load_problems(options.file)
    print(f"{options.file}: {len(problems)} problems, every line well formed")
    for (domain, source), count in sorted(Counter((p.domain, p.source) for p in problems).items()):
        print(f"  {domain:5} {source:16} {count}")
    repeated = len(problems) - len({content_hash(problem) for problem in problems})
    if repeated:
        print(f"  {repeated} repeat another problem's content")


if __name__ == "__main__":
    sys.exit(main())
