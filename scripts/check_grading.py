"""Grade every gold answer of a folder of problem files, in its usual dresses and altered, by the rules alone.

    python scripts/check_grading.py ../shared/data/problems [--only gsm8k] [--part 1/4] [--sample N] [--show N]

A dressed gold answer must grade 1, an altered one below 1. Prints a table and, with --show, what fails; exits with 1
where a share is below 99.8%.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aflow_jax.problems.dataset import load_problems
from aflow_jax.problems.grading import gold_answers, grading_of
from aflow_jax.problems.problem import Problem
from aflow_jax.rewards import grade_answer
from aflow_jax.rewards.symbolic import shared_pool

REQUIRED = 0.998


def main() -> int:
    """Run the check over all files of the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of .jsonl files")
    parser.add_argument("--only", default="", help="only the files whose name holds this")
    parser.add_argument(
        "--part", default="1/1", help="2/4: the second of each four problems, to share a long check out"
    )
    parser.add_argument("--sample", type=int, default=0, help="problems of each file, drawn with seed 0; 0 is all")
    parser.add_argument("--show", type=int, default=0, help="print this many failures of each kind")
    arguments = parser.parse_args()
    worst = 1.0
    print(f"{'file':32} {'gold right':>22} {'altered wrong':>22} {'slowest':>8}")
    for path in sorted(arguments.folder.glob("*.jsonl")):
        if arguments.only not in path.name:
            continue
        part, parts = map(int, arguments.part.split("/"))
        problems = load_problems(path)[part - 1 :: parts]
        if arguments.sample:
            problems = random.Random(0).sample(problems, min(arguments.sample, len(problems)))
        counts, failures, slowest = check(problems)
        for kind in ("gold", "altered"):
            worst = min(worst, share(counts, kind))
            for problem, answer in failures[kind][: arguments.show]:
                print(f"  {kind}: {problem.id}: {problem.answer[:70]!r} graded as {answer[:90]!r}")
        shown = [
            f"{counts[kind, True]}/{total(counts, kind)} {share(counts, kind):.2%}" for kind in ("gold", "altered")
        ]
        print(f"{path.stem:32} {shown[0]:>22} {shown[1]:>22} {slowest:7.2f}s", flush=True)
    return 0 if worst >= REQUIRED else 1


def check(problems: list[Problem]) -> tuple[Counter, dict[str, list[tuple[Problem, str]]], float]:
    """Return counts by (kind, as it should be), the failures of each kind, and the longest time of one grading."""
    counts: Counter = Counter()
    failures: dict[str, list[tuple[Problem, str]]] = {"gold": [], "altered": []}

    def judge(case: tuple[Problem, str, str]) -> tuple[bool, float]:
        problem, kind, answer = case
        start = time.perf_counter()
        right = grade_answer(problem, answer).correctness == 1.0
        return right == (kind == "gold"), time.perf_counter() - start

    shared_pool().compare("x", "x")  # the checker's start is no grading's time
    cases = [case for problem in problems for case in _cases(problem)]
    slowest = 0.0
    with ThreadPoolExecutor(2) as threads:
        for (problem, kind, answer), (good, seconds) in zip(cases, threads.map(judge, cases), strict=True):
            counts[kind, good] += 1
            slowest = max(slowest, seconds)
            if not good:
                failures[kind].append((problem, answer))
    return counts, failures, slowest


def total(counts: Counter, kind: str) -> int:
    """Return how many cases of a kind there were."""
    return counts[kind, True] + counts[kind, False]


def share(counts: Counter, kind: str) -> float:
    """Return the share of a kind's cases that came out as they should; 1 where there are none."""
    return counts[kind, True] / total(counts, kind) if total(counts, kind) else 1.0


def _cases(problem: Problem) -> Iterator[tuple[Problem, str, str]]:
    dress, alter = _KINDS[grading_of(problem)]
    for answer in dict.fromkeys(dress(problem)):
        yield problem, "gold", answer
    for answer in dict.fromkeys(alter(problem)):
        yield problem, "altered", answer


def _dress_number(problem: Problem) -> Iterator[str]:
    number = problem.answer
    yield from (
        number,
        f"{number}.",
        f"{number}.0",
        f"${number}",
        f"\\${number}.00",
        f"{number} apples",
        f"\\boxed{{{number}}}",
    )
    yield from (f"7 - 2 = 5\n#### {number}", f"<answer>{number}</answer>", f"**Answer:** {number}", f"x = {number}")
    yield from (
        f"There are 3 of them, so the answer is {number}.",
        f"First 12, then 13; in total she has {number} of them.",
    )
    yield from (f"The final answer is $\\boxed{{{number}}}$. I checked it 2 times.", f"${number}$", f"{float(number)}")
    if re.fullmatch(r"-?\d+", number):
        yield from (f"{int(number):,}", f"{int(number):,} dollars", f"\\boxed{{{int(number):,}}}".replace(",", "{,}"))


def _alter_number(problem: Problem) -> Iterator[str]:
    value = float(problem.answer.replace(",", ""))
    yield from (
        f"{value + 1:.0f}",
        f"{value * 10 + 1:.0f}",
        f"\\boxed{{{value + 2:.0f}}}",
        f"{value + 0.5}",
        f"{value + 1e-3}",
    )
    yield from (
        f"{problem.answer}7",
        f"#### 1{problem.answer}",
        "{}",
        "None",
        "",
        f"def solve():\n    return {problem.answer}",
    )
    yield from (f"print({problem.answer})", f"{problem.answer} or {value + 1:.0f}", "I do not know", "often")
    if value:
        yield from (f"-{value:.0f}" if value > 0 else f"{-value:.0f}", f"{problem.answer}e2")


def _dress_latex(problem: Problem) -> Iterator[str]:
    gold = problem.answer
    yield from (gold, f"${gold}$", f"\\boxed{{{gold}}}", f"<answer>{gold}</answer>", f"<answer>${gold}$</answer>")
    yield from (f"We add 3 and 4 to find 7.\n\nSo $\\boxed{{{gold}}}$.", f"The final answer is: $\\boxed{{{gold}}}$")
    yield from (f"\\[ {gold} \\]", f"The answer is ${gold}$.", f"**Answer:** ${gold}$", f"#### {gold}")
    yield (
        gold.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace(" ", "")
        if "\\text" not in gold and "\\mbox" not in gold
        else gold
    )
    yield gold.replace("\\frac{", "\\dfrac{").replace(",", ", ")


def _alter_latex(problem: Problem) -> Iterator[str]:
    gold = problem.answer
    yield from ("{}", "None", "", f"print('{gold}')", f"\\boxed{{{gold}}} so finally \\boxed{{987654321}}")
    digits = list(re.finditer(r"\d+", gold))
    if digits:
        last = digits[-1]
        yield gold[: last.start()] + str(int(last.group()) + 1) + gold[last.end() :]
        first = digits[0]
        yield gold[: first.start()] + str(int(first.group()) + 2) + gold[first.end() :]
    if re.fullmatch(r"-?(?:\d+(?:\.\d+)?|\\[dt]?frac\{\d+\}\{\d+\}|\d*\\sqrt\{\d+\})", gold) and gold.strip("0"):
        yield gold[1:] if gold.startswith("-") else f"-{gold}"
        yield f"{gold}+1"
        yield f"({gold}, {gold})"
    if re.fullmatch(r"\\text\{\(?[A-E]\)?\}", gold):
        yield re.sub(r"[A-E](?=\)?\})", lambda match: "BCDEA"["ABCDE".index(match.group())], gold)


def _dress_option(problem: Problem) -> Iterator[str]:
    letter = problem.answer
    text = dict(re.findall(r"^([A-J])\. (.*)$", problem.question, re.MULTILINE))[letter]
    yield from (
        letter,
        f"{letter}.",
        f"({letter})",
        f"{letter})",
        f"{letter}. {text}",
        f"({letter}) {text}",
        f"{letter}: {text}",
    )
    yield from (
        f"The answer is {letter}.",
        f"The answer is ({letter}) {text}.",
        f"**Answer:** {letter}",
        f"\\boxed{{{letter}}}",
    )
    yield from (f"<answer>{letter}</answer>", f"Because of this, the correct option is {letter}.", f"Option {letter}")
    others = list(dict(re.findall(r"^([A-J])\. (.*)$", problem.question, re.MULTILINE)).values())
    if others.count(text) == 1:
        yield from (text, text.upper(), f"<answer>{text}</answer>")


def _alter_option(problem: Problem) -> Iterator[str]:
    options = dict(re.findall(r"^([A-J])\. (.*)$", problem.question, re.MULTILINE))
    for letter, text in options.items():
        if letter != problem.answer:
            yield from (letter, f"({letter})", f"The answer is {letter}.")
            if text.strip().lower() != options[problem.answer].strip().lower():
                yield from (text, f"{letter}. {text}")
    yield from ("", "{}", "None", " and ".join(options), f"{problem.answer}oston", "def solve():\n    return 'A'")


def _dress_f1(problem: Problem) -> Iterator[str]:
    for gold in gold_answers(problem):
        yield from (
            gold,
            f"{gold}.",
            gold.upper(),
            f"the {gold}",
            f"<answer>{gold}</answer>",
            f"The answer is {gold}",
            f'"{gold}"',
        )
        yield from (f"\\boxed{{{gold}}}", f"**Answer:** {gold}", f"  {gold}\n")
    if problem.answer == "unanswerable":
        yield from ("The question is unanswerable.", "cannot be answered from the context", "No answer")


def _alter_f1(problem: Problem) -> Iterator[str]:
    yield from ("", "{}", "None", "zyzzyva", f"def solve():\n    return {problem.answer.split('|')[0]!r}")
    golds = problem.answer.split("|")
    if all(re.fullmatch(r"[\d,.]+", gold) for gold in golds):
        yield from (golds[0] + "7", golds[0] + ".5", f"{golds[0]} and 123456")
        yield from [] if not float(golds[0].replace(",", "")) else ["-" + golds[0]]
    if golds == ["yes"] or golds == ["no"]:
        yield from ({"yes": "no", "no": "yes"}[golds[0]], "yes no", "yes or no")
    if golds != ["unanswerable"]:
        yield "unanswerable"


def _dress_tests(problem: Problem) -> Iterator[str]:
    yield from (
        problem.answer,
        f"```python\n{problem.answer}\n```",
        f"Here it is:\n\n```python\n{problem.answer}\n```\nIt is fast.",
    )


def _alter_tests(problem: Problem) -> Iterator[str]:
    yield from ("", "None", "{}", f"def {problem.entry_point}(*arguments):\n    return None")
    # A function whose every result is of another type cannot be right.
    yield (
        f"{problem.answer}\n\n_right = {problem.entry_point}\n\n"
        f"def {problem.entry_point}(*arguments, **named):\n    return [_right(*arguments, **named)]\n"
    )


_KINDS: dict[str, tuple[Callable[[Problem], Iterator[str]], Callable[[Problem], Iterator[str]]]] = {
    "number": (_dress_number, _alter_number),
    "latex": (_dress_latex, _alter_latex),
    "option": (_dress_option, _alter_option),
    "f1": (_dress_f1, _alter_f1),
    "tests": (_dress_tests, _alter_tests),
}


if __name__ == "__main__":
    sys.exit(main())
