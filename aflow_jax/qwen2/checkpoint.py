"""Model folders in the Hugging Face layout: which tensors they hold, opening one to read, writing one."""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from aflow_jax.errors import UserError
from aflow_jax.qwen2.config import Qwen2Config, read_json
from aflow_jax.qwen2.layers import layer_shapes
from aflow_jax.qwen2.safetensors_file import DTYPES, Box, SafetensorsFile, TensorEntry, write_safetensors

INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"
SHARD_BYTES = 5_000_000_000
"""Bytes of one file of a checkpoint at most, one larger tensor aside: as published checkpoints are cut."""

_READERS = min(8, os.cpu_count() or 1)
_BYTES_OF_ONE_READ = 4 << 20


@dataclasses.dataclass(frozen=True)
class OpenCheckpoint:
    """A model folder whose tensors are all there and can be read, each straight into given memory.

    Attributes:
      config: Shape of the model.
      files: The file that holds each tensor, by its Hugging Face name.
      readers: Threads that share the reading.
    """

    config: Qwen2Config
    files: Mapping[str, SafetensorsFile]
    readers: ThreadPoolExecutor

    def dtype_of(self, name: str) -> np.dtype:
        """Return the dtype that the file holds a tensor in."""
        return DTYPES[self.files[name].entries[name].dtype]

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.files[name].entries[name].shape

    def read_into(self, name: str, target: np.ndarray) -> None:
        """Fill `target`, C-contiguous and of the tensor's shape, converting to its dtype."""
        self.read_parts({name: [(tuple(map(range, target.shape)), target)]})

    def read_parts(self, parts: Mapping[str, Sequence[tuple[Box, np.ndarray]]]) -> None:
        """Fill every (box of the tensor, C-contiguous target), by the tensor's name.

        What the boxes of a tensor span is read once; boxes may overlap. Targets are converted to their own dtype.
        """

        def read(name: str, first: int, last: int) -> None:
            self.files[name].read_rows(name, first, last, parts[name])

        reads = [(name, *rows) for name in parts for rows in self._rows(name, parts[name])]
        if len(reads) == 1:
            read(*reads[0])
        else:
            # A list: `map` raises what a reader raised only where its results are taken.
            list(self.readers.map(read, *zip(*reads, strict=True)))

    def _rows(self, name: str, parts: Sequence[tuple[Box, np.ndarray]]) -> list[tuple[int, int]]:
        """Return ranges of rows, each a read of its own, that cover what the boxes span."""
        first, last = min(box[0].start for box, _ in parts), max(box[0].stop for box, _ in parts)
        row_bytes = self.dtype_of(name).itemsize * math.prod(self.shape_of(name)[1:])
        step = max(1, _BYTES_OF_ONE_READ // row_bytes)
        return [(start, min(start + step, last)) for start in range(first, last, step)]


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
        owners = _owners(files)
        _check_tensors(folder, config, {name: file.entries[name] for name, file in owners.items()})
        yield OpenCheckpoint(config, owners, stack.enter_context(ThreadPoolExecutor(_READERS)))


def save_config(config: Qwen2Config, folder: Path, dtype_name: str, extra: dict | None = None) -> None:
    """Write config.json; `extra` adds or replaces keys."""
    values = {**config.to_dict(), "torch_dtype": dtype_name, **(extra or {})}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_checkpoint(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: np.dtype | Mapping[str, np.dtype],
    tensor: Callable[[str], np.ndarray],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write model.safetensors, or shards of at most `shard_bytes` with their index; replace what is there.

    Tensors are made and written one at a time: arguments as in `write_safetensors`.
    """
    if not isinstance(dtypes, Mapping):
        dtypes = dict.fromkeys(shapes, np.dtype(dtypes))
    sizes = {name: math.prod(shape) * dtypes[name].itemsize for name, shape in shapes.items()}
    shards: list[list[str]] = [[]]
    for name, size in sizes.items():
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + size > shard_bytes:
            shards.append([])
        shards[-1].append(name)
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = WEIGHTS_NAME if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, {name: shapes[name] for name in names}, dtypes, tensor)
        weight_map |= dict.fromkeys(names, file)
    # Readers take whichever layout they look for first: weights that were here before must not stay beside these.
    for path in (folder / INDEX_NAME, folder / WEIGHTS_NAME, *folder.glob("model-*-of-*.safetensors")):
        if path.name not in weight_map.values():
            path.unlink(missing_ok=True)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


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


def _owners(files: Sequence[SafetensorsFile]) -> dict[str, SafetensorsFile]:
    """Return the file of every tensor; raise UserError where two files hold one."""
    owners: dict[str, SafetensorsFile] = {}
    for file in files:
        for name in file.entries:
            if name in owners:
                raise UserError(f"{file.path}: tensor {name} is in {owners[name].path.name} too: download both again")
            owners[name] = file
    return owners


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
