"""What a check finds, and the loop over the checks that none of them can stop."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from aflow_jax.doctor.cards import Gpu, find_gpus

if TYPE_CHECKING:
    from aflow_jax.config import Config
    from aflow_jax.problems import Problem

State = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        state: "ok"; "warn", a run starts but something is amiss or could not be looked at; "FAIL", a run would stop.
        name: what was looked at.
        text: what was found. Never holds a secret.
        mend: what to do; empty where all is well.
    """

    state: State
    name: str
    text: str
    mend: str = ""

    def __str__(self) -> str:
        """Return the line as it is shown."""
        mend = f"  →  {self.mend}" if self.mend else ""
        return f"{self.state:4}  {self.name:9} {self.text}{mend}"


@dataclass
class Subject:
    """What is examined: this machine, and the settings of a run where some are given.

    Attributes:
        config: the settings; None examines the machine alone.
        environment: the environment variables that training would see.
        problems: training and held-out problems, once the data files have been read.
    """

    config: Config | None = None
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    problems: tuple[list[Problem], list[Problem]] | None = None

    @functools.cached_property
    def gpus(self) -> tuple[Gpu, ...]:
        """The NVIDIA GPUs that the driver reports."""
        return find_gpus()


Check = Callable[[Subject], Iterable[Finding]]


def of_settings(check: Callable[[Subject, Config], Iterable[Finding]]) -> Check:
    """Make a check of what the settings of a run ask for; without settings it finds nothing."""

    @functools.wraps(check)
    def checked(subject: Subject) -> Iterable[Finding]:
        return () if subject.config is None else check(subject, subject.config)

    return checked


def examine(subject: Subject, checks: Iterable[Check]) -> Iterator[Finding]:
    """Yield what each check finds, as soon as it is known; one that breaks down is a finding, and the others go on."""
    for check in checks:
        try:
            yield from check(subject)
        except Exception as error:  # noqa: BLE001 - the others are worth knowing whatever happens in this one
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            name = check.__name__.removeprefix("check_")
            yield Finding("warn", name, f"could not be checked ({reason})", "this is a fault of the doctor: report it")
