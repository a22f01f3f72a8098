"""What lasts of a run: its folder, checkpoints, metrics, rollouts, and what its user sees."""

from aflow_jax.runs.checkpoints import Checkpoints, SaveFailed
from aflow_jax.runs.console import RunConsole
from aflow_jax.runs.folder import RunFolder
from aflow_jax.runs.health import HISTORY, alarms
from aflow_jax.runs.manifest import Place, saved_steps
from aflow_jax.runs.metrics import MetricsFile, TensorBoardLog, WandbLog, peak_memory_gb
from aflow_jax.runs.restoring import Checkpoint
from aflow_jax.runs.rollouts import read_rollouts, write_rollouts
from aflow_jax.runs.shown import duration, figures

__all__ = [
    "HISTORY",
    "Checkpoint",
    "Checkpoints",
    "MetricsFile",
    "Place",
    "RunConsole",
    "RunFolder",
    "SaveFailed",
    "TensorBoardLog",
    "WandbLog",
    "alarms",
    "duration",
    "figures",
    "peak_memory_gb",
    "read_rollouts",
    "saved_steps",
    "write_rollouts",
]
