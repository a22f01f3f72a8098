"""What a run takes of the device's memory, said before anything is loaded.

Names are resolved on first use, so that the command's --help does not wait for JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aflow_jax.memory.devices import CARDS, POOL, Device, claim_gpu_memory, keep_freed_memory, this_device
    from aflow_jax.memory.fit import check_memory, mends
    from aflow_jax.memory.liveness import Layout, layout
    from aflow_jax.memory.plan import TERMS, MemoryPlan, plan_memory
    from aflow_jax.memory.shapes import found_shape, known_shape

_HOMES = {
    "CARDS": "devices",
    "Device": "devices",
    "Layout": "liveness",
    "MemoryPlan": "plan",
    "POOL": "devices",
    "TERMS": "plan",
    "check_memory": "fit",
    "claim_gpu_memory": "devices",
    "found_shape": "shapes",
    "keep_freed_memory": "devices",
    "known_shape": "shapes",
    "layout": "liveness",
    "mends": "fit",
    "plan_memory": "plan",
    "this_device": "devices",
}

__all__ = [
    "CARDS",
    "POOL",
    "TERMS",
    "Device",
    "Layout",
    "MemoryPlan",
    "check_memory",
    "claim_gpu_memory",
    "found_shape",
    "keep_freed_memory",
    "known_shape",
    "layout",
    "mends",
    "plan_memory",
    "this_device",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
