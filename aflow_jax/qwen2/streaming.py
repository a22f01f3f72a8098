"""From a checkpoint's tensors to JAX arrays, one tensor at a time, without a second copy of the model in memory.

On the CPU the file is read into the very memory that JAX then takes over. To another device each tensor passes through
host memory, and the next one is read while the last is on its way; what is on its way is bounded.
"""

import collections
import dataclasses
import math
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from aflow_jax.qwen2.checkpoint import OpenCheckpoint
from aflow_jax.qwen2.safetensors_file import Box

MAX_IN_FLIGHT = 1 << 29
"""Bytes of host memory that transfers under way may hold together; a larger tensor travels alone."""

ShardingRule = Callable[[str, tuple[int, ...]], NamedSharding]
"""(name of a weight of the model, its shape there) -> where it lies."""

Transform = Callable[[jax.Array], Any]
"""One tensor as the file holds it -> the array, or pytree of arrays, that the model holds instead."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Streamer:
    """Makes the arrays of a model.

    Attributes:
      checkpoint: Where tensors are read from.
      dtype: What they are converted to, where no transform does it.
      sharding: Where each lies; None is the default device. A process reads what its own devices hold, and no more.
      in_place: Whether arrays lie in host memory and can be filled there.
      max_in_flight: Bytes of host memory that transfers under way may hold together.
    """

    checkpoint: OpenCheckpoint
    dtype: np.dtype
    sharding: ShardingRule | None
    in_place: bool
    max_in_flight: int = MAX_IN_FLIGHT
    _in_flight: collections.deque[jax.Array] = dataclasses.field(default_factory=collections.deque)

    def single(self, name: str, tensor: str) -> jax.Array:
        """Return the tensor of that Hugging Face name as the model's weight `name`."""
        shape = self.checkpoint.shape_of(tensor)
        if self.in_place:
            return self._fill(name, [tensor], shape, stacked=False)
        place = self._place(name, shape)
        array = self._transfer(tensor, place)
        return array if array.dtype == self.dtype else jax.jit(self._to_dtype, out_shardings=place)(array)

    def stack(self, name: str, tensors: Sequence[str], transform: Transform | None = None) -> Any:
        """Return the tensors, equal in shape, as the model's weight `name` with a leading axis over them.

        With a transform each tensor is transformed on its device, and the results are stacked.
        """
        shape = self.checkpoint.shape_of(tensors[0])
        if self.in_place and transform is None:
            return self._fill(name, tensors, (len(tensors), *shape), stacked=True)
        return self._stack_on_device(name, tensors, transform or self._to_dtype)

    def _to_dtype(self, tensor: jax.Array) -> jax.Array:
        return tensor.astype(self.dtype)

    def _place(self, name: str, shape: tuple[int, ...]) -> NamedSharding | None:
        return None if self.sharding is None else self.sharding(name, shape)

    def _fill(self, name: str, tensors: Sequence[str], shape: tuple[int, ...], *, stacked: bool) -> jax.Array:
        """Read each tensor into its row of every device's memory, which JAX takes over."""
        sharding = self._place(name, shape)
        boxes = {None: tuple(map(range, shape))} if sharding is None else _boxes(sharding, shape)
        memories = {device: _pages(tuple(map(len, box)), self.dtype) for device, box in boxes.items()}
        parts = {
            tensor: [
                (box[1:], memories[device][at - box[0].start]) if stacked else (box, memories[device])
                for device, box in boxes.items()
                if not stacked or at in box[0]
            ]
            for at, tensor in enumerate(tensors)
        }
        self.checkpoint.read_parts({tensor: targets for tensor, targets in parts.items() if targets})
        arrays = [jax.device_put(memory, device, may_alias=True) for device, memory in memories.items()]
        return arrays[0] if sharding is None else jax.make_array_from_single_device_arrays(shape, sharding, arrays)

    def _stack_on_device(self, name: str, tensors: Sequence[str], transform: Transform) -> Any:
        """Write each tensor, once it is transformed, into its row of stacks on the device."""
        shape, dtype = self.checkpoint.shape_of(tensors[0]), self.checkpoint.dtype_of(tensors[0])
        rows = jax.eval_shape(transform, jax.ShapeDtypeStruct(shape, dtype))
        places = jax.tree.map(lambda row: self._place(name, (len(tensors), *row.shape)), rows)
        of_one = self._place(name, (len(tensors), *shape))
        if of_one is not None:
            of_one = NamedSharding(of_one.mesh, PartitionSpec(*of_one.spec[1:]))

        def empty() -> Any:
            return jax.tree.map(lambda row: jnp.zeros((len(tensors), *row.shape), row.dtype), rows)

        def write(stacks: Any, tensor: jax.Array, at: jax.Array) -> Any:
            update = jax.lax.dynamic_update_index_in_dim
            return jax.tree.map(lambda stack, row: update(stack, row, at, 0), stacks, transform(tensor))

        write = jax.jit(write, donate_argnums=0, out_shardings=places)
        stacks = jax.jit(empty, out_shardings=places)()
        for at, tensor in enumerate(tensors):
            stacks = write(stacks, self._transfer(tensor, of_one), np.int32(at))
        return stacks

    def _transfer(self, tensor: str, sharding: NamedSharding | None) -> jax.Array:
        """Start the transfer of a tensor, in its file's dtype, once there is room for it in host memory."""
        shape, dtype = self.checkpoint.shape_of(tensor), self.checkpoint.dtype_of(tensor)
        boxes = {None: tuple(map(range, shape))} if sharding is None else _boxes(sharding, shape)
        # Devices that hold the same part share its memory.
        memories = {box: np.empty(tuple(map(len, box)), dtype) for box in boxes.values()}
        self._make_room(sum(memory.nbytes for memory in memories.values()))
        self.checkpoint.read_parts({tensor: list(memories.items())})
        arrays = [jax.device_put(memories[box], device) for device, box in boxes.items()]
        array = arrays[0] if sharding is None else jax.make_array_from_single_device_arrays(shape, sharding, arrays)
        self._in_flight.append(array)
        return array

    def _make_room(self, size: int) -> None:
        held = sum(array.nbytes for array in self._in_flight)
        while self._in_flight and held + size > self.max_in_flight:
            oldest = self._in_flight.popleft()
            oldest.block_until_ready()
            held -= oldest.nbytes


def _boxes(sharding: NamedSharding, shape: tuple[int, ...]) -> dict[jax.Device, Box]:
    """Return the part of an array that each of this process's devices holds."""
    indices = sharding.addressable_devices_indices_map(shape)
    return {
        device: tuple(range(*part.indices(size)) for part, size in zip(index, shape, strict=True))
        for device, index in indices.items()
    }


def _pages(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return memory that JAX on CPU takes over as it is: aligned to 64 bytes at least, which numpy's own is not.

    Without numpy's advice to use huge pages: where a host has taken back a virtual machine's free memory, it returned
    2 GB of them in 2.0 to 3.3 s, and ordinary pages in 1.1 s.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint8).view(dtype).reshape(shape)
