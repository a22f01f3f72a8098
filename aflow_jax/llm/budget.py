"""What a run may spend on LLM calls."""

from dataclasses import dataclass

from aflow_jax.errors import UserError


class BudgetExhausted(UserError):
    """A bound is reached: the run saves a checkpoint and stops."""


@dataclass
class Budget:
    """Bounds on calls, tokens and US dollars, and what is spent of them; one may be shared by several clients.

    A bound is checked before each call, so calls already in flight may carry the spending a little beyond it.

    Attributes:
        calls, tokens, usd: the bounds; None is unbounded.
        spent_calls, spent_tokens, spent_usd: so far; set them when a run is resumed.
    """

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None
    spent_calls: int = 0
    spent_tokens: int = 0
    spent_usd: float = 0.0

    def require(self) -> None:
        """Raise BudgetExhausted when a bound is reached."""
        for name, spent, bound in (
            ("calls", self.spent_calls, self.calls),
            ("tokens", self.spent_tokens, self.tokens),
            ("usd", self.spent_usd, self.usd),
        ):
            if bound is not None and spent >= bound:
                raise BudgetExhausted(f"budget.{name}: {bound:g} are spent; raise the bound and resume")

    def spend(self, tokens: int, usd: float | None) -> None:
        """Record one call."""
        self.spent_calls += 1
        self.spent_tokens += tokens
        self.spent_usd += usd or 0.0
