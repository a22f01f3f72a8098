"""The executor LLM's client: one layer of retries, bounds, prices and counts around any OpenAI-compatible endpoint."""

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

from aflow_jax.errors import UserError
from aflow_jax.llm.budget import Budget
from aflow_jax.llm.cache import ResponseCache
from aflow_jax.llm.counters import Counters
from aflow_jax.llm.endpoint import Endpoint
from aflow_jax.llm.exchange import Exchange
from aflow_jax.llm.limits import RateLimit
from aflow_jax.llm.local import Generate, LocalExchange
from aflow_jax.llm.reply import (
    Completion,
    LLMFault,
    Reply,
    TooLong,
    Usage,
    estimated_tokens,
    read_completion,
    well_formed,
)

Message = dict[str, str]


class LLMClient:
    """Calls one endpoint. For use on one event loop; close it with `aclose`.

    Attributes:
        endpoint: where the calls go.
        keeps_time: that every call ends by itself, and that only `latency` of its reply is time well served; the rest,
            be it a queue, a rate limit, a fault or the wait before a retry, is the infrastructure's.
    """

    keeps_time = True

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        max_concurrency: int = 64,
        timeout: float = 120.0,
        deadline: float | None = None,
        max_retries: int = 5,
        backoff: float = 0.5,
        max_backoff: float = 30.0,
        max_body_bytes: int = 4 << 20,
        cache: ResponseCache | None = None,
        budget: Budget | None = None,
        generate: Generate | None = None,
    ) -> None:
        """Make a client; nothing is sent yet.

        Args:
            endpoint: where the calls go.
            max_concurrency: requests in flight; further calls wait for a free slot. An endpoint may set a lower bound.
            timeout: seconds for one request, from its start to the last byte of its answer.
            deadline: seconds for one call, retries and the waits between them included, the wait for a slot and for
                the endpoint's rate limits not; None is four times `timeout`.
            max_retries: further requests after a fault that may pass.
            backoff: seconds before the first retry; each later one waits twice as long.
            max_backoff: bound of that wait. A longer Retry-After is honoured.
            max_body_bytes: bound of an answer's body.
            cache: replies kept on disk, or None.
            budget: what may be spent, or None; may be shared with other clients.
            generate: the model of this process, for an endpoint that is local. It would answer a request that it is
                sent again with the same words, so none is.

        Raises:
            UserError: the budget bounds dollars and the endpoint's price is not known.
        """
        if budget is not None and budget.usd is not None and endpoint.effective_price is None:
            file = endpoint.path or "the endpoints' file"
            raise UserError(f"budget.usd: the price of {endpoint.name} is not known; give its `price` in {file}")
        self.endpoint = endpoint
        self._counters = Counters()
        self._counted_apart: ContextVar[Counters | None] = ContextVar("counted_apart", default=None)
        self._timeout = timeout
        self._deadline = 4 * timeout if deadline is None else deadline
        self._max_retries = max_retries if generate is None else 0
        self._backoff = backoff
        self._max_backoff = max_backoff
        self._cache = cache
        self._budget = budget
        self._price = endpoint.effective_price
        self._jitter = random.Random()
        self._slots = asyncio.Semaphore(min(max_concurrency, endpoint.max_concurrent_calls or max_concurrency))
        self._exchange = (
            Exchange(endpoint, max_body_bytes=max_body_bytes) if generate is None else LocalExchange(generate)
        )
        self._requests = RateLimit(endpoint.requests_per_minute)
        self._tokens = RateLimit(endpoint.tokens_per_minute)

    @property
    def counters(self) -> Counters:
        """What the calls came to since the last `take`; inside `counting`, those that are counted apart there."""
        return self._counted_apart.get() or self._counters

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count apart the calls made inside, tasks started there included, whatever else calls at the same time."""
        token = self._counted_apart.set(Counters())
        try:
            yield
        finally:
            self._counted_apart.reset(token)

    def take(self) -> Counters:
        """Return what the calls came to since the last time."""
        return self.counters.take()

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        temperature: float | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
    ) -> Reply:
        """Return the model's reply to `messages` ({"role", "content"} each).

        Args:
            messages: the conversation.
            temperature: None is the endpoint's.
            seed: what makes equal requests differ; part of the cache's key. A request that is sampled without one wants
                another reply each time, and is not cached.
            max_tokens: bound of the reply; None is the endpoint's.

        Raises:
            LLMFault: no usable reply, after the retries.
            TooLong: the reply was cut at its bound, or the prompt does not fit; a kind of LLMFault.
            UserError: the endpoint refuses the key, the quota is exhausted, the model is unknown.
            BudgetExhausted: a bound of the budget is reached.
        """
        body = self._body(messages, temperature=temperature, seed=seed, max_tokens=max_tokens)
        try:
            return await self._complete(body)
        except LLMFault:
            self.counters.faults += 1
            raise

    async def check(self) -> None:
        """Make one small call, so that a wrong setting shows before anything costly starts.

        Raises:
            UserError: the endpoint cannot be reached, refuses the key or the request, or answers nothing usable.
        """
        body = self._body([{"role": "user", "content": "Reply with OK."}], temperature=0.7, seed=0, max_tokens=16)
        try:
            await self._with_retries(body, checking=True)
        except LLMFault as fault:
            file = self.endpoint.path or "its settings"
            problem = f"{fault}; start the server, or correct models.{self.endpoint.name} in {file}"
        else:
            return
        raise UserError(problem)

    async def aclose(self) -> None:
        """Close every connection; calls in flight must have ended."""
        await self._exchange.aclose()

    def metrics(self, role: str = "executor") -> dict[str, float]:
        """Return what the calls since the last time came to, under the names of metrics.jsonl, `role`/…"""
        return self.take().metrics(role)

    async def _complete(self, body: dict[str, Any]) -> Reply:
        digest = self._digest(body)
        cache = self._cache if body["temperature"] == 0 or "seed" in body else None
        if cache is not None and (kept := await cache.get(digest)) is not None:
            return self._reply(body, kept, 0.0, cached=True)
        completion, latency = await self._with_retries(body)
        if cache is not None:
            completion = await cache.put(digest, {"base_url": self.endpoint.base_url, **body}, completion)
        return self._reply(body, completion, latency, cached=False)

    async def _with_retries(self, body: dict[str, Any], *, checking: bool = False) -> tuple[Completion, float]:
        """Return the completion, and the seconds of the request that brought it."""
        left = self._deadline
        attempt = 0
        while True:
            try:
                return await self._attempt(body, timeout=min(self._timeout, max(left, 0.001)))
            except LLMFault as fault:
                failure = fault
            wait = self._wait(failure, attempt)
            left -= failure.seconds + wait
            if not failure.retriable or attempt >= self._max_retries or (checking and failure.unreachable) or left <= 0:
                break
            attempt += 1
            self.counters.retries += 1
            await asyncio.sleep(wait)
        tries = f" ({attempt + 1} attempts)" if attempt else ""
        failure.args = (f"{self.endpoint.name} at {self.endpoint.address}: {failure}{tries}",)
        raise failure.with_traceback(None)

    async def _attempt(self, body: dict[str, Any], *, timeout: float) -> tuple[Completion, float]:
        expected = _prompt_estimate(body)
        await self._requests.take(1)
        await self._tokens.take(expected)
        async with self._slots:
            with self._budget.call() if self._budget is not None else nullcontext():
                start = time.monotonic()
                try:
                    answer = await self._exchange.post("/chat/completions", body, timeout=timeout)
                    latency = time.monotonic() - start
                    completion = read_completion(answer)
                except LLMFault as fault:
                    fault.seconds = time.monotonic() - start
                    if fault.usage is not None:
                        self._charge(fault.usage, stated=True)
                    raise
                usage = completion.usage or (expected, estimated_tokens(completion.text), 0)
                self._charge(usage, stated=completion.usage is not None)
        self._tokens.give_back(expected - usage[0] - usage[1])
        return completion, latency

    def _wait(self, fault: LLMFault, attempt: int) -> float:
        """Return the seconds before the next attempt: doubling, half of it random, never less than the server asked."""
        ceiling = min(self._max_backoff, self._backoff * 2**attempt)
        wait = ceiling * (0.5 + 0.5 * self._jitter.random())
        # A little beyond what the server asked, spread, so that its waiters do not all return at once.
        return wait if fault.retry_after is None else max(wait, fault.retry_after) + 0.1 * wait

    def _body(
        self, messages: Sequence[Message], *, temperature: float | None, seed: int | None, max_tokens: int | None
    ) -> dict[str, Any]:
        # OpenAI's own API renamed the bound and refuses the old name for newer models; other servers know the old one.
        openai = urlsplit(self.endpoint.address).hostname == "api.openai.com"
        body: dict[str, Any] = {
            "model": self.endpoint.model_name,
            "messages": [{"role": one["role"], "content": well_formed(one["content"])} for one in messages],
            "temperature": self.endpoint.temperature if temperature is None else temperature,
            "top_p": self.endpoint.top_p,
            "max_completion_tokens" if openai else "max_tokens": max_tokens or self.endpoint.max_tokens,
        }
        return body if seed is None else {**body, "seed": seed}

    def _digest(self, body: dict[str, Any]) -> str:
        """Return the hash of everything that a reply depends on."""
        text = json.dumps({"base_url": self.endpoint.base_url, **body}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _reply(self, body: dict[str, Any], completion: Completion, latency: float, *, cached: bool) -> Reply:
        """Return the reply of a completion, and count it; raise TooLong where it was cut."""
        usage = completion.usage or (_prompt_estimate(body), estimated_tokens(completion.text), 0)
        reply = Reply(
            text=completion.text,
            prompt_tokens=usage[0],
            completion_tokens=usage[1],
            usd=None if completion.usage is None else self._usd(usage),
            latency=latency,
            cached=cached,
            usage_estimated=completion.usage is None,
        )
        if completion.cut:
            where = f"{self.endpoint.name} at {self.endpoint.address}"
            raise TooLong(f"{where}: the reply was cut at max_tokens, after {usage[1]} tokens", reply)
        self.counters.add(reply)
        return reply

    def _usd(self, usage: Usage) -> float | None:
        return None if self._price is None else self._price.usd(*usage)

    def _charge(self, usage: Usage, *, stated: bool) -> None:
        """Count what an answer costs. An estimate is not reported as dollars, but holds for the budget."""
        tokens, usd = usage[0] + usage[1], self._usd(usage)
        self.counters.charge(tokens, usd if stated else None)
        if self._budget is not None:
            self._budget.spend(tokens, usd)


def _prompt_estimate(body: dict[str, Any]) -> int:
    return sum(estimated_tokens(message["content"]) for message in body["messages"])
