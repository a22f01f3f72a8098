"""Grade hostile expressions and say how long the slowest took: none may take over two seconds, and none is right.

    python scripts/check_symbolic_limits.py [--show 0.5]

Each stands in a box, as a model would give it, against an expression, a set and a matrix. Exits with 1 where one is
graded right or takes longer.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aflow_jax.rewards.math_rules import grade_math
from aflow_jax.rewards.symbolic import shared_pool

REQUIRED_SECONDS = 2.0
GOLDS = ("x+1", r"\{1,2\}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}")
HOSTILE = {
    "tower": r"9^{9^9}",
    "tower2": "9**9**9",
    "fact": r"(10^{9})!",
    "fact2": r"1000000000!",
    "binom": r"\binom{10^{9}}{5\cdot10^{8}}",
    "poly": "(x+y+z+w+1)^{500}",
    "poly2": "(x+1)^{100000}",
    "poly3": r"\frac{(x+1)^{3000}-1}{x}",
    "nested radicals": r"\sqrt{2+" * 60 + "2" + "}" * 60,
    "nested rad2": r"\sqrt[3]{1+\sqrt{2+" * 30 + "x" + "}}" * 30,
    "frac bomb": r"\frac{1}{1+" * 100 + "x" + "}" * 100,
    "frac raw": r"\frac" * 900,
    "frac12": r"\frac1" * 300,
    "braces": "{" * 990,
    "parens": "(" * 400 + "x" + ")" * 400,
    "matrix": r"\begin{pmatrix}" + r" \\ ".join("&".join(["x+1"] * 15) for _ in range(15)) + r"\end{pmatrix}",
    "sum": r"\sum_{n=1}^{\infty} \frac{\sin(n^2)}{n^{n}}",
    "int": r"\int_0^\infty e^{-x^{x}} \sin(x^{7}) dx",
    "prod": r"\prod_{k=1}^{10^{8}} k",
    "lim": r"\lim_{x\to\infty} \left(1+\frac{\sin x}{x^2}\right)^{x^3}",
    "sin big": r"\sin(10^{10^{8}})",
    "mod": r"7^{10^{9}} \mod 13",
    "commas": ",".join(["1"] * 500),
    "list of exprs": ",".join(f"x^{{{i}}}+\\sqrt{{{i}}}" for i in range(90)),
    "set": r"\{" + ",".join(f"\\sqrt{{{i}+\\pi}}" for i in range(90)) + r"\}",
    "pm": r"\pm " * 300 + "1",
    "pm2": r"1 \pm " * 200 + "1",
    "eq": "x=" * 400 + "1",
    "cup": r"\cup".join(["[0,1]"] * 150),
    "pi": r"\pi^{\pi^{\pi^{\pi}}}",
    "e": r"e^{e^{e^{e^{79}}}}",
    "unicode": "𝟗" * 500,
    "null": "\0" * 50,
    "digits": "9" * 1900,
    "dec": "0." + "3" * 1900,
    "exp": "1e400",
    "exp2": "1e9999999",
    "frac digits": r"\frac{" + "9" * 900 + "}{" + "7" * 900 + "}",
    "overline": r"0.\overline{" + "3" * 900 + "}",
    "sqrt(": "sqrt(" * 300,
    "^": "2^" * 300 + "2",
    "^{": "2^{" * 250 + "2" + "}" * 250,
    "dollars": "$" * 1000,
    "text": r"\text{" * 300,
    "begin": r"\begin{pmatrix}" * 100,
    "left": r"\left(" * 300 + "1" + r"\right)" * 300,
    "abs": "|" * 401 + "x",
    "spaces": " " * 1900 + "5",
    "ands": " and ".join(["1"] * 300),
    "num words": "one hundred " * 150,
    "floor": r"\lfloor \pi \cdot 10^{50} \rfloor",
    "logs": r"\log_{2}" * 100 + "8",
    "deg": "5^\\circ" * 300,
}


def main() -> int:
    """Print what took longest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=float, default=0.5, help="print what takes more seconds than this")
    arguments = parser.parse_args()
    shared_pool().compare("x", "x")  # the checker's start is no expression's time
    worst, right = 0.0, []
    for name, expression in HOSTILE.items():
        slowest = 0.0
        for gold in GOLDS:
            started = time.perf_counter()
            if grade_math(gold, rf"\boxed{{{expression}}}").level == 1.0:
                right.append((name, gold))
            slowest = max(slowest, time.perf_counter() - started)
        if slowest > arguments.show:
            print(f"{name:20} {slowest:.2f} s")
        worst = max(worst, slowest)
    print(
        f"{len(HOSTILE)} expressions, {len(GOLDS)} references: slowest {worst:.2f} s, graded right: {right or 'none'}"
    )
    return int(worst > REQUIRED_SECONDS or bool(right))


if __name__ == "__main__":
    sys.exit(main())
