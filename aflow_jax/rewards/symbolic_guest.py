"""The program that a symbolic worker runs: math-verify over a pipe, one JSON line a comparison.

It is started by path in an isolated interpreter with an empty environment, and imports nothing of this package. It
loads and warms up sympy once; each comparison then runs in a fork of its own, which is killed at its limit. The text it
reads comes from models: it may not take more memory or time than its share.
"""

import json
import logging
import os
import resource
import select
import signal
import sys

MEMORY_BYTES = 2 << 30
WARM_UP = (
    (r"\frac{1}{2}+x", "x+0.5"),
    ("(x-1)(x+1)", "x^2-1"),
    (r"\sin^{2}(x)", r"1-\cos(x)^2"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{\sqrt{2}+\pi}{3}", r"\log_2 3"),
)


def main() -> None:
    """Answer lines `{"gold", "answer", "seconds"}` with `{"equal", "parsed", "timed_out"}` until the input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    # The first comparisons of a process build the parser's tables and load much of sympy; its forks inherit both.
    for gold, answer in WARM_UP:
        compare(gold, answer)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(in_fork(request["gold"], request["answer"], request["seconds"])), flush=True)


def in_fork(gold: str, answer: str, seconds: float) -> dict:
    """Compare in a child that is killed after so many seconds; one that dies by itself counts as parsed, not equal."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            os.write(writable, json.dumps(compare(gold, answer)).encode())
        finally:
            # Nothing of the parent's (its buffers, its exit handlers) is the child's to touch.
            os._exit(0)
    os.close(writable)
    ended = bool(select.select([readable], [], [], seconds)[0])
    reply = os.read(readable, 4096) if ended else b""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(readable)
    return json.loads(reply) if reply else {"equal": False, "parsed": True, "timed_out": not ended}


def compare(gold_text: str, answer_text: str) -> dict:
    """Parse both and compare them."""
    from math_verify import verify

    gold, answer = read(gold_text), read(answer_text)
    equal = (
        bool(gold and answer)
        and verify(gold, answer, timeout_seconds=None, allow_set_relation_comp=True)
        and not far_apart(gold[0], answer[0])
    )
    return {"equal": bool(equal), "parsed": bool(answer), "timed_out": False}


def read(text: str) -> list:
    """Parse an expression; [] where it is none."""
    from math_verify import LatexExtractionConfig, parse

    return parse(
        f"${text}$",
        [LatexExtractionConfig()],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )


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
    main()
