"""The update on meshes of 8 devices and on one of them; prints what it found as JSON.

python sharded_update.py, with XLA_FLAGS=--xla_force_host_platform_device_count=8
"""

import json

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding

from aflow_jax.grpo import Batch, Learner, LearnerSettings
from aflow_jax.grpo.gradients import add_policy_gradient, empty_gradient
from aflow_jax.grpo.microbatches import split_into_microbatches
from aflow_jax.qwen2 import (
    Qwen2,
    Qwen2Config,
    ShardingRules,
    empty_cache,
    hold_cache,
    init_adapter,
    init_random,
    make_mesh,
    place,
)
from aflow_jax.qwen2.quantize import QUANTIZATIONS

CONFIG = Qwen2Config(
    hidden_size=64,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,  # not for every device of the widest layout
    head_dim=8,
    vocab_size=512,
    tie_word_embeddings=False,
)
LAYOUTS = {
    "1x1": (1, 1, False),
    "8x1": (8, 1, True),
    "4x2": (4, 2, True),
    "2x4": (2, 4, True),
    "1x8": (1, 8, True),
}
TARGETS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
SETTINGS = LearnerSettings(kl_coef=0.0, logprob_chunk=64)
ROWS = 16


def main() -> None:
    model, adapter = jax.jit(init_random, static_argnums=0)(CONFIG, jax.random.key(0)), new_adapter()
    part = split_into_microbatches(new_batch(), ROWS, multiple=8)[0]
    whole = None
    report = {}
    for kind in QUANTIZATIONS:
        quantised, whole_of_kind = model.quantized(kind), None
        for name in ("1x1", "4x2"):
            loss, numerator = gradient_on(quantised, adapter, part, LAYOUTS[name])
            whole_of_kind = whole_of_kind or numerator
            report[f"{kind} {name}"] = {
                "loss": loss,
                "gradient gap": gap(numerator, whole_of_kind),
                "gradient norm": float(optax.tree.norm(numerator)),
            }
    for name, (data, tensor, fsdp) in LAYOUTS.items():
        rules = ShardingRules(make_mesh(data, tensor, jax.devices()[: data * tensor]), fsdp=fsdp)
        learner = Learner(on_mesh(model, rules), adapter, SETTINGS)
        kept = {
            "base": learner.model,
            "adapter": learner.state.adapter_weights,
            "optimizer": learner.state.optimizer_state,
            "batch": learner._placed(part),
            "cache": jax.jit(hold_cache, static_argnums=0)(rules, empty_cache(CONFIG, 16, 64, np.float32)),
        }
        found = {f"bytes of {what}": bytes_of_a_device(tree) for what, tree in kept.items()}
        settings = {"settings": SETTINGS.gradient_settings(), "against_sampler": False}
        arguments = (
            learner.model,
            learner.adapter,
            empty_gradient(learner.state.adapter_weights, rules),
            kept["batch"],
            place(np.float32(0.8), rules.everywhere()),
            None,
        )
        program = add_policy_gradient.lower(*arguments, **settings).compile()
        analysis = program.memory_analysis()
        gradient, sums, _ = program(*arguments)
        numerator = jax.device_get(gradient.numerator)
        whole = whole or numerator
        report[name] = found | {
            "bytes of arguments": analysis.argument_size_in_bytes,
            "bytes of temporaries": analysis.temp_size_in_bytes,
            "gradient gap": gap(numerator, whole),
            "gradient norm": float(optax.tree.norm(numerator)),
            "loss": float(sums.loss / sums.normalizer),
        }
    print(json.dumps(report))


def gradient_on(model, adapter, part, layout):
    """Return the loss and the gradient's numerator on a layout, without looking at bytes."""
    data, tensor, fsdp = layout
    rules = ShardingRules(make_mesh(data, tensor, jax.devices()[: data * tensor]), fsdp=fsdp)
    learner = Learner(on_mesh(model, rules), adapter, SETTINGS)
    gradient, sums, _ = add_policy_gradient(
        learner.model,
        learner.adapter,
        empty_gradient(learner.state.adapter_weights, rules),
        learner._placed(part),
        place(np.float32(0.8), rules.everywhere()),
        None,
        settings=SETTINGS.gradient_settings(),
        against_sampler=False,
    )
    return float(sums.loss / sums.normalizer), jax.device_get(gradient.numerator)


def gap(one, other) -> float:
    return float(optax.tree.norm(jax.tree.map(np.subtract, one, other)) / optax.tree.norm(other))


def new_adapter():
    fresh = init_adapter(CONFIG, 8, 16, TARGETS, jax.random.key(1))
    noise = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: np.float32(0.1 * noise.normal(size=leaf.shape)), fresh)


def new_batch() -> Batch:
    random = np.random.default_rng(0)
    lengths = random.integers(4, 90, (16, 2))
    return Batch.from_rollouts(
        prompts=[random.integers(0, 512, prompt) for prompt, _ in lengths],
        completions=[random.integers(0, 512, completion) for _, completion in lengths],
        logprobs=[random.normal(-6, 0.1, completion) for _, completion in lengths],
        advantages=random.normal(0, 1, 16),
    )


def on_mesh(model: Qwen2, rules: ShardingRules) -> Qwen2:
    def put(name: str, weight):
        # Of a quantised matrix each part by the name of the whole.
        return jax.tree.map(lambda array: place(array, rules.weight(name, array.shape)), weight)

    tables = {name: put(name, getattr(model, name).get_value()) for name in ("embedding", "final_norm", "lm_head")}
    layers = {name: put(name, weight) for name, weight in model.layer_weights().items()}
    return Qwen2(CONFIG, layers=layers, rules=rules, **tables)


def bytes_of_a_device(tree: object) -> int:
    arrays = [array for array in jax.tree.leaves(tree) if isinstance(array, jax.Array)]
    assert all(isinstance(array.sharding, NamedSharding) for array in arrays)
    return sum(array.addressable_shards[0].data.nbytes for array in arrays)


if __name__ == "__main__":
    main()
