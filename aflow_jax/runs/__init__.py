"""What lasts of a run: its folder, checkpoints, metrics, rollouts, and what its user sees."""

from aflow_jax.runs.checkpoints import Checkpoints, newest, read_manifest, restore, saved_steps
from aflow_jax.runs.console import RunConsole, figures
from aflow_jax.runs.folder import RunFolder
from aflow_jax.runs.health import HISTORY, alarms
from aflow_jax.runs.metrics import MetricsFile, WandbLog, peak_memory_gb
from aflow_jax.runs.rollouts import read_rollouts, write_rollouts

__all__ = [
    "HISTORY",
    "Checkpoints",
    "MetricsFile",
    "RunConsole",
    "RunFolder",
    "WandbLog",
    "alarms",
    "figures",
    "newest",
    "peak_memory_gb",
    "read_manifest",
    "read_rollouts",
    "restore",
    "saved_steps",
    "write_rollouts",
]
