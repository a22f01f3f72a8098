"""Which of the problems evaluated were also trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aflow_jax.problems import NearDuplicates, Problem, content_hash


@dataclass(frozen=True)
class Contamination:
    """What evaluation and training problems have in common.

    Attributes:
        checked: training problems compared with; None where they cannot be had, and `reason` says why.
        exact: ids of the problems evaluated that were trained on, but for case, spacing and punctuation.
        near: ids of those that nearly equal one trained on (`NearDuplicates`), `exact` ones aside.
        reason: why nothing was checked.
    """

    checked: int | None
    exact: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def ids(self) -> frozenset[str]:
        """Ids of all problems that were trained on."""
        return frozenset((*self.exact, *self.near))

    @property
    def summary(self) -> str:
        """The finding in one line."""
        if self.checked is None:
            return f"contamination: not checked: {self.reason}"
        if not self.ids:
            return f"contamination: none; no problem equals or nearly equals one of {self.checked} trained on"
        shown = ", ".join((*self.exact, *self.near)[:5])
        return (
            f"contamination: {len(self.exact)} problems equal and {len(self.near)} nearly equal one of {self.checked} "
            f"trained on ({shown}{' …' if len(self.ids) > 5 else ''}); `clean` leaves them out"
        )

    def as_record(self) -> dict[str, Any]:
        """Return the fields as plain data for JSON."""
        return asdict(self)


def find_contamination(train: Sequence[Problem], evaluated: Sequence[Problem]) -> Contamination:
    """Compare the problems evaluated with those trained on; ids of the former must be unique."""
    trained, near = {content_hash(problem) for problem in train}, NearDuplicates(train)
    exact = [problem.id for problem in evaluated if content_hash(problem) in trained]
    known = set(exact)
    nearly = [one.id for one in evaluated if one.id not in known and near.find(one) is not None]
    return Contamination(len(train), tuple(exact), tuple(nearly))
