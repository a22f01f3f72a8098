"""What commands share: the choice of a run's checkpoint, and how they end: in one line and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from aflow_jax.errors import UserError

USER_ERROR = 2  # a mistake that the user can mend
BOUND_REACHED = 3  # such as a budget
INTERRUPTED = 130  # by Ctrl-C

NEWEST, BEST = "newest", "best"


def add_which(parser: argparse.ArgumentParser) -> None:
    """Let a command that takes a run folder be told which of its checkpoints is meant."""
    parser.add_argument(
        "--which", choices=(NEWEST, BEST), default=NEWEST,
        help="which checkpoint of a run folder: the newest (default), or the best by the evaluations inside training",
    )  # fmt: skip


def exit_code(command: Callable[[], int | None], *, bound_reached: type[UserError] | tuple[()] = ()) -> int:
    """Run a command, which raises UserError for a user's mistake; return its exit code.

    Args:
        command: the command; its own exit code is what it returns, None for 0.
        bound_reached: the kind of UserError that stands for a bound that is reached: it ends with 3, others with 2.
    """
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BOUND_REACHED if isinstance(error, bound_reached) else USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
