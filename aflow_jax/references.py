"""Whether problems can be solved at all: each code problem's own answer has to pass the problem's own tests.

A row whose reference fails would teach that right answers are wrong. Its tests are a file's text and run where all
untrusted programs do, in the sandbox; verdicts are kept by content, so that a file is checked once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aflow_jax.errors import UserError
from aflow_jax.problems import Problem
from aflow_jax.rewards import try_reference
from aflow_jax.sandbox import SandboxUnavailable

# Counts up when grading changes what a reference's verdict can be.
_VERSION = 1
_SHOWN = 5


@dataclass(frozen=True)
class Unsound:
    """A problem whose own answer fails its tests, and how."""

    problem: Problem
    reason: str


async def unsound_problems(problems: Sequence[Problem], cache: Path | None = None) -> list[Unsound]:
    """Return the problems whose own answers fail, in order; those without tests are sound.

    Args:
        problems: of any domain.
        cache: a file of verdicts by content, made where it is missing; default: none is read or kept.

    Raises:
        UserError: the sandbox cannot run anything, or the cache is not one.
    """
    known = _read(cache)
    digests = [_digest(problem) for problem in problems]
    missing = {
        digest: problem
        for digest, problem in zip(digests, problems, strict=True)
        if problem.domain == "code" and problem.test is not None and digest not in known
    }
    try:
        faults = await asyncio.gather(*map(_fault, missing.values()))
    except SandboxUnavailable as error:
        raise UserError(f"reference answers cannot be checked: {error}; check_references: false goes without") from None
    verdicts = dict(zip(missing, faults, strict=True))
    if cache is not None and verdicts:
        # A machine that is busy for once must not condemn a problem for good.
        lasting = {digest: fault for digest, fault in verdicts.items() if not (fault or "").startswith("timeout")}
        _write(cache, known | lasting)
    verdicts = known | verdicts
    return [
        Unsound(problem, fault)
        for digest, problem in zip(digests, problems, strict=True)
        if (fault := verdicts.get(digest)) is not None
    ]


def describe(unsound: Sequence[Unsound]) -> str:
    """Return one line that names the first few, and how many there are."""
    shown = "; ".join(f"{one.problem.id}: {one.reason}" for one in unsound[:_SHOWN])
    more = len(unsound) - _SHOWN
    return shown + (f"; and {more} more" if more > 0 else "")


def default_cache() -> Path:
    """Return the user's file of verdicts."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aflow_jax" / "references.json"


async def _fault(problem: Problem) -> str | None:
    result = await try_reference(problem)
    if result is None or result.outcome == "ok":
        return None
    reason = " ".join((result.error or "").split())[:160]
    return f"{result.outcome}, {result.passed} of {result.total} tests pass: {reason}"


def _digest(problem: Problem) -> str:
    # The question too: the head of a program lends its imports to the answer.
    parts = [_VERSION, problem.question, problem.answer, problem.entry_point, problem.test]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read(cache: Path | None) -> dict[str, str | None]:
    if cache is None or not cache.exists():
        return {}
    try:
        verdicts = json.loads(cache.read_text(encoding="utf-8"))
        if not all(fault is None or isinstance(fault, str) for fault in verdicts.values()):
            raise ValueError
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{cache}: not a file of reference verdicts: delete it, and it is made anew") from None
    return verdicts


def _write(cache: Path, verdicts: dict[str, str | None]) -> None:
    """Write the file whole or not at all; of two processes that write at once, one's verdicts stay."""
    partial = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(verdicts), encoding="utf-8")
        partial.replace(cache)
    except OSError as error:
        raise UserError(
            f"{cache}: verdicts cannot be kept ({error.strerror}): set XDG_CACHE_HOME to a folder that can be written"
        ) from None
