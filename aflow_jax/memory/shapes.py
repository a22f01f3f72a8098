"""The shape of the base model that settings name, found without its weights where that can be."""

import re
from pathlib import Path

from aflow_jax.config import Config
from aflow_jax.qwen2 import PUBLISHED_SIZES, Qwen2Config, published_shape, resolve_model


def found_shape(config: Config) -> Qwen2Config:
    """Return the shape of the base model, from its folder, the settings that create it, or a published Qwen2.5's name.

    Another name's model is downloaded, for only that tells.

    Raises:
      UserError: a model that cannot be found, or whose config.json is missing or unsupported.
    """
    return known_shape(config) or Qwen2Config.from_folder(resolve_model(config.model_source))


def known_shape(config: Config) -> Qwen2Config | None:
    """Return the shape of the base model as `found_shape`, or None where only a download would tell."""
    if Path(config.model_source).expanduser().is_dir():
        return Qwen2Config.from_folder(Path(config.model_source).expanduser())
    if config.create_model:
        return _created(config)
    size = re.fullmatch(r"Qwen/Qwen2\.5(?:-Coder|-Math)?-([\d.]+B)(?:-Instruct)?", config.base_model)
    return published_shape(size[1]) if size and size[1] in PUBLISHED_SIZES else None


def _created(config: Config) -> Qwen2Config:
    sizes = config.create_model.model_dump()
    return Qwen2Config(**sizes, head_dim=sizes["hidden_size"] // sizes["num_attention_heads"], tie_word_embeddings=True)
