"""Several executors in order of preference."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from aflow_jax.llm.client import LLMClient, Message
from aflow_jax.llm.counters import Counters
from aflow_jax.llm.endpoint import Endpoint
from aflow_jax.llm.reply import LLMFault, Reply, TooLong


class FallbackClient:
    """Asks the first client that is not known to be down, and the next one when it faults; used like an LLMClient.

    A client whose fault may pass is passed over for `cooldown` seconds, so that an outage does not cost its retries
    with each call; one that refused a request for what it holds is not. When all are down, each is asked. A request or
    reply that is too long, a refused key and an exhausted quota are raised at once.
    """

    keeps_time = True

    def __init__(self, clients: Sequence[LLMClient], *, cooldown: float = 30.0) -> None:
        if not clients:
            raise ValueError("a fallback order needs at least one client")
        self._clients = tuple(clients)
        self._cooldown = cooldown
        self._down_until = [0.0] * len(self._clients)

    @property
    def endpoint(self) -> Endpoint:
        """The preferred endpoint."""
        return self._clients[0].endpoint

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        temperature: float | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
    ) -> Reply:
        """Return the first reply that comes; see LLMClient.complete. The last client's fault is raised."""
        now = time.monotonic()
        up = [place for place, until in enumerate(self._down_until) if until <= now]
        order = up or list(range(len(self._clients)))
        for place in order[:-1]:
            try:
                return await self._clients[place].complete(
                    messages, temperature=temperature, seed=seed, max_tokens=max_tokens
                )
            except TooLong:
                raise
            except LLMFault as fault:
                if fault.retriable:
                    self._down_until[place] = time.monotonic() + self._cooldown
        return await self._clients[order[-1]].complete(
            messages, temperature=temperature, seed=seed, max_tokens=max_tokens
        )

    async def check(self) -> None:
        """Check every client; see LLMClient.check."""
        for client in self._clients:
            await client.check()

    async def aclose(self) -> None:
        """Close every client."""
        for client in self._clients:
            await client.aclose()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count apart the calls made inside; see LLMClient.counting."""
        with ExitStack() as stack:
            for client in self._clients:
                stack.enter_context(client.counting())
            yield

    def take(self) -> Counters:
        """Return what all clients' calls came to; a call that fell back counts as a fault of the one before."""
        return Counters.merged([client.take() for client in self._clients])

    def metrics(self, role: str = "executor") -> dict[str, float]:
        """Return what `take` does, under the names of metrics.jsonl."""
        return self.take().metrics(role)
