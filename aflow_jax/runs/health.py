"""Alarms: figures of the last steps which say that training is not healthy, and what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WINDOW = 10
"""Steps that an alarm looks at."""

HISTORY = 2 * WINDOW
"""Steps that `alarms` needs to know: its window, and a window before it in which the alarm may have been said."""


@dataclass(frozen=True)
class _Alarm:
    """On while the mean of `metric` over the window is above `limit`; `line` says so, with the mean as `value`."""

    metric: str
    limit: float
    line: str


_ALARMS = (
    _Alarm(
        "sampling/probability_difference/mean",
        0.01,
        "sampler and learner differ by {value:.3f} in a token's probability (limit 0.01), so that the gradient is not "
        "the sampled policy's: set dtype to float32, or to bfloat16 where it is float16, or quantization to null",
    ),
    _Alarm(
        "void_ratio",
        0.05,
        "{value:.0%} of the rollouts are void (limit 5%): see that the executor LLM, the judge and the sandbox work; "
        "lower max_concurrent_calls or raise call_timeout",
    ),
    _Alarm(
        "completions/clipped_ratio",
        0.05,
        "{value:.0%} of the answers are cut by the length limit (limit 5%): raise generation_config.max_new_tokens and "
        "response_max_length, or set mask_truncated to true",
    ),
    _Alarm(
        "frac_reward_zero_std",
        0.80,
        "in {value:.0%} of the groups all rewards are equal (limit 80%), and only tie-breaks are learnt from them: "
        "raise num_return_sequences_in_group or temperature_schedule.final, or train on problems neither too easy nor "
        "too hard",
    ),
    _Alarm(
        "update/skipped",
        0.20,
        "{value:.0%} of the updates were skipped (limit 20%), for a gradient that is not finite or no live rollout: "
        "set dtype to float32 or bfloat16, or lower learning_rate",
    ),
)


def alarms(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Return a line for each alarm that the newest step raises; `history` holds the metrics of steps, newest last.

    An alarm is on while its mean over the last WINDOW steps is above its limit. A step that is not made yet or lacks
    the figure counts 0, so that one odd step at the start of a run raises none. It speaks when it goes on, and again
    only after it was off for a whole window.
    """
    steps = "step" if len(history) == 1 else f"{min(len(history), WINDOW)} steps"
    return [
        f"health: over the last {steps} {alarm.line.format(value=_mean(alarm, history))}"
        for alarm in _ALARMS
        if _is_on(alarm, history) and not any(_is_on(alarm, history[:-back]) for back in range(1, WINDOW + 1))
    ]


def _is_on(alarm: _Alarm, history: Sequence[Mapping[str, float]]) -> bool:
    return sum(step.get(alarm.metric, 0.0) for step in history[-WINDOW:]) / WINDOW > alarm.limit


def _mean(alarm: _Alarm, history: Sequence[Mapping[str, float]]) -> float:
    """The mean over the steps that have the figure: what the user reads."""
    values = [step[alarm.metric] for step in history[-WINDOW:] if alarm.metric in step]
    return sum(values) / len(values)
