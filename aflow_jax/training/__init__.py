"""The training loop (`loop`, in reading order) and its parts."""

from aflow_jax.training.loop import Trainer
from aflow_jax.training.stopping import ExitCode, TimeLimit, is_unwritable

__all__ = ["ExitCode", "TimeLimit", "Trainer", "is_unwritable"]
