"""The program that a symbolic worker runs: math-verify over a pipe, one JSON line a comparison.

It is started by path in an isolated interpreter with an empty environment, and imports nothing of this package. The
text it reads comes from models: it may not take more memory or time than its share, and its death is expected.
"""

import json
import logging
import resource
import signal
import sys

MEMORY_BYTES = 2 << 30
WARM_UP = (
    (r"\frac{1}{2}+x", "x+0.5"),
    ("(x-1)(x+1)", "x^2-1"),
    (r"\sin^{2}(x)", r"1-\cos(x)^2"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"(-\infty, 2] \cup [3, 4)", r"x \le 2"),
    (r"\frac{\sqrt{2}+\pi}{3}", r"\log_2 3"),
)


def main(seconds: int) -> None:
    """Answer `{"gold", "answer"}` lines with `{"equal", "parsed"}` lines until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    from math_verify import LatexExtractionConfig, parse, verify

    def read(text: str) -> list:
        return parse(
            f"${text}$",
            [LatexExtractionConfig()],
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
        )

    # The first comparisons of a process build the parser's tables and load much of sympy; real ones should not pay.
    for gold, answer in WARM_UP:
        verify(read(gold), read(answer), timeout_seconds=None)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        # Where the parent was killed in the middle of a comparison, nobody else ends this process.
        signal.alarm(4 * seconds)
        request = json.loads(line)
        gold, answer = read(request["gold"]), read(request["answer"])
        equal = (
            bool(gold and answer)
            and verify(gold, answer, timeout_seconds=None, allow_set_relation_comp=True)
            and not far_apart(gold[0], answer[0])
        )
        signal.alarm(0)
        print(json.dumps({"equal": bool(equal), "parsed": bool(answer)}), flush=True)


def far_apart(gold, answer) -> bool:
    """Whether two numbers differ by more than a millionth of the greater.

    math-verify compares numbers at six decimals, which makes all small ones equal.
    """
    try:
        if not (gold.is_number and answer.is_number):
            return False
        difference, greater = abs((gold - answer).evalf(15)), max(abs(gold.evalf(15)), abs(answer.evalf(15)))
        return bool(difference > 1e-6 * greater)
    except (AttributeError, TypeError, ValueError):
        # Sets, relations and matrices have no such difference.
        return False


if __name__ == "__main__":
    main(int(sys.argv[1]))
