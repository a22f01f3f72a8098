"""The shape of the base model that settings name, found without its weights where that can be."""

import re
from pathlib import Path

from aflow_jax.config import Config
from aflow_jax.qwen2 import Qwen2Config, resolve_model

# hidden, intermediate, layers, heads, key/value heads, vocabulary, tied: the published Qwen2.5 models by size
_PUBLISHED = {
    "0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 151936, True),
    "3B": (2048, 11008, 36, 16, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
    "14B": (5120, 13824, 48, 40, 8, 152064, False),
    "32B": (5120, 27648, 64, 40, 8, 152064, False),
    "72B": (8192, 29568, 80, 64, 8, 152064, False),
}


def found_shape(config: Config) -> Qwen2Config:
    """Return the shape of the base model, from its folder, the settings that create it, or a published Qwen2.5's name.

    Another name's model is downloaded, for only that tells.

    Raises:
      UserError: a model that cannot be found, or whose config.json is missing or unsupported.
    """
    if Path(config.model_source).expanduser().is_dir():
        return Qwen2Config.from_folder(Path(config.model_source).expanduser())
    if config.create_model:
        return _created(config)
    size = re.fullmatch(r"Qwen/Qwen2\.5(?:-Coder|-Math)?-([\d.]+B)(?:-Instruct)?", config.base_model)
    if size and size[1] in _PUBLISHED:
        return published_shape(size[1])
    return Qwen2Config.from_folder(resolve_model(config.model_source))


def published_shape(size: str) -> Qwen2Config:
    """Return the shape of a published Qwen2.5, by its size: "0.5B" to "72B"."""
    hidden, inner, layers, heads, kv_heads, vocabulary, tied = _PUBLISHED[size]
    return Qwen2Config(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )


def _created(config: Config) -> Qwen2Config:
    sizes = config.create_model.model_dump()
    return Qwen2Config(**sizes, head_dim=sizes["hidden_size"] // sizes["num_attention_heads"], tie_word_embeddings=True)
