"""Adapters as PEFT folders: adapter_config.json and adapter_model.safetensors, read and written.

PEFT keeps `lora_A` as [r, in] and `lora_B` as [out, r], one pair a layer; ours are their transposes, stacked.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from aflow_jax.errors import UserError
from aflow_jax.qwen2.adapter import TARGETS, Adapter, lora_scale, target_sizes
from aflow_jax.qwen2.checkpoint import tensor_name
from aflow_jax.qwen2.config import Qwen2Config, read_json
from aflow_jax.qwen2.safetensors_file import DTYPES, SafetensorsFile, write_safetensors

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"

# Whatever would make the adapter more than products of two matrices on top of an unchanged base.
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
)
_INITIAL_WEIGHTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to start that leave the base as it is; others, such as PiSSA, subtract from it."""


def save_peft(adapter: Adapter, folder: str | Path, *, base_model: str) -> None:
    """Write an adapter as a PEFT folder.

    Args:
      adapter: The adapter.
      folder: Made where it is missing.
      base_model: Name or folder of the model that it belongs to, as PEFT and vLLM look it up.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    alpha = adapter.scale / lora_scale(adapter.rank, 1.0, adapter.rslora)
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": adapter.rank,
        # A whole number where it was one: vLLM expects no other.
        "lora_alpha": round(alpha) if abs(alpha - round(alpha)) < 1e-6 else alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": list(adapter.targets),
        "bias": "none",
        "use_rslora": adapter.rslora,
        "use_dora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }
    places = {
        _peft_name(target, layer, side): (target, layer, side)
        for target, pair in adapter.weights.items()
        for layer in range(len(pair["a"]))
        for side in ("a", "b")
    }
    stacks = {
        target: {side: np.asarray(stack) for side, stack in pair.items()} for target, pair in adapter.weights.items()
    }

    def tensor(name: str) -> np.ndarray:
        target, layer, side = places[name]
        return stacks[target][side][layer].T

    shapes = {name: tensor(name).shape for name in places}
    write_safetensors(folder / WEIGHTS_NAME, shapes, np.dtype(np.float32), tensor)
    (folder / CONFIG_NAME).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def load_peft(folder: str | Path, config: Qwen2Config) -> Adapter:
    """Read the adapter in a PEFT folder, for a model of this shape.

    Raises:
      UserError: not such a folder, a kind of adapter that is not plain LoRA, a missing, extra or misshapen tensor.
    """
    folder = Path(folder)
    if not (folder / CONFIG_NAME).is_file():
        raise UserError(f"{folder} has no {CONFIG_NAME}: give a PEFT adapter folder")
    if not (folder / WEIGHTS_NAME).is_file():
        raise UserError(f"{folder} has no {WEIGHTS_NAME}: save the adapter as safetensors")
    values = read_json(folder / CONFIG_NAME)
    rank, alpha = _rank_and_alpha(values, str(folder / CONFIG_NAME))
    rslora = bool(values.get("use_rslora"))
    with SafetensorsFile(folder / WEIGHTS_NAME) as file:
        targets = [target for target in TARGETS if _peft_name(target, 0, "a") in file.entries]
        shapes = _peft_shapes(config, targets, rank)
        _check(file, shapes)
        weights = {
            target: {
                side: jnp.asarray(
                    np.stack([_read(file, _peft_name(target, at, side)).T for at in range(config.num_hidden_layers)])
                )
                for side in ("a", "b")
            }
            for target in targets
        }
    dropout = float(values.get("lora_dropout") or 0.0)
    return Adapter(weights=weights, scale=lora_scale(rank, alpha, rslora), dropout=dropout, rslora=rslora)


def _peft_name(target: str, layer: int, side: str) -> str:
    module = tensor_name(target, layer).removesuffix(".weight")
    return f"base_model.model.{module}.lora_{side.upper()}.weight"


def _peft_shapes(config: Qwen2Config, targets: list[str], rank: int) -> dict[str, tuple[int, ...]]:
    sizes = target_sizes(config)
    shapes = {}
    for target in targets:
        for layer in range(config.num_hidden_layers):
            shapes[_peft_name(target, layer, "a")] = (rank, sizes[target][0])
            shapes[_peft_name(target, layer, "b")] = (sizes[target][1], rank)
    return shapes


def _rank_and_alpha(values: dict[str, Any], place: str) -> tuple[int, float]:
    if values.get("peft_type") != "LORA":
        raise UserError(f"{place}: peft_type must be 'LORA', found {values.get('peft_type')!r}")
    for key in _UNSUPPORTED:
        if values.get(key):
            raise UserError(f"{place}: {key} is not supported, found {values[key]!r}")
    if values.get("bias", "none") != "none":
        raise UserError(f"{place}: bias must be 'none', found {values['bias']!r}")
    if values.get("init_lora_weights", True) not in _INITIAL_WEIGHTS:
        raise UserError(
            f"{place}: init_lora_weights {values['init_lora_weights']!r} changes the base: "
            "convert it to plain LoRA with PEFT (path_initial_model_for_weight_conversion)"
        )
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise UserError(f"{place}: r must be a positive integer and lora_alpha a number, found {rank!r} and {alpha!r}")
    return rank, alpha


def _check(file: SafetensorsFile, shapes: dict[str, tuple[int, ...]]) -> None:
    if not shapes:
        raise UserError(f"{file.path} has no LoRA matrices on {', '.join(TARGETS)}")
    for name, shape in shapes.items():
        if name not in file.entries:
            raise UserError(f"{file.path}: tensor {name} is missing, expected shape {list(shape)}")
        found = file.entries[name]
        if found.shape != shape:
            raise UserError(f"{file.path}: tensor {name}: expected shape {list(shape)}, found {list(found.shape)}")
        if found.dtype not in DTYPES:
            raise UserError(f"{file.path}: tensor {name}: expected dtype {', '.join(DTYPES)}, found {found.dtype}")
    for name in file.entries:
        if name not in shapes:
            raise UserError(f"{file.path}: tensor {name} is not part of an adapter on this model")


def _read(file: SafetensorsFile, name: str) -> np.ndarray:
    place = np.empty(file.entries[name].shape, np.float32)
    file.read_into(name, place)
    return place
