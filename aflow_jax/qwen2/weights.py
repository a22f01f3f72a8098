"""Weights between the Hugging Face layout (safetensors, one tensor a layer) and the model's stacked arrays."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from aflow_jax.errors import UserError
from aflow_jax.qwen2.attention import gpu_compute_capability
from aflow_jax.qwen2.config import Qwen2Config, read_json
from aflow_jax.qwen2.layers import layer_shapes
from aflow_jax.qwen2.model import Qwen2
from aflow_jax.qwen2.safetensors_file import DTYPES, SafetensorsFile, TensorEntry, write_safetensors

INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"

ReadInto = Callable[[str, np.ndarray], None]
"""(tensor name, array to fill) -> None."""


def load_pretrained(folder: str | Path, dtype: str = "auto", quantization: str | None = None) -> Qwen2:
    """Read a model folder in the Hugging Face layout.

    Args:
      folder: Holds config.json and model.safetensors, or the shards that model.safetensors.index.json names.
      dtype: "float32", "bfloat16", "float16", or "auto": bfloat16 on GPUs of compute capability 8.0 and above,
        float16 on older ones, float32 on CPU.
      quantization: None.

    Raises:
      UserError: not such a folder, an unsupported architecture, a truncated file, or a missing, extra or misshapen
        tensor, with its key and what was expected and found.
    """
    if quantization is not None:
        raise UserError(f"quantization {quantization!r} is not supported: leave it out to load in 16 or 32 bit")
    target_dtype = np.dtype(choose_dtype(dtype))
    with open_checkpoint(folder) as checkpoint:
        return _assemble(checkpoint.config, target_dtype, checkpoint.read_into)


@dataclasses.dataclass(frozen=True)
class OpenCheckpoint:
    """A model folder whose tensors are all there and can be read, each straight into given memory.

    Attributes:
      config: Shape of the model.
      dtype: Widest dtype among the tensors.
      read_into: (tensor name, array to fill) -> None; converts to the array's dtype.
    """

    config: Qwen2Config
    dtype: np.dtype
    read_into: ReadInto


@contextlib.contextmanager
def open_checkpoint(folder: str | Path) -> Iterator[OpenCheckpoint]:
    """Open a model folder in the Hugging Face layout; raise UserError as `load_pretrained` does."""
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a model folder" if folder.exists() else "is missing"
        raise UserError(f"{folder} {what}: give a folder with config.json and safetensors weights")
    config = Qwen2Config.from_folder(folder)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(SafetensorsFile(path)) for path in _weight_files(folder)]
        owners = {name: file for file in files for name in file.entries}
        entries = {name: file.entries[name] for name, file in owners.items()}
        _check_tensors(folder, config, entries)
        widest = max((DTYPES[entry.dtype] for entry in entries.values()), key=lambda dtype: dtype.itemsize)
        yield OpenCheckpoint(config, widest, lambda name, target: owners[name].read_into(name, target))


def save_pretrained(model: Qwen2, folder: str | Path) -> None:
    """Write config.json and model.safetensors, which transformers loads as Qwen2ForCausalLM."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(model.config, folder, np.dtype(model.dtype).name)
    save_weights(model, folder)


def save_config(config: Qwen2Config, folder: Path, dtype_name: str, extra: dict | None = None) -> None:
    """Write config.json; `extra` adds or replaces keys."""
    values = {**config.to_dict(), "torch_dtype": dtype_name, **(extra or {})}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def save_weights(model: Qwen2, folder: Path) -> None:
    """Write model.safetensors from the stacked arrays, one tensor at a time."""
    stacked = model.layer_weights()
    top = {"model.embed_tokens.weight": model.embedding, "model.norm.weight": model.final_norm}
    if model.lm_head is not None:
        top["lm_head.weight"] = model.lm_head
    places = {
        tensor_name(name, layer): (name, layer) for layer in range(model.config.num_hidden_layers) for name in stacked
    }

    def tensor(name: str) -> np.ndarray:
        if name in top:
            return np.asarray(top[name].get_value())
        weight, layer = places[name]
        return np.asarray(stacked[weight][layer])

    write_safetensors(folder / WEIGHTS_NAME, tensor_shapes(model.config), np.dtype(model.dtype), tensor)


def choose_dtype(name: str) -> jnp.dtype:
    """Return the dtype of the base for "float32", "bfloat16", "float16" or "auto"; raise UserError for another."""
    if name == "auto":
        if jax.default_backend() != "gpu":
            return jnp.dtype(jnp.float32)
        return jnp.dtype(jnp.bfloat16 if gpu_compute_capability() >= (8, 0) else jnp.float16)
    if name not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype must be auto, float32, bfloat16 or float16, found {name!r}")
    return jnp.dtype(name)


def tensor_shapes(config: Qwen2Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a checkpoint of this shape, by its Hugging Face name."""
    table = (config.vocab_size, config.hidden_size)
    shapes = {"model.embed_tokens.weight": table}
    for layer in range(config.num_hidden_layers):
        shapes |= {tensor_name(name, layer): shape for name, shape in layer_shapes(config).items()}
    shapes["model.norm.weight"] = (config.hidden_size,)
    return shapes if config.tie_word_embeddings else {**shapes, "lm_head.weight": table}


def tensor_name(name: str, layer: int) -> str:
    """Return the Hugging Face name of one of `layer_shapes`' weights."""
    module, kind = (name.removesuffix("_bias"), "bias") if name.endswith("_bias") else (name, "weight")
    if name.endswith("layernorm"):
        return f"model.layers.{layer}.{module}.{kind}"
    block = "self_attn" if module in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
    return f"model.layers.{layer}.{block}.{module}.{kind}"


def _assemble(config: Qwen2Config, dtype: np.dtype, read_into: ReadInto) -> Qwen2:
    shapes = tensor_shapes(config)

    def single(name: str) -> jax.Array:
        return _stream([name], shapes[name], dtype, read_into)[0]

    def stacked(name: str) -> jax.Array:
        names = [tensor_name(name, layer) for layer in range(config.num_hidden_layers)]
        return _stream(names, shapes[names[0]], dtype, read_into)

    return Qwen2(
        config,
        embedding=single("model.embed_tokens.weight"),
        layers={name: stacked(name) for name in layer_shapes(config)},
        final_norm=single("model.norm.weight"),
        lm_head=None if config.tie_word_embeddings else single("lm_head.weight"),
    )


def _stream(names: list[str], shape: tuple[int, ...], dtype: np.dtype, read_into: ReadInto) -> jax.Array:
    """Return [len(names), *shape] on the default device without a second copy of it in host memory."""
    if jax.default_backend() == "cpu":
        stack = _aligned_empty((len(names), *shape), dtype)
        for place, name in zip(stack, names, strict=True):
            read_into(name, place)
        return jax.device_put(stack, may_alias=True)
    stack = jnp.zeros((len(names), *shape), dtype)
    for index, tensor in enumerate(_tensors(names, shape, dtype, read_into)):
        stack = _set_row(stack, tensor, index)
    return stack


def _tensors(names: list[str], shape: tuple[int, ...], dtype: np.dtype, read_into: ReadInto) -> Iterator[np.ndarray]:
    for name in names:
        # A new array each time: the transfer of the last one may still be under way.
        tensor = np.empty(shape, dtype)
        read_into(name, tensor)
        yield tensor


@functools.partial(jax.jit, donate_argnums=0)
def _set_row(stack: jax.Array, tensor: jax.Array, index: int) -> jax.Array:
    return stack.at[index].set(tensor)


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype, alignment: int = 64) -> np.ndarray:
    """Return memory that JAX on CPU takes over as it is; numpy's own is aligned to 16 bytes and would be copied."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + size].view(dtype).reshape(shape)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX_NAME
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{index} has no weight_map: download it again")
        paths = [folder / name for name in sorted(set(weight_map.values()))]
    elif (folder / WEIGHTS_NAME).is_file():
        paths = [folder / WEIGHTS_NAME]
    else:
        raise UserError(f"{folder} has no weights: expected {WEIGHTS_NAME}, or shards with {INDEX_NAME}")
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path} is missing, though {INDEX_NAME} names it: download it again")
    return paths


def _check_tensors(folder: Path, config: Qwen2Config, found: dict[str, TensorEntry]) -> None:
    expected = tensor_shapes(config)
    for name, shape in expected.items():
        if name not in found:
            raise UserError(f"{folder}: tensor {name} is missing, expected shape {list(shape)}")
        if found[name].shape != shape:
            raise UserError(f"{folder}: tensor {name}: expected shape {list(shape)}, found {list(found[name].shape)}")
        if found[name].dtype not in DTYPES:
            raise UserError(
                f"{folder}: tensor {name}: expected dtype {', '.join(DTYPES)}, found {found[name].dtype}: "
                "use an unquantised checkpoint"
            )
    for name in found:
        if name not in expected:
            raise UserError(f"{folder}: tensor {name} is not part of the model that config.json describes")
