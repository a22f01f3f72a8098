"""What the benchmarks against other libraries share: workers in processes of their own, shapes, the machine's line.

Each side of a comparison lives in its own process, so that neither waits for the other's threads nor counts the
other's memory, and all of them are children of one run on one machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aflow_jax.qwen2 import Qwen2Config, published_shape

_TINY = Qwen2Config(
    hidden_size=64,
    intermediate_size=176,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=512,
)
SHAPES = {
    "tiny": _TINY,
    "small": dataclasses.replace(
        _TINY, hidden_size=256, intermediate_size=704, num_hidden_layers=6, head_dim=64, vocab_size=8192
    ),
    "0.5B": published_shape("0.5B"),
    "7B": published_shape("7B"),
}
"""Shapes by name: two for trying out, and those of Qwen2.5-0.5B and -7B."""


def read_shape(text: str) -> Qwen2Config:
    """Return the shape of that name, or of a folder with a `config.json`."""
    if text in SHAPES:
        return SHAPES[text]
    path = Path(text) / "config.json"
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text!r}: expected one of {', '.join(SHAPES)}, or a folder of config.json")
    return Qwen2Config.from_dict(json.loads(path.read_text(encoding="utf-8")), str(path))


class Worker:
    """An object in a process of its own: `worker.call("method", …)` runs there and returns what it returns."""

    def __init__(self, make: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        before = dict(os.environ)
        os.environ.update(environment or {})
        try:
            self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        # Else a worker that dies would leave the pipe open, and its caller waiting.
        theirs.close()
        self._receive()

    def call(self, method: str, *arguments: Any) -> Any:
        """Run a method of the object; raise RuntimeError with its traceback where it failed."""
        self._pipe.send((method, arguments))
        return self._receive()

    def close(self) -> None:
        """End the process and so free its memory."""
        self._process.terminate()
        self._process.join()

    def _receive(self) -> Any:
        try:
            failure, value = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a worker ended with exit code {self._process.exitcode}") from None
        if failure:
            raise RuntimeError(failure)
        return value


class JsonProcess:
    """A script under another interpreter, for what cannot live in this one's environment.

    It answers each line of JSON with one; `versions` is what it says first.
    """

    def __init__(self, python: str, script: str, *arguments: str) -> None:
        path = str(Path(__file__).with_name(script))
        self._name = script
        self._process = subprocess.Popen(
            [python, path, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions: dict[str, str] = self._answer()

    def ask(self, **question: Any) -> dict[str, Any]:
        """Return the answer to a question; raise RuntimeError where the script has ended."""
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with exit code {self._process.wait()}")
        return json.loads(line)


def _serve(pipe: Any, make: Callable[..., Any], arguments: tuple) -> None:
    try:
        made = make(*arguments)
    except Exception:  # noqa: BLE001  the caller raises it
        pipe.send((traceback.format_exc(), None))
        return
    pipe.send((None, None))
    while True:
        try:
            method, values = pipe.recv()
        except EOFError:
            return
        try:
            answer = None, getattr(made, method)(*values)
        except Exception:  # noqa: BLE001  the caller raises it
            answer = traceback.format_exc(), None
        pipe.send(answer)


def alternate(sides: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, float]:
    """Return each side's median of seconds; the sides take turns, so that a slower minute strikes them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, side in sides.items():
            seconds[name].append(side())
    return {name: statistics.median(values) for name, values in seconds.items()}


def require_tokens(count: int, expected: int) -> None:
    """Raise RuntimeError where another number of tokens came out."""
    if count != expected:
        raise RuntimeError(f"{count} tokens came out, expected {expected}")


def jax_rate(dtype: str, sizes: Sequence[int] = ()) -> float:
    """Return the best FLOP/s of square products of random matrices in JAX, float32 exact; sizes that suit, if none."""
    sizes = sizes or ((1024, 2048, 4096) if jax.default_backend() == "cpu" else (8192, 16384))
    multiply = jax.jit(partial(jnp.matmul, precision="highest" if dtype == "float32" else "default"))

    def rate(size: int) -> float:
        matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
        return square_rate(size, lambda: multiply(matrix, matrix).block_until_ready())

    return max(rate(size) for size in sizes)


def numpy_rate(size: int) -> float:
    """Return FLOP/s of a square float32 product in numpy."""
    matrix = np.random.default_rng(0).standard_normal((size, size), np.float32)
    return square_rate(size, lambda: matrix @ matrix)


def square_rate(size: int, product: Callable[[], Any]) -> float:
    """Return the best FLOP/s of a product of two square matrices over a few runs."""
    product()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def peak_memory() -> float:
    """Return this process's peak of resident memory so far in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def device_peak_memory() -> float:
    """Return the peak in GB of JAX's device, or of this process where the device is the host."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] / 1e9 if stats else peak_memory()


def machine(packages: tuple[str, ...]) -> str:
    """Return one line on the processor, the cores this process may use, and the versions of packages."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if os.name == "posix" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{names[0] if names else platform.machine()}, {cores()} cores; {', '.join(versions)}"


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
