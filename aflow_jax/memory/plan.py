"""How many bytes a run takes, said before anything is loaded: by phase and by what they are for."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial

from aflow_jax.assembly import learner_settings, planned_rules, supervised_settings
from aflow_jax.config import Config
from aflow_jax.grpo import LearnerSettings
from aflow_jax.grpo.microbatches import fullest_shapes, microbatch_rows
from aflow_jax.memory.devices import GIB, Device
from aflow_jax.memory.liveness import Layout
from aflow_jax.memory.programs import (
    PolicyShape,
    adapter_piece_bytes,
    decode_layout,
    gradient_layout,
    largest_stack_bytes,
    learner_state,
    optimizer_layout,
    prefill_layout,
)
from aflow_jax.qwen2 import Qwen2Config
from aflow_jax.rounding import rounded_count
from aflow_jax.sampling.filters import top_k_bound
from aflow_jax.sampling.sizes import bucket as engine_bucket
from aflow_jax.sampling.sizes import grown, page_count, page_length, prefill_rows, prefix_room
from aflow_jax.sampling.slot_state import StateShape

Terms = dict[str, int]

TERMS = {
    "weights": "the frozen base",
    "adapter": "the policy's adapter, and the one that it started from",
    "optimizer": "AdamW's two moments of each number of the adapter",
    "decode weights": "the adapter once more, cut into layers, as decoding reads it",
    "KV cache": "keys and values of all slots and prompts at their longest, and of prompts on their way there",
    "gradients": "the sum over the microbatches",
    "saved activations": "what a microbatch's layers keep for the backward pass",
    "logits": "logits of a chunk of tokens, and what is made of them",
    "workspace": "everything else that is alive at the fullest moment, and gaps between buffers",
}
"""What the columns of a plan are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a run takes of a device's memory.

    Attributes:
      device: What it is planned for.
      phases: Bytes by phase ("sampling", "update", …), and in each by term (`TERMS`).
    """

    device: Device
    phases: dict[str, Terms]

    @property
    def fullest(self) -> str:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def peak(self) -> int:
        """Bytes of the fullest phase."""
        return sum(self.phases[self.fullest].values())

    @property
    def fits(self) -> bool:
        """Whether the peak and the device's reserve are within its capacity."""
        return self.peak + self.device.reserve <= self.device.capacity

    def summary(self) -> str:
        """Return the plan in one line."""
        phases = ", ".join(f"{phase} {sum(terms.values()) / GIB:.2f}" for phase, terms in self.phases.items())
        return (
            f"memory plan: {phases} GiB, and {self.device.reserve / GIB:.2f} in reserve, "
            f"of {self.device.capacity / GIB:.2f} GiB on {self.device.name}"
        )


def plan_memory(
    config: Config, shape: Qwen2Config, device: Device, evaluated: int | None = None, devices: int = 1
) -> MemoryPlan:
    """Say what a run takes, from its settings and its model's shape alone.

    The programs are traced for the device, as they are run with all prompts and answers at their longest, and laid out
    as XLA does (`liveness`); what is alive between programs is counted from the very functions that make it.
    Layouts are remembered: another plan of the process traces only what its settings change.

    Args:
      config: The run's settings.
      shape: Shape of the base model.
      device: Where it is to run.
      evaluated: Held-out problems in an evaluation; None where that is not known: as many as fill all slots.
      devices: How many such devices there are, laid out as `config.mesh` says; the plan is of one of them, whose
        programs are those of its rows and of a model as narrow as its part is. What they send each other is left out.
    """
    phases = _phases(config, shape, device, evaluated, devices)
    return MemoryPlan(device=device, phases={name: terms() for name, terms in phases.items()})


def fits_memory(
    config: Config,
    shape: Qwen2Config,
    device: Device,
    evaluated: int | None = None,
    devices: int = 1,
    *,
    first: Sequence[str] = (),
) -> bool:
    """Return whether the plan of a run fits, without planning more phases than it takes to say no.

    The phases in `first` are looked at before the others: name those that are likely not to fit.
    """
    phases = _phases(config, shape, device, evaluated, devices)
    names = dict.fromkeys([name for name in first if name in phases] + [*phases])
    return all(MemoryPlan(device=device, phases={name: phases[name]()}).fits for name in names)


def _phases(
    config: Config, shape: Qwen2Config, device: Device, evaluated: int | None, devices: int
) -> dict[str, Callable[[], Terms]]:
    """Return what makes the terms of each phase, for its programs are traced only then."""
    policy = PolicyShape(
        config=shape,
        device=device,
        dtype=config.dtype,
        quantization=config.quantization,
        rank=config.lora_rank,
        targets=config.lora_target_modules,
        dropout=config.lora_dropout,
        rules=None if devices == 1 else planned_rules(config, devices),
    )
    settings = learner_settings(config)
    resident = _resident(policy, settings)
    problems, samples = config.rollout_batch_size, config.num_return_sequences_in_group
    rollouts = problems * samples

    def sampling(prompts: int, samples: int) -> Terms:
        return resident | _sampling(config, policy, prompts, samples)

    def update() -> Terms:
        return resident | _update(config, policy, settings, rollouts, samples, moved=True)

    phases = {"sampling": partial(sampling, problems, samples), "update": update}
    if config.eval_every and evaluated != 0:
        phases["evaluation"] = partial(sampling, evaluated or config.sampling_slots, config.evaluation.samples)
    for name, stage in (("warm start", config.warm_start), ("rejection sampling", config.rejection_sampling)):
        if stage:
            second = supervised_settings(config, stage, stage.steps)
            # Nothing is sampled before the warm start.
            moved = name != "warm start"
            phases[name] = partial(_supervised, config, policy, resident, second, stage.batch_size, moved=moved)
    return phases


def _resident(policy: PolicyShape, settings: LearnerSettings) -> Terms:
    """What stays from the first step to the last."""
    state = learner_state(policy, settings)
    weights = policy.adapter_bytes(state.adapter_weights)
    return {
        "weights": policy.model_bytes(),
        "adapter": weights + policy.adapter_bytes(policy.adapter.weights),
        "optimizer": policy.adapter_bytes(state.optimizer_state),
    }


def _sampling(config: Config, policy: PolicyShape, prompts: int, samples: int) -> Terms:
    bound, part = top_k_bound(config.generation_config.top_k, policy.config.vocab_size), policy.part
    shape, readers = _fullest_slots(config, policy, prompts, samples)
    rows, length = _largest_prefill(shape.prompt_room, prompts)
    prompt = prefill_layout(part, rows, length, prefix_room(length, shape.page_length))
    decoding = decode_layout(part, shape, readers, bound)
    weights = {"decode weights": adapter_piece_bytes(part)}
    held = {"KV cache": policy.slot_bytes(shape) + prompt.outputs}
    running = weights | held | _fullest(policy, prompt, decoding)
    # Before there are slots the base's layers, which the update left stacked, are cut.
    return _fuller(running, {"workspace": largest_stack_bytes(part)})


def _fullest_slots(config: Config, policy: PolicyShape, prompts: int, samples: int) -> tuple[StateShape, int]:
    """Return what a device's slots hold at most, and how many of them read a prompt from one place."""
    together = min(config.sampling_slots, rounded_count(prompts * samples))
    slots = policy.rows(together)
    readers = min(config.num_return_sequences_in_group, samples, slots)
    # A prompt of more samples than readers has further places.
    places = prompts * -(-min(samples, slots) // readers)
    longest, queries = config.prompt_max_length, readers * policy.config.group_size
    shape = StateShape(
        slots=slots,
        room=engine_bucket(config.max_new_tokens),
        pages=0,
        page_length=page_length(longest, queries, longest),
        prompt_room=engine_bucket(longest),
    )
    enough = slots * shape.prompt_pages
    if config.dynamic_sampling:
        pages = enough
    elif prompts * samples <= together:
        # All at once: a device's slots are full of prompts one after the other, the first and the last of them in part.
        pages = page_count(min(places, slots // readers + 2) * shape.prompt_pages)
    else:
        # Prompts come while the last samples of others go on, so that there may be one to each slot.
        pages = grown(places * shape.prompt_pages, 1)
    return dataclasses.replace(shape, pages=min(enough, pages)), readers


def _largest_prefill(longest: int, prompts: int) -> tuple[int, int]:
    """Return rows and padded length of the prompts that are run together and have the most tokens."""
    lengths = sorted({engine_bucket(length) for length in range(1, longest + 1)})
    return max(((prefill_rows(length, prompts), length) for length in lengths), key=math.prod)


def _update(
    config: Config, policy: PolicyShape, settings: LearnerSettings, sequences: int, samples: int, *, moved: bool
) -> Terms:
    sized = dataclasses.replace(settings, microbatch_size=1)  # the rows say it: what is laid out once serves all
    shapes = fullest_shapes(
        config.prompt_max_length,
        config.max_new_tokens,
        samples,
        policy.rows(microbatch_rows(sequences, settings.microbatch_size)),
    )
    layouts = [gradient_layout(policy.part, sized, shape) for shape in shapes]
    gradients = {"gradients": policy.adapter_bytes(policy.adapter.weights)}
    # Of the residual stream, which is all that full rematerialisation keeps, a device has its part of the positions.
    parts = policy.rules.model if policy.rules and settings.remat == "full" else 1
    running = gradients | _fullest(policy, *layouts, optimizer_layout(policy.part, sized), parts=parts)
    # Before the gradient the base's layers, which sampling left cut, are stacked again.
    return _fuller(running, {"workspace": largest_stack_bytes(policy.part)}) if moved else running


def _supervised(
    config: Config, policy: PolicyShape, resident: Terms, settings: LearnerSettings, sequences: int, *, moved: bool
) -> Terms:
    """A learner that ends as the next begins, both for a moment; its objective takes no more than the policy's."""
    second = _resident(policy, settings)
    doubled = {
        "adapter": resident["adapter"] + policy.adapter_bytes(policy.adapter.weights),
        "optimizer": resident["optimizer"] + second["optimizer"],
    }
    return resident | doubled | _update(config, policy, settings, sequences, 1, moved=moved)


def _fuller(one: Terms, other: Terms) -> Terms:
    return max(one, other, key=lambda terms: sum(terms.values()))


def _fullest(policy: PolicyShape, *layouts: Layout, parts: int = 1) -> Terms:
    """The temporaries of the program that needs most of them; what it saves is cut into `parts`."""
    layout = max(layouts, key=lambda layout: layout.temporaries)
    vocabulary = policy.part.config.vocab_size
    saved = sum(size for kind, size in layout.peak if kind == "saved")
    logits = sum(size for kind, size in layout.peak if kind != "saved" and vocabulary in kind)
    workspace = layout.temporaries - saved - logits + policy.gathered_bytes()
    return {"saved activations": saved // parts, "logits": logits, "workspace": workspace}
