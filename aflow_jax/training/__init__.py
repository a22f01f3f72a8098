"""The training loop (`loop`, in reading order) and its parts."""

from aflow_jax.training.loop import EVALUATION, Trainer
from aflow_jax.training.stopping import ExitCode, TimeLimit, is_unwritable

__all__ = ["EVALUATION", "ExitCode", "TimeLimit", "Trainer", "is_unwritable"]
