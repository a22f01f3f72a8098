"""What the server counts, for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aflow_jax.sampling import Driver
from aflow_jax.serving.replies import Usage

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, driver: Driver) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "aflow_requests", "Requests answered, by path and status", ["path", "status"], registry=registry
        )
        self.first_token = Histogram(
            "aflow_time_to_first_token_seconds",
            "From a request to its first token",
            buckets=_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "aflow_generation_seconds", "From a request to its last token", buckets=_SECONDS, registry=registry
        )
        self._prompt_tokens = Counter("aflow_prompt_tokens", "Prompt tokens of finished requests", registry=registry)
        self._completion_tokens = Counter("aflow_completion_tokens", "Tokens drawn for them", registry=registry)
        unfinished = Gauge("aflow_completions_unfinished", "Completions decoding or waiting", registry=registry)
        unfinished.set_function(lambda: driver.unfinished)
        waiting = Gauge("aflow_completions_waiting", "Those beyond the number of slots", registry=registry)
        waiting.set_function(lambda: driver.waiting)
        Gauge("aflow_slots", "Completions of one model that decode together", registry=registry).set(driver.slots)

    def count_usage(self, usage: Usage) -> None:
        """Count a finished request's tokens."""
        self._prompt_tokens.inc(usage.prompt_tokens)
        self._completion_tokens.inc(usage.completion_tokens)

    def page(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class Stopwatch:
    """Times one request: to its first token, and to its end."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._start = time.monotonic()
        self._begun = False

    def progress(self) -> None:
        """Note that tokens came."""
        if not self._begun:
            self._begun = True
            self._metrics.first_token.observe(time.monotonic() - self._start)

    def end(self, usage: Usage) -> None:
        """Note that the last token came."""
        self._metrics.duration.observe(time.monotonic() - self._start)
        self._metrics.count_usage(usage)


class CountRequests:
    """ASGI middleware that counts answers by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        # Any other path is one label: a client must not be able to make labels without end.
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        try:
            return await self._app(scope, receive, counted)
        except Exception:
            self._metrics.requests.labels(path, "500").inc()
            raise
