"""Tokens out of the model: a streaming engine of slots over prefill, decode and filters."""

from aflow_jax.sampling.engine import Engine
from aflow_jax.sampling.types import Completion, FinishReason, Request, SamplingParams

__all__ = ["Completion", "Engine", "FinishReason", "Request", "SamplingParams"]
