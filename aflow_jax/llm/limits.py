"""Requests and tokens per minute."""

import asyncio
import time


class RateLimit:
    """Lets an amount per minute pass, in order of arrival; up to one minute's worth may pass at once.

    A token bucket that may go into debt: who comes takes its amount at once and waits until the debt is earned back,
    so each waiter sleeps exactly once and a large amount cannot be starved by small ones.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._per_second = None if per_minute is None else per_minute / 60
        self._capacity = per_minute or 0.0
        self._level = self._capacity
        self._updated = time.monotonic()

    async def take(self, amount: float) -> None:
        """Take `amount`, and wait until the rate allows it."""
        if self._per_second is None:
            return
        self._refill(self._per_second)
        self._level -= amount
        if self._level < 0:
            try:
                await asyncio.sleep(-self._level / self._per_second)
            except asyncio.CancelledError:
                self.give_back(amount)
                raise

    def give_back(self, amount: float) -> None:
        """Return what was taken too much; a negative amount takes more, without waiting."""
        self._level = min(self._capacity, self._level + amount)

    def _refill(self, per_second: float) -> None:
        now = time.monotonic()
        self._level = min(self._capacity, self._level + (now - self._updated) * per_second)
        self._updated = now
