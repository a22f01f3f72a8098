"""Hold the memory plan's update against XLA and, on a GPU, against the allocator's peak.

python scripts/check_memory_plan.py --config configs/gpu/a100_40gb.yaml [--run] [key=value …]

The largest microbatch's gradient is compiled for the device that is here, at the shapes of the settings; with --run it
is run once too, on random weights. XLA_CLIENT_MEM_FRACTION makes a large GPU's allocator as small as another card's.
"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp

from aflow_jax.assembly import learner_settings
from aflow_jax.config import load_config
from aflow_jax.grpo.gradients import add_policy_gradient, empty_gradient
from aflow_jax.grpo.microbatches import Microbatch, MicrobatchShape, fullest_shapes, microbatch_rows
from aflow_jax.memory import claim_gpu_memory, found_shape, this_device
from aflow_jax.memory.liveness import tree_bytes
from aflow_jax.memory.programs import PolicyShape, gradient_layout, learner_state
from aflow_jax.qwen2 import choose_dtype, init_adapter, init_random

MIB = 2**20


def main() -> None:
    """Compile, run if asked to, and print both sides in MiB."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True, metavar="FILE")
    parser.add_argument("--run", action="store_true", help="also run it, and read the allocator's peak")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    config = load_config(options.config, options.overrides)
    claim_gpu_memory()
    settings, device = learner_settings(config), this_device()
    policy = PolicyShape(
        config=found_shape(config),
        device=device,
        dtype=config.dtype,
        quantization=config.quantization,
        rank=config.lora_rank,
        targets=config.lora_target_modules,
        dropout=config.lora_dropout,
    )
    sequences = config.rollout_batch_size * config.num_return_sequences_in_group
    shapes = fullest_shapes(
        config.prompt_max_length,
        config.max_new_tokens,
        config.num_return_sequences_in_group,
        microbatch_rows(sequences, settings.microbatch_size),
    )
    shape = max(shapes, key=lambda shape: gradient_layout(policy, settings, shape).total)
    planned = gradient_layout(policy, settings, shape)
    print(f"{device.name}, jax {jax.__version__}: {shape}")
    print(f"plan     arguments {planned.arguments / MIB:.0f}  temporaries {planned.temporaries / MIB:.0f}")

    key = jax.random.key(0)
    dropout_key = key if config.lora_dropout else None
    part = full_microbatch(shape)
    static = {"settings": settings.gradient_settings(), "against_sampler": settings.ppo_epochs > 1}
    gradient = jax.eval_shape(empty_gradient, policy.adapter.weights)
    lowered = add_policy_gradient.lower(
        policy.model, policy.adapter, gradient, part, jnp.float32(1), dropout_key, **static
    )
    compiled = lowered.compile().memory_analysis()
    total = (
        compiled.argument_size_in_bytes
        + compiled.temp_size_in_bytes
        + compiled.output_size_in_bytes
        - compiled.alias_size_in_bytes
    )
    print(
        f"XLA      arguments {compiled.argument_size_in_bytes / MIB:.0f}  temporaries "
        f"{compiled.temp_size_in_bytes / MIB:.0f}; the plan's total differs by {planned.total / total - 1:+.1%}"
    )
    if not options.run:
        return
    model = init_random(policy.config, key, choose_dtype(config.dtype), config.quantization)
    adapter = init_adapter(
        policy.config, config.lora_rank, config.lora_alpha, config.lora_target_modules, key, config.lora_dropout
    )
    gradient = empty_gradient(adapter.weights)
    jax.block_until_ready(add_policy_gradient(model, adapter, gradient, part, jnp.float32(1), dropout_key, **static))
    statistics = jax.local_devices()[0].memory_stats()
    if not statistics:
        print("run      done; the CPU keeps no peak")
        return
    missing = tree_bytes(learner_state(policy, settings)) - tree_bytes(policy.adapter.weights)
    peak = statistics["peak_bytes_in_use"]
    print(
        f"run      peak {peak / MIB:.0f} of {statistics['bytes_limit'] / MIB:.0f}; the plan's total differs by "
        f"{planned.total / peak - 1:+.1%} (a run holds {missing / MIB:.0f} more, of the optimizer)"
    )


def full_microbatch(shape: MicrobatchShape) -> Microbatch:
    """Return sequences without padding, all of whose completions are in the loss."""
    part = jax.tree.map(lambda array: jnp.ones(array.shape, array.dtype), shape.empty())
    packing = dataclasses.replace(
        part.packing,
        prompt_lengths=shape.prompt_width * part.packing.prompt_lengths,
        lengths=shape.width * part.packing.lengths,
    )
    return dataclasses.replace(part, packing=packing)


if __name__ == "__main__":
    main()
