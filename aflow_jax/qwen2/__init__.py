"""The model: Qwen2.5 in Flax NNX, its LoRA adapters, its weights and its tokenizer."""

from aflow_jax.qwen2.adapter import TARGETS, Adapter, init_adapter, parameter_count
from aflow_jax.qwen2.cache import KVCache, Sharing, empty_cache, hold_cache
from aflow_jax.qwen2.config import Qwen2Config
from aflow_jax.qwen2.create import create_checkpoint
from aflow_jax.qwen2.decode import DecodeWeights, cut_adapter, decode_step, decode_tokens
from aflow_jax.qwen2.device import AbsentDevice, traced_for
from aflow_jax.qwen2.hub import resolve_model
from aflow_jax.qwen2.merge import export_merged
from aflow_jax.qwen2.model import Qwen2, init_random
from aflow_jax.qwen2.packing import Packing
from aflow_jax.qwen2.peft import load_peft, save_peft
from aflow_jax.qwen2.remat import REMAT_POLICIES
from aflow_jax.qwen2.sharding import ShardingRules, data_parts, hold, hold_rows, make_mesh, place, planned_mesh
from aflow_jax.qwen2.sizes import PUBLISHED_SIZES, published_shape
from aflow_jax.qwen2.tokenizer import Tokenizer, load_tokenizer
from aflow_jax.qwen2.weights import choose_dtype, load_pretrained, save_pretrained

__all__ = [
    "PUBLISHED_SIZES",
    "REMAT_POLICIES",
    "TARGETS",
    "AbsentDevice",
    "Adapter",
    "DecodeWeights",
    "KVCache",
    "Packing",
    "Qwen2",
    "Qwen2Config",
    "ShardingRules",
    "Sharing",
    "Tokenizer",
    "choose_dtype",
    "create_checkpoint",
    "cut_adapter",
    "data_parts",
    "decode_step",
    "decode_tokens",
    "empty_cache",
    "export_merged",
    "hold",
    "hold_cache",
    "hold_rows",
    "init_adapter",
    "init_random",
    "load_peft",
    "load_pretrained",
    "load_tokenizer",
    "make_mesh",
    "parameter_count",
    "place",
    "planned_mesh",
    "published_shape",
    "resolve_model",
    "save_peft",
    "save_pretrained",
    "traced_for",
]
