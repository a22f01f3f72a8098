"""What the calls of a client came to, for the metrics."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from aflow_jax.llm.reply import Reply


@dataclass
class Counters:
    """Sums since the last `take`.

    Attributes:
        calls: replies given, cached ones included.
        cache_hits: those that came from the cache.
        retries: requests sent again after a fault.
        faults: calls that ended in a fault.
        tokens: prompt and completion tokens paid for, those of unusable replies included.
        usd: US dollars paid; None once a paid call's price is not known.
        latencies: seconds of each call that was not cached.
    """

    calls: int = 0
    cache_hits: int = 0
    retries: int = 0
    faults: int = 0
    tokens: int = 0
    usd: float | None = 0.0
    latencies: list[float] = field(default_factory=list)

    def add(self, reply: Reply) -> None:
        """Count one reply."""
        self.calls += 1
        if reply.cached:
            self.cache_hits += 1
            return
        self.latencies.append(reply.latency)

    def charge(self, tokens: int, usd: float | None) -> None:
        """Count what a reply cost, usable or not."""
        self.tokens += tokens
        self.usd = None if self.usd is None or usd is None else self.usd + usd

    def take(self) -> "Counters":
        """Return what was counted, and start again from zero."""
        taken = Counters(**vars(self))
        vars(self).update(vars(Counters()))
        return taken

    @classmethod
    def merged(cls, parts: "Iterable[Counters]") -> "Counters":
        """Return the sum of several."""
        total = cls()
        for part in parts:
            total.calls += part.calls
            total.cache_hits += part.cache_hits
            total.retries += part.retries
            total.faults += part.faults
            total.tokens += part.tokens
            total.usd = None if total.usd is None or part.usd is None else total.usd + part.usd
            total.latencies = [*total.latencies, *part.latencies]
        return total

    def metrics(self, role: str = "executor") -> dict[str, float]:
        """Return the values under their names in metrics.jsonl; what is not known, or has no value yet, is absent."""
        values: dict[str, float] = {
            "calls": self.calls,
            "tokens": self.tokens,
            "retries": self.retries,
            "faults": self.faults,
        }
        if self.usd is not None:
            values["usd"] = self.usd
        if self.calls:
            values["cache_hit_ratio"] = self.cache_hits / self.calls
        if self.latencies:
            values["latency_p50"] = nearest_rank(self.latencies, 0.50)
            values["latency_p95"] = nearest_rank(self.latencies, 0.95)
        return {f"{role}/{name}": value for name, value in values.items()}


def nearest_rank(values: list[float], quantile: float) -> float:
    """Return the smallest value that at least the share `quantile` of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(quantile * len(values)) - 1)]
