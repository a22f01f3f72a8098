"""Reasons to stop a run before its last step, and the exit codes that tell them apart."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Mapping, Sequence
from enum import IntEnum

from aflow_jax.commands import BOUND_REACHED, INTERRUPTED, USER_ERROR
from aflow_jax.config.sections import VoidLimit
from aflow_jax.processes import PEER_LOST, Processes
from aflow_jax.rollout import Rollout
from aflow_jax.training.state import RunState

NOT_FINITE_LIMIT = 3
"""Steps in a row without a finite loss and gradient, none of which changed the policy, after which a run stops."""

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EIO)


class ExitCode(IntEnum):
    """How the command ended."""

    COMPLETE = 0
    USER_ERROR = USER_ERROR
    BOUND_REACHED = BOUND_REACHED  # the budget is spent, or too many rollouts are void
    TIME_IS_UP = 4
    NOT_FINITE = 5
    UNWRITABLE = 6
    PEER_LOST = PEER_LOST  # another process of the run has ended
    INTERRUPTED = INTERRUPTED  # by Ctrl-C
    TERMINATED = 143  # by SIGTERM


class StoppedEarly(Exception):
    """The run cannot go on as it is; its state is saved and the message says what to do.

    Attributes:
        code: what the command ends with.
    """

    def __init__(self, code: ExitCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class TimeLimit:
    """Stops the run before a number of hours are over, counted from when this is made."""

    def __init__(self, hours: float | None, processes: Processes | None = None) -> None:
        """Take the hours, None for no end; of several processes none stops alone."""
        self._hours = hours
        self._processes = processes or Processes()
        self._started = self._checked = time.monotonic()
        self._longest = 0.0

    def check(self) -> None:
        """Raise StoppedEarly where a step as long as the longest so far would end too late; call it after each step."""
        now = time.monotonic()
        self._longest, self._checked = max(self._longest, now - self._checked), now
        if self._hours is None:
            return
        if self._processes.any(now - self._started + self._longest > self._hours * 3600):
            raise StoppedEarly(ExitCode.TIME_IS_UP, f"the next step would end after max_hours, {self._hours:g}")


def watch_voids(rollouts: Sequence[Rollout], state: RunState, limit: VoidLimit) -> None:
    """Take note of a step's void rollouts.

    Raises:
        StoppedEarly: infrastructure faults have taken more than their share of a window of steps. The window then
            starts anew, so that a run that goes on is not stopped for what was mended.
    """
    voids = [rollout for rollout in rollouts if rollout.outcome.is_void]
    recent = state.recent_voids
    recent.append(len(voids))
    if voids and sum(recent) > limit.ratio * limit.window * len(rollouts):
        share = f"{sum(recent)} rollouts of the last {len(recent)} steps are void"
        recent.clear()
        raise StoppedEarly(
            ExitCode.BOUND_REACHED,
            f"{share} (the latest: {voids[-1].outcome}: {voids[-1].execution.error}): see that the executor LLM and "
            "the sandbox work",
        )


def watch_numbers(metrics: Mapping[str, float], state: RunState) -> None:
    """Take note of whether a step's loss and gradient were finite; the learner leaves its state as it was if not.

    Raises:
        StoppedEarly: those of NOT_FINITE_LIMIT steps in a row were not.
    """
    fails = not math.isfinite(metrics.get("loss", 0.0)) or (metrics["update/skipped"] == 1 and metrics["update/tokens"])
    state.not_finite = state.not_finite + 1 if fails else 0
    if state.not_finite >= NOT_FINITE_LIMIT:
        state.not_finite = 0
        raise StoppedEarly(
            ExitCode.NOT_FINITE,
            f"the loss or its gradient was not finite in {NOT_FINITE_LIMIT} steps in a row, which left the policy as "
            "it was: lower learning_rate or lora_alpha, or set dtype to float32",
        )


def is_unwritable(error: OSError) -> bool:
    """Return whether a file could not be written for what the disk is: full, read-only, forbidden or broken."""
    return error.errno in _UNWRITABLE
