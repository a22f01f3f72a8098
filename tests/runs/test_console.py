"""What the user sees while training: rows that move in a terminal, plain lines elsewhere."""

import io

import pytest
from rich.console import Console

from aflow_jax.runs import RunConsole, duration, figures

STEP = {
    "loss": 0.001,
    "reward": 0.632,
    "accuracy": 0.62,
    "accuracy/code": 0.45,
    "accuracy/math": 0.7,
    "accuracy/gsm8k": 0.7,
    "accuracy/qa": 0.8,
    "workflow/parse_rate": 0.79,
    "kl": 0.0123,
    "executor/usd": 0.25,
    "completions/mean_length": 34.0,
    "time/sample": 0.6,
    "time/execute": 0.7,
    "time/update": 0.7,
    "time/wait": 0.1,
    "step_time": 1.6,
}


def test_a_step_is_one_line():
    assert figures(STEP) == (
        "reward 0.632 · accuracy 62% (math 70%, code 45%, qa 80%) · parsed 79% · KL 0.0123 · $0.2500 · "
        "1.6 s/step (sample 0.6, execute 0.7, update 0.7, wait 0.1)"
    )
    assert figures({"loss": 0.1712}) == "loss 0.171"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (75, "1:15"), (3750, "1:02:30")])
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text


def screen(tmp_path, *, terminal: bool) -> str:
    """Return what three steps of ten leave on the screen."""
    file = io.StringIO()
    console = RunConsole(
        tmp_path / "log", console=Console(file=file, force_terminal=terminal, width=120, color_system=None)
    )
    with console.progress("training", 10, completed=2) as progress:
        for _ in range(3):
            progress.advance(STEP)
    console.close()
    return file.getvalue()


def test_a_terminal_shows_how_far_it_is_how_well_it_goes_and_what_it_costs(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    shown = screen(tmp_path, terminal=True)
    for text in (
        "5/10",
        "left",
        "62% (math 70%, code 45%, qa 80%)",
        "79%",
        "0.0123 nats a token",
        "34 tokens",
        "$0.2500 this step, $0.75 so far",
        "1.6 s (sample 0.6, execute 0.7, update 0.7, wait 0.1)",
    ):
        assert text in shown


def test_elsewhere_nothing_moves(tmp_path):
    assert screen(tmp_path, terminal=False) == ""
