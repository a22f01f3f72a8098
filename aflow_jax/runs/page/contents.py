"""What a run folder holds, read for the page: again and again while the run goes on, each file only when it changed."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import yaml

from aflow_jax.errors import UserError
from aflow_jax.runs.page.index import Row, as_columns, row_of
from aflow_jax.runs.rollouts import read_rollouts

ROLLOUT_FILE = re.compile(r"(step|eval)_(\d+)\.jsonl\.gz")
_STAGES = {"step": "training", "eval": "evaluation"}


class RunContents:
    """A run folder, finished or under way.

    Attributes:
        folder: of the run.
        faults: a line for each file that cannot be read; the page goes without it.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder.

        Raises:
            UserError: there is no such folder, or no run in it.
        """
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder: give the folder of a run, such as runs/quickstart")
        if not (folder / "config.yaml").exists() and not (folder / "metrics.jsonl").exists():
            raise UserError(
                f"{folder}: holds no run (no config.yaml, no metrics.jsonl): give the folder of one, such as "
                "runs/quickstart"
            )
        self.folder = folder
        self.faults: list[str] = []
        self._rows: dict[tuple[str, int, int], list[Row]] = {}

    def version(self) -> str:
        """Return a text that changes whenever a file that the page shows does."""
        paths = [self.folder / "metrics.jsonl", self.folder / "config.yaml", *self.rollout_files(), *self._results()]
        return ";".join(f"{path.name}:{stat.st_mtime_ns}:{stat.st_size}" for path in paths if (stat := _stat(path)))

    def rollout_files(self) -> list[Path]:
        """Return the files of rollouts, by step; an evaluation comes after the step that it follows."""
        found = [path for path in (self.folder / "rollouts").glob("*.jsonl.gz") if ROLLOUT_FILE.fullmatch(path.name)]
        return sorted(found, key=lambda path: (_step(path), path.name.startswith("eval")))

    def payload(self) -> dict[str, Any]:
        """Return all that the page shows, but for what is inside each rollout, as plain data for JSON."""
        self.faults = []
        settings, text = self._settings()
        files, rows = [], []
        for path in self.rollout_files():
            own = self._rows_of(path)
            if own:
                stage, step = _STAGES[path.name.split("_")[0]], _step(path)
                files.append({"name": path.name, "stage": stage, "step": step, "count": len(own)})
                rows.append(own)
        return {
            "run": {"name": settings.get("exp_name") or self.folder.name, "folder": str(self.folder)},
            "settings": settings,
            "config": text,
            "metrics": self._metrics(),
            "rollouts": {"files": files, **as_columns(rows)},
            "evaluations": self._evaluations(),
            "faults": self.faults,
        }

    def _settings(self) -> tuple[dict[str, Any], str]:
        try:
            text = (self.folder / "config.yaml").read_text(encoding="utf-8")
            settings = yaml.safe_load(text)
        except FileNotFoundError:
            return {}, ""
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            self._fault("config.yaml", error)
            return {}, ""
        return (settings if isinstance(settings, dict) else {}), text

    def _metrics(self) -> dict[str, list[Any]]:
        """Return a column for each name, `step` among them; None where a step has no such figure."""
        rows = []
        try:
            lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                if number < len(lines):  # the last line may be under way
                    self._fault(f"metrics.jsonl, line {number}", error)
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [_rounded(row.get(name)) for row in rows] for name in names}

    def _rows_of(self, path: Path) -> list[Row]:
        stat = path.stat()
        key = (path.name, stat.st_mtime_ns, stat.st_size)
        if key not in self._rows:
            try:
                self._rows[key] = [row_of(record) for record in read_rollouts(path)]
            except (OSError, EOFError, ValueError, KeyError, TypeError, gzip.BadGzipFile) as error:
                self._fault(f"rollouts/{path.name}", error)
                return []
        return self._rows[key]

    def _results(self) -> list[Path]:
        return sorted((self.folder / "evaluations").glob("*.json"))

    def _evaluations(self) -> list[dict[str, Any]]:
        """Return what `aflow_jax.evaluate` wrote into the folder."""
        results = []
        for path in self._results():
            try:
                results.append({"name": path.stem, **json.loads(path.read_text(encoding="utf-8"))})
            except (OSError, ValueError, TypeError) as error:
                self._fault(f"evaluations/{path.name}", error)
        return results

    def _fault(self, name: str, error: Exception) -> None:
        self.faults.append(f"{name} cannot be read and is left out: {' '.join(str(error).split())}")


def _step(path: Path) -> int:
    return int(ROLLOUT_FILE.fullmatch(path.name)[2])


def _stat(path: Path) -> Any:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _rounded(value: Any) -> Any:
    """Six digits are more than a pixel shows, and a third of the page."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
