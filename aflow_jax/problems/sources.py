"""The data sources: what decides a problem's domain and how its answer is graded."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import yaml

from aflow_jax.errors import UserError
from aflow_jax.paths import packaged_config

DOMAINS = ("math", "code", "qa")


class Grading(StrEnum):
    """The rules that grade answers."""

    NUMBER = "number"
    LATEX = "latex"
    TESTS = "tests"
    F1 = "f1"
    OPTION = "option"


GRADINGS = {
    "math": (Grading.NUMBER, Grading.LATEX),
    "code": (Grading.TESTS,),
    "qa": (Grading.F1, Grading.OPTION),
}


class DatasetType(StrEnum):
    """Every source that the project ships a row for; its value is the `source` of a problem."""

    GSM8K = "gsm8k"
    MATH = "math"
    HUMANEVAL = "humaneval"
    MBPP = "mbpp"
    HOTPOTQA = "hotpotqa"
    DROP = "drop"
    SQUAD_V2 = "squad_v2"
    COMMONSENSEQA = "commonsenseqa"
    MMLU = "mmlu"
    SYNTHETIC_MATH = "synthetic_math"
    SYNTHETIC_CODE = "synthetic_code"
    SYNTHETIC_QA = "synthetic_qa"

    @property
    def source(self) -> Source:
        """The row of configs/datasets.yaml."""
        return default_sources()[self.value]

    @property
    def domain(self) -> str:
        """ "math", "code" or "qa"."""
        return self.source.domain

    @property
    def grading(self) -> Grading:
        """The rule that grades an answer."""
        return self.source.grading

    @property
    def metric(self) -> str:
        """The name under which the field reports the source's score."""
        return self.source.metric


@dataclass(frozen=True)
class Hub:
    """Where a source is published.

    Attributes:
        repository: its name on the Hugging Face hub.
        configurations: those that make up the source, one after the other.
        revision: the commit.
        licence: what it is published under.
    """

    repository: str
    configurations: tuple[str, ...]
    revision: str
    licence: str


@dataclass(frozen=True)
class Source:
    """One row of configs/datasets.yaml.

    Attributes:
        name: the `source` of its problems.
        domain: "math", "code" or "qa".
        weight: its share among the sources of its domain when a mix is drawn, > 0.
        split: our split ("train", "test") → the published dataset's split.
        grading: one of GRADINGS[domain]; what a single problem is graded by, `grading_of` says.
        metric: the name under which the field reports it.
        alternatives: whether the gold answer joins several right answers with `|`.
        hub: where it is published; None for what the project generates or the user brings.
    """

    name: str
    domain: str
    weight: float
    split: Mapping[str, str]
    grading: Grading
    metric: str
    alternatives: bool = False
    hub: Hub | None = None


class Sources(Mapping[str, Source]):
    """The table of sources, by name."""

    def __init__(self, rows: Mapping[str, Source]) -> None:
        self._rows = dict(rows)

    @classmethod
    def load(cls, path: str | Path) -> Sources:
        """Read a table in the format of configs/datasets.yaml; raise UserError naming the row and the key."""
        try:
            table = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}): give the path of a table of sources") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(table, dict) or not table:
            raise UserError(f"{path}: expected one row for each source, as in configs/datasets.yaml")
        return cls({str(name): _source(path, str(name), row) for name, row in table.items()})

    def named(self, name: str) -> Source:
        """Return the source of that name, whatever its case and dashes; raise UserError naming the nearest."""
        key = re.sub(r"[\s.-]+", "_", name.strip().lower())
        if key in self._rows:
            return self._rows[key]
        near = difflib.get_close_matches(key, self._rows, n=1, cutoff=0.0)[0]
        raise UserError(f"unknown source {name[:40]!r}; the nearest known one is {near!r} (configs/datasets.yaml)")

    def in_domain(self, domain: str) -> tuple[Source, ...]:
        """Return the sources of a domain, in the order of the table."""
        return tuple(source for source in self.values() if source.domain == domain)

    def __getitem__(self, name: str) -> Source:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


@functools.cache
def default_sources() -> Sources:
    """Return the table that ships with the package; raise UserError where it lacks a DatasetType."""
    path = packaged_config("datasets.yaml")
    table = Sources.load(path)
    for name in DatasetType:
        if name not in table:
            raise UserError(f"{path}: {name} is missing: every DatasetType needs its row")
    return table


def _source(path: str | Path, name: str, row: object) -> Source:
    place = f"{path}: {name}"
    if not isinstance(row, dict):
        raise UserError(f"{place}: expected domain, weight, split, grading and metric")
    known = {"domain", "weight", "split", "grading", "metric", "alternatives", "hub"}
    for key in row:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise UserError(f"{place}: unknown key {key!r}; the nearest known one is {near!r}")
    for key in ("domain", "weight", "split", "grading", "metric"):
        if key not in row:
            raise UserError(f"{place}: {key} is missing")
    if row["domain"] not in DOMAINS:
        raise UserError(f"{place}: domain is {row['domain']!r}: use one of {', '.join(DOMAINS)}")
    gradings = GRADINGS[row["domain"]]
    if row["grading"] not in gradings:
        raise UserError(
            f"{place}: grading is {row['grading']!r}: a {row['domain']} source uses {' or '.join(gradings)}"
        )
    weight = row["weight"]
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise UserError(f"{place}: weight is {weight!r}: use a number above 0")
    if not isinstance(row["split"], dict) or not set(row["split"]) <= {"train", "test"}:
        raise UserError(f"{place}: split is {row['split']!r}: map train and test to the dataset's splits")
    return Source(name=name, **{**row, "grading": Grading(row["grading"]), "hub": _hub(place, row.get("hub"))})


def _hub(place: str, row: object) -> Hub | None:
    if row is None:
        return None
    if not isinstance(row, dict) or set(row) != {"repository", "configurations", "revision", "licence"}:
        raise UserError(f"{place}: hub is {row!r}: use repository, configurations, revision and licence")
    if not re.fullmatch(r"[0-9a-f]{40}", str(row["revision"])):
        raise UserError(f"{place}: hub.revision is {row['revision']!r}: use a commit's 40 hexadecimal digits")
    return Hub(row["repository"], tuple(row["configurations"]), row["revision"], row["licence"])
