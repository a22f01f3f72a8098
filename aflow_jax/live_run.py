"""A workflow's run as it goes on: a table that grows in a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from aflow_jax.workflow import OperatorCall

_SHOWN_CHARACTERS = 100
# All control characters but tab and line feed: a model's text must not drive the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def readable(text: str) -> str:
    """Return a model's text with every control character, escape sequences' too, shown as `�`."""
    return _CONTROL.sub("�", text)


class LiveRun:
    """Shows each operator as it starts and ends; a `Watcher` that may be called from another thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8) if _can_redraw(console) else None
        self._lock = threading.Lock()
        self._running: dict[tuple[int, ...], str] = {}
        self._ended: dict[tuple[int, ...], OperatorCall] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        """Show a line above the operators."""
        self._console.print(Text(readable(line)), soft_wrap=True)

    def started(self, operator: str, place: tuple[int, ...]) -> None:
        """An operator starts."""
        with self._lock:
            self._running[place] = operator
            if self._live:
                self._live.update(self._table())
            else:
                self.say(f"{_indent(place)}{operator} starts")

    def ended(self, call: OperatorCall) -> None:
        """An operator has ended."""
        with self._lock:
            self._running.pop(call.place, None)
            self._ended[call.place] = call
            if self._live:
                self._live.update(self._table())
            else:
                self.say(f"{_indent(call.place)}{call.operator}: {_figures(call)}: {_said(call)}")

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for place in sorted(self._running.keys() | self._ended.keys()):
            if place in self._running:
                table.add_row(Text(f"{_indent(place)}{self._running[place]}"), Spinner("dots"), Text("…"))
            else:
                call = self._ended[place]
                style = "red" if call.error else ""
                table.add_row(
                    Text(f"{_indent(place)}{call.operator}"), Text(_figures(call), "dim"), Text(_said(call), style)
                )
        return table


def _can_redraw(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def _indent(place: tuple[int, ...]) -> str:
    # A way goes by two steps into each bracket, but by one to a branch's check.
    return "  " * (len(place) // 2)


def _figures(call: OperatorCall) -> str:
    return f"{call.latency:.1f} s, {call.calls} calls, {call.prompt_tokens + call.completion_tokens} tokens"


def _said(call: OperatorCall) -> str:
    """Return an operator's error or its outputs in one short line."""
    what = call.error or "; ".join(f"{name}: {value}" for name, value in call.outputs.items() if value)
    line = readable(" ".join(what.split()))
    return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…"
