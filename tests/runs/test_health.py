"""Alarms: what raises them, that they speak once, and that what they say to change can be changed."""

import re

import pytest

from aflow_jax.config import Config
from aflow_jax.runs.health import HISTORY, WINDOW, alarms

LIMITS = {
    "sampling/probability_difference/mean": 0.01,
    "void_ratio": 0.05,
    "completions/clipped_ratio": 0.05,
    "frac_reward_zero_std": 0.80,
    "update/skipped": 0.20,
}


def said(steps):
    """Every line of a run whose steps have these metrics, with the number of its step."""
    lines = [(number, alarms(steps[max(0, number - HISTORY) : number])) for number in range(1, len(steps) + 1)]
    return [(number, line) for number, new in lines for line in new]


@pytest.mark.parametrize("metric", LIMITS)
def test_a_figure_that_stays_above_its_limit_is_said_once(metric):
    [(step, line)] = said([{metric: 1.1 * LIMITS[metric]}] * 60)
    assert step == WINDOW
    assert line.startswith("health: over the last 10 steps ")
    assert "\n" not in line
    value = 1.1 * LIMITS[metric]
    assert (f"{value:.3f}" if metric.startswith("sampling") else f"{value:.0%}") in line


@pytest.mark.parametrize("metric", LIMITS)
def test_a_figure_at_its_limit_is_healthy(metric):
    assert said([{metric: LIMITS[metric] - 1e-9}] * 40) == []


@pytest.mark.parametrize("metric", LIMITS)
def test_every_line_names_settings_that_exist(metric):
    [(_, line)] = said([{metric: 2 * LIMITS[metric]}] * WINDOW)
    keys = re.findall(r"[a-z]+(?:[_.][a-z]+)+|dtype|quantization", line)
    assert keys
    for key in keys:
        section = Config()
        for name in key.split("."):
            section = getattr(section, name)


def test_the_worse_the_sooner_and_one_odd_step_is_no_alarm():
    healthy, odd = {"void_ratio": 0.0}, {"void_ratio": 0.3}
    assert said([odd] + [healthy] * 30) == []
    assert [step for step, _ in said([healthy] * 5 + [odd] * 20)] == [7]
    assert [step for step, _ in said([{"void_ratio": 1.0}] * 20)] == [1]


def test_an_alarm_speaks_again_only_after_a_window_without_it():
    healthy, ill = [{"void_ratio": 0.0}], [{"void_ratio": 0.2}]
    wavering = said((ill * 4 + healthy * 8) * 5)
    assert [step for step, _ in wavering] == [3]
    again = said(ill * 10 + healthy * 40 + ill * 10)
    assert [step for step, _ in again] == [3, 53]


def test_what_is_not_measured_raises_nothing_and_the_mean_is_of_what_is():
    assert said([{"reward": 0.5}] * 30) == []
    [(_, line)] = said([{"void_ratio": 0.5}, {}] * 3)
    assert "50% of the rollouts are void" in line
