"""The parts of the training loop: the loop itself, in reading order, is `aflow_jax.train`."""

from aflow_jax.training.credit import as_batch, rollout_advantages
from aflow_jax.training.journal import Journal
from aflow_jax.training.records import record_rollouts
from aflow_jax.training.state import RunState
from aflow_jax.training.stopping import StoppedEarly, watch_voids
from aflow_jax.training.warm_start import warm_start

__all__ = [
    "Journal",
    "RunState",
    "StoppedEarly",
    "as_batch",
    "record_rollouts",
    "rollout_advantages",
    "warm_start",
    "watch_voids",
]
