"""What a checkpoint is: a folder named after a place in training, and a manifest that says what it must hold.

Orbax commits a folder atomically, but restores a flipped byte or a changed shape without a word. The manifest holds
the SHA-256 of every file and the shape and dtype of every array; a folder is a checkpoint only if it agrees with one.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import total_ordering
from pathlib import Path
from typing import Any

import jax

MANIFEST = "manifest.json"
STAGES = ("warm_start", "rejection_sampling", "step")
"""The stages of training in their order; those of GRPO are just steps."""

_NAME = re.compile(rf"({'|'.join(STAGES)})_(\d+)")


@total_ordering
@dataclass(frozen=True)
class Place:
    """How far training is: a stage, and the steps made in it. Its text is the name of a checkpoint's folder."""

    stage: str
    step: int

    @classmethod
    def of(cls, path: Path) -> Place | None:
        """Return what the folder is named after, or None."""
        name = _NAME.fullmatch(path.name)
        return cls(name[1], int(name[2])) if name else None

    def __str__(self) -> str:
        return f"{self.stage}_{self.step}"

    @property
    def words(self) -> str:
        """The place as a user reads it, such as `step 12` or `warm start 40`."""
        return f"{self.stage.replace('_', ' ')} {self.step}"

    def __lt__(self, other: Place) -> bool:
        return (STAGES.index(self.stage), self.step) < (STAGES.index(other.stage), other.step)


def places(folder: Path) -> list[Place]:
    """Return what folders are named after places, oldest first, complete or not."""
    return sorted(place for path in folder.glob("*_*") if (place := Place.of(path)) is not None)


def saved_places(folder: Path) -> list[Place]:
    """Return those of `places` that have a manifest."""
    return [place for place in places(folder) if (folder / str(place) / MANIFEST).is_file()]


def saved_steps(folder: Path) -> list[int]:
    """Return the GRPO steps of the checkpoints in the folder, oldest first."""
    return [place.step for place in saved_places(folder) if place.stage == "step"]


def describe(state: Any) -> dict[str, str]:
    """Return `dtype[shape]` of every array by its key path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a checkpoint, the manifest aside, by its name in the folder."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != MANIFEST)
    return {str(file.relative_to(path)): _digest(file) for file in files}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
