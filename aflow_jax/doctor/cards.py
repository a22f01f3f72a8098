"""The NVIDIA GPUs of this machine as their driver reports them, and the preset that suits each."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

_QUERY = "name,driver_version,memory.total,memory.free,compute_cap"
_PRESETS = {"t4_16gb": 15_360, "v100_16gb": 16_160, "a100_40gb": 40_441, "a100_80gb": 81_038, "h200": 143_167}
"""Presets of configs/gpu by the memory of their card, in MiB, as `aflow_jax.memory.CARDS` has it."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver reports it.

    Attributes:
        name: as NVIDIA calls it.
        driver: the driver's version.
        memory: in MiB.
        free: MiB that no process holds.
        compute_capability: (major, minor).
    """

    name: str
    driver: str
    memory: int
    free: int
    compute_capability: tuple[int, int]


def find_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that nvidia-smi reports; none where there is no driver that works."""
    try:
        asked = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(_gpu(line) for line in done.stdout.splitlines() if line.count(",") == 4)


def preset_for(gpu: Gpu) -> str | None:
    """Return the preset of configs/gpu, such as "gpu/a100_40gb", that uses a card best; None where it is too small."""
    fitting = [name for name, memory in _PRESETS.items() if memory <= gpu.memory]
    if not fitting:
        return None
    # Of two cards of one size, the V100's preset is for the V100's own architecture.
    best = max(fitting, key=lambda name: _PRESETS[name])
    return f"gpu/{'t4_16gb' if best == 'v100_16gb' and gpu.compute_capability != (7, 0) else best}"


def _gpu(line: str) -> Gpu:
    name, driver, memory, free, capability = (part.strip() for part in line.split(","))
    major, _, minor = capability.partition(".")
    return Gpu(name, driver, int(memory), int(free), (int(major), int(minor or 0)))
