"""What a call costs in US dollars; a price that is not known is None, never 0."""

import re
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field


class Price(BaseModel):
    """US dollars per million tokens.

    Attributes:
        input: prompt tokens.
        output: completion tokens.
        cached_input: prompt tokens that the endpoint served from its own prompt cache; None is the same as `input`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0.0, allow_inf_nan=False)
    output: float = Field(ge=0.0, allow_inf_nan=False)
    cached_input: float | None = Field(None, ge=0.0, allow_inf_nan=False)

    def usd(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """Return the dollars of one call; `cached_tokens` are those of the prompt that came from the prompt cache."""
        cached_rate = self.input if self.cached_input is None else self.cached_input
        fresh_tokens = prompt_tokens - cached_tokens
        return (fresh_tokens * self.input + cached_tokens * cached_rate + completion_tokens * self.output) / 1e6


def known_price(base_url: str, model_name: str) -> Price | None:
    """Return the list price of a model at its maker's own API, or None where it is not known.

    The same name behind another address, a local server or a reseller, is another price.
    """
    prices = _LIST_PRICES.get(urlsplit(base_url).hostname or "", {})
    return prices.get(_SNAPSHOT_DATE.sub("", model_name))


# Snapshots carry a date, gpt-4o-mini-2024-07-18, and cost what their family costs.
_SNAPSHOT_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")

# Standard tier, as published on openai.com/api/pricing in 2025. A `price` in aflow_llm.yaml takes precedence.
_LIST_PRICES: dict[str, dict[str, Price]] = {
    "api.openai.com": {
        "gpt-4o-mini": Price(input=0.15, cached_input=0.075, output=0.60),
        "gpt-4o": Price(input=2.50, cached_input=1.25, output=10.00),
        "gpt-4.1": Price(input=2.00, cached_input=0.50, output=8.00),
        "gpt-4.1-mini": Price(input=0.40, cached_input=0.10, output=1.60),
        "gpt-4.1-nano": Price(input=0.10, cached_input=0.025, output=0.40),
        "gpt-3.5-turbo": Price(input=0.50, output=1.50),
    },
}
