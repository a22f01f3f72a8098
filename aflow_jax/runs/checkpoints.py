"""Checkpoints of the training state: Orbax folders `step_N`, each with a manifest written after its commit.

Orbax commits a folder atomically, but restores a flipped byte or a changed shape without a word. The manifest holds
the SHA-256 of every file and the shape and dtype of every array; a folder is a checkpoint only if it agrees with one.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from aflow_jax.errors import UserError
from aflow_jax.runs.folder import write_atomically

MANIFEST = "manifest.json"
_NAME = re.compile(r"step_(\d+)")


class Checkpoints:
    """The checkpoints of one run, saved in the background; the newest `keep` stay."""

    def __init__(self, folder: Path, *, keep: int = 3) -> None:
        self.folder = folder.absolute()
        self.keep = keep
        self._checkpointer = ocp.StandardCheckpointer()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, state: Any, *, details: dict[str, Any] | None = None) -> Path:
        """Start saving a pytree of arrays as `step_N`; the arrays may be donated or changed as soon as this returns.

        `details` is plain data kept in the manifest. An error of the previous save is raised here.
        """
        self.wait()
        path = self.folder / f"step_{step}"
        self.folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            shutil.rmtree(path)
        description = {"step": step, "arrays": describe(state), "details": details or {}}
        # A copy of our own: on the CPU Orbax would read the very buffers that the next update is given to overwrite.
        self._checkpointer.save(path, jax.tree.map(jnp.copy, state))
        self._pending = self._worker.submit(self._finish, path, description)
        return path

    def wait(self) -> None:
        """Return when the save under way is complete; raise what went wrong with it."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Complete the save under way and let the threads go."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            self._checkpointer.close()

    def _finish(self, path: Path, description: dict[str, Any]) -> None:
        self._checkpointer.wait_until_finished()
        write_atomically(path / MANIFEST, json.dumps(description | {"files": _digests(path)}, indent=1))
        for old in saved_steps(self.folder)[: -self.keep]:
            shutil.rmtree(self.folder / f"step_{old}")


def saved_steps(folder: Path) -> list[int]:
    """Return the steps of the complete checkpoints in the folder, oldest first."""
    names = (_NAME.fullmatch(path.parent.name) for path in folder.glob(f"step_*/{MANIFEST}"))
    return sorted(int(name[1]) for name in names if name)


def newest(folder: Path, *, report: Callable[[str], None]) -> Path:
    """Return the newest checkpoint that agrees with its manifest; `report` hears of each newer one that does not.

    Raises:
        UserError: the folder has none.
    """
    paths = {int(name[1]): path for path in folder.glob("step_*") if (name := _NAME.fullmatch(path.name))}
    for _, path in sorted(paths.items(), reverse=True):
        fault = find_fault(path)
        if fault is None:
            return path
        report(f"checkpoint {path} is passed over: {fault}")
    raise UserError(
        f"--resume: {folder} holds no checkpoint: give the path of a checkpoints/step_N folder, or train anew"
    )


def find_fault(path: Path) -> str | None:
    """Return what is wrong with the checkpoint, or None where it is complete and unaltered."""
    if not (path / MANIFEST).is_file():
        return f"it has no {MANIFEST}, so the save did not complete"
    try:
        expected = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError):
        return f"its {MANIFEST} cannot be read"
    found = _digests(path)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            return f"{name} {'is missing' if name not in found else 'is not as it was saved'}"
    return None


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint after checking the folder against it.

    Raises:
        UserError: the path is not a checkpoint, or its files are not as they were saved.
    """
    if not path.is_dir() or not _NAME.fullmatch(path.name):
        raise UserError(f"--resume {path}: not a checkpoint: give a checkpoints/step_N folder, or `latest`")
    fault = find_fault(path)
    if fault is not None:
        raise UserError(f"--resume {path}: not a usable checkpoint: {fault}; give another step_N folder, or `latest`")
    return json.loads((path / MANIFEST).read_text(encoding="utf-8"))


def restore(path: Path, like: Any) -> Any:
    """Return the state saved at `path`, in the structure, shapes, dtypes and shardings of `like`.

    Raises:
        UserError: the path is not a checkpoint, or holds arrays of other shapes: names key path, expected, found.
    """
    saved, wanted = read_manifest(path)["arrays"], describe(like)
    for key in sorted(saved.keys() | wanted.keys()):
        if saved.get(key) != wanted.get(key):
            raise UserError(
                f"--resume {path}: {key} is {saved.get(key, 'missing')} but this configuration needs "
                f"{wanted.get(key, 'no such array')}: use the settings that the checkpoint was made with"
            )
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path.absolute(), target)


def describe(state: Any) -> dict[str, str]:
    """Return `dtype[shape]` of every array by its key path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _digests(path: Path) -> dict[str, str]:
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != MANIFEST)
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
