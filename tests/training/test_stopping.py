"""Reasons to stop: each says what to do, ends with its code, and does not stop a run again that was mended."""

import errno
import math
from collections import deque
from types import SimpleNamespace

import pytest

from aflow_jax.config.sections import VoidLimit
from aflow_jax.llm import Budget
from aflow_jax.training.state import RunState
from aflow_jax.training.stopping import ExitCode, StoppedEarly, TimeLimit, is_unwritable, watch_numbers, watch_voids


def state(window: int = 4) -> RunState:
    return RunState(Budget(), recent_voids=deque(maxlen=window))


def rollouts(void: int, of: int = 10) -> list[SimpleNamespace]:
    fault = SimpleNamespace(error="the endpoint is down")
    return [SimpleNamespace(outcome=SimpleNamespace(is_void=place < void), execution=fault) for place in range(of)]


def test_void_rollouts_above_their_share_of_the_window_stop_the_run_once() -> None:
    run, limit = state(), VoidLimit(ratio=0.05, window=4)
    watch_voids(rollouts(2), run, limit)  # 2 of the window's 40 are 5%
    watch_voids(rollouts(0), run, limit)
    with pytest.raises(StoppedEarly, match=r"3 rollouts of the last 3 steps .*the endpoint is down") as stopped:
        watch_voids(rollouts(1), run, limit)
    assert stopped.value.code == ExitCode.BOUND_REACHED
    watch_voids(rollouts(2), run, limit)  # a run that goes on has a new window


def test_old_voids_leave_the_window() -> None:
    run, limit = state(window=2), VoidLimit(ratio=0.1, window=2)
    for _ in range(4):
        watch_voids(rollouts(2), run, limit) if not run.recent_voids else watch_voids(rollouts(0), run, limit)
    assert list(run.recent_voids) == [0, 0]


FINE = {"loss": 0.1, "update/skipped": 0.0, "update/tokens": 5.0}
NAN = {"loss": math.nan, "update/skipped": 1.0, "update/tokens": 5.0}
EMPTY = {"update/skipped": 1.0, "update/tokens": 0.0}


def test_numbers_that_are_not_finite_stop_the_run_when_steps_in_a_row_have_them() -> None:
    run = state()
    for metrics in (NAN, NAN, FINE, NAN, EMPTY, NAN, NAN):
        watch_numbers(metrics, run)
    with pytest.raises(StoppedEarly, match="not finite in 3 steps in a row") as stopped:
        watch_numbers(NAN, run)
    assert stopped.value.code == ExitCode.NOT_FINITE


def test_the_time_limit_leaves_room_for_a_step_as_long_as_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("aflow_jax.training.stopping.time.monotonic", lambda: clock.now)
    limit = TimeLimit(1.0)
    for now in (1000.0, 2000.0, 2500.0):
        clock.now = now
        limit.check()
    clock.now = 2700.0
    with pytest.raises(StoppedEarly, match="max_hours, 1") as stopped:
        limit.check()
    assert stopped.value.code == ExitCode.TIME_IS_UP
    TimeLimit(None).check()


def test_a_disk_that_cannot_be_written_is_told_from_other_errors() -> None:
    assert is_unwritable(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_unwritable(OSError(errno.ECONNREFUSED, "Connection refused"))
