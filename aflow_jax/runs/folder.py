"""The folder of a run: who may write in it, and the resolved settings that it keeps."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO

from aflow_jax.errors import UserError

_LOCK = "run.lock"
_MARKS = ("metrics.jsonl", "checkpoints")


class RunFolder:
    """A folder claimed by one trainer at a time.

    Attributes:
        path: the folder; it holds config.yaml, training.log, metrics.jsonl, rollouts/, checkpoints/.
        was_used: whether a trainer had it before.
        checkpoints: where the checkpoints are.
    """

    def __init__(self, path: Path, *, resuming: bool, checkpoints: Path | None = None) -> None:
        """Claim the folder, making it where there is none; `checkpoints` are elsewhere where that is given.

        Raises:
            UserError: it holds another run, another trainer is writing in it, or it cannot be written.
        """
        self.path = path
        elsewhere = checkpoints not in (None, path / "checkpoints")
        self.was_used = elsewhere or (path / _LOCK).exists()
        if not resuming and holds_run(path):
            raise UserError(
                f"run_dir {path}: the folder already holds a run: go on with it by `--resume latest`, "
                "or choose another with run_dir=… or exp_name=…"
            )
        self.checkpoints = checkpoints or path / "checkpoints"
        self._lock = _claim(path)

    @property
    def log(self) -> Path:
        """The log in plain text."""
        return self.path / "training.log"

    @property
    def metrics(self) -> Path:
        """One JSON object a step."""
        return self.path / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        """One compressed JSONL file a step."""
        return self.path / "rollouts"

    def write_config(self, text: str) -> None:
        """Keep the resolved settings, which hold no secrets."""
        write_atomically(self.path / "config.yaml", text)

    def release(self) -> None:
        """Let another trainer have the folder."""
        self._lock.close()


def holds_run(path: Path) -> bool:
    """Return whether the folder has anything that a new run would overwrite."""
    return any((path / mark).exists() for mark in _MARKS)


def write_atomically(path: Path, text: str) -> None:
    """Write the file whole or not at all, whenever the process ends."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _claim(path: Path) -> TextIO:
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / _LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"run_dir {path}: cannot be written ({error.strerror}): choose another with run_dir=…"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UserError(f"run_dir {path}: another trainer is writing in it: stop that one or set run_dir=…") from None
    return lock
