"""The figures of a step that a user follows: as one line, and as the rows under the live bar."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

DOMAINS = ("math", "code", "qa")
_SPLIT = ("sample", "execute", "update", "wait")
_LINE = {
    "loss": "loss {:.3f}",
    "reward": "reward {:.3f}",
    "accuracy": "accuracy {:.0%}",
    "workflow/parse_rate": "parsed {:.0%}",
    "kl": "KL {:.3g}",
    "executor/usd": "${:.4f}",
    "step_time": "{:.1f} s/step",
}


def figures(metrics: Mapping[str, float]) -> str:
    """Return the figures in one line; accuracy and time with what they are made of."""
    # The loss of GRPO is near 0 whatever is learnt: it says something only where nothing else is there.
    names = [name for name in _LINE if name in metrics and (name != "loss" or "reward" not in metrics)]
    details = {"accuracy": _by_domain(metrics), "step_time": _split(metrics)}
    return " · ".join(_LINE[name].format(metrics[name]) + _bracketed(details.get(name)) for name in names)


def rows(metrics: Mapping[str, float], spent_usd: float) -> Table:
    """Return the rows under the bar; `spent_usd` is what the executor cost since the command began."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=10)
    table.add_column()
    policy = {
        "reward": _of(metrics, "reward", "{:.3f}"),
        "accuracy": _of(metrics, "accuracy", "{:.0%}") + _bracketed(_by_domain(metrics)),
        "parsed": _of(metrics, "workflow/parse_rate", "{:.0%}"),
        "KL": _of(metrics, "kl", "{:.3g} nats a token"),
        "length": _of(metrics, "completions/mean_length", "{:.0f} tokens"),
        "executor": _of(metrics, "executor/usd", f"${{:.4f}} this step, ${spent_usd:.2f} so far"),
        "step": _of(metrics, "step_time", "{:.1f} s") + _bracketed(_split(metrics)),
    }
    for name, value in policy.items():
        if value:
            table.add_row(name, value)
    return table


def duration(seconds: float) -> str:
    """Return seconds as hours, minutes and seconds, such as 1:02:30."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _of(metrics: Mapping[str, float], name: str, template: str) -> str:
    return template.format(metrics[name]) if name in metrics else ""


def _by_domain(metrics: Mapping[str, float]) -> str:
    shares = {domain: metrics.get(f"accuracy/{domain}") for domain in DOMAINS}
    return ", ".join(f"{domain} {share:.0%}" for domain, share in shares.items() if share is not None)


def _split(metrics: Mapping[str, float]) -> str:
    parts = {name: metrics.get(f"time/{name}") for name in _SPLIT}
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items() if seconds is not None)


def _bracketed(details: str | None) -> str:
    return f" ({details})" if details else ""
