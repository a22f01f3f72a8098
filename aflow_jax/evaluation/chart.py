"""The chart of an evaluation: accuracy with intervals, by domain, and against what it costs, in one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_chart(record: dict[str, Any], path: Path) -> None:
    """Write the chart of a `Result.as_record`; the file asks for nothing from outside."""
    # Half a second to import: only where a chart is made.
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    titles = ("Accuracy", "Accuracy by domain", "Accuracy against executor tokens")
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles, horizontal_spacing=0.07)
    scored = {name: own for name, own in record["subjects"].items() if own["all"]["accuracy"] is not None}
    names = list(scored)
    bars = [_bar(scored[name]["all"]) for name in names]
    figure.add_trace(go.Bar(x=names, **_columns(bars), showlegend=False, marker_color="#4477aa"), 1, 1)
    colours = ("#4477aa", "#ee6677", "#228833")
    domains = sorted({domain for own in scored.values() for domain in own["domains"]})
    for domain, colour in zip(domains, colours, strict=False):
        bars = [_bar(scored[name]["domains"][domain]) for name in names]
        figure.add_trace(go.Bar(x=names, **_columns(bars), name=domain, marker_color=colour), 1, 2)
    points = [_bar(scored[name]["all"]) for name in names]
    tokens = [scored[name]["all"]["tokens"] for name in names]
    marks = {
        "mode": "markers+text",
        "text": names,
        "textposition": "top center",
        "marker": {"size": 10, "color": "#4477aa"},
    }
    figure.add_trace(go.Scatter(x=tokens, **_columns(points), **marks, showlegend=False), 1, 3)
    figure.update_yaxes(range=[0, 1.05], tickformat=".0%")
    figure.update_xaxes(title_text="tokens a problem", row=1, col=3)
    figure.update_layout(title=record["title"], barmode="group", template="plotly_white", height=520)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    figure.write_html(partial, include_plotlyjs=True, full_html=True)
    partial.replace(path)


def _bar(own: dict[str, Any]) -> tuple[float | None, float | None, float | None]:
    """Return the height of a bar, and how far its interval reaches up and down."""
    if own["accuracy"] is None:
        return None, None, None
    accuracy, interval = own["accuracy"], own["interval"]
    return accuracy, max(0.0, interval["high"] - accuracy), max(0.0, accuracy - interval["low"])


def _columns(bars: list[tuple[float | None, float | None, float | None]]) -> dict[str, Any]:
    heights, above, below = zip(*bars, strict=True) if bars else ((), (), ())
    error = {"type": "data", "array": above, "arrayminus": below, "color": "#555555"}
    return {"y": heights, "error_y": error}
