"""Refuse what cannot fit, and say which settings would."""

import bisect
from collections.abc import Iterator
from typing import Any

from aflow_jax.config import Config
from aflow_jax.errors import UserError
from aflow_jax.memory.devices import GIB, Device
from aflow_jax.memory.plan import MemoryPlan, fits_memory, plan_memory
from aflow_jax.qwen2 import Qwen2Config

Change = dict[str, Any]
"""Settings by key."""


def check_memory(
    config: Config, shape: Qwen2Config, device: Device, evaluated: int | None = None, devices: int = 1
) -> MemoryPlan:
    """Return the plan of a run.

    Raises:
      UserError: it does not fit the device; names the keys to change, with values that fit.
    """
    plan = plan_memory(config, shape, device, evaluated, devices)
    if plan.fits:
        return plan
    needed = f"{(plan.peak + device.reserve) / GIB:.1f} GiB in the phase {plan.fullest!r}"
    raise UserError(
        f"the run does not fit: it needs {needed}, reserve included, and {device.name} has "
        f"{device.capacity / GIB:.1f} GiB: {_advice(config, shape, device, evaluated, devices)}"
    )


def mends(
    config: Config, shape: Qwen2Config, device: Device, evaluated: int | None = None, devices: int = 1
) -> list[Change]:
    """Return changes that make a run fit: single keys, each enough by itself and no more than needed; or else one
    change of several keys; or nothing.

    Each key's values take less and less memory, so that the first that is enough is found by bisection.
    """
    # Where a change is not enough, the phase that is fullest without it mostly says so.
    phases = plan_memory(config, shape, device, evaluated, devices).phases
    fullest = sorted(phases, key=lambda phase: -sum(phases[phase].values()))

    def fits(change: Change) -> bool:
        changed = config.model_copy(update=change)
        return fits_memory(changed, shape, device, evaluated, devices, first=fullest)

    keys = [list(changes) for changes in _ways(config)]
    if not fits({key: value for way in keys for key, value in way[-1].items()}):
        return []
    # The last value of a key helps most: where that is not enough, none is.
    single = [way[bisect.bisect_left(way, True, hi=len(way) - 1, key=fits)] for way in keys if fits(way[-1])]
    if single:
        return single
    together: Change = {}
    for way in keys:
        together |= way[-1]
        if fits(together):
            break
    return [together]


def _advice(config: Config, shape: Qwen2Config, device: Device, evaluated: int | None, devices: int) -> str:
    found = mends(config, shape, device, evaluated, devices)
    if not found:
        return "no setting but a smaller base_model will do"
    words = [" ".join(f"{key}={_written(value)}" for key, value in change.items()) for change in found]
    if len(found[0]) > 1:
        return f"set {words[0]}"
    return "set " + " or ".join(words)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _ways(config: Config) -> Iterator[Iterator[Change]]:
    """Yield for each key its values in the order of how little they change, those that cost least quality first."""
    if config.gradient_checkpointing not in (True, "full"):
        yield iter([{"gradient_checkpointing": True}])
    rollouts = config.rollout_batch_size * config.num_return_sequences_in_group
    rows = -(-rollouts // config.gradient_accumulation_steps)
    if rows > 1:
        yield ({"gradient_accumulation_steps": -(-rollouts // fewer)} for fewer in range(rows - 1, 0, -1))
    if config.sampling_slots > 1:
        largest = 1 << (config.sampling_slots - 1).bit_length() - 1
        yield ({"sampling_slots": largest >> halvings} for halvings in range(largest.bit_length()))
    if config.quantization is None:
        yield iter([{"quantization": "int8"}, {"quantization": "nf4"}])
    shorter = [length for length in (4096, 3072, 2048, 1536, 1024, 768, 512) if length < config.max_new_tokens]
    if shorter:
        yield ({"response_max_length": length} for length in shorter)
