"""Every rollout of a run, one compressed JSONL file a step."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_rollouts(folder: Path, name: str, rollouts: Iterable[dict[str, Any]]) -> Path:
    """Write `<folder>/<name>.jsonl.gz`, whole or not at all, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl.gz"
    partial = path.with_name(path.name + ".partial")
    with gzip.open(partial, "wt", encoding="utf-8", compresslevel=4) as file:
        for rollout in rollouts:
            file.write(json.dumps(rollout, ensure_ascii=False) + "\n")
    partial.replace(path)
    return path


def read_rollouts(path: Path) -> list[dict[str, Any]]:
    """Return the rollouts of one file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
