"""The parts of the training loop: the loop itself, in reading order, is `aflow_jax.train`."""

from aflow_jax.training.credit import as_batch, rollout_advantages
from aflow_jax.training.journal import Journal
from aflow_jax.training.pipeline import Pipeline
from aflow_jax.training.records import record_rollouts
from aflow_jax.training.refill import Refilled, refill
from aflow_jax.training.stages import SupervisedStage, rejection_sampling_stage, warm_start_stage
from aflow_jax.training.state import RunState
from aflow_jax.training.stopping import (
    ExitCode,
    StoppedEarly,
    TimeLimit,
    is_unwritable,
    watch_numbers,
    watch_voids,
)
from aflow_jax.training.uninterrupted import to_its_end

__all__ = [
    "ExitCode",
    "Journal",
    "Pipeline",
    "Refilled",
    "RunState",
    "StoppedEarly",
    "SupervisedStage",
    "TimeLimit",
    "as_batch",
    "is_unwritable",
    "record_rollouts",
    "refill",
    "rejection_sampling_stage",
    "rollout_advantages",
    "to_its_end",
    "warm_start_stage",
    "watch_numbers",
    "watch_voids",
]
