"""Start the simulator in a process of its own, and end it."""

import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aflow_jax.errors import UserError
from aflow_jax.llm.simulator.faults import Faults
from aflow_jax.llm.simulator.skills import Skills, with_defaults

if TYPE_CHECKING:
    from aflow_jax.llm.endpoint import Endpoint
    from aflow_jax.llm.pricing import Price

_KEY_VARIABLE = "AFLOW_SIMULATOR_API_KEY"
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0


class SimulatorProcess:
    """A running simulator; a context manager that stops it.

    Attributes:
        base_url: its address, for the `openai` client.
        pid: its process.
    """

    def __init__(self, process: subprocess.Popen[bytes], base_url: str) -> None:
        self._process = process
        self.base_url = base_url
        self.pid = process.pid

    def endpoint(self, *, price: "Price | None" = None, **settings: Any) -> "Endpoint":
        """Return the endpoint that a client needs; simulated calls have no price unless one is given."""
        from aflow_jax.llm.endpoint import Endpoint

        values = {"name": "simulator", "model_name": "simulator", "path": "the simulator's settings", **settings}
        return Endpoint(base_url=self.base_url, price=price, **values)

    def stop(self) -> None:
        """End the process and wait until it is gone."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_simulator(
    problems_path: str | Path,
    *,
    seed: int = 0,
    skills: Skills | None = None,
    latency: tuple[float, float] | None = None,
    faults: Mapping[str, float] | None = None,
    port: int = 0,
    models: tuple[str, ...] = ("simulator",),
    api_key: str | None = None,
) -> SimulatorProcess:
    """Start a simulator on loopback, and return once it listens. It ends with this process, however that ends.

    Args:
        problems_path: JSONL of the problems that it knows.
        seed: of its answers, latencies and faults.
        skills: {domain: {operator: chance of being right}} over the built-in table.
        latency: median and 95th percentile of a reply's seconds; None answers at once.
        faults: {fault: rate}; may also hold retry_after_seconds and stall_seconds.
        port: 0 takes a free one.
        models: the names that it answers to.
        api_key: a key to demand.

    Raises:
        UserError: a value is out of range, or the simulator does not start; the message says why.
    """
    with_defaults(skills)
    Faults.from_mapping(faults)
    command = [sys.executable, "-m", "aflow_jax.llm.simulator", "--problems", str(problems_path)]
    command += ["--seed", str(seed), "--port", str(port), "--models", ",".join(models), "--end-with-parent"]
    if skills:
        command += ["--skills", json.dumps(skills)]
    if latency:
        command += ["--latency", f"{latency[0]!r},{latency[1]!r}"]
    if faults:
        command += ["--faults", json.dumps(dict(faults))]
    if api_key:
        command += ["--api-key-variable", _KEY_VARIABLE]
    # Errors go to a file: nobody reads a pipe once it runs.
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # never written: closing it, as the kernel does when we die, ends the simulator
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(api_key),
            start_new_session=True,  # Ctrl-C is for the trainer, which still has calls to finish
        )
        base_url = _await_address(process)
        if base_url is not None:
            return SimulatorProcess(process, base_url)
        process.kill()
        SimulatorProcess(process, "").stop()
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    raise UserError(lines[-1] if lines else f"the simulator did not start within {_START_SECONDS:g} s")


def _environment(api_key: str | None) -> dict[str, str]:
    """Return what the process needs of our environment: no secrets, and the way to this package."""
    package_parent = str(Path(__file__).resolve().parents[3])
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    kept["PYTHONPATH"] = os.pathsep.join([package_parent, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, _KEY_VARIABLE: api_key} if api_key else kept


def _await_address(process: subprocess.Popen[bytes]) -> str | None:
    """Return the address that the process prints, or None when it ends, or takes too long, without one."""
    if process.stdout is None:
        raise ValueError("the process was started without a pipe to read from")
    end = time.monotonic() + _START_SECONDS
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not chunk:
            return None
        line += chunk
    match = re.search(rb"http://\S+", line)
    return match.group().decode() if match else None
