"""How a command ends: what goes wrong in it becomes one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from aflow_jax.errors import UserError

USER_ERROR = 2  # a mistake that the user can mend
NEEDS_MENDING = 3  # a bound is reached, such as a budget
INTERRUPTED = 130  # by Ctrl-C


def exit_code(command: Callable[[], int | None], *, needs_mending: type[UserError] | tuple[()] = ()) -> int:
    """Run a command, which raises UserError for a user's mistake; return its exit code.

    Args:
        command: the command; its own exit code is what it returns, None for 0.
        needs_mending: the kind of UserError that stands for a bound that is reached: it ends with 3, others with 2.
    """
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return NEEDS_MENDING if isinstance(error, needs_mending) else USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
