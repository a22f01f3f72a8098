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

    # The first comparison of a process builds the parser's tables; a real one should not pay for it.
    verify(read(r"\frac{1}{2}+x"), read("x+0.5"), timeout_seconds=None)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        # Where the parent was killed in the middle of a comparison, nobody else ends this process.
        signal.alarm(4 * seconds)
        request = json.loads(line)
        gold, answer = read(request["gold"]), read(request["answer"])
        equal = bool(gold and answer) and verify(gold, answer, timeout_seconds=None, allow_set_relation_comp=True)
        signal.alarm(0)
        print(json.dumps({"equal": bool(equal), "parsed": bool(answer)}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
