"""The executor LLM: endpoints, the client, what calls cost, the cache, and the simulator.

Names are resolved on first use, so that the simulator's process never pays for importing the `openai` client.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aflow_jax.llm.budget import Budget, BudgetExhausted
    from aflow_jax.llm.cache import ResponseCache
    from aflow_jax.llm.client import LLMClient
    from aflow_jax.llm.counters import Counters
    from aflow_jax.llm.endpoint import Endpoint, load_endpoint
    from aflow_jax.llm.fallback import FallbackClient
    from aflow_jax.llm.local import Generated, PromptRefused
    from aflow_jax.llm.pricing import Price
    from aflow_jax.llm.reply import LLMFault, Reply, TooLong
    from aflow_jax.llm.simulator import SimulatorProcess, start_simulator

_HOMES = {
    "Budget": "budget",
    "BudgetExhausted": "budget",
    "Counters": "counters",
    "Endpoint": "endpoint",
    "FallbackClient": "fallback",
    "Generated": "local",
    "LLMClient": "client",
    "LLMFault": "reply",
    "Price": "pricing",
    "PromptRefused": "local",
    "Reply": "reply",
    "ResponseCache": "cache",
    "SimulatorProcess": "simulator",
    "TooLong": "reply",
    "load_endpoint": "endpoint",
    "start_simulator": "simulator",
}

__all__ = [
    "Budget",
    "BudgetExhausted",
    "Counters",
    "Endpoint",
    "FallbackClient",
    "Generated",
    "LLMClient",
    "LLMFault",
    "Price",
    "PromptRefused",
    "Reply",
    "ResponseCache",
    "SimulatorProcess",
    "TooLong",
    "load_endpoint",
    "start_simulator",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
