"""What the user sees while training: a live progress line in a terminal, plain lines elsewhere, training.log always."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from aflow_jax.runs.shown import figures, rows


class _LogFile(logging.FileHandler):
    """A log whose write errors are raised rather than shown: a full disk stops the run with one line."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise


class RunConsole:
    """The run's voice: `say` for lines, `progress` for a live bar over a stage."""

    def __init__(self, log: Path, *, console: Console | None = None, quiet: bool = False) -> None:
        """Write to the log and the screen; `console` is stderr where it is None. A `quiet` voice writes to the log."""
        self.console = console or Console(stderr=True, highlight=False, quiet=quiet)
        self._file = _LogFile(log, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        screen: logging.Handler
        if self.is_live:
            screen = RichHandler(console=self.console, show_path=False, show_level=False, log_time_format="%H:%M:%S")
        else:
            screen = logging.StreamHandler()
            screen.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        self._logger = logging.getLogger("aflow_jax")
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.handlers = [self._file] if quiet else [self._file, screen]

    @property
    def is_live(self) -> bool:
        """Whether the screen is a terminal that can be drawn over."""
        return self.console.is_terminal and not self.console.is_dumb_terminal and not self.console.quiet

    def say(self, message: str) -> None:
        """Write one line to the screen and to training.log."""
        self._logger.info("%s", message)

    def progress(self, stage: str, total: int, *, completed: int = 0) -> StageProgress:
        """Return a context manager that shows how far a stage is."""
        return StageProgress(self, stage, total, completed)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """Show a small table on the screen, and its rows as lines in training.log."""
        table = Table(title=title, title_justify="left", show_edge=False)
        for position, column in enumerate(columns):
            table.add_column(column, justify="left" if position == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)
        for row in rows:
            line = f"{title}: " + ", ".join(f"{column} {cell}" for column, cell in zip(columns, row, strict=True))
            self._file.handle(logging.LogRecord("aflow_jax", logging.INFO, "", 0, line, None, None))

    def close(self) -> None:
        """Let the log file go."""
        self._logger.handlers = []
        self._file.close()


class StageProgress:
    """A stage under way: a live bar with its figures; where there is no terminal, the loop's log lines speak."""

    def __init__(self, console: RunConsole, stage: str, total: int, completed: int) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console.console,
        )
        self._task = self._bar.add_task(stage, total=total, completed=completed, figures="")
        self._live = Live(self._bar, console=console.console, refresh_per_second=4) if console.is_live else None
        self._spent_usd = 0.0

    def __enter__(self) -> StageProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def advance(self, metrics: dict[str, float] | None = None) -> None:
        """Count one more, and show the figures of it: below the bar those of a step, else beside it."""
        metrics = metrics or {}
        self._spent_usd += metrics.get("executor/usd") or 0.0
        is_step = "step_time" in metrics
        self._bar.update(self._task, advance=1, figures="" if is_step else figures(metrics))
        if self._live and is_step:
            self._live.update(Group(self._bar, rows(metrics, self._spent_usd)))
