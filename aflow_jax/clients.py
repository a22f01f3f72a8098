"""From settings to the clients of the executor LLM and of the judge: endpoints, fallbacks, cache, budget, simulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax

from aflow_jax.config import Config
from aflow_jax.config.sections import SimulatorSettings
from aflow_jax.errors import UserError
from aflow_jax.llm import (
    Budget,
    Counters,
    Endpoint,
    FallbackClient,
    LLMClient,
    Price,
    ResponseCache,
    SimulatorProcess,
    load_endpoint,
    start_simulator,
)
from aflow_jax.llm.local import Generate
from aflow_jax.problems import Problem, save_problems

Say = Callable[[str], None]

_NOTHING = Price(input=0.0, output=0.0)  # what simulated calls cost
Client = LLMClient | FallbackClient
Spent = dict[str, Counters]
"""What calls came to, by role: executor, and judge where that is another client."""


@dataclass(frozen=True)
class Clients:
    """Who executes and who judges; the same client where no judge of its own is set.

    Attributes:
        executor: runs the operators.
        judge: judges answers.
        budget: what both may spend together.
    """

    executor: Client
    judge: Client
    budget: Budget

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count apart the calls made inside, tasks started there included, whatever else calls at the same time."""
        with self.executor.counting(), nullcontext() if self.judge is self.executor else self.judge.counting():
            yield

    def take(self) -> Spent:
        """Return what the calls since the last time came to, the judge's apart where it is another."""
        spent = {"executor": self.executor.take()}
        return spent if self.judge is self.executor else spent | {"judge": self.judge.take()}


def as_plain(spent: Spent) -> dict[str, dict[str, Any]]:
    """Return sums as plain data, for `joined`."""
    return {role: dataclasses.asdict(counters) for role, counters in spent.items()}


def joined(parts: Sequence[dict[str, dict[str, Any]]]) -> Spent:
    """Return the sums of all processes."""
    return {role: Counters.merged(Counters(**part[role]) for part in parts) for role in parts[0]}


def spending(parts: Iterable[Spent]) -> dict[str, float]:
    """Return what several sums came to together, under the names of metrics.jsonl: executor/…, judge/…"""
    parts = list(parts)
    roles = dict.fromkeys(role for part in parts for role in part)
    merged = {role: Counters.merged([part[role] for part in parts if role in part]) for role in roles}
    return {name: value for role in roles for name, value in merged[role].metrics(role).items()}


def needs_local_model(config: Config) -> bool:
    """Return whether the executor or the judge is the base model itself; raise UserError where one is not defined."""
    if config.simulator:
        return False
    names = _endpoint_names(config)
    return any(load_endpoint(config.aflow_config_path, name).api_type == "local" for name in names)


def _endpoint_names(config: Config) -> list[str]:
    names = [config.aflow_executor_model, *config.aflow_executor_fallbacks]
    return list(dict.fromkeys([*names, config.judge_model or config.aflow_executor_model]))


class ClientSet:
    """The clients of a run, made in two steps: servers are asked before the model loads, the local model needs it."""

    def __init__(self, config: Config, say: Say, stack: AsyncExitStack) -> None:
        self._config, self._say, self._stack = config, say, stack
        self._budget = Budget(**config.budget.model_dump())
        self._endpoints: dict[str, Endpoint] = {}
        self._clients: dict[str, LLMClient] = {}

    async def connect(self, problems: list[Problem]) -> None:
        """Find every endpoint, and call those elsewhere once, so that a refused key costs nothing.

        Args:
            problems: what the simulator is to know, where settings ask for one; it starts first.

        Raises:
            UserError: an endpoint is missing, refuses the key or cannot be reached; the cache cannot be used.
        """
        config = self._config
        simulator = self._start_simulator(config.simulator, problems) if config.simulator else None
        for name in _endpoint_names(config):
            self._endpoints[name] = (
                simulator.endpoint(price=_NOTHING) if simulator else load_endpoint(config.aflow_config_path, name)
            )
        servers = {name: endpoint for name, endpoint in self._endpoints.items() if endpoint.api_type != "local"}
        cache = self._open_cache() if servers and not simulator and config.response_cache.enabled else None
        for name, endpoint in servers.items():
            client = self._open(endpoint, cache=cache)
            await client.check()
            client.counters.take()  # no step's spending
            self._clients[name] = client
            if simulator is None:
                self._say(f"executor {name}: {endpoint.model_name} at {endpoint.address}, {_priced(endpoint)}")

    def complete(self, generate: Generate | None) -> Clients:
        """Return the clients, with `generate`, the base model, behind the local ones; None where there are none."""
        for name in self._endpoints.keys() - self._clients.keys():
            if jax.process_count() > 1:
                raise UserError(
                    f"{name}: an executor of api_type local works in a run of one process: name a server's endpoint"
                )
            endpoint = self._endpoints[name].model_copy(update={"model_name": self._config.model_source})
            self._clients[name] = self._open(endpoint, generate=generate)
            self._say(f"executor {name}: the base model of this run, in this process; no key, no network, no costs")
        order = [self._clients[name] for name in self._executors()]
        executor = order[0] if len(order) == 1 else FallbackClient(order)
        judge = self._config.judge_model
        own_judge = judge is not None and judge != self._config.aflow_executor_model
        return Clients(executor, self._clients[judge] if own_judge else executor, self._budget)

    def _executors(self) -> list[str]:
        config = self._config
        return list(dict.fromkeys([config.aflow_executor_model, *config.aflow_executor_fallbacks]))

    def _open(
        self, endpoint: Endpoint, *, cache: ResponseCache | None = None, generate: Generate | None = None
    ) -> LLMClient:
        config = self._config
        client = LLMClient(
            _share_of(endpoint, jax.process_count()),
            max_concurrency=config.max_concurrent_calls,
            timeout=config.call_timeout,
            max_retries=config.call_retries,
            cache=cache,
            budget=self._budget,
            generate=generate,
        )
        self._stack.push_async_callback(client.aclose)
        return client

    def _open_cache(self) -> ResponseCache:
        settings = self._config.response_cache
        # SQLite's shared files need a local disk; the processes of one run may be on several machines.
        own = f"replies_{jax.process_index()}.sqlite" if jax.process_count() > 1 else "replies.sqlite"
        path = settings.path or self._config.run_folder / own
        return self._stack.enter_context(ResponseCache(path, max_bytes=int(settings.max_gb * 1e9)))

    def _start_simulator(self, settings: SimulatorSettings, problems: list[Problem]) -> SimulatorProcess:
        path = self._config.run_folder / "simulator_problems.jsonl"
        save_problems(path, problems)
        latency = (settings.latency_median, settings.latency_p95) if settings.latency_median else None
        simulator = start_simulator(
            path, seed=self._config.seed, skills=settings.skills, latency=latency, faults=settings.faults
        )
        self._stack.callback(simulator.stop)
        self._say(f"executor: the simulator at {simulator.base_url} stands in for an LLM; it knows the answers")
        return simulator


def _share_of(endpoint: Endpoint, processes: int) -> Endpoint:
    """Return the endpoint with one process's share of the account's limits."""
    limits = {name: getattr(endpoint, name) for name in ("requests_per_minute", "tokens_per_minute")}
    shares = {name: limit / processes for name, limit in limits.items() if limit is not None}
    if endpoint.max_concurrent_calls is not None:
        shares["max_concurrent_calls"] = max(1, endpoint.max_concurrent_calls // processes)
    return endpoint.model_copy(update=shares)


def _priced(endpoint: Endpoint) -> str:
    price = endpoint.effective_price
    if price is None:
        return f"price unknown: executor/usd is not reported; give its `price` in {endpoint.path}"
    return f"{price.input:g} dollars for a million tokens in, {price.output:g} out"
