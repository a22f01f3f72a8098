"""Opening a checkpoint: checked against its manifest once, then restored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from aflow_jax.errors import UserError
from aflow_jax.runs.manifest import MANIFEST, Place, describe, digests, places, saved_places


@dataclass(frozen=True)
class Checkpoint:
    """A folder that agreed with its manifest when it was opened.

    Attributes:
        path: the folder.
        place: how far training was.
        arrays: `dtype[shape]` of every array by its key path.
        details: the plain data that it was saved with.
    """

    path: Path
    place: Place
    arrays: dict[str, str]
    details: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read the manifest and check the folder against it.

        Raises:
            UserError: the path is not a checkpoint, or its files are not as they were saved.
        """
        fault = find_fault(path) if path.is_dir() else "there is no such folder"
        if fault is not None:
            raise UserError(f"{path} is not a usable checkpoint: {fault}: give a checkpoints/step_N folder")
        return cls._read(path)

    @classmethod
    def _read(cls, path: Path) -> Checkpoint:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return cls(path, Place(manifest["stage"], manifest["step"]), manifest["arrays"], manifest["details"])

    @classmethod
    def newest(cls, folder: Path, *, report: Callable[[str], None]) -> Checkpoint | None:
        """Return the newest checkpoint in the folder that is as it was saved; None where no save ever completed.

        `report` hears of each newer folder that is passed over.

        Raises:
            UserError: checkpoints were saved, and none is as it was.
        """
        for place in reversed(places(folder)):
            fault = find_fault(folder / str(place))
            if fault is None:
                return cls._read(folder / str(place))
            report(f"checkpoint {folder / str(place)} is passed over: {fault}")
        if saved_places(folder):
            raise UserError(f"--resume: no checkpoint in {folder} is as it was saved: restore one from a backup")
        return None

    def read_file(self, name: str) -> str | None:
        """Return the text of one of the files that it was saved with, or None where there is none."""
        file = self.path / name
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def restore(self, like: Any) -> Any:
        """Return the state in the structure, shapes, dtypes and shardings of `like`, whatever devices it was saved on.

        Raises:
            UserError: it holds arrays of other shapes; names key path, expected, found.
        """
        wanted = describe(like)
        for key in sorted(self.arrays.keys() | wanted.keys()):
            if _shape(self.arrays.get(key)) != _shape(wanted.get(key)):
                raise UserError(
                    f"--resume {self.path}: {key} is {self.arrays.get(key, 'missing')} but this configuration needs "
                    f"{wanted.get(key, 'no such array')}: use the settings that the checkpoint was made with"
                )
        # Each in the dtype that it was saved in, so that no cast goes unseen; then in the dtype asked for.
        target = jax.tree_util.tree_map_with_path(self._saved_struct, like)
        with ocp.StandardCheckpointer() as checkpointer:
            saved = checkpointer.restore(self.path.absolute(), target)
        return jax.tree.map(lambda array, wanted: jnp.asarray(array, wanted.dtype), saved, like)

    def _saved_struct(self, path: tuple, leaf: jax.Array) -> jax.ShapeDtypeStruct:
        dtype = self.arrays[jax.tree_util.keystr(path)].partition("[")[0]
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=getattr(leaf, "sharding", None))


def find_fault(path: Path) -> str | None:
    """Return what is wrong with the checkpoint, or None where it is complete and unaltered."""
    if not (path / MANIFEST).is_file():
        return f"it has no {MANIFEST}, so the save did not complete"
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        expected, place = manifest["files"], Place(manifest["stage"], manifest["step"])
    except (ValueError, KeyError, TypeError):
        return f"its {MANIFEST} cannot be read"
    if place != Place.of(path):
        return f"its {MANIFEST} is of {place}"
    found = digests(path)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            return f"{name} {'is missing' if name not in found else 'is not as it was saved'}"
    return None


def _shape(description: str | None) -> str | None:
    return None if description is None else description.partition("[")[2]
