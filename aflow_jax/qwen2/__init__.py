"""The model: Qwen2.5 in Flax NNX, its LoRA adapters, its weights and its tokenizer."""

from aflow_jax.qwen2.adapter import TARGETS, Adapter, init_adapter, parameter_count
from aflow_jax.qwen2.config import Qwen2Config
from aflow_jax.qwen2.decode import DecodeWeights, KVCache, decode_step, empty_cache
from aflow_jax.qwen2.model import REMAT_POLICIES, Qwen2, init_random

__all__ = [
    "REMAT_POLICIES",
    "TARGETS",
    "Adapter",
    "DecodeWeights",
    "KVCache",
    "Qwen2",
    "Qwen2Config",
    "decode_step",
    "empty_cache",
    "init_adapter",
    "init_random",
    "parameter_count",
]
