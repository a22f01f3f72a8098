"""What a run may spend on LLM calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aflow_jax.errors import UserError


class BudgetExhausted(UserError):
    """A bound is reached: the run saves a checkpoint and stops."""


@dataclass
class Budget:
    """Bounds on calls, tokens and US dollars, and what is spent of them; one may be shared by several clients.

    Bounds are checked before each call. The bound of calls is never exceeded; what calls in flight will cost is not
    known, so they may carry tokens and dollars a little beyond theirs.

    Attributes:
        calls, tokens, usd: the bounds; None is unbounded.
        spent_calls, spent_tokens, spent_usd: so far; set them when a run is resumed.
        in_flight: calls begun and not ended.
    """

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None
    spent_calls: int = 0
    spent_tokens: int = 0
    spent_usd: float = 0.0
    in_flight: int = 0

    @contextmanager
    def call(self) -> Iterator[None]:
        """Make one call inside; raise BudgetExhausted when a bound is reached."""
        self._require()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def spend(self, tokens: int, usd: float | None) -> None:
        """Record one call; dollars are None where the price is not known."""
        self.spent_calls += 1
        self.spent_tokens += tokens
        self.spent_usd += usd or 0.0

    def _require(self) -> None:
        for name, spent, bound in (
            ("calls", self.spent_calls + self.in_flight, self.calls),
            ("tokens", self.spent_tokens, self.tokens),
            ("usd", self.spent_usd, self.usd),
        ):
            if bound is not None and spent >= bound:
                raise BudgetExhausted(f"budget.{name}: {bound:g} are spent; raise the bound and resume")
