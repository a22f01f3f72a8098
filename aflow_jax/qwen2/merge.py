"""A base model with an adapter merged into it, written as a model folder of its own."""

import json
import shutil
from pathlib import Path

import numpy as np

from aflow_jax.errors import UserError
from aflow_jax.qwen2.adapter import Adapter
from aflow_jax.qwen2.checkpoint import WEIGHTS_NAME, open_checkpoint, tensor_name, tensor_shapes
from aflow_jax.qwen2.config import read_json
from aflow_jax.qwen2.safetensors_file import write_safetensors

COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Files that go with the weights, so that vLLM and converters take the folder as it is."""


def export_merged(base: str | Path, adapter: Adapter, folder: str | Path) -> None:
    """Write W + scale · (a · b)ᵀ for every matrix with an adapter, and everything else as it is.

    Tensors pass one by one from file to file, in the base's own dtype; sums are made in float32.

    Args:
      base: Folder of the base model.
      adapter: An adapter for a model of that shape.
      folder: Made where it is missing; gets config.json, model.safetensors, tokenizer, chat template.

    Raises:
      UserError: the base cannot be read (`load_pretrained`), or `folder` is the base itself.
    """
    base, folder = Path(base), Path(folder)
    if folder.resolve() == base.resolve():
        raise UserError(f"{folder} is the base model itself: give another folder for the merged model")
    with open_checkpoint(base) as checkpoint:
        shapes = tensor_shapes(checkpoint.config)
        places = {
            tensor_name(target, layer): (target, layer)
            for target in adapter.weights
            for layer in range(checkpoint.config.num_hidden_layers)
        }
        stacks = {
            target: {side: np.asarray(stack) for side, stack in pair.items()}
            for target, pair in adapter.weights.items()
        }

        def tensor(name: str) -> np.ndarray:
            weight = np.empty(shapes[name], np.float32 if name in places else checkpoint.dtype)
            checkpoint.read_into(name, weight)
            if name in places:
                target, layer = places[name]
                product = stacks[target]["a"][layer] @ stacks[target]["b"][layer]
                weight += adapter.scale * product.T
            return weight

        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / WEIGHTS_NAME, shapes, checkpoint.dtype, tensor)
        values = read_json(base / "config.json") | {"torch_dtype": checkpoint.dtype.name}
        values.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    for name in COMPANIONS:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
