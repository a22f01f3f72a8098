"""Tokens out of the model: continuous batching in slots over prefill, decode and filters."""

from aflow_jax.sampling.driver import DeviceFailure, Driver, QueueFull, ShuttingDown, Stream
from aflow_jax.sampling.engine import Engine
from aflow_jax.sampling.scheduler import Scheduler
from aflow_jax.sampling.types import (
    Completion,
    EngineOptions,
    FinishReason,
    Progress,
    Request,
    SamplingParams,
    TokenConstraint,
    TokenMatcher,
    seed_words,
)

__all__ = [
    "Completion",
    "DeviceFailure",
    "Driver",
    "Engine",
    "EngineOptions",
    "FinishReason",
    "Progress",
    "QueueFull",
    "Request",
    "SamplingParams",
    "Scheduler",
    "ShuttingDown",
    "Stream",
    "TokenConstraint",
    "TokenMatcher",
    "seed_words",
]
