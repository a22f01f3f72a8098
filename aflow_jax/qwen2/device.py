"""What kind of device programs are made for: the one here, or one that is only planned for."""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import jax
from jaxtyping import Array


@dataclasses.dataclass(frozen=True)
class AbsentDevice:
    """A device that programs are traced for though it is not here.

    Attributes:
      platform: "cpu" or "gpu".
      compute_capability: (major, minor) of the GPU; (0, 0) for a CPU.
      flash_attention: (query, key, value) -> attended, in place of the kernel, which cannot be called here.
    """

    platform: str
    compute_capability: tuple[int, int]
    flash_attention: Callable[[Array, Array, Array], Array]


_ABSENT: ContextVar[AbsentDevice | None] = ContextVar("absent device", default=None)


@contextlib.contextmanager
def traced_for(device: AbsentDevice) -> Iterator[None]:
    """Make programs as for another device; a jitted function would remember its trace, so trace none of them here."""
    token = _ABSENT.set(device)
    try:
        yield
    finally:
        _ABSENT.reset(token)


def absent_device() -> AbsentDevice | None:
    """Return the device of `traced_for`; None where programs are made for the one here."""
    return _ABSENT.get()


def default_platform() -> str:
    """Return "cpu", "gpu" or another platform of JAX's: where arrays land by default."""
    absent = absent_device()
    return absent.platform if absent else jax.default_backend()


def host_device() -> jax.Device:
    """Return a CPU to compute on; the first device where JAX_PLATFORMS leaves CPUs out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def gpu_compute_capability() -> tuple[int, int]:
    """Return the lowest (major, minor) of the GPUs that arrays land on by default, (0, 0) where there are none."""
    absent = absent_device()
    return absent.compute_capability if absent else _found_compute_capability()


@functools.cache
def _found_compute_capability() -> tuple[int, int]:
    if jax.default_backend() != "gpu":
        return (0, 0)
    found = (re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", ""))) for device in jax.devices())
    return min((int(match[1]), int(match[2])) if match else (0, 0) for match in found)
