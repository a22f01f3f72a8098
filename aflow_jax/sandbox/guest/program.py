"""The job of `run_program`: run the source, call `solve()` where there is one, send back what came of it."""

import socket
from typing import Any

from .source import CappedOutput, catch_output, describe, run_source, text_of
from .wire import WireError, encode, write_frame

FILENAME = "<program>"


def run_program(channel: socket.socket, job: dict[str, Any]) -> None:
    """Sends one frame: `value`, `stdout`, `error` (None when all went well)."""
    output = catch_output()
    value, error = None, None
    try:
        namespace = run_source(job["source"], "__main__", FILENAME)
        if "solve" in namespace:
            value = encode(namespace["solve"](), text_of)
    except WireError as fault:
        error = f"solve() returned {fault}"
    except BaseException as fault:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are the program's failure too
        error = describe(fault, FILENAME)
    write_frame(channel, {"value": value, "stdout": _text(output), "error": error})


def _text(output: CappedOutput) -> str:
    return bytes(output.kept).decode("utf-8", errors="replace")
