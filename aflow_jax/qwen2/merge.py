"""A base model with an adapter merged into it, written as a model folder of its own."""

import json
import shutil
from pathlib import Path

import numpy as np

from aflow_jax.errors import UserError
from aflow_jax.qwen2.adapter import Adapter
from aflow_jax.qwen2.checkpoint import SHARD_BYTES, OpenCheckpoint, open_checkpoint, tensor_name, write_checkpoint
from aflow_jax.qwen2.config import read_json

COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE",
)
"""Files that go with the weights, so that vLLM and converters take the folder as it is."""


def export_merged(base: str | Path, adapter: Adapter, folder: str | Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write W + scale · (a · b)ᵀ for every matrix with an adapter, and everything else as it is.

    Tensors pass one by one from file to file, each in its own dtype; sums are made in float32.

    Args:
      base: Folder of the base model, whose original weights are merged with, whatever they were quantised to in use.
      adapter: An adapter for a model of that shape.
      folder: Made where it is missing; gets config.json, weights, tokenizer, chat template, generation config.
      shard_bytes: Bytes of one weight file at most.

    Raises:
      UserError: the base cannot be read (`load_pretrained`), or `folder` is the base itself.
    """
    base, folder = Path(base), Path(folder)
    if folder.resolve() == base.resolve():
        raise UserError(f"{folder} is the base model itself: give another folder for the merged model")
    with open_checkpoint(base) as checkpoint:
        folder.mkdir(parents=True, exist_ok=True)
        _write_weights(checkpoint, adapter, folder, shard_bytes)
        _write_json(folder / "config.json", _portable_config(read_json(base / "config.json"), checkpoint))
    for name in COMPANIONS:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    _put_template_into_settings(folder)


def _write_weights(checkpoint: OpenCheckpoint, adapter: Adapter, folder: Path, shard_bytes: int) -> None:
    places = {
        tensor_name(target, layer): (target, layer)
        for target in adapter.weights
        for layer in range(checkpoint.config.num_hidden_layers)
    }
    stacks = {
        target: {side: np.asarray(stack) for side, stack in pair.items()} for target, pair in adapter.weights.items()
    }

    def tensor(name: str) -> np.ndarray:
        adapted = name in places
        weight = np.empty(checkpoint.shape_of(name), np.float32 if adapted else checkpoint.dtype_of(name))
        checkpoint.read_into(name, weight)
        if adapted:
            target, layer = places[name]
            product = stacks[target]["a"][layer] @ stacks[target]["b"][layer]
            product *= adapter.scale
            weight += product.T
        return weight

    shapes = {name: checkpoint.shape_of(name) for name in checkpoint.files}
    dtypes = {name: checkpoint.dtype_of(name) for name in checkpoint.files}
    write_checkpoint(folder, shapes, dtypes, tensor, shard_bytes)


def _portable_config(values: dict, checkpoint: OpenCheckpoint) -> dict:
    """Name what transformers 5 renamed as older readers and Ollama's converter look it up; transformers reads both."""
    values = {"architectures": ["Qwen2ForCausalLM"], "rope_theta": checkpoint.config.rope_theta, **values}
    values.pop("dtype", None)
    return values | {"torch_dtype": checkpoint.dtype_of("model.embed_tokens.weight").name}


def _put_template_into_settings(folder: Path) -> None:
    """Put a chat template that is a file of its own into tokenizer_config.json too, where Ollama's converter looks."""
    template, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if template.is_file() and settings.is_file():
        values = read_json(settings)
        if "chat_template" not in values:
            _write_json(settings, values | {"chat_template": template.read_text(encoding="utf-8")})


def _write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
