"""What a run takes of the device's memory, said before anything is loaded."""

from aflow_jax.memory.devices import CARDS, POOL, Device, claim_gpu_memory, this_device
from aflow_jax.memory.fit import check_memory, mends
from aflow_jax.memory.liveness import Layout, layout
from aflow_jax.memory.plan import TERMS, MemoryPlan, plan_memory
from aflow_jax.memory.shapes import found_shape, known_shape

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
    "known_shape",
    "layout",
    "mends",
    "plan_memory",
    "this_device",
]
