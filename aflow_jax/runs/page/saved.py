"""The page of a run as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aflow_jax.errors import UserError
from aflow_jax.runs.page.contents import RunContents
from aflow_jax.runs.page.document import document

MOST_ROLLOUT_BYTES = 128 * 2**20
"""Compressed rollouts that a page carries at most: browsers open 200 MB of page, and not much more."""


@dataclass(frozen=True)
class SavedPage:
    """A page that was written.

    Attributes:
        path: where.
        faults: a line for each file of the run that could not be read.
        left_out: files of rollouts that are listed in the page but cannot be opened in it, for their size.
    """

    path: Path
    faults: tuple[str, ...]
    left_out: int


def save_page(folder: Path, out: Path | None = None, *, most_bytes: int = MOST_ROLLOUT_BYTES) -> SavedPage:
    """Write the page of a run, `report.html` in its folder where `out` says nothing else; whole or not at all.

    Raises:
        UserError: no run is there, plotly is not installed, or the file cannot be written.
    """
    contents = RunContents(folder)
    payload = contents.payload()
    listed = {file["name"] for file in payload["rollouts"]["files"]}
    files = [path for path in contents.rollout_files() if path.name in listed]
    carried = _carried(files, most_bytes)
    path = out or folder / "report.html"
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as page:
            page.writelines(document(payload, carried))
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}): give another place with --out FILE") from None
    return SavedPage(path, tuple(contents.faults), len(files) - len(carried))


def _carried(files: Sequence[Path], most_bytes: int) -> list[Path]:
    """Return the files that a page of this size can carry: all, or else every second, third, … and the evaluations."""
    for stride in range(1, len(files) + 1):
        steps = [path for path in files if path.name.startswith("step")]
        kept = {*steps[::-1][::stride], *(path for path in files if path.name.startswith("eval"))}
        if sum(path.stat().st_size for path in kept) <= most_bytes:
            return [path for path in files if path in kept]
    return []
