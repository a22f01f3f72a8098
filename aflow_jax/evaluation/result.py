"""An evaluation as plain data: what was run, each subject's figures, the comparisons, and the tables that show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aflow_jax.evaluation.contamination import Contamination
from aflow_jax.evaluation.names import POLICY
from aflow_jax.evaluation.scores import Comparison, Score, Subject, compare, pass_rates, score, score_by
from aflow_jax.evaluation.statistics import CONFIDENCE

Table = dict[str, Any]
"""`title`, `note`, `columns`, `rows` of texts: what a terminal and the page of a run show."""


@dataclass(frozen=True)
class Result:
    """The figures of an evaluation; everything follows from the rollouts and the seed.

    Attributes:
        about: what was evaluated on what, plain data.
        seed: of the resampling.
        subjects: the policy first, where there is one.
        contamination: what was also trained on.
    """

    about: dict[str, Any]
    seed: int
    subjects: Sequence[Subject]
    contamination: Contamination

    def as_record(self) -> dict[str, Any]:
        """Return everything as plain data for JSON."""
        subjects = {subject.name: self._figures(subject) for subject in self.subjects}
        comparisons = self._comparisons()
        return {
            **self.about,
            "confidence": CONFIDENCE,
            "contamination": self.contamination.as_record(),
            "subjects": {name: _plain(figures) for name, figures in subjects.items()},
            "comparisons": {name: one and one.as_record() for name, one in comparisons.items()},
            "tables": self._tables(subjects, comparisons),
        }

    def _figures(self, subject: Subject) -> dict[str, Any]:
        groups, seed = subject.groups, self.seed
        found = self.contamination.ids
        clean = [group for group in groups if group[0].problem.id not in found]
        outcomes = Counter(str(rollout.outcome) for group in groups for rollout in group)
        return {
            "all": score(groups, seed),
            "clean": score(clean, seed) if found else None,
            "domains": score_by(groups, lambda rollout: rollout.problem.domain, seed),
            "sources": score_by(groups, lambda rollout: rollout.problem.source, seed),
            "pass_at_k": {k: {"rate": rate, "problems": n} for k, (rate, n) in pass_rates(groups).items()},
            "outcomes": dict(sorted(outcomes.items())),
            "workflows": subject.workflows,
        }

    def _comparisons(self) -> dict[str, Comparison | None]:
        """Return the policy against each baseline."""
        if not self.subjects or self.subjects[0].name != POLICY:
            return {}
        policy, *others = self.subjects
        return {other.name: compare(policy.groups, other.groups, self.seed) for other in others}

    def _tables(self, subjects: dict[str, dict[str, Any]], comparisons: dict[str, Comparison | None]) -> list[Table]:
        tables = [_summary(subjects), _kinds("domains", subjects), _kinds("sources", subjects)]
        if comparisons:
            tables.append(_differences(comparisons))
        if any(len(figures["pass_at_k"]) > 1 for figures in subjects.values()):
            tables.append(_pass_table(subjects))
        return tables


def _summary(subjects: dict[str, dict[str, Any]]) -> Table:
    rows = []
    for name, figures in subjects.items():
        own: Score = figures["all"]
        clean = [] if figures["clean"] is None else [_accuracy(figures["clean"])]
        rows.append(
            [
                name, _accuracy(own), *clean, _number(own.reward, "{:.3f}"), _number(own.calls, "{:.1f}"),
                _number(own.tokens, "{:.0f}"), _number(own.usd, "${:.5f}"),
                _number(own.latency_p50, "{:.2f}"), _number(own.latency_p95, "{:.2f}"), f"{own.void}/{own.rollouts}",
            ]
        )  # fmt: skip
    has_clean = any(figures["clean"] is not None for figures in subjects.values())
    intervals = {figures["all"].interval.method for figures in subjects.values() if figures["all"].interval}
    named = {"wilson": "Wilson's, one rollout a problem", "bootstrap": "the bootstrap over problems, several rollouts"}
    how = "; ".join(named[method] for method in sorted(intervals, reverse=True))
    note = (
        f"{CONFIDENCE:.0%} intervals ({how}); calls, tokens and dollars are means of a workflow, the judge's calls "
        "aside, seconds its percentiles; void rollouts (infrastructure faults) are left out of all figures"
    )
    columns = ["", "accuracy", *(["clean"] if has_clean else []), "reward", "calls", "tokens", "cost", "p50 s", "p95 s"]
    return {"title": "Accuracy and cost", "note": note, "columns": [*columns, "void"], "rows": rows}


def _kinds(field: str, subjects: dict[str, dict[str, Any]]) -> Table:
    kinds = sorted({kind for figures in subjects.values() for kind in figures[field]})
    counts = {kind: max(figures[field][kind].problems for figures in subjects.values()) for kind in kinds}
    rows = [[name, *(_accuracy(figures[field][kind]) for kind in kinds)] for name, figures in subjects.items()]
    columns = ["", *(f"{kind} ({counts[kind]})" for kind in kinds)]
    return {
        "title": f"Accuracy by {field[:-1]}",
        "note": "number of problems in brackets",
        "columns": columns,
        "rows": rows,
    }


def _differences(comparisons: dict[str, Comparison | None]) -> Table:
    rows = []
    for name, one in comparisons.items():
        if one is None:
            rows.append([name, "0", *["–"] * 5])
            continue
        test = one.mcnemar
        rows.append(
            [
                name, str(one.problems), _difference(one.accuracy, "{:+.1%}"),
                f"{test.only_first}:{test.only_second}", _p(test.p), _difference(one.reward, "{:+.3f}"),
                _p(one.reward.p),
            ]
        )  # fmt: skip
    return {
        "title": "The policy against each baseline",
        "note": "same problems, where neither is void; differences with their paired bootstrap intervals; McNemar's "
        "exact test of the problems that only the policy : only the baseline got right (first samples); p is not "
        "corrected for the number of baselines",
        "columns": ["", "problems", "accuracy", "only one right", "McNemar p", "reward", "bootstrap p"],
        "rows": rows,
    }


def _pass_table(subjects: dict[str, dict[str, Any]]) -> Table:
    written = {name: figures["pass_at_k"] for name, figures in subjects.items() if len(figures["pass_at_k"]) > 1}
    ks = sorted({k for rates in written.values() for k in rates})
    rows = [
        [name, *(_number(rates[k]["rate"], "{:.1%}") if k in rates else "–" for k in ks)]
        for name, rates in written.items()
    ]
    note = "unbiased estimate (Chen et al. 2021, eq. 1) over problems with k rollouts that are not void"
    return {"title": "pass@k", "note": note, "columns": ["", *(f"pass@{k}" for k in ks)], "rows": rows}


def _plain(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        **figures,
        "all": figures["all"].as_record(),
        "clean": figures["clean"] and figures["clean"].as_record(),
        "domains": {kind: one.as_record() for kind, one in figures["domains"].items()},
        "sources": {kind: one.as_record() for kind, one in figures["sources"].items()},
    }


def _accuracy(own: Score) -> str:
    if own.accuracy is None or own.interval is None:
        return "–"
    return f"{own.accuracy:.1%} [{own.interval.low:.1%}, {own.interval.high:.1%}]"


def _difference(own: Any, template: str) -> str:
    return f"{template} [{template}, {template}]".format(own.difference, own.low, own.high)


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _number(value: float | None, template: str) -> str:
    return "–" if value is None else template.format(value)
