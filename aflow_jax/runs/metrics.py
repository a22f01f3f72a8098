"""metrics.jsonl, and TensorBoard and Weights & Biases beside it."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import sys
from pathlib import Path
from typing import Any

import jax

from aflow_jax.runs.folder import write_atomically

logger = logging.getLogger(__name__)


class MetricsFile:
    """One JSON object a step, in order of steps."""

    def __init__(self, path: Path, *, first_step: int) -> None:
        """Open the file for `first_step` and on; what an interrupted run wrote of those steps is dropped."""
        self._path = path
        if path.exists():
            kept = [
                line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if _step(line) < first_step
            ]
            write_atomically(path, "".join(kept))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append the metrics of a step; a number that is not finite is written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | finite) + "\n")


def _step(line: str) -> float:
    """Return the step of a line; infinity for a line that was cut while it was written."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf


def peak_memory_gb() -> float:
    """Return the peak of memory in 1e9 bytes: the device's, or the process's where the device is the CPU."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics:
        return statistics["peak_bytes_in_use"] / 1e9
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class TensorBoardLog:
    """Event files for TensorBoard, each metric a scalar under its own name."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        """Open the folder for `first_step` and on; TensorBoard drops what an interrupted run wrote of those steps."""
        from tensorboardX import SummaryWriter  # protobuf takes its time: only where it is used

        self._writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Write the metrics of a step, so that a reader sees them at once."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Complete the file."""
        self._writer.close()


class WandbLog:
    """A Weights & Biases run: online with WANDB_API_KEY in the environment, else offline; it never stops training."""

    def __init__(self, *, project: str, name: str, folder: Path, config: dict[str, Any]) -> None:
        import wandb  # half a second to import: only where it is used

        self._error = wandb.errors.Error
        mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        if mode == "offline":
            logger.info(
                "W&B: no WANDB_API_KEY in the environment: recorded offline in %s/wandb (`wandb sync` uploads it)",
                folder,
            )
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                dir=str(folder),
                config=config,
                mode=os.environ.get("WANDB_MODE", mode),
                settings=wandb.Settings(console="off", silent=True, init_timeout=60),
            )
        except (self._error, OSError, ValueError) as error:
            self._stop(error)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics of a step."""
        if self._run is None:
            return
        try:
            self._run.log(metrics, step=step)
        except (self._error, OSError, ValueError) as error:
            self._stop(error)

    def close(self) -> None:
        """Finish the run."""
        if self._run is None:
            return
        try:
            self._run.finish()
        except (self._error, OSError, ValueError) as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        self._run = None
        logger.warning("W&B is off from here on (metrics.jsonl goes on): %s", " ".join(str(error).split()))
