"""The tests' side of a grading: it holds the test, asks the solution call by call, and gives the verdict."""

import importlib
import socket
import types
from typing import Any

from .checks import Checks, prepare
from .proxies import Candidate, Helper, Line
from .source import catch_output, describe
from .tally import FILENAME, Tally
from .wire import write_frame


def referee(channel: socket.socket, job: dict[str, Any]) -> None:
    """Runs the test against the solution behind the channel; the last frame is the verdict, with the parent's nonce."""
    catch_output()
    try:
        checks = prepare(job["test"], job["entry_point"])
        code = compile(checks.tree, FILENAME, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        verdict = {"passed": 0, "total": 0, "error": f"the test cannot be read: {describe(error, FILENAME)}"}
    else:
        verdict = _judge(channel, job["entry_point"], checks, code)
    write_frame(channel, {"verdict": verdict, "nonce": job["nonce"]})


def _judge(channel: socket.socket, entry_point: str, checks: Checks, code: types.CodeType) -> dict[str, Any]:
    line = Line(channel, entry_point)
    tally = Tally(checks.texts, line)
    candidate = Candidate(line, entry_point)
    names: dict[str, Any] = {name: Helper(line, name) for name in checks.helpers}
    names |= {name: importlib.import_module("numpy" if name == "np" else name) for name in checks.modules}
    names |= {"__name__": "__main__", "__tally__": tally, "candidate": candidate, entry_point: candidate}
    with tally.step():
        exec(code, names)
    return tally.verdict()
