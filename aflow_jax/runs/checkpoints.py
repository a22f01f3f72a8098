"""Saving the training state in the background: Orbax folders, each with a manifest written after its commit.

    save ──copy──► worker: Orbax writes and commits ──► other files ──► manifest ──► older folders go

A folder is a checkpoint only once its manifest is there and agrees with it (`aflow_jax.runs.restoring`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from aflow_jax.runs.folder import write_atomically
from aflow_jax.runs.manifest import MANIFEST, Place, describe, digests, saved_places


class SaveFailed(Exception):
    """A checkpoint could not be written; those before it are as they were."""


class Checkpoints:
    """The checkpoints of one run. The newest `keep` stay, and the best besides."""

    def __init__(self, folder: Path, *, keep: int = 3, first: bool = True) -> None:
        """Take the folder, which need not exist, and clear it of saves that never committed.

        Of several processes that save together, each its own part of the arrays, one is the `first`: what is not of
        Orbax it does alone.
        """
        self.folder = folder.absolute()
        self.keep = keep
        self._first = first
        for torn in self.folder.glob("*.orbax-checkpoint-tmp*") if first else ():
            shutil.rmtree(torn)
        self._checkpointer = ocp.StandardCheckpointer()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(
        self,
        place: Place,
        state: Any,
        *,
        details: dict[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
        best: Place | None = None,
    ) -> None:
        """Start saving a pytree of arrays; they may be donated or changed as soon as this returns.

        Args:
            place: what the folder is named after.
            state: the arrays.
            details: plain data, kept in the manifest.
            files: further files of the folder, text by name.
            best: a checkpoint to keep, however old.

        Raises:
            SaveFailed: the previous save.
        """
        self.wait()
        # A copy of our own: on the CPU Orbax would read the very buffers that the next update is given to overwrite.
        copy = jax.tree.map(jnp.copy, state)
        rest = (place, describe(state), details or {}, files or {}, best)
        if jax.process_count() == 1:
            self._pending = self._worker.submit(self._write, copy, *rest)
        else:
            # Here Orbax has the processes wait for each other in a device program, and those start in one order.
            self._begin(place, copy)
            self._pending = self._worker.submit(self._finish, *rest)

    def set_aside_after(self, place: Place, *, report: Callable[[str], None]) -> None:
        """Rename what was saved after a place: a run that goes on from there is not to be mixed with it."""
        for later in (found for found in saved_places(self.folder) if found > place) if self._first else ():
            aside = self.folder / f"before_resuming_at_{place}.{later}"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(later)).rename(aside)
            report(f"checkpoint {later} is set aside as {aside.name}")

    def check(self) -> None:
        """Raise SaveFailed if the save under way has failed already; never wait."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when the save under way is complete; raise SaveFailed if it is not."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            error = pending.exception()
            if error is not None:
                reason = " ".join(str(error).split())
                raise SaveFailed(f"the checkpoint cannot be written in {self.folder}: {reason[:300]}") from error

    def close(self) -> None:
        """Complete the save under way and let the threads go."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            self._checkpointer.close()

    def _write(self, state: Any, place: Place, *rest: Any) -> None:
        self._begin(place, state)
        self._finish(place, *rest)

    def _begin(self, place: Place, state: Any) -> None:
        path = self.folder / str(place)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._first and path.exists():
            shutil.rmtree(path)
        self._checkpointer.save(path, state)

    def _finish(
        self,
        place: Place,
        arrays: dict[str, str],
        details: dict[str, Any],
        files: Mapping[str, str],
        best: Place | None,
    ) -> None:
        path = self.folder / str(place)
        self._checkpointer.wait_until_finished()
        if not self._first:
            return
        for name, text in files.items():
            write_atomically(path / name, text)
        manifest = {"stage": place.stage, "step": place.step, "arrays": arrays, "details": details}
        write_atomically(path / MANIFEST, json.dumps(manifest | {"files": digests(path)}, indent=1))
        for old in saved_places(self.folder)[: -self.keep]:
            if old != best:
                shutil.rmtree(self.folder / str(old))
