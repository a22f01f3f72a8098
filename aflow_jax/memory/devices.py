"""What a device offers: the one here, and the cards that the presets are for."""

import ctypes
import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aflow_jax.memory.liveness import Platform
from aflow_jax.qwen2 import AbsentDevice
from aflow_jax.qwen2.device import gpu_compute_capability

MIB = 2**20
GIB = 2**30

POOL = 0.92
"""Share of a GPU's memory that XLA's allocator is given. The rest is CUDA's context, loaded kernels and libraries."""

# Of GNU's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8

# Outside what is planned, in the pool: gaps between the allocator's blocks, a share of it, and the workspaces of
# cuBLAS (32 MiB a stream on Hopper) and cuDNN, constants of the compiled programs, and arrays on their way.
_GAPS = 0.03
_WORKSPACES = 384 * MIB
# Python with its libraries, XLA's compiler at work, and the rollouts of a step.
_HOST = GIB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """A device that a run is planned for.

    Attributes:
      name: As users know it.
      platform: "cpu" or "gpu".
      compute_capability: (major, minor) of a GPU; (0, 0) for a CPU.
      capacity: Bytes for arrays and programs: of a GPU the allocator's pool, of a CPU the memory that is available.
    """

    name: str
    platform: Platform
    compute_capability: tuple[int, int] = (0, 0)
    capacity: int

    @property
    def reserve(self) -> int:
        """Bytes of the capacity that a plan leaves free."""
        return _HOST if self.platform == "cpu" else int(_GAPS * self.capacity) + _WORKSPACES

    def as_absent(self) -> AbsentDevice:
        """Return what programs need to know of it to be traced for it."""
        return AbsentDevice(self.platform, self.compute_capability, _flash_attention)


def _card(name: str, compute_capability: tuple[int, int], mebibytes: int) -> Device:
    return Device(
        name=name, platform="gpu", compute_capability=compute_capability, capacity=int(POOL * mebibytes * MIB)
    )


CARDS = {
    "t4_16gb": _card("NVIDIA T4 16 GB", (7, 5), 15_360),
    "v100_16gb": _card("NVIDIA V100 16 GB", (7, 0), 16_160),
    "a100_40gb": _card("NVIDIA A100 40 GB", (8, 0), 40_441),
    "a100_80gb": _card("NVIDIA A100 80 GB", (8, 0), 81_038),
    "h200": _card("NVIDIA H200", (9, 0), 143_167),
}
"""By preset. Memory in MiB as nvidia-smi or CUDA's deviceQuery report it, whichever is less: the T4's and V100's are
nvidia-smi's, the A100's 42,405,855,232 bytes deviceQuery's; where only nvidia-smi's is known (81,920 and 143,771), less
what CUDA leaves of the A100 40 GB's 40,960."""


def claim_gpu_memory() -> None:
    """Give XLA's allocator `POOL` of the GPU, not its usual 75%; the user's own setting stands.

    To be called before JAX has touched a device.
    """
    if not {"XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"} & set(os.environ):
        os.environ["XLA_CLIENT_MEM_FRACTION"] = str(POOL)


def keep_freed_memory() -> None:
    """Have the C library keep large arrays that were freed for those that follow.

    By default it hands them back to Linux, which gives out fresh pages each time, as at every call of a program on a
    CPU. With another C library than GNU's nothing happens.

    To be called before JAX has touched a device: a thread that has begun keeps its own ways.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for parameter, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):
            mallopt(parameter, value)


def this_device() -> Device:
    """Return the first device of this process, with the memory that is free now."""
    device = jax.local_devices()[0]
    statistics = device.memory_stats()
    if device.platform != "gpu" or not statistics:
        return Device(name="this machine's CPU", platform="cpu", capacity=_available_host_memory())
    return Device(
        name=device.device_kind,
        platform="gpu",
        compute_capability=gpu_compute_capability(),
        capacity=statistics["bytes_limit"] - statistics["bytes_in_use"],
    )


def _available_host_memory() -> int:
    """Return the bytes that a process can take: the machine's available ones, within the control group's limit."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # no Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, used = (_control_group(name) for name in ("memory.max", "memory.current"))
    return available if limit is None or used is None else min(available, limit - used)


def _control_group(name: str) -> int | None:
    try:
        return int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii"))
    except (OSError, ValueError):  # none, or "max"
        return None


@jax.custom_vjp
def _flash_attention(
    query: Float[Array, "B T H h"], key: Float[Array, "B T K h"], value: Float[Array, "B T K h"]
) -> Float[Array, "B T H h"]:
    """cuDNN's attention as far as memory goes: it keeps its output and one float32 number a row for the gradient."""
    return _flash_forward(query, key, value)[0]


def _flash_forward(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, ...]]:
    batch, length, heads, _ = query.shape
    sums = jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)
    out, sums = _kernel((_shape(query), sums), query, key, value)
    return out, (query, key, value, out, sums)


def _flash_backward(saved: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
    query, key, value, *_ = saved
    return _kernel((_shape(query), _shape(key), _shape(value)), *saved, gradient)


_flash_attention.defvjp(_flash_forward, _flash_backward)


def _shape(array: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _kernel(results: tuple[jax.ShapeDtypeStruct, ...], *operands: Array) -> tuple[Array, ...]:
    """Something that reads arrays and writes others, to be traced and never called."""
    return jax.pure_callback(_never_called, results, *operands)


def _never_called(*_: Array) -> None:
    raise RuntimeError("a program traced for another device was run")
