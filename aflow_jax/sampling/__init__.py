"""Tokens out of the model: continuous batching in slots over prefill, decode and filters."""

from aflow_jax.sampling.engine import Engine
from aflow_jax.sampling.scheduler import Scheduler
from aflow_jax.sampling.types import Completion, FinishReason, Progress, Request, SamplingParams

__all__ = ["Completion", "Engine", "FinishReason", "Progress", "Request", "SamplingParams", "Scheduler"]
