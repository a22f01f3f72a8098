"""Read tensors of a safetensors file one by one into given memory, and write such a file tensor by tensor.

The safetensors package hands out whole new arrays; a checkpoint that is streamed into stacked or sharded arrays needs
to be read into parts of them, without a second copy of the model in memory.
Format: https://huggingface.co/docs/safetensors (8 bytes of header length, a JSON header, the data).
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np

from aflow_jax.errors import UserError

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000
# What is converted, or cut into columns, stays in the processor's cache on its way.
_CHUNK = 1 << 20

Box = tuple[range, ...]
"""A part of a tensor: which indices it has in each dimension, without gaps."""


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies in a file: dtype name as in the format, shape, first byte and byte after the last."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile:
    """An open safetensors file; `entries` says what is in it.

    Raises UserError, naming the file and the tensor, where the file is truncated or is not one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Unbuffered: tensors are large, and go straight from the kernel into their place.
        self._file = path.open("rb", buffering=0)
        try:
            self.entries = _read_header(path, self._file.read)
        except UserError:
            self._file.close()
            raise

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def read_into(self, name: str, target: np.ndarray) -> None:
        """Fill `target`, C-contiguous and of the tensor's shape, converting to its dtype."""
        shape = self.entries[name].shape
        self.read_rows(name, 0, shape[0], [(tuple(map(range, shape)), target)])

    def read_rows(self, name: str, first: int, last: int, parts: Sequence[tuple[Box, np.ndarray]]) -> None:
        """Read rows first to last - 1 once, and put into each part what it holds of them. Threads may read at once.

        Args:
          name: The tensor, of one dimension at least.
          first, last: Range of its first dimension, within what the boxes span.
          parts: (box, target): the box is where the target, C-contiguous and of any dtype, lies in the tensor.
        """
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        row_bytes = math.prod(entry.shape[1:]) * dtype.itemsize
        if len(parts) == 1 and parts[0][0][1:] == tuple(map(range, entry.shape[1:])) and parts[0][1].dtype == dtype:
            [(box, target)] = parts
            self._read_bytes(entry.start + first * row_bytes, target[first - box[0].start : last - box[0].start])
            return
        step = max(1, _CHUNK // row_bytes)
        buffer = np.empty((min(step, last - first), *entry.shape[1:]), dtype)
        for start in range(first, last, step):
            chunk = buffer[: min(step, last - start)]
            self._read_bytes(entry.start + start * row_bytes, chunk)
            for part in parts:
                _copy_rows(chunk, start, *part)

    def _read_bytes(self, position: int, array: np.ndarray) -> None:
        place = memoryview(array.reshape(-1).view(np.uint8))
        done = 0
        while done < len(place):
            count = os.preadv(self._file.fileno(), [place[done:]], position + done)
            if not count:
                raise UserError(f"{self.path} ends early, at byte {position + done}: download it again")
            done += count


def _copy_rows(chunk: np.ndarray, start: int, box: Box, target: np.ndarray) -> None:
    """Copy what of a chunk, the tensor's rows from `start` on, lies in a box into the target that lies there."""
    first, last = max(start, box[0].start), min(start + len(chunk), box[0].stop)
    if first < last:
        columns = (slice(part.start, part.stop) for part in box[1:])
        rows = chunk[(slice(first - start, last - start), *columns)]
        target[first - box[0].start : last - box[0].start] = rows


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: np.dtype | Mapping[str, np.dtype],
    tensor: Callable[[str], np.ndarray],
) -> None:
    """Write `tensor(name)` for each name in `shapes`, one at a time; the file appears when it is whole.

    Args:
      path: The file.
      shapes: Shape of each tensor, by its name.
      dtypes: The dtype that all are converted to, or that of each, by its name.
      tensor: Makes a tensor when its turn comes.
    """
    if not isinstance(dtypes, Mapping):
        dtypes = dict.fromkeys(shapes, np.dtype(dtypes))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * dtypes[name].itemsize
        header[name] = {"dtype": _NAMES[dtypes[name]], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, shape in shapes.items():
                array = np.ascontiguousarray(tensor(name), dtypes[name])
                if array.shape != shape:
                    raise ValueError(f"{name}: expected shape {shape}, found {array.shape}")
                file.write(memoryview(array.reshape(-1).view(np.uint8)))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _read_header(path: Path, read: Callable[[int], bytes]) -> dict[str, TensorEntry]:
    size = path.stat().st_size
    length = int.from_bytes(read(8), "little")
    if size < 8 or length > min(size - 8, _LONGEST_HEADER):
        raise UserError(f"{path} is truncated or is not a safetensors file: download it again")
    try:
        header = json.loads(read(length))
        entries = {
            name: TensorEntry(
                dtype=str(entry["dtype"]),
                shape=tuple(entry["shape"]),
                start=8 + length + entry["data_offsets"][0],
                stop=8 + length + entry["data_offsets"][1],
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise UserError(f"{path} has no valid safetensors header: download it again") from None
    for name, entry in entries.items():
        _check_entry(path, name, entry, size)
    return entries


def _check_entry(path: Path, name: str, entry: TensorEntry, size: int) -> None:
    if entry.stop > size:
        raise UserError(
            f"{path} is truncated: {name} should end at byte {entry.stop}, the file has {size}: download it again"
        )
    if entry.dtype in DTYPES and entry.stop - entry.start != math.prod(entry.shape) * DTYPES[entry.dtype].itemsize:
        raise UserError(f"{path}: {name} has {entry.stop - entry.start} bytes, not what its shape and dtype say")
